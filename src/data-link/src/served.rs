//! What a data port serves.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::{Checksum, IfExists, TensorName, TensorRecord, TensorShape};
use serde::{Deserialize, Serialize};

/// Why the other side refuses, as a word for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedBecause {
    /// The key is wrong, or the request is none.
    NotAllowed,
    /// The request cannot be met whatever is done.
    Invalid,
    /// It has no such tensor.
    Missing,
    /// The name is taken, and must not be replaced.
    Exists,
    /// There is no room.
    Full,
    /// It cannot do this: another way is needed.
    Unsupported,
    /// It went wrong there; another try may go well.
    Failed,
}

/// A refusal by the other side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// For programs.
    pub because: RefusedBecause,
    /// For people.
    pub message: String,
}

impl Refused {
    /// With a sentence for people.
    pub fn new(because: RefusedBecause, message: impl Into<String>) -> Self {
        Self { because, message: message.into() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

/// A tensor that is to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTensor {
    /// Its name.
    pub name: TensorName,
    /// What its numbers are; its length follows.
    pub shape: TensorShape,
    /// Who makes it.
    pub owner: String,
    /// How long it is kept after its last use, in ms. `None`: as the worker is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// What becomes of one that has the name.
    #[serde(default)]
    pub if_exists: IfExists,
}

/// What a worker is told to bring to its GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchOrder {
    /// The copy that it is to read.
    pub from: TensorRecord,
    /// How long it may take, in ms.
    pub timeout_ms: u64,
}

/// A tensor that is open for reading. It stays until this is dropped, also if its name is written again or freed meanwhile.
#[async_trait]
pub trait Reading: Send + Sync {
    /// What is known of it.
    fn record(&self) -> &TensorRecord;

    /// So many bytes from `at` on, and their checksum (see [`Checksum::of`], with `at`). All of them are there: what is still arriving cannot be opened.
    ///
    /// # Errors
    /// A [`Refused`].
    async fn read(&self, at: u64, bytes: usize) -> Result<(Bytes, Checksum), Refused>;
}

/// A tensor that is being written. Dropped before it is finished, nothing of it remains.
#[async_trait]
pub trait Writing: Send {
    /// Writes a piece. Pieces come in order, without gaps, and each was checked.
    ///
    /// # Errors
    /// A [`Refused`].
    async fn write(&mut self, at: u64, bytes: Bytes) -> Result<(), Refused>;

    /// All pieces were written: from now on it is there, and in the table.
    ///
    /// # Errors
    /// A [`Refused`].
    async fn finish(self: Box<Self>) -> Result<TensorRecord, Refused>;
}

/// A tensor that is open for reading.
pub type Opened = Arc<dyn Reading>;

/// The tensors of one GPU, as a data port serves them.
#[async_trait]
pub trait Served: Send + Sync + 'static {
    /// Opens a tensor for reading; `version` `None`: the latest that is there.
    ///
    /// # Errors
    /// A [`Refused`]; [`RefusedBecause::Missing`] where it is not there.
    async fn open(&self, name: &TensorName, version: Option<u64>) -> Result<Opened, Refused>;

    /// Begins to write a tensor; room for all of it is taken at once.
    ///
    /// # Errors
    /// A [`Refused`]; [`RefusedBecause::Exists`], [`RefusedBecause::Full`].
    async fn write(&self, new: NewTensor) -> Result<Box<dyn Writing>, Refused>;

    /// Lets go of the copy of a tensor; whether it was there. Who reads it meanwhile reads it to its end.
    ///
    /// # Errors
    /// A [`Refused`].
    async fn free(&self, name: &TensorName, version: Option<u64>) -> Result<bool, Refused>;

    /// Brings a tensor from another GPU to this one, whichever way; the record of the copy that is here then.
    ///
    /// # Errors
    /// A [`Refused`].
    async fn fetch(&self, order: FetchOrder) -> Result<TensorRecord, Refused>;
}
