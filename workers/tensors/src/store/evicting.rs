//! How a store makes room.

use std::{pin::pin, sync::Arc};

use devices::{DeviceBuffer, MemoryError};
use protocol::TensorPlace;

use super::{
    KeepError, TensorStore,
    entries::{Evicted, Next},
    room::Room,
};
use crate::Tensor;

impl TensorStore {
    /// Takes so much of the bound on the GPU's memory, and evicts for it, if that can make enough room.
    ///
    /// # Errors
    /// [`KeepError::Full`].
    pub(super) async fn take_room(&self, bytes: u64) -> Result<Room, KeepError> {
        loop {
            if let Ok(room) = self.room_left(bytes) {
                return Ok(room);
            }
            let left = self.held.bytes(TensorPlace::Gpu).saturating_sub(self.entries().idle_bytes());
            let may_fit = left.checked_add(bytes).is_some_and(|sum| sum <= self.bounds.gpu_bytes);
            if !may_fit || !self.evict_one().await {
                // What ended between the first try and now has left its room.
                return self.room_left(bytes);
            }
        }
    }

    /// Takes so much of the bound on the GPU's memory, where that is left.
    ///
    /// # Errors
    /// [`KeepError::Full`].
    pub(super) fn room_left(&self, bytes: u64) -> Result<Room, KeepError> {
        let bound_bytes = self.bounds.gpu_bytes;
        Room::take(&self.held, TensorPlace::Gpu, bytes, bound_bytes).ok_or_else(|| KeepError::Full {
            wanted_bytes: bytes,
            used_bytes: self.held.bytes(TensorPlace::Gpu),
            bound_bytes,
            what: "the tensors of the GPU (data.gpu_mb)",
        })
    }

    /// Takes memory of the GPU. Where it has none although the bound has room, evicts for it, if that can make enough.
    ///
    /// # Errors
    /// [`KeepError::Memory`].
    pub(super) async fn allocate(&self, bytes: u64) -> Result<DeviceBuffer, KeepError> {
        loop {
            let before = self.entries().given_back();
            let error = match self.memory()?.allocate(bytes).await {
                Ok(buffer) => return Ok(buffer),
                Err(error) => error,
            };
            let MemoryError::Full { wanted_bytes, free_bytes } = error else { return Err(error.into()) };
            let may_fit = free_bytes.saturating_add(self.entries().idle_bytes()) >= wanted_bytes;
            let is_stuck = !may_fit || !self.evict_one().await;
            // What an eviction gave back between the first try and now may be enough.
            if is_stuck && self.entries().given_back() == before {
                return Err(error.into());
            }
        }
    }

    /// Evicts what was used longest ago of what nobody uses; waits for an eviction that goes on, where nothing else may go. `false`: there is neither.
    pub(super) async fn evict_one(&self) -> bool {
        let mut moved = pin!(self.moved.notified());
        // From here on no end of an eviction goes unheard.
        moved.as_mut().enable();
        let next = self.entries().next_to_leave();
        match next {
            Next::Leaves(tensor) => Leaving::new(self, tensor).go().await,
            Next::IsLeaving => moved.await,
            Next::Nothing => return false,
        }
        true
    }

    /// Takes room in the host's memory for a tensor that leaves the GPU. Those there that were used before it make room, if that is enough. `None`: there is none.
    fn take_host_room(&self, tensor: &Arc<Tensor>) -> Option<Room> {
        let (bytes, bound) = (tensor.about().bytes(), self.bounds.host_bytes);
        let older = self.entries().older_on_host(tensor)?;
        let left = self.held.bytes(TensorPlace::Host).saturating_sub(older);
        left.checked_add(bytes).filter(|sum| *sum <= bound)?;
        loop {
            if let Some(room) = Room::take(&self.held, TensorPlace::Host, bytes, bound) {
                return Some(room);
            }
            // Dropped here: its memory is given back when the lock is no longer held.
            let _away = self.entries().next_off_host(tensor)?;
        }
    }
}

/// A tensor on its way out of the GPU's memory. Dropped before it is out, it stays.
struct Leaving<'a> {
    store: &'a TensorStore,
    // The order matters: the memory is given back before the eviction is over.
    tensor: Arc<Tensor>,
    under_way: UnderWay<'a>,
}

/// An eviction that goes on.
struct UnderWay<'a> {
    store: &'a TensorStore,
    bytes: u64,
    gives_back: bool,
}

impl<'a> Leaving<'a> {
    fn new(store: &'a TensorStore, tensor: Arc<Tensor>) -> Self {
        let under_way = UnderWay { store, bytes: tensor.buffer().len(), gives_back: false };
        Self { store, tensor, under_way }
    }

    async fn go(mut self) {
        let evicted = self.copied().await;
        let was_at = self.store.entries().left(&self.tensor, evicted.as_ref());
        self.under_way.gives_back = was_at.is_some();
    }

    /// Its bytes in the host's memory. `None`: there is no room, or they cannot be read.
    async fn copied(&self) -> Option<Arc<Evicted>> {
        let room = self.store.take_host_room(&self.tensor)?;
        let about = self.tensor.about();
        let bytes = usize::try_from(about.bytes()).ok()?;
        let memory = self.store.memory().ok()?;
        match memory.read(self.tensor.buffer(), 0, bytes).await {
            Ok(bytes) => Some(Arc::new(Evicted { bytes, _room: room })),
            Err(error) => {
                tracing::warn!(tensor = %about.name, version = about.version, %error, "a tensor cannot be read to evict it to the host's memory, and is lost");
                None
            }
        }
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.store.entries().stays(&self.tensor);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.store.entries().eviction_ended(self.bytes, if self.gives_back { self.bytes } else { 0 });
        self.store.moved.notify_waiters();
    }
}
