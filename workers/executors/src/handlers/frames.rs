//! Messages on the socket: frames, read one at a time within bounds.

use bytes::{Buf, Bytes, BytesMut};
use protocol::{
    Segments,
    frame::{JSON_BYTES_MAX, SEGMENTS_MAX},
};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::message::{FromHandler, Head};

/// The largest frame, in bytes: its length, its JSON and its segments.
pub(super) const FRAME_BYTES_MAX: usize = 64 << 20;
/// What is read at once where the length of the rest is not known.
const READ_BYTES: usize = 16 << 10;
/// Segments that are smaller together are copied, so that a small answer does not keep a large buffer.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// What came from a handler.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// A message and its segments.
    Message(FromHandler, Segments),
    /// A message of a type that is not known.
    Unknown(String),
    /// A line that is no message, where that breaks nothing.
    Noise(String),
}

/// Reads frames.
#[derive(Debug)]
pub(super) struct FrameReader<R> {
    from: R,
    buffer: BytesMut,
    /// What the frame at the beginning of the buffer says of itself, once its JSON is there.
    head: Option<(usize, Head)>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, buffer: BytesMut::new(), head: None }
    }

    /// The next message; `None` at the end of the stream. Cancel safe.
    ///
    /// # Errors
    /// How the other side broke the protocol, as the rest of a sentence. Nothing can be read after it.
    pub(super) async fn next(&mut self) -> Result<Option<Incoming>, String> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(Some(message));
            }
            let missing = self.wanted().saturating_sub(self.buffer.len());
            self.buffer.reserve(missing.max(READ_BYTES));
            let read = self.from.read_buf(&mut self.buffer).await;
            match read {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(format!("its stream ended {} bytes into a frame", self.buffer.len())),
                Ok(_) => {}
                Err(error) => return Err(format!("its stream cannot be read: {error}")),
            }
        }
    }

    /// How long the frame at the beginning of the buffer is, as far as that is known.
    fn wanted(&self) -> usize {
        match &self.head {
            Some((json, head)) => 4 + json + head.segments.iter().sum::<usize>(),
            None => self.buffer.first_chunk::<4>().map_or(4, |length| 4 + u32::from_be_bytes(*length) as usize),
        }
    }

    /// A message that has been read to its end already.
    ///
    /// # Errors
    /// As [`FrameReader::next`].
    pub(super) fn buffered(&mut self) -> Result<Option<Incoming>, String> {
        let Some(length) = self.buffer.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize) else { return Ok(None) };
        if length > JSON_BYTES_MAX {
            let begins = String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(40)]).into_owned();
            return Err(format!("it sent no frame, but {begins:?}"));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        if self.head.is_none() {
            self.head = Some((length, read_head(&self.buffer[4..4 + length])?));
        }
        if self.buffer.len() < self.wanted() {
            return Ok(None);
        }
        let Some((length, head)) = self.head.take() else { return Ok(None) };
        let message = FromHandler::read(&head.name, &self.buffer[4..4 + length])?;
        self.buffer.advance(4 + length);
        let segments = self.cut(&head.segments);
        Ok(Some(message.map_or(Incoming::Unknown(head.name), |message| Incoming::Message(message, segments))))
    }

    /// Takes segments from the beginning of the buffer.
    fn cut(&mut self, lengths: &[usize]) -> Segments {
        if lengths.is_empty() {
            return Segments::none();
        }
        let total: usize = lengths.iter().sum();
        let mut whole = if total > COPIED_BYTES_MAX {
            self.buffer.split_to(total).freeze()
        } else {
            let copied = Bytes::copy_from_slice(&self.buffer[..total]);
            self.buffer.advance(total);
            copied
        };
        Segments::of(lengths.iter().map(|length| whole.split_to(*length)).collect())
    }
}

fn read_head(json: &[u8]) -> Result<Head, String> {
    let head: Head = serde_json::from_slice(json).map_err(|error| {
        format!("it sent a frame whose JSON cannot be read, or has no `type` (a text), or whose `segments` are no lengths: {error}")
    })?;
    if head.segments.len() > SEGMENTS_MAX {
        return Err(format!("it sent a frame of {} segments; {SEGMENTS_MAX} are allowed", head.segments.len()));
    }
    let total = head.segments.iter().try_fold(4 + json.len(), |sum, length| sum.checked_add(*length));
    match total {
        Some(total) if total <= FRAME_BYTES_MAX => Ok(head),
        _ => Err(format!("it announced a frame of more than {} MiB", FRAME_BYTES_MAX >> 20)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::handlers::message::{Pong, Success};

    fn frame(json: &serde_json::Value, segments: &[&[u8]]) -> Vec<u8> {
        let text = json.to_string().into_bytes();
        [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], &text, &segments.concat()].concat()
    }

    #[tokio::test]
    async fn messages_and_their_segments_are_read_however_the_stream_is_cut() {
        let large = vec![7_u8; 3 * COPIED_BYTES_MAX];
        let bytes = [
            frame(&json!({"type": "result", "run": 1, "result": {"$segment": 1}, "segments": [2, large.len()]}), &[b"ab", &large]),
            frame(&json!({"type": "later", "segments": [1]}), &[b"x"]),
            frame(&json!({"type": "pong", "n": 4}), &[]),
        ]
        .concat();
        for piece in [1, 7, 4096, bytes.len()] {
            let (mut writes, reads) = tokio::io::duplex(1 << 20);
            for chunk in bytes.chunks(piece) {
                tokio::io::AsyncWriteExt::write_all(&mut writes, chunk).await.unwrap();
            }
            drop(writes);
            let mut reader = FrameReader::new(reads);
            let Some(Incoming::Message(FromHandler::Result(Success { run, result, .. }), segments)) = reader.next().await.unwrap() else {
                panic!("a result")
            };
            assert_eq!((run, result.as_str()), (1, r#"{"$segment":1}"#));
            assert_eq!((&segments.get(0).unwrap()[..], segments.get(1).unwrap()), (&b"ab"[..], &Bytes::from(large.clone())));
            assert_eq!(reader.next().await.unwrap(), Some(Incoming::Unknown("later".to_owned())));
            let pong = FromHandler::Pong(Pong { n: 4, healthy: true, reason: None });
            assert_eq!(reader.next().await.unwrap(), Some(Incoming::Message(pong, Segments::none())));
            assert_eq!(reader.next().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn what_is_no_frame_is_said() {
        let huge = json!({"type": "result", "run": 1, "result": null, "segments": [FRAME_BYTES_MAX]});
        let overflowing = json!({"type": "pong", "n": 1, "segments": [usize::MAX, usize::MAX]});
        for (bytes, says) in [
            (b"Traceback (most recent call last)".to_vec(), "no frame, but \"Traceback"),
            (frame(&huge, &[]), "more than 64 MiB"),
            (frame(&overflowing, &[]), "more than 64 MiB"),
            (frame(&json!({"run": 1}), &[]), "has no `type`"),
            (frame(&json!({"type": "pong", "segments": vec![0; SEGMENTS_MAX + 1]}), &[]), "1024 are allowed"),
            (frame(&json!({"type": "pong"}), &[]), "its `pong` cannot be read"),
            (b"\0\0\0\x09{}".to_vec(), "6 bytes into a frame"),
        ] {
            let said = FrameReader::new(&bytes[..]).next().await.unwrap_err();
            assert!(said.contains(says), "{said}");
        }
    }
}
