//! Who uses a data port.

use std::{fmt, io, ops::Range, time::Duration};

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use protocol::{DataPort, TensorName, TensorRecord};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{FetchOrder, LinkError, NewTensor};

/// A stream of bytes in both directions.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Wire for S {}

/// A connection that is being made.
pub type Dialled = BoxFuture<'static, io::Result<Box<dyn Wire>>>;

/// How long a client waits, and how large its pieces are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// For a connection, and for each answer that carries no bytes of a tensor. Not for the whole of a reading or a writing: who wants that bounded puts a time limit around it.
    pub timeout: Duration,
    /// For the next byte of a reading or a writing.
    pub stall: Duration,
    /// Length of a piece. Rounded down to a multiple of eight, and kept between 8 bytes and 16 MiB.
    pub piece_bytes: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), stall: Duration::from_secs(5), piece_bytes: 4 << 20 }
    }
}

/// Uses one data port. Operations may run at the same time: each has a connection of its own. Dropping what an operation returned ends it, on the other side too.
pub struct Client {}

impl Client {
    /// Connects to the address of a data port.
    ///
    /// # Errors
    /// [`LinkError::NoAddress`], [`LinkError::Away`], [`LinkError::Stalled`]; [`LinkError::Refused`] where the key is wrong.
    pub async fn connect(port: &DataPort, limits: ClientLimits) -> Result<Self, LinkError> {
        todo!()
    }

    /// Connects by `dial`, which is called again for each connection that is needed: for other sockets than TCP's. `address` is for people.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect).
    pub async fn dialling(
        dial: impl Fn() -> Dialled + Send + Sync + 'static,
        address: &str,
        key: &str,
        limits: ClientLimits,
    ) -> Result<Self, LinkError> {
        todo!()
    }

    /// Over one connection that is there. It carries one operation at a time, and when it is lost, or an operation was dropped half-way, every further one fails as [`LinkError::Away`].
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect).
    pub async fn over(stream: impl Wire, key: &str, limits: ClientLimits) -> Result<Self, LinkError> {
        todo!()
    }

    /// What is known of a tensor; `version` `None`: of its latest there.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn about(&self, name: &TensorName, version: Option<u64>) -> Result<TensorRecord, LinkError> {
        todo!()
    }

    /// Reads bytes of a tensor, in pieces: where each begins, and its bytes, in order and without gaps, each checked. While one is handled the next is on its way. An end of `u64::MAX` is the tensor's; any other that
    /// is past it is refused. After an error nothing follows.
    pub fn read(&self, name: &TensorName, version: Option<u64>, range: Range<u64>) -> BoxStream<'static, Result<(u64, Bytes), LinkError>> {
        todo!()
    }

    /// Reads a whole tensor of at most `bytes_max` bytes into memory.
    ///
    /// # Errors
    /// [`LinkError`]; [`RefusedBecause::Invalid`](crate::RefusedBecause::Invalid) where it is larger.
    pub async fn read_all(&self, name: &TensorName, version: Option<u64>, bytes_max: usize) -> Result<Bytes, LinkError> {
        todo!()
    }

    /// Writes a tensor: `bytes` in any cut, together as many as its shape says. Where it fails or is dropped, nothing of it remains there.
    ///
    /// # Errors
    /// [`LinkError`]; [`LinkError::Source`] for those of `bytes`.
    pub async fn write(&self, new: NewTensor, bytes: BoxStream<'static, Result<Bytes, io::Error>>) -> Result<TensorRecord, LinkError> {
        todo!()
    }

    /// Lets go of the copy of a tensor there; whether it was there.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn free(&self, name: &TensorName, version: Option<u64>) -> Result<bool, LinkError> {
        todo!()
    }

    /// Has the other side bring a tensor to its GPU; the record of the copy that is there then.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn fetch(&self, order: FetchOrder) -> Result<TensorRecord, LinkError> {
        todo!()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Client")
    }
}
