//! How a tensor comes back from the host's memory.

use std::sync::Arc;

use devices::HostBytes;

use super::{KeepError, TensorStore, entries::Evicted};
use crate::{Tensor, TensorAbout};

impl TensorStore {
    /// Brings a tensor back that is marked as returning.
    ///
    /// # Errors
    /// [`KeepError`].
    pub(super) async fn bring_back(&self, about: TensorAbout, evicted: Arc<Evicted>) -> Result<Arc<Tensor>, KeepError> {
        let returning = Returning { store: self, about, evicted };
        let bytes = returning.about.bytes();
        let room = self.take_room(bytes).await?;
        let buffer = self.allocate(bytes).await?;
        self.memory()?.write(&buffer, 0, HostBytes::Own(returning.evicted.bytes.clone())).await?;
        let tensor = Arc::new(Tensor::new(returning.about.clone(), buffer).in_room(room));
        self.entries().returned(&tensor, &returning.evicted);
        Ok(tensor)
    }
}

/// A tensor on its way back. Dropped before it is there, it stays in the host's memory.
struct Returning<'a> {
    store: &'a TensorStore,
    about: TensorAbout,
    evicted: Arc<Evicted>,
}

impl Drop for Returning<'_> {
    fn drop(&mut self) {
        self.store.entries().stays_on_host(&self.about.name, &self.evicted);
        self.store.moved.notify_waiters();
    }
}
