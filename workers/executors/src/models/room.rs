//! Memory for models: of the GPU, within the bounds of the cache.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use devices::{Device, Use, WorkOn};
use tokio::time::{Instant, timeout_at};

use super::{inner::Inner, kept::Kept};
use crate::Failure;

/// How long a load waits for memory that models in use take.
pub(super) const WAITS_FOR_MEMORY: Duration = Duration::from_secs(10);

/// Which memory is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lies {
    /// The GPU's and the host's.
    Anywhere,
    /// The GPU's.
    OnDevice,
}

/// What models take, in MB.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Sums>);

#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    all: u64,
    on_device: u64,
}

impl Held {
    pub(super) fn all_mb(&self) -> u64 {
        self.sums(|sums| sums.all)
    }

    fn sums<T>(&self, see: impl FnOnce(&mut Sums) -> T) -> T {
        see(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes so much, if there is no lack of it.
    fn take(&self, memory_mb: u64, bounds: Bounds) -> Result<(), Lack> {
        self.sums(|sums| {
            bounds.lack(*sums, memory_mb).map_or(Ok(()), Err)?;
            sums.all += memory_mb;
            sums.on_device += if bounds.on_device_mb.is_some() { memory_mb } else { 0 };
            Ok(())
        })
    }

    fn give_back(&self, room: &Room) {
        self.sums(|sums| {
            sums.all -= room.memory_mb;
            sums.on_device -= if room.is_on_device { room.memory_mb } else { 0 };
        });
    }
}

/// Most that models may take, in MB.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    all_mb: u64,
    /// `None`: the model does not lie in the GPU's memory.
    on_device_mb: Option<u64>,
}

/// Which memory is too little for a model, and how much of it others take that may not be evicted, or are not yet.
#[derive(Debug, Clone, Copy)]
struct Lack {
    of: Lies,
    held_mb: u64,
}

impl Bounds {
    fn least_mb(self) -> u64 {
        self.on_device_mb.map_or(self.all_mb, |on_device_mb| on_device_mb.min(self.all_mb))
    }

    /// What so much more beside these sums lacks.
    fn lack(self, sums: Sums, memory_mb: u64) -> Option<Lack> {
        let is_over = |held: u64, most: u64| held.checked_add(memory_mb).is_none_or(|sum| sum > most);
        if is_over(sums.all, self.all_mb) {
            return Some(Lack { of: Lies::Anywhere, held_mb: sums.all });
        }
        let most_mb = self.on_device_mb?;
        is_over(sums.on_device, most_mb).then_some(Lack { of: Lies::OnDevice, held_mb: sums.on_device })
    }
}

/// Memory that one model takes, given back when this is dropped.
pub(super) struct Room {
    inner: Arc<Inner>,
    /// In MB.
    pub(super) memory_mb: u64,
    pub(super) is_on_device: bool,
    taken: Vec<WorkOn>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.taken.clear();
        self.inner.held.give_back(self);
        self.inner.freed.notify_waiters();
    }
}

/// Where a model is to lie.
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) device: &'a Arc<dyn Device>,
    pub(super) is_on_device: bool,
    /// The loaded model that it is to replace.
    pub(super) replaces: Option<&'a Arc<Kept>>,
}

impl Place<'_> {
    fn bounds(&self, inner: &Inner) -> Bounds {
        let of_the_gpu = || (self.device.description().memory_total_mb as f64 * inner.bounds.memory_share) as u64;
        Bounds { all_mb: inner.bounds.memory_mb.unwrap_or(u64::MAX), on_device_mb: self.is_on_device.then(of_the_gpu) }
    }

    fn too_little(&self, wanted_mb: u64, most_mb: u64, why: &str) -> Failure {
        let message = format!("model {} needs {wanted_mb} MB of the {most_mb} MB that models may take: {why}", self.name);
        Failure { memory_mb: Some(wanted_mb), ..Failure::out_of_memory(message) }
    }
}

/// Why there is no room yet.
struct Refused {
    /// For people.
    why: String,
    /// What to evict for it.
    evict: Lies,
    /// What the device has left, where it refused.
    free_mb: Option<u64>,
}

impl Refused {
    /// Whether there is room once everything is evicted that may be: if not, nothing is evicted in vain.
    fn can_be_mended(&self, inner: &Inner, bounds: Bounds, memory_mb: u64) -> bool {
        let (idle_mb, idle_on_device_mb) = (inner.idle_mb(Lies::Anywhere), inner.idle_mb(Lies::OnDevice));
        let left = inner
            .held
            .sums(|sums| Sums { all: sums.all.saturating_sub(idle_mb), on_device: sums.on_device.saturating_sub(idle_on_device_mb) });
        let fits_the_device = self.free_mb.is_none_or(|free_mb| free_mb.saturating_add(idle_on_device_mb) >= memory_mb);
        fits_the_device && bounds.lack(left, memory_mb).is_none()
    }
}

impl Room {
    /// Takes memory for a model. Evicts for it what was used longest ago, if that can make enough room; where too much is in use, waits until less is, [`WAITS_FOR_MEMORY`] at most.
    ///
    /// # Errors
    /// `out_of_memory`.
    pub(super) async fn take(inner: &Arc<Inner>, place: &Place<'_>, memory_mb: u64) -> Result<Self, Failure> {
        let bounds = place.bounds(inner);
        if memory_mb > bounds.least_mb() {
            return Err(place.too_little(memory_mb, bounds.least_mb(), "it is too large for this GPU"));
        }
        let deadline = Instant::now() + WAITS_FOR_MEMORY;
        loop {
            let mut freed = pin!(inner.freed.notified());
            // From here on nothing that is freed goes unheard.
            freed.as_mut().enable();
            let refused = match Self::try_take(inner, place, memory_mb, bounds) {
                Ok(room) => return Ok(room),
                Err(refused) => refused,
            };
            if refused.can_be_mended(inner, bounds, memory_mb) && inner.evict_one(refused.evict) {
                continue;
            }
            if !inner.any_in_use(place.replaces) || timeout_at(deadline, freed).await.is_err() {
                return Err(place.too_little(memory_mb, bounds.least_mb(), &refused.why));
            }
        }
    }

    /// The device is asked first: what it refuses for good is known then before anything is evicted.
    fn try_take(inner: &Arc<Inner>, place: &Place<'_>, memory_mb: u64, bounds: Bounds) -> Result<Self, Refused> {
        let mut taken = Vec::new();
        if place.is_on_device && memory_mb > 0 {
            let work = place.device.begin(Use { memory_mb, compute_share: 0.0 }).map_err(|refused| Refused {
                why: refused.to_string(),
                evict: Lies::OnDevice,
                free_mb: Some(refused.free_mb),
            })?;
            taken.push(work);
        }
        inner.held.take(memory_mb, bounds).map_err(|lack| Refused {
            why: format!("{} MB are taken by others that are pinned or in use", lack.held_mb),
            evict: lack.of,
            free_mb: None,
        })?;
        Ok(Self { inner: Arc::clone(inner), memory_mb, is_on_device: place.is_on_device, taken })
    }

    /// The same, for a model that turned out to take another amount.
    ///
    /// # Errors
    /// `out_of_memory`.
    pub(super) async fn fitted(mut self, place: &Place<'_>, memory_mb: u64) -> Result<Self, Failure> {
        if memory_mb > self.memory_mb {
            let inner = Arc::clone(&self.inner);
            let more_mb = memory_mb - self.memory_mb;
            let most_mb = place.bounds(&inner).least_mb();
            if memory_mb > most_mb {
                return Err(place.too_little(memory_mb, most_mb, "it is too large for this GPU"));
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
