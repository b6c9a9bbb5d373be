//! What the table was told of the copies that are here, so that it is told again when that has changed.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use protocol::{TensorName, TensorPlace, TensorRecord};

use crate::Stored;

/// A use is told when it is so much later than the one that the table knows of, in ms.
const USE_TOLD_MS: u64 = 30_000;

/// By name.
#[derive(Default)]
pub(crate) struct Told(Mutex<BTreeMap<TensorName, LastTold>>);

/// What may change of a copy.
#[derive(Clone, Copy)]
struct LastTold {
    version: u64,
    place: TensorPlace,
    last_used_ms: u64,
}

impl Told {
    /// The table knows these now.
    pub(crate) fn told(&self, records: &[TensorRecord]) {
        let mut told = self.copies();
        for TensorRecord { name, version, place, last_used_ms, .. } in records {
            told.insert(name.clone(), LastTold { version: *version, place: *place, last_used_ms: *last_used_ms });
        }
    }

    /// The table may not know these any more.
    pub(crate) fn forget(&self, names: impl IntoIterator<Item = TensorName>) {
        let mut told = self.copies();
        names.into_iter().for_each(|name| {
            told.remove(&name);
        });
    }

    /// Those of what is here that the table is to be told of. What is not here is forgotten.
    pub(crate) fn changed(&self, here: Vec<Stored>) -> Vec<Stored> {
        let mut told = self.copies();
        let names: std::collections::BTreeSet<_> = here.iter().map(|stored| stored.about.name.clone()).collect();
        told.retain(|name, _| names.contains(name));
        here.into_iter().filter(|stored| !told.get(&stored.about.name).is_some_and(|copy| copy.is_enough_for(stored))).collect()
    }

    fn copies(&self) -> MutexGuard<'_, BTreeMap<TensorName, LastTold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LastTold {
    fn is_enough_for(self, stored: &Stored) -> bool {
        (self.version, self.place) == (stored.about.version, stored.place)
            && stored.last_used_ms < self.last_used_ms.saturating_add(USE_TOLD_MS)
    }
}
