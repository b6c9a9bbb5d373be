//! The tensors of one GPU.
//!
//! ```text
//!   begin, finish          nobody uses it, and room is wanted          there is room on the host
//!   or adopt     ┌─────┐ ────────────────────────────────▶ ┌─────────┐ ────────────────────────▶ ┌──────┐
//!  ────────────▶ │ GPU │                                    │ leaving │                           │ host │ ──▶ away
//!                └─────┘ ◀──────────────────────────────── └─────────┘ ──▶ away, without it      └──────┘
//!                   ▲      somebody asks for it meanwhile                                           │
//!                   └────────────────────────────── returning ◀──────────── somebody asks for it ───┘
//! ```
//! Whoever wants room moves the bytes, in a future of its own: nothing runs in the background. A future that is dropped half-way leaves the tensor where it was.

mod arriving;
mod entries;
mod evicting;
mod returning;
mod room;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::{Device, DeviceMemory, MemoryError};
use protocol::{TensorName, TensorPlace};
use tokio::sync::Notify;

pub use self::arriving::Arriving;
pub(crate) use self::{arriving::Replaced, room::Room};
use self::{
    entries::{Entries, Found},
    room::Held,
};
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
///
/// Dropping a future of its leaves nothing half-done: what it moved stays where it was, and what it took is given back. The waits are those for the GPU's memory, which whoever calls bounds.
pub struct TensorStore {
    device: Arc<dyn Device>,
    bounds: TensorBounds,
    now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    held: Arc<Held>,
    entries: Mutex<Entries>,
    /// An eviction has ended, or a return to the GPU; or what was to return need not.
    moved: Notify,
    /// A tensor came.
    filled: Notify,
}

impl TensorStore {
    /// Of a GPU that has a [`DeviceMemory`]. `now_ms` tells the time, Unix time in ms.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, bounds: TensorBounds, now_ms: Arc<dyn Fn() -> u64 + Send + Sync>) -> Self {
        Self { device, bounds, now_ms, held: Arc::default(), entries: Mutex::default(), moved: Notify::new(), filled: Notify::new() }
    }

    /// A tensor, in the GPU's memory: one that was evicted to the host's is brought back. `version` `None`: the latest. It counts as used. `None`: it is not here.
    ///
    /// # Errors
    /// [`KeepError`], where there is no room to bring it back.
    pub async fn get(self: &Arc<Self>, name: &TensorName, version: Option<u64>) -> Result<Option<Arc<Tensor>>, KeepError> {
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            // From here on no end of a return goes unheard.
            moved.as_mut().enable();
            let found = self.entries().find(name, version, self.now_ms());
            match found {
                Found::Absent => return Ok(None),
                Found::OnGpu(tensor) => return Ok(Some(tensor)),
                Found::OnHost(about, evicted) => return self.bring_back(about, evicted).await.map(Some),
                // Somebody else brings it back. Where that comes to nothing, the next one tries.
                Found::Returning => moved.await,
            }
        }
    }

    /// Waits until there is any tensor here, or any that went away and of which [`gone`](Self::gone) tells.
    pub async fn until_any(&self) {
        loop {
            let filled = self.filled.notified();
            if !self.entries().is_empty() {
                return;
            }
            filled.await;
        }
    }

    /// What is here, by name.
    pub fn list(&self) -> Vec<Stored> {
        self.entries().list()
    }

    /// What is here under a name.
    pub fn look(&self, name: &TensorName) -> Option<Stored> {
        self.entries().look(name)
    }

    /// Lets go of a tensor, at once where nobody uses it and else when nobody does any more; it is not found from now on. The version that was here.
    pub fn free(&self, name: &TensorName, version: Option<u64>) -> Option<u64> {
        // The GPU's memory is given back when the lock is no longer held.
        let freed = self.entries().free(name, version)?;
        self.moved.notify_waiters();
        Some(freed.about.version)
    }

    /// Evicts until so many bytes of the GPU's memory are given back, or nothing is left that may go. Whether any were.
    pub async fn make_room(self: &Arc<Self>, bytes: u64) -> bool {
        let before = self.entries().given_back();
        let given_back = || self.entries().given_back() - before;
        while given_back() < bytes && self.evict_one().await {}
        given_back() > 0
    }

    /// As [`make_room`](Self::make_room), for so many bytes that found only `free_bytes` free. Where all that may go would not be enough, nothing goes.
    pub async fn make_room_for(self: &Arc<Self>, wanted_bytes: u64, free_bytes: u64) -> bool {
        let idle = self.entries().idle_bytes();
        free_bytes.saturating_add(idle) >= wanted_bytes && self.make_room(wanted_bytes).await
    }

    /// Lets go of what nobody has used for its time. [`gone`](Self::gone) tells of it as well.
    pub fn sweep(&self) -> Vec<(TensorName, u64)> {
        let expired = self.entries().expire(self.now_ms());
        expired.into_iter().map(|entry| (entry.about.name, entry.about.version)).collect()
    }

    /// The names and versions that went away since this was asked last, other than by [`free`](Self::free): the table is to hear of it. What came back since is not among them.
    pub fn gone(&self) -> Vec<(TensorName, u64)> {
        self.entries().take_gone()
    }

    /// Bytes in the GPU's memory, and in the host's: also what arrives, and what is in use and no longer found.
    pub fn bytes(&self) -> (u64, u64) {
        (self.held.bytes(TensorPlace::Gpu), self.held.bytes(TensorPlace::Host))
    }

    /// What happened so far.
    pub fn counts(&self) -> StoreCounts {
        self.entries().counts()
    }

    /// Held for moments: nothing waits, and no memory is given back, while it is.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        (self.now_ms)()
    }

    fn memory(&self) -> Result<&dyn DeviceMemory, MemoryError> {
        let none = || MemoryError::Unsupported { operation: "keep tensors", reason: "this kind of GPU has no memory for them".to_owned() };
        self.device.memory().ok_or_else(none)
    }
}

#[cfg(test)]
mod tests;
