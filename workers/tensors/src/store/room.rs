//! Bytes within the bounds of a store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::TensorPlace;

/// What the tensors of a store take, also those that arrive, and those that are in use and no longer found.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Sums>);

#[derive(Debug, Default)]
struct Sums {
    gpu: u64,
    host: u64,
}

impl Sums {
    const fn of(&mut self, place: TensorPlace) -> &mut u64 {
        match place {
            TensorPlace::Gpu => &mut self.gpu,
            TensorPlace::Host => &mut self.host,
        }
    }
}

impl Held {
    pub(super) fn bytes(&self, place: TensorPlace) -> u64 {
        *self.sums().of(place)
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that something takes, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    held: Arc<Held>,
    place: TensorPlace,
    bytes: u64,
}

impl Room {
    /// `None`: with these it would be more than `bound`.
    pub(super) fn take(held: &Arc<Held>, place: TensorPlace, bytes: u64, bound: u64) -> Option<Self> {
        let mut sums = held.sums();
        let sum = sums.of(place);
        *sum = sum.checked_add(bytes).filter(|sum| *sum <= bound)?;
        drop(sums);
        Some(Self { held: Arc::clone(held), place, bytes })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        *self.held.sums().of(self.place) -= self.bytes;
    }
}
