//! How a tensor comes into a store.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use devices::{DeviceBuffer, HostBytes, MemoryError};
use protocol::{Checksum, IfExists, TensorName};

use super::{KeepError, TensorStore, entries::Entry, room::Room};
use crate::{Tensor, TensorAbout};

impl TensorStore {
    /// Takes room for a tensor that arrives in pieces. An older version of the name stays until this one is finished. It replaces one of the same name if that is older and `if_exists` says so, or if it is of the same
    /// owner; where a newer one is here, it comes to nothing when it is finished.
    ///
    /// # Errors
    /// [`KeepError`].
    pub async fn begin(self: &Arc<Self>, about: TensorAbout, if_exists: IfExists) -> Result<Arriving, KeepError> {
        let place = self.take_place(&about, if_exists)?;
        let room = self.take_room(about.bytes()).await?;
        let buffer = self.allocate(about.bytes()).await?;
        Ok(Arriving { about, if_exists, buffer, sum: None, came: Arc::default(), room, place })
    }

    /// As [`begin`](Self::begin), where there is room for it beside all that is here: nothing makes way for it.
    ///
    /// # Errors
    /// [`KeepError`].
    pub(crate) async fn begin_beside(self: &Arc<Self>, about: TensorAbout) -> Result<Arriving, KeepError> {
        let if_exists = IfExists::Replace;
        let bound = self.bounds.tensors;
        if !self.entries().expect(&about, if_exists, bound)? {
            return Err(KeepError::TooMany { bound });
        }
        let place = Place { store: Arc::clone(self), name: about.name.clone() };
        let room = self.room_left(about.bytes())?;
        let buffer = self.memory()?.allocate(about.bytes()).await?;
        Ok(Arriving { about, if_exists, buffer, sum: None, came: Arc::default(), room, place })
    }

    /// Keeps a tensor whose bytes are in this GPU's memory already.
    ///
    /// # Errors
    /// [`KeepError`].
    pub async fn adopt(self: &Arc<Self>, about: TensorAbout, if_exists: IfExists, buffer: DeviceBuffer) -> Result<Arc<Tensor>, KeepError> {
        self.arrived(about, if_exists, buffer).await?.finish()
    }

    /// Takes room for a tensor whose bytes are in this GPU's memory already.
    ///
    /// # Errors
    /// [`KeepError`].
    pub(crate) async fn arrived(
        self: &Arc<Self>,
        about: TensorAbout,
        if_exists: IfExists,
        buffer: DeviceBuffer,
    ) -> Result<Arriving, KeepError> {
        let gpu_id = &self.device.description().gpu_id;
        if buffer.len() < about.bytes() || buffer.gpu_id() != gpu_id {
            let (end, bytes, gpu_id) = (about.bytes(), buffer.len(), buffer.gpu_id().clone());
            return Err(MemoryError::Outside { operation: "keep a tensor", at: 0, end, bytes, gpu_id }.into());
        }
        let place = self.take_place(&about, if_exists)?;
        // All of the buffer counts, also where the tensor takes less of it.
        let room = self.take_room(buffer.len()).await?;
        Ok(Arriving { about, if_exists, buffer, sum: None, came: Arc::default(), room, place })
    }

    /// Lets go of a tensor that came to nothing after all, and has again what it had replaced. Whether it was here.
    pub(crate) fn take_back(&self, tensor: &Tensor, replaced: Replaced) -> bool {
        // Bound to a name, so that its memory is given back when the lock is no longer held.
        let went = self.entries().take_back(tensor.about(), replaced.0);
        self.moved.notify_waiters();
        went.is_some()
    }

    /// Counts it against the bound on tensors. Where there are as many as there may be, what was used longest ago and is not in use goes away.
    fn take_place(self: &Arc<Self>, about: &TensorAbout, if_exists: IfExists) -> Result<Place, KeepError> {
        let bound = self.bounds.tensors;
        loop {
            let is_expected = self.entries().expect(about, if_exists, bound)?;
            if is_expected {
                return Ok(Place { store: Arc::clone(self), name: about.name.clone() });
            }
            // Dropped here: its memory is given back when the lock is no longer held.
            let away = self.entries().next_for_place();
            if away.is_none() {
                return Err(KeepError::TooMany { bound });
            }
        }
    }
}

/// What a tensor has replaced that has just come: kept aside until it is certain that this one stays.
pub(crate) struct Replaced(Option<Entry>);

/// A place among the tensors of a store for one that arrives.
struct Place {
    store: Arc<TensorStore>,
    name: TensorName,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.store.entries().expect_no_more(&self.name);
    }
}

/// A tensor whose bytes are arriving. Dropped before it is finished, its room is free again and nothing of it remains.
pub struct Arriving {
    about: TensorAbout,
    if_exists: IfExists,
    // The order matters: the memory is given back before the room for it is.
    buffer: DeviceBuffer,
    sum: Option<Checksum>,
    came: Arc<AtomicU64>,
    room: Room,
    place: Place,
}

impl Arriving {
    /// What it is.
    pub(crate) const fn about(&self) -> &TensorAbout {
        &self.about
    }

    /// Counts its bytes here from now on, as they come.
    pub(crate) fn counted_in(self, came: &Arc<AtomicU64>) -> Self {
        Self { came: Arc::clone(came), ..self }
    }

    /// Where its bytes are counted.
    pub(crate) const fn count(&self) -> &Arc<AtomicU64> {
        &self.came
    }

    /// So many more bytes are there.
    pub(crate) fn came(&self, bytes: u64) {
        self.came.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The memory that it is to be in.
    pub const fn buffer(&self) -> &DeviceBuffer {
        &self.buffer
    }

    /// Writes a piece from the host.
    ///
    /// # Errors
    /// [`KeepError::Memory`].
    pub async fn write(&self, at: u64, bytes: HostBytes) -> Result<(), KeepError> {
        Ok(self.place.store.memory()?.write(&self.buffer, at, bytes).await?)
    }

    /// All of it was compared with where it came from, by this sum, which it keeps.
    pub(crate) const fn keep_sum(&mut self, sum: Checksum) {
        self.sum = Some(sum);
    }

    /// It is all there: from now on it is found. Where a newer version came meanwhile, it is not found, and whoever has what this gives has it all the same.
    ///
    /// # Errors
    /// [`KeepError::Exists`], where another one came meanwhile that is not to be replaced.
    pub fn finish(self) -> Result<Arc<Tensor>, KeepError> {
        let store = Arc::clone(&self.place.store);
        let (tensor, Replaced(replaced)) = self.finish_beside()?;
        if let Some(replaced) = replaced {
            store.entries().is_replaced(&replaced);
        }
        Ok(tensor)
    }

    /// As [`finish`](Self::finish), and what it replaces can be [put back](TensorStore::take_back). The table is not told that it is gone: it hears of this one in its place.
    ///
    /// # Errors
    /// Those of [`finish`](Self::finish).
    pub(crate) fn finish_beside(self) -> Result<(Arc<Tensor>, Replaced), KeepError> {
        let Self { about, if_exists, buffer, sum, came: _, room, place } = self;
        let store = &place.store;
        let tensor = Arc::new(Tensor::new(about, buffer).in_room(room));
        if let Some(sum) = sum {
            tensor.keep_sum(sum);
        }
        let now_ms = store.now_ms();
        let put = store.entries().put(&tensor, if_exists, now_ms);
        store.filled.notify_waiters();
        // Those who wait for an older version to come back have this one now.
        store.moved.notify_waiters();
        put.map(|(used, replaced)| (used, Replaced(replaced)))
    }
}
