//! The tensors of one GPU.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use devices::{Device, DeviceBuffer, HostBytes, MemoryError};
use protocol::{IfExists, TensorName, TensorPlace};

use crate::{Tensor, TensorAbout};

/// How much a GPU keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorBounds {
    /// Most of the GPU's memory, in bytes.
    pub gpu_bytes: u64,
    /// Most of the host's memory for what was evicted, in bytes.
    pub host_bytes: u64,
    /// Most tensors.
    pub tensors: usize,
}

/// Why a tensor is not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// The name is taken, and must not be replaced.
    #[error("there is a tensor {name} already, version {version}, and it is not to be replaced")]
    Exists {
        /// The name.
        name: TensorName,
        /// The version that is there.
        version: u64,
    },
    /// There is no room, and nothing that could be evicted for it.
    #[error("no room for {wanted_bytes} bytes among {what}: {used_bytes} of {bound_bytes} bytes are used, and what may go is not enough")]
    Full {
        /// What was asked for.
        wanted_bytes: u64,
        /// What is used.
        used_bytes: u64,
        /// The bound.
        bound_bytes: u64,
        /// What the bound is of.
        what: &'static str,
    },
    /// There are as many as there may be, and all are in use.
    #[error("there are {bound} tensors on the GPU, which is the most (data.tensors_max), and all of them are in use")]
    TooMany {
        /// The bound.
        bound: usize,
    },
    /// The GPU's memory failed.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl KeepError {
    /// Whether another try may succeed.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        !matches!(self, Self::Exists { .. })
    }
}

/// What happened in a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// Tensors that went from the GPU's memory to the host's.
    pub to_host: u64,
    /// Tensors that went away because there was no room.
    pub away: u64,
    /// Tensors that went away because nobody used them for their time.
    pub expired: u64,
}

/// A copy that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What it is.
    pub about: TensorAbout,
    /// Where it lies.
    pub place: TensorPlace,
    /// When it was last used, Unix time in ms.
    pub last_used_ms: u64,
}

/// The tensors of one GPU: at most one version of each name, besides those that are still in use. Makes room by evicting those that were used longest ago and are not in use, from the GPU to the host's memory, and
/// from there away.
pub struct TensorStore {}

impl TensorStore {
    /// Of a GPU that has a [`DeviceMemory`](devices::DeviceMemory). `now_ms` tells the time, Unix time in ms.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, bounds: TensorBounds, now_ms: Arc<dyn Fn() -> u64 + Send + Sync>) -> Self {
        todo!()
    }

    /// Takes room for a tensor that arrives in pieces. An older version of the name stays until this one is finished. It replaces one of the same name if that is older and `if_exists` says so, or if it is of the same
    /// owner; where a newer one is here, it comes to nothing when it is finished.
    ///
    /// # Errors
    /// [`KeepError`].
    pub async fn begin(self: &Arc<Self>, about: TensorAbout, if_exists: IfExists) -> Result<Arriving, KeepError> {
        todo!()
    }

    /// Keeps a tensor whose bytes are in this GPU's memory already.
    ///
    /// # Errors
    /// [`KeepError`].
    pub async fn adopt(self: &Arc<Self>, about: TensorAbout, if_exists: IfExists, buffer: DeviceBuffer) -> Result<Arc<Tensor>, KeepError> {
        todo!()
    }

    /// A tensor, in the GPU's memory: one that was evicted to the host's is brought back. `version` `None`: the latest. It counts as used. `None`: it is not here.
    ///
    /// # Errors
    /// [`KeepError`], where there is no room to bring it back.
    pub async fn get(self: &Arc<Self>, name: &TensorName, version: Option<u64>) -> Result<Option<Arc<Tensor>>, KeepError> {
        todo!()
    }

    /// What is here, by name.
    pub fn list(&self) -> Vec<Stored> {
        todo!()
    }

    /// What is here under a name.
    pub fn look(&self, name: &TensorName) -> Option<Stored> {
        todo!()
    }

    /// Lets go of a tensor, at once where nobody uses it and else when nobody does any more; it is not found from now on. The version that was here.
    pub fn free(&self, name: &TensorName, version: Option<u64>) -> Option<u64> {
        todo!()
    }

    /// Evicts until so many bytes of the GPU's memory are given back, or nothing is left that may go. Whether any were.
    pub async fn make_room(self: &Arc<Self>, bytes: u64) -> bool {
        todo!()
    }

    /// Lets go of what nobody has used for its time.
    pub fn sweep(&self) -> Vec<(TensorName, u64)> {
        todo!()
    }

    /// The names and versions that went away since this was asked last, other than by [`free`](Self::free): the table is to hear of it.
    pub fn gone(&self) -> Vec<(TensorName, u64)> {
        todo!()
    }

    /// Bytes in the GPU's memory, and in the host's.
    pub fn bytes(&self) -> (u64, u64) {
        todo!()
    }

    /// What happened so far.
    pub fn counts(&self) -> StoreCounts {
        todo!()
    }
}

/// A tensor whose bytes are arriving. Dropped before it is finished, its room is free again and nothing of it remains.
pub struct Arriving {}

impl Arriving {
    /// The memory that it is to be in.
    pub fn buffer(&self) -> &DeviceBuffer {
        todo!()
    }

    /// Writes a piece from the host.
    ///
    /// # Errors
    /// [`KeepError::Memory`].
    pub async fn write(&self, at: u64, bytes: HostBytes) -> Result<(), KeepError> {
        todo!()
    }

    /// It is all there: from now on it is found. Where a newer version came meanwhile, it is not found, and whoever has what this gives has it all the same.
    ///
    /// # Errors
    /// [`KeepError::Exists`], where another one came meanwhile that is not to be replaced.
    pub fn finish(self) -> Result<Arc<Tensor>, KeepError> {
        todo!()
    }
}
