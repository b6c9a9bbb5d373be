//! Who uses a data port.

mod connection;
mod dialler;
mod pieces;
mod reading;
mod writing;

use std::{fmt, io, ops::Range, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use protocol::{DataPort, TensorName, TensorRecord};
use tokio::io::{AsyncRead, AsyncWrite};

use self::{dialler::Dialler, reading::Reader};
use crate::{
    FetchOrder, LinkError, NewTensor, Refused, RefusedBecause,
    wire::{Answer, PIECE_BYTES_MAX, Request, WORD, Which},
};

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

impl ClientLimits {
    /// The length of a piece, within its bounds.
    fn piece_bytes(&self) -> usize {
        let word = WORD as usize;
        self.piece_bytes.clamp(word, PIECE_BYTES_MAX) / word * word
    }
}

/// Uses one data port. Operations may run at the same time: each has a connection of its own. Dropping what an operation returned ends it, on the other side too, but for what was sent already and takes but a moment. A clone
/// is the same client.
#[derive(Clone)]
pub struct Client(Arc<Dialler>);

impl Client {
    /// Connects to the address of a data port.
    ///
    /// # Errors
    /// [`LinkError::NoAddress`], [`LinkError::Away`], [`LinkError::Broken`], [`LinkError::Stalled`]; [`LinkError::Refused`] where the key is wrong.
    pub async fn connect(port: &DataPort, limits: ClientLimits) -> Result<Self, LinkError> {
        let address: Arc<str> = port.address.as_deref().ok_or(LinkError::NoAddress)?.into();
        Self::dialling(dialler::tcp(address.clone()), &address, &port.key, limits).await
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
        let dialler = Dialler::new(Box::new(dial), address, key, limits);
        dialler.keep(dialler.dial().await?);
        Ok(Self(Arc::new(dialler)))
    }

    /// Over one connection that is there. It carries one operation at a time: while it does, and once it is lost or an operation was dropped half-way, every further one fails as [`LinkError::Away`].
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect).
    pub async fn over(stream: impl Wire, key: &str, limits: ClientLimits) -> Result<Self, LinkError> {
        Self::dialling(dialler::once(stream), "the other side", key, limits).await
    }

    /// What is known of a tensor; `version` `None`: of its latest there.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn about(&self, name: &TensorName, version: Option<u64>) -> Result<TensorRecord, LinkError> {
        self.record(&Request::About(Which { name: name.clone(), version }), self.0.limits.timeout).await
    }

    /// Reads bytes of a tensor, in pieces: where each begins, and its bytes, in order and without gaps, each checked. While one is handled the next is on its way. An end of `u64::MAX` is the tensor's; any other that
    /// is past it is refused. If the connection is lost, another one goes on where it was. After an error nothing follows. Needs tokio's runtime when it is first polled.
    pub fn read(&self, name: &TensorName, version: Option<u64>, range: Range<u64>) -> BoxStream<'static, Result<(u64, Bytes), LinkError>> {
        Reader::new(self.0.clone(), Which { name: name.clone(), version }, range).stream()
    }

    /// Reads a whole tensor of at most `bytes_max` bytes into memory.
    ///
    /// # Errors
    /// [`LinkError`]; [`RefusedBecause::Invalid`] where it is larger.
    pub async fn read_all(&self, name: &TensorName, version: Option<u64>, bytes_max: usize) -> Result<Bytes, LinkError> {
        let record = self.about(name, version).await?;
        let Some(bytes) = usize::try_from(record.bytes).ok().filter(|bytes| *bytes <= bytes_max) else {
            let message = format!("{name} has {} bytes; at most {bytes_max} are read at once", record.bytes);
            return Err(Refused::new(RefusedBecause::Invalid, message).into());
        };
        let mut pieces = self.read(name, Some(record.version), 0..record.bytes);
        let mut whole = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            let (_, piece) = piece?;
            if piece.len() == bytes {
                return Ok(piece);
            }
            whole.reserve(bytes - whole.len());
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Writes a tensor: `bytes` in any cut, together as many as its shape says. Where it fails or is dropped, nothing of it remains there; only when the connection was lost after the last byte it may be there.
    ///
    /// # Errors
    /// [`LinkError`]; [`LinkError::Source`] for those of `bytes`.
    pub async fn write(&self, new: NewTensor, bytes: BoxStream<'static, Result<Bytes, io::Error>>) -> Result<TensorRecord, LinkError> {
        writing::write(&self.0, new, bytes).await
    }

    /// Lets go of the copy of a tensor there; whether it was there.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn free(&self, name: &TensorName, version: Option<u64>) -> Result<bool, LinkError> {
        let request = Request::Free(Which { name: name.clone(), version });
        match self.0.ask(&request, self.0.limits.timeout).await? {
            Answer::Freed(was_there) => Ok(was_there),
            answer => Err(self.0.unexpected(&answer)),
        }
    }

    /// Has the other side bring a tensor to its GPU; the record of the copy that is there then. Waits as long as the order says, and for the answer.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn fetch(&self, order: FetchOrder) -> Result<TensorRecord, LinkError> {
        let limit = self.0.limits.timeout.saturating_add(Duration::from_millis(order.timeout_ms));
        self.record(&Request::Fetch(Box::new(order)), limit).await
    }

    async fn record(&self, request: &Request, limit: Duration) -> Result<TensorRecord, LinkError> {
        match self.0.ask(request, limit).await? {
            Answer::Record(record) => Ok(*record),
            answer => Err(self.0.unexpected(&answer)),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").field("address", &self.0.address).finish_non_exhaustive()
    }
}
