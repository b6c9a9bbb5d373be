//! A connection of the socket that speaks of memory: words as JSON behind their length, and with the first one perhaps a file descriptor.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use futures::{Stream, stream};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, Interest},
    net::{UnixStream, unix::WriteHalf},
};

use crate::transfer::TryFailure;

/// No word is longer.
const WORD_BYTES_MAX: usize = 64 << 10;
/// Bytes of the length before a word.
const HEAD: usize = 4;

/// One of the two ends.
pub(crate) struct Connection {
    stream: UnixStream,
}

impl Connection {
    pub(crate) const fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// Connects.
    ///
    /// # Errors
    /// [`TryFailure::Failed`].
    pub(crate) async fn open(address: PathBuf) -> Result<Self, TryFailure> {
        match UnixStream::connect(address).await {
            Ok(stream) => Ok(Self::new(stream)),
            Err(error) => Err(TryFailure::Failed(format!("reach the other process: {error}"))),
        }
    }

    /// Says something.
    ///
    /// # Errors
    /// [`TryFailure::Failed`].
    pub(crate) async fn send<T: Serialize>(&mut self, word: &T) -> Result<(), TryFailure> {
        Ok(self.stream.write_all(&written(word)?).await?)
    }

    /// Says something, and hands over a file with it.
    ///
    /// # Errors
    /// [`TryFailure::Failed`].
    pub(crate) async fn send_with<T: Serialize>(&mut self, word: &T, file: &impl AsFd) -> Result<(), TryFailure> {
        let written = written(word)?;
        let stream = &self.stream;
        let hand_over = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut with = SendAncillaryBuffer::new(&mut space);
            let files = [file.as_fd()];
            with.push(SendAncillaryMessage::ScmRights(&files));
            Ok(sendmsg(stream, &[IoSlice::new(&written)], &mut with, SendFlags::NOSIGNAL)?)
        };
        let sent = stream.async_io(Interest::WRITABLE, hand_over).await?;
        // The file went with the first byte.
        Ok(self.stream.write_all(&written[sent..]).await?)
    }

    /// Hears something.
    ///
    /// # Errors
    /// [`TryFailure::Failed`], also where the other side has ended the connection.
    pub(crate) async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, TryFailure> {
        heard(&mut self.stream).await
    }

    /// What the other side says, and what says something meanwhile. Whoever waits for a word and turns to something else loses nothing of it.
    pub(crate) fn halves<T: DeserializeOwned>(&mut self) -> (impl Stream<Item = Result<T, TryFailure>>, Speaking<'_>) {
        let (hears, speaks) = self.stream.split();
        let words = stream::unfold(hears, |mut hears| async move { Some((heard(&mut hears).await, hears)) });
        (words, Speaking(speaks))
    }

    /// Hears something, and takes the file that comes with it, if one does.
    ///
    /// # Errors
    /// [`TryFailure::Failed`].
    pub(crate) async fn receive_with<T: DeserializeOwned>(&mut self) -> Result<(T, Option<OwnedFd>), TryFailure> {
        let mut head = [0; HEAD];
        let stream = &self.stream;
        let take = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut with = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(stream, &mut [IoSliceMut::new(&mut head)], &mut with, RecvFlags::CMSG_CLOEXEC)?;
            let files = with.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(files) => Some(files),
                _ => None,
            });
            Ok::<_, io::Error>((received.bytes, files.flatten().next()))
        };
        let (received, file) = stream.async_io(Interest::READABLE, take).await?;
        if received == 0 {
            return Err(TryFailure::Failed("the other side said nothing".to_owned()));
        }
        self.stream.read_exact(&mut head[received..]).await?;
        Ok((rest(&mut self.stream, head).await?, file))
    }

    /// Until the other side ends the connection, or says anything more.
    pub(crate) async fn ended(&mut self) {
        // However it ends, it has.
        let _ = self.stream.read(&mut [0]).await;
    }
}

