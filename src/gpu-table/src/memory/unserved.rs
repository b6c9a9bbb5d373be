//! Tasks that nobody serves, as workers tell of them.

use protocol::Unserved;

use super::pool::Pool;
use crate::{Sighting, UNSERVED_FOR, UNSERVED_MAX};

impl Pool {
    /// Forgets what nobody has told of for long enough.
    pub(super) fn sweep_unserved(&mut self) {
        let (now_ms, lives_ms) = (self.now_ms(), UNSERVED_FOR.as_millis() as u64);
        self.unserved.retain(|_, entry| now_ms < entry.last_ms + lives_ms);
    }

    pub(super) fn note_unserved(&mut self, sighting: &Sighting) {
        let Sighting { wanted, kind, reason, served, times } = sighting.clone();
        let now_ms = self.now_ms();
        let old = self.unserved.get(&wanted).map(|entry| (entry.first_ms, entry.sightings));
        if old.is_none() && self.unserved.len() >= UNSERVED_MAX {
            self.forget_the_oldest();
        }
        let (first_ms, sightings) = old.unwrap_or((now_ms, 0));
        let entry = Unserved { wanted: wanted.clone(), kind, reason, served, first_ms, last_ms: now_ms, sightings: sightings + times };
        self.unserved.insert(wanted, entry);
    }

    fn forget_the_oldest(&mut self) {
        let oldest = self.unserved.values().min_by_key(|entry| (entry.last_ms, entry.wanted.clone())).map(|entry| entry.wanted.clone());
        if let Some(wanted) = oldest {
            self.unserved.remove(&wanted);
        }
    }

    pub(super) fn unserved(&self) -> Vec<Unserved> {
        self.unserved.values().cloned().collect()
    }
}
