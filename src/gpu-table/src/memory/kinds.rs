//! What kinds do, as workers say it.

use protocol::{DescribedKind, KindDescription};

use super::pool::Pool;
use crate::{DESCRIBED_FOR_LEASES, DESCRIPTIONS_MAX, described};

/// A description that a worker told.
#[derive(Clone)]
pub(super) struct Told {
    description: KindDescription,
    /// When it came up.
    first_ms: u64,
    /// When it was told last.
    last_ms: u64,
}

impl Pool {
    /// Forgets what nobody has told for long enough.
    pub(super) fn sweep_described(&mut self) {
        let (now_ms, lives_ms) = (self.now_ms(), self.leases.held.as_millis() as u64 * u64::from(DESCRIBED_FOR_LEASES));
        self.described.retain(|_, told| now_ms < told.last_ms + lives_ms);
    }

    pub(super) fn describe_kinds(&mut self, kinds: &[KindDescription]) {
        let now_ms = self.now_ms();
        for description in kinds {
            let place = described::place(description);
            if let Some(told) = self.described.get_mut(&place) {
                told.last_ms = now_ms;
                continue;
            }
            if self.described.len() >= DESCRIPTIONS_MAX {
                self.forget_the_description_told_longest_ago();
            }
            self.described.insert(place, Told { description: description.clone(), first_ms: now_ms, last_ms: now_ms });
        }
    }

    fn forget_the_description_told_longest_ago(&mut self) {
        let oldest = self.described.iter().min_by_key(|(place, told)| (told.last_ms, *place)).map(|(place, _)| place.clone());
        if let Some(place) = oldest {
            self.described.remove(&place);
        }
    }

    pub(super) fn described_kinds(&self) -> Vec<DescribedKind> {
        described::newest(self.described.values().map(|told| (told.first_ms, told.description.clone())))
    }
}
