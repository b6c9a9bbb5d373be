//! Messages to a handler: one job writes all that waits at a moment, without joining it into one buffer.

use std::{collections::VecDeque, io, io::IoSlice};

use bytes::{Buf, Bytes};
use protocol::{Segments, config::HandlerProtocol};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use super::message::ToHandler;

/// Messages that go out in one go at most.
const TOGETHER: usize = 64;
/// Pieces of one call to the system at most.
const SLICES: usize = 64;

/// A message that waits to be written.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Its JSON.
    pub(super) text: Vec<u8>,
    /// The bytes that follow it.
    pub(super) segments: Segments,
}

impl Outgoing {
    /// A message without segments.
    pub(super) fn plain(message: &ToHandler) -> Self {
        Self { text: message.to_text(), segments: Segments::none() }
    }

    fn pieces(self, protocol: HandlerProtocol, pieces: &mut VecDeque<Bytes>) {
        let Self { mut text, segments } = self;
        match protocol {
            HandlerProtocol::Frames => {
                // What is sent was measured before: it fits.
                let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
                pieces.push_back(Bytes::copy_from_slice(&length));
                pieces.push_back(text.into());
                pieces.extend(segments.iter().filter(|segment| !segment.is_empty()).cloned());
            }
            HandlerProtocol::Lines => {
                // A payload is as its producer wrote it, and JSON has line breaks between values only.
                text.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
                text.push(b'\n');
                pieces.push_back(text.into());
            }
        }
    }
}

/// Writes what comes until the other ends of `waiting` are gone or the handler takes no more, and closes the stream.
///
/// The queue has no bound of its own and needs none: a process has at most its concurrency of runs, each of which has one task, one cancel for each member, and one interrupt; and one ping
/// at a time.
pub(super) async fn write(mut to: impl AsyncWrite + Unpin, mut waiting: mpsc::UnboundedReceiver<Outgoing>, protocol: HandlerProtocol) {
    let mut together = Vec::with_capacity(TOGETHER);
    let mut pieces = VecDeque::new();
    while waiting.recv_many(&mut together, TOGETHER).await > 0 {
        together.drain(..).for_each(|message: Outgoing| message.pieces(protocol, &mut pieces));
        // That the handler reads no more shows in its exit, or in its silence.
        if write_all(&mut to, &mut pieces).await.is_err() {
            return;
        }
    }
    // The stream ends with this job in any case.
    let _ = to.shutdown().await;
}

async fn write_all(to: &mut (impl AsyncWrite + Unpin), pieces: &mut VecDeque<Bytes>) -> io::Result<()> {
    while !pieces.is_empty() {
        let slices: Vec<IoSlice<'_>> = pieces.iter().take(SLICES).map(|piece| IoSlice::new(piece)).collect();
        let mut written = to.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = pieces.front_mut() {
            if written < first.len() {
                first.advance(written);
                break;
            }
            written -= first.len();
            pieces.pop_front();
        }
    }
    to.flush().await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn written(protocol: HandlerProtocol, messages: Vec<Outgoing>) -> Vec<u8> {
        // Smaller than what is written: pieces are cut anywhere.
        let (ours, mut theirs) = tokio::io::duplex(7);
        let (sender, waiting) = mpsc::unbounded_channel();
        messages.into_iter().for_each(|message| sender.send(message).unwrap());
        drop(sender);
        let writing = tokio::spawn(write(ours, waiting, protocol));
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).await.unwrap();
        writing.await.unwrap();
        all
    }

    fn message(text: &str, segments: &[&'static [u8]]) -> Outgoing {
        let segments = Segments::of(segments.iter().map(|segment| Bytes::from_static(segment)).collect());
        Outgoing { text: text.as_bytes().to_vec(), segments }
    }

    #[tokio::test]
    async fn frames_go_out_one_after_the_other_with_their_segments() {
        let messages = vec![message("{\"a\":1}", &[b"first", b"", b"second of them"]), message("{}", &[])];
        let expected = b"\0\0\0\x07{\"a\":1}firstsecond of them\0\0\0\x02{}";
        assert_eq!(written(HandlerProtocol::Frames, messages).await, expected);
    }

    #[tokio::test]
    async fn a_line_is_one_line_whatever_the_payload_has_between_its_values() {
        assert_eq!(written(HandlerProtocol::Lines, vec![message("{\"a\":\r\n 1}", &[])]).await, b"{\"a\":   1}\n");
    }
}
