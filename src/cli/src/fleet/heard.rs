//! A connection whose answer is heard although it takes no more of the request: who refuses a body without reading all of it answers first, and closes then.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that passes for one that takes everything once it takes no more. What it sent before is read to its end; where that is no answer, the end says so.
#[derive(Debug)]
pub(super) struct Heard<Io> {
    io: Io,
    takes_no_more: bool,
}

impl<Io> Heard<Io> {
    pub(super) const fn new(io: Io) -> Self {
        Self { io, takes_no_more: false }
    }

    /// What was written of so many bytes; all of them where the other end takes no more.
    fn unless_closed(&mut self, written: Poll<io::Result<usize>>, length: usize) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Err(error)) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                self.takes_no_more = true;
                Poll::Ready(Ok(length))
            }
            written => written,
        }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Heard<Io> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Heard<Io> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.takes_no_more {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.unless_closed(written, bytes.len())
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = bytes.iter().map(|slice| slice.len()).sum();
        if self.takes_no_more {
            return Poll::Ready(Ok(length));
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(context, bytes);
        self.unless_closed(written, length)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.takes_no_more { Poll::Ready(Ok(())) } else { Pin::new(&mut self.io).poll_flush(context) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use hyper::{Method, StatusCode, body::Bytes};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use crate::fleet::http::{Client, Question};

    /// Answers as soon as it has a head, and closes with most of the body unread, as a proxy does that has a bound of its own.
    async fn refuse(listener: TcpListener) {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = [0; 1_024];
        let _some = stream.read(&mut head).await.expect("a head");
        stream.write_all(b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 9\r\n\r\ntoo large").await.expect("sent");
    }

    #[tokio::test]
    async fn an_answer_is_heard_although_most_of_the_request_was_not_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let refusing = tokio::spawn(refuse(listener));
        let client = Client::new(url.parse().expect("a URL"));
        let question = Question { body: Bytes::from(vec![b'x'; 64 << 20]), ..Question::new(Method::POST, "/") };
        let answer = client.ask(&question).await.expect("an answer");
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::PAYLOAD_TOO_LARGE, &b"too large"[..]));
        refusing.await.expect("it answered");
    }
}
