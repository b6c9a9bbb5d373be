//! The lowest tier: messages as JSON lines on a handler's standard output.

use bytes::{Buf, BytesMut};
use protocol::{Segments, frame::JSON_BYTES_MAX};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    frames::Incoming,
    message::{FromHandler, Head},
};

const READ_BYTES: usize = 16 << 10;
/// What the log shows of a line that is no message, in bytes.
const NOISE_BYTES_MAX: usize = 8 << 10;

/// Reads lines.
#[derive(Debug)]
pub(super) struct LineReader<R> {
    from: R,
    buffer: BytesMut,
    /// So many bytes at the beginning of the buffer have no line break.
    searched: usize,
    /// The stream has ended: what is left is a line.
    is_over: bool,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, buffer: BytesMut::new(), searched: 0, is_over: false }
    }

    /// The next line; `None` at the end of the stream. Cancel safe.
    ///
    /// # Errors
    /// The stream cannot be read, or a line has no end, as the rest of a sentence.
    pub(super) async fn next(&mut self) -> Result<Option<Incoming>, String> {
        loop {
            if let Some(line) = self.buffered()? {
                return Ok(Some(line));
            }
            if self.is_over {
                return Ok(None);
            }
            self.buffer.reserve(READ_BYTES);
            let read =
                self.from.read_buf(&mut self.buffer).await.map_err(|error| format!("its standard output cannot be read: {error}"))?;
            self.is_over = read == 0;
        }
    }

    /// A line that has been read to its end already.
    ///
    /// # Errors
    /// A line is longer than a message may be, as the rest of a sentence.
    pub(super) fn buffered(&mut self) -> Result<Option<Incoming>, String> {
        let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n').map(|place| self.searched + place);
        let Some(end) = end else {
            self.searched = self.buffer.len();
            if self.searched > JSON_BYTES_MAX {
                return Err(format!("it printed a line of more than {JSON_BYTES_MAX} bytes"));
            }
            if !self.is_over || self.buffer.is_empty() {
                return Ok(None);
            }
            let line = read(&self.buffer);
            self.buffer.clear();
            self.searched = 0;
            return Ok(Some(line));
        };
        let line = read(&self.buffer[..end]);
        self.buffer.advance(end + 1);
        self.searched = 0;
        Ok(Some(line))
    }
}

/// A line as a message; one that is none breaks nothing.
fn read(line: &[u8]) -> Incoming {
    let message = serde_json::from_slice::<Head>(line).ok().filter(|head| head.segments.is_empty());
    match message.map(|head| (FromHandler::read(&head.name, line), head)) {
        Some((Ok(Some(message)), _)) => Incoming::Message(message, Segments::none()),
        Some((Ok(None), head)) => Incoming::Unknown(head.name),
        Some((Err(_), _)) | None => {
            Incoming::Noise(String::from_utf8_lossy(&line[..line.len().min(NOISE_BYTES_MAX)]).trim_end().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::handlers::message::Success;

    #[tokio::test]
    async fn lines_that_are_messages_are_read_and_others_break_nothing() {
        let text =
            b"hello\n{\"type\": \"result\", \"run\": 1, \"result\": [1]}\r\n\n{\"type\":\"result\"}\n{\"type\":\"later\"}\n{\"run\":1}";
        let mut reader = LineReader::new(&text[..]);
        let noise = |text: &str| Some(Incoming::Noise(text.to_owned()));
        assert_eq!(reader.next().await.unwrap(), noise("hello"));
        let result = Success { run: 1, member: None, result: json!([1]).into(), segments: Vec::new() };
        assert_eq!(reader.next().await.unwrap(), Some(Incoming::Message(FromHandler::Result(result), Segments::none())));
        assert_eq!(reader.next().await.unwrap(), noise(""));
        assert_eq!(reader.next().await.unwrap(), noise("{\"type\":\"result\"}"));
        assert_eq!(reader.next().await.unwrap(), Some(Incoming::Unknown("later".to_owned())));
        assert_eq!(reader.next().await.unwrap(), noise("{\"run\":1}"), "the end of the stream ends a line");
        assert_eq!(reader.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_refused_and_not_kept() {
        let endless = vec![b'x'; JSON_BYTES_MAX + READ_BYTES];
        let said = LineReader::new(&endless[..]).next().await.unwrap_err();
        assert!(said.contains("a line of more than"), "{said}");
    }
}