/// The half of a connection that says something.
pub(crate) struct Speaking<'a>(WriteHalf<'a>);

impl Speaking<'_> {
    /// Says something.
    ///
    /// # Errors
    /// [`TryFailure::Failed`].
    pub(crate) async fn send<T: Serialize>(&mut self, word: &T) -> Result<(), TryFailure> {
        Ok(self.0.write_all(&written(word)?).await?)
    }
}

async fn heard<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> Result<T, TryFailure> {
    let mut head = [0; HEAD];
    from.read_exact(&mut head).await?;
    rest(from, head).await
}

async fn rest<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin), head: [u8; HEAD]) -> Result<T, TryFailure> {
    let bytes = u32::from_le_bytes(head) as usize;
    if bytes > WORD_BYTES_MAX {
        return Err(TryFailure::Failed(format!("the other side begins a word of {bytes} bytes; the longest has {WORD_BYTES_MAX}")));
    }
    let mut word = vec![0; bytes];
    from.read_exact(&mut word).await?;
    serde_json::from_slice(&word).map_err(|error| TryFailure::Failed(format!("understand the other side: {error}")))
}

fn written<T: Serialize>(word: &T) -> Result<Vec<u8>, TryFailure> {
    let mut written = vec![0; HEAD];
    serde_json::to_writer(&mut written, word).map_err(|error| TryFailure::Failed(format!("write a word: {error}")))?;
    let bytes = u32::try_from(written.len() - HEAD).unwrap_or(u32::MAX);
    if bytes as usize > WORD_BYTES_MAX {
        return Err(TryFailure::Failed(format!("a word of {bytes} bytes; the longest has {WORD_BYTES_MAX}")));
    }
    written[..HEAD].copy_from_slice(&bytes.to_le_bytes());
    Ok(written)
}

#[cfg(test)]
mod tests {
    use devices::SharedMemory;
    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn words_and_memory_arrive() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (Connection::new(one), Connection::new(other));
        let memory = SharedMemory::allocate(4_096).unwrap();
        memory.write_at(7, b"seven");
        one.send_with(&"a word with memory", &memory).await.unwrap();
        one.send(&vec![1, 2, 3]).await.unwrap();
        let (word, file) = other.receive_with::<String>().await.unwrap();
        assert_eq!(word, "a word with memory");
        let mut read = [0; 5];
        SharedMemory::attach(file.unwrap(), 4_096).unwrap().read_at(7, &mut read);
        assert_eq!(&read, b"seven");
        assert_eq!(other.receive::<Vec<u32>>().await.unwrap(), [1, 2, 3]);
        other.send(&"nothing comes with this").await.unwrap();
        assert!(one.receive_with::<String>().await.unwrap().1.is_none());
        drop(other);
        one.ended().await;
        assert!(one.receive::<String>().await.is_err());
    }

    #[tokio::test]
    async fn a_word_that_comes_in_two_parts_is_whole_also_where_one_turned_away_between_them() {
        let (mut one, other) = UnixStream::pair().unwrap();
        let mut other = Connection::new(other);
        let (words, mut speaks) = other.halves::<String>();
        let mut words = std::pin::pin!(words);
        let word = written(&"a word").unwrap();
        one.write_all(&word[..6]).await.unwrap();
        tokio::select! {
            biased;
            _ = words.next() => panic!("half a word is none"),
            said = speaks.send(&"meanwhile") => said.unwrap(),
        }
        one.write_all(&word[6..]).await.unwrap();
        assert_eq!(words.next().await.unwrap().unwrap(), "a word");
        assert_eq!(Connection::new(one).receive::<String>().await.unwrap(), "meanwhile");
    }

    #[tokio::test]
    async fn a_word_that_is_too_long_is_not_waited_for() {
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
        let error = Connection::new(other).receive::<String>().await.unwrap_err();
        assert!(error.to_string().contains("4294967295"), "{error}");
    }
}
