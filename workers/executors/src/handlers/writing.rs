//! Messages to a handler: one job writes all that waits at a moment, without joining it into one buffer.

use std::{
    collections::VecDeque,
    io,
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use bytes::{Buf, Bytes};
use devices::SharedMemory;
use protocol::{Segments, config::HandlerProtocol};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt, Interest},
    net::{
        UnixStream,
        unix::{OwnedWriteHalf, pipe},
    },
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
    /// Memory whose descriptors come with its first byte. The message says how many.
    pub(super) shared: Vec<Arc<SharedMemory>>,
}

/// Bytes that wait to be written, and the memory whose descriptors go with the first of them.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    shared: Vec<Arc<SharedMemory>>,
}

impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, shared: Vec::new() }
    }
}

impl Outgoing {
    /// A message without segments.
    pub(super) fn plain(message: &ToHandler) -> Self {
        Self { text: message.to_text(), segments: Segments::none(), shared: Vec::new() }
    }

    fn pieces(self, protocol: HandlerProtocol, pieces: &mut VecDeque<Piece>) {
        let Self { mut text, segments, shared } = self;
        match protocol {
            HandlerProtocol::Frames => {
                // What is sent was measured before: it fits.
                let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
                pieces.push_back(Piece { bytes: Bytes::copy_from_slice(&length), shared });
                pieces.push_back(Bytes::from(text).into());
                pieces.extend(segments.iter().filter(|segment| !segment.is_empty()).cloned().map(Piece::from));
            }
            HandlerProtocol::Lines => {
                // A payload is as its producer wrote it, and JSON has line breaks between values only.
                text.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
                text.push(b'\n');
                pieces.push_back(Bytes::from(text).into());
            }
        }
    }
}

/// A stream to a handler.
pub(super) trait Stream: AsyncWrite + Unpin + Send {
    /// Writes some of these bytes, at least one, and hands descriptors over with the first of them.
    ///
    /// # Errors
    /// The handler takes no more, or the stream cannot carry them.
    fn hand_over(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> impl Future<Output = io::Result<usize>> + Send;
}

impl Stream for OwnedWriteHalf {
    async fn hand_over(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let socket: &UnixStream = self.as_ref();
        socket.async_io(Interest::WRITABLE, || send_with(socket, bytes, descriptors)).await
    }
}

impl Stream for pipe::Sender {
    async fn hand_over(&self, _bytes: &[u8], _descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a pipe carries no file descriptors"))
    }
}

fn send_with(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let message = SendAncillaryMessage::ScmRights(descriptors);
    let mut space = vec![MaybeUninit::<u8>::uninit(); message.size()];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !beside.push(message) {
        return Err(io::Error::other("the file descriptors of a message do not fit into the room that was made for them"));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL)?)
}

/// Writes what comes until the other ends of `waiting` are gone or the handler takes no more, and closes the stream.
///
/// The queue has no bound of its own and needs none: a process has at most its concurrency of runs, each of which has one task, one cancel for each member, and one interrupt; and one ping
/// at a time.
pub(super) async fn write(mut to: impl Stream, mut waiting: mpsc::UnboundedReceiver<Outgoing>, protocol: HandlerProtocol) {
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

async fn write_all(to: &mut impl Stream, pieces: &mut VecDeque<Piece>) -> io::Result<()> {
    while !pieces.is_empty() {
        let mut written = write_some(to, pieces).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = pieces.front_mut() {
            if written == 0 {
                break;
            }
            if written < first.bytes.len() {
                first.bytes.advance(written);
                // They went with the first byte.
                first.shared.clear();
                break;
            }
            written -= first.bytes.len();
            pieces.pop_front();
        }
    }
    to.flush().await
}

/// Writes some of what waits: a piece with descriptors by itself, so that they come with its first byte and not before.
async fn write_some(to: &mut impl Stream, pieces: &VecDeque<Piece>) -> io::Result<usize> {
    if let Some(first) = pieces.front().filter(|piece| !piece.shared.is_empty()) {
        let descriptors: Vec<BorrowedFd<'_>> = first.shared.iter().map(AsFd::as_fd).collect();
        let handed = to.hand_over(&first.bytes, &descriptors).await;
        if let Err(error) = &handed {
            tracing::warn!(%error, descriptors = descriptors.len(), "a handler cannot be given the shared memory of a task's tensors, and is ended");
        }
        return handed;
    }
    let plain = pieces.iter().take_while(|piece| piece.shared.is_empty()).take(SLICES);
    let slices: Vec<IoSlice<'_>> = plain.map(|piece| IoSlice::new(&piece.bytes)).collect();
    to.write_vectored(&slices).await
}

#[cfg(test)]
mod tests {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use tokio::io::{AsyncReadExt, DuplexStream};

    use super::*;

    impl Stream for DuplexStream {
        async fn hand_over(&self, _bytes: &[u8], _descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

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
        Outgoing { text: text.as_bytes().to_vec(), segments, shared: Vec::new() }
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

    /// Reads once: bytes, and the memory that came with them.
    async fn received(from: &UnixStream, bytes: usize) -> (Vec<u8>, Vec<SharedMemory>) {
        let take = || {
            let (mut into, mut space) = (vec![0; 64], [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(4))]);
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let read = recvmsg(from, &mut [io::IoSliceMut::new(&mut into)], &mut beside, RecvFlags::CMSG_CLOEXEC)?.bytes;
            into.truncate(read);
            let mut memory = Vec::new();
            for message in beside.drain() {
                if let RecvAncillaryMessage::ScmRights(files) = message {
                    memory.extend(files.map(|file| SharedMemory::attach(file, bytes).unwrap()));
                }
            }
            io::Result::Ok((into, memory))
        };
        from.async_io(Interest::READABLE, take).await.unwrap()
    }

    #[tokio::test]
    async fn descriptors_come_with_the_first_byte_of_their_message() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, waiting) = mpsc::unbounded_channel();
        let memory = Arc::new(SharedMemory::allocate(3).unwrap());
        memory.write_at(0, b"abc");
        let with = Outgoing { shared: vec![Arc::clone(&memory), memory], ..message("{}", &[b"segment"]) };
        for message in [message("{\"a\":1}", &[]), with, message("{}", &[])] {
            sender.send(message).unwrap();
        }
        drop(sender);
        let (_reads, writes) = ours.into_split();
        write(writes, waiting, HandlerProtocol::Frames).await;
        let (mut all, mut came) = (Vec::new(), Vec::new());
        loop {
            let (bytes, memory) = received(&theirs, 3).await;
            if bytes.is_empty() {
                break;
            }
            if !memory.is_empty() {
                // The system may give what was written before in one go with the first bytes of the message, and no more.
                assert!(all.len() + bytes.len() > 11 && all.len() <= 11, "{all:?} {bytes:?}");
            }
            all.extend(bytes);
            came.extend(memory);
        }
        assert_eq!(all, b"\0\0\0\x07{\"a\":1}\0\0\0\x02{}segment\0\0\0\x02{}");
        let texts: Vec<[u8; 3]> = came
            .iter()
            .map(|memory| {
                let mut text = [0; 3];
                memory.read_at(0, &mut text);
                text
            })
            .collect();
        assert_eq!(texts, [*b"abc", *b"abc"]);
    }
}
