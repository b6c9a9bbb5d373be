//! Memory for models: of the GPU, within the bounds of the cache.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use devices::{Device, Use, WorkOn};
use tokio::time::{Instant, timeout_at};

use super::inner::Inner;
use crate::Failure;

/// How long a load waits for memory that models in use take.
pub(super) const WAITS_FOR_MEMORY: Duration = Duration::from_secs(10);

/// Memory that one model takes, given back when this is dropped.
pub(super) struct Room {
    inner: Arc<Inner>,
    /// In MB.
    pub(super) memory_mb: u64,
    taken: Vec<WorkOn>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.taken.clear();
        self.inner.held_mb.fetch_sub(self.memory_mb, Ordering::Relaxed);
        self.inner.freed.notify_waiters();
    }
}

/// Where a model is to lie.
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) device: &'a Arc<dyn Device>,
    pub(super) is_on_device: bool,
}

impl Place<'_> {
    /// Most that models may take there, in MB.
    fn most_mb(&self, inner: &Inner) -> u64 {
        let configured = inner.bounds.memory_mb.unwrap_or(u64::MAX);
        if !self.is_on_device {
            return configured;
        }
        let of_the_gpu = self.device.description().memory_total_mb as f64 * inner.bounds.memory_share;
        configured.min(of_the_gpu as u64)
    }

    fn too_little(&self, wanted_mb: u64, most_mb: u64, why: &str) -> Failure {
        let message = format!("model {} needs {wanted_mb} MB of the {most_mb} MB that models may take: {why}", self.name);
        Failure { memory_mb: Some(wanted_mb), ..Failure::out_of_memory(message) }
    }
}

impl Room {
    /// Takes memory for a model. Evicts for it what was used longest ago; where all is in use, waits until something is not, [`WAITS_FOR_MEMORY`] at most.
    ///
    /// # Errors
    /// `out_of_memory`.
    pub(super) async fn take(inner: &Arc<Inner>, place: &Place<'_>, memory_mb: u64) -> Result<Self, Failure> {
        let most_mb = place.most_mb(inner);
        if memory_mb > most_mb {
            return Err(place.too_little(memory_mb, most_mb, "it is too large for this GPU"));
        }
        let deadline = Instant::now() + WAITS_FOR_MEMORY;
        loop {
            let mut freed = pin!(inner.freed.notified());
            // From here on nothing that is freed goes unheard.
            freed.as_mut().enable();
            let refused = match Self::try_take(inner, place, memory_mb, most_mb) {
                Ok(room) => return Ok(room),
                Err(refused) => refused,
            };
            if inner.evict_one() {
                continue;
            }
            if !inner.any_in_use() || timeout_at(deadline, freed).await.is_err() {
                return Err(refused);
            }
        }
    }

    fn try_take(inner: &Arc<Inner>, place: &Place<'_>, memory_mb: u64, most_mb: u64) -> Result<Self, Failure> {
        let add = |held: u64| held.checked_add(memory_mb).filter(|sum| *sum <= most_mb);
        inner
            .held_mb
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map_err(|held| place.too_little(memory_mb, most_mb, &format!("{held} MB are taken by others that are pinned or in use")))?;
        let mut room = Self { inner: Arc::clone(inner), memory_mb, taken: Vec::new() };
        if place.is_on_device && memory_mb > 0 {
            let work = place
                .device
                .begin(Use { memory_mb, compute_share: 0.0 })
                .map_err(|refused| place.too_little(memory_mb, most_mb, &refused.to_string()))?;
            room.taken.push(work);
        }
        Ok(room)
    }

    /// The same, for a model that turned out to take another amount.
    ///
    /// # Errors
    /// `out_of_memory`.
    pub(super) async fn fitted(mut self, place: &Place<'_>, memory_mb: u64) -> Result<Self, Failure> {
        if memory_mb > self.memory_mb {
            let inner = Arc::clone(&self.inner);
            let more_mb = memory_mb - self.memory_mb;
            if memory_mb > place.most_mb(&inner) {
                return Err(place.too_little(memory_mb, place.most_mb(&inner), "it is too large for this GPU"));
            }
            let mut more = Self::take(&inner, place, more_mb).await?;
            self.taken.append(&mut more.taken);
            self.memory_mb += std::mem::take(&mut more.memory_mb);
            return Ok(self);
        }
        if memory_mb < self.memory_mb {
            // Given back first: both at once may not fit.
            let inner = Arc::clone(&self.inner);
            drop(self);
            return Self::take(&inner, place, memory_mb).await;
        }
        Ok(self)
    }
}
