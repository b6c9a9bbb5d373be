//! Outages, for the log: a server that is away for an hour is two lines, not two for each task that waits for it.

use std::{
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// The shortest time between two outages of one link that are both told, in milliseconds. A link that comes and goes all the time is told once in that time.
const APART_MS: u64 = 60_000;

/// One link's outages. All times are Unix milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    away: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    began_ms: u64,
    failures: u64,
    /// Whether the log has the beginning of the present one.
    told: bool,
    /// When it last had one.
    told_at_ms: Option<u64>,
}

/// An outage that is over, and whose beginning was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Over {
    /// How many operations failed.
    pub(crate) failures: u64,
    /// From its first failure to the first success.
    pub(crate) lasted_ms: u64,
}

impl Outage {
    /// Takes note of a failure. True: an outage is to be told now.
    pub(crate) fn failed(&self, now_ms: u64) -> bool {
        let mut state = self.state();
        if !self.away.swap(true, Ordering::Relaxed) {
            (state.began_ms, state.failures) = (now_ms, 0);
        }
        state.failures += 1;
        let lately = state.told_at_ms.is_some_and(|at| now_ms.abs_diff(at) < APART_MS);
        if state.told || lately {
            return false;
        }
        (state.told, state.told_at_ms) = (true, Some(now_ms));
        true
    }

    /// Whether the last operation failed: only then is there anything to take note of when one succeeds.
    pub(crate) fn is_on(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Takes note of a success. What is over with it, if its beginning was told.
    pub(crate) fn ended(&self, now_ms: u64) -> Option<Over> {
        let mut state = self.state();
        let was_away = self.away.swap(false, Ordering::Relaxed);
        let told = mem::take(&mut state.told);
        (was_away && told).then(|| Over { failures: state.failures, lasted_ms: now_ms.saturating_sub(state.began_ms) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_when_it_begins_and_when_it_is_over() {
        let outage = Outage::default();
        assert!(!outage.is_on());
        let told: Vec<bool> = (0..1_000).map(|n| outage.failed(5_000 + n)).collect();
        assert_eq!(told.iter().filter(|told| **told).count(), 1);
        assert!(told[0] && outage.is_on());
        assert_eq!(outage.ended(9_000), Some(Over { failures: 1_000, lasted_ms: 4_000 }));
        assert_eq!((outage.is_on(), outage.ended(9_001)), (false, None));
    }

    #[test]
    fn a_link_that_comes_and_goes_is_told_once_in_a_while() {
        let outage = Outage::default();
        let mut lines = 0;
        for second in 0..600 {
            lines += u64::from(outage.failed(second * 1_000));
            lines += u64::from(outage.ended(second * 1_000 + 500).is_some());
        }
        assert_eq!(lines, 2 * 600_000 / APART_MS);
    }

    #[test]
    fn an_outage_that_came_too_soon_to_be_told_is_told_once_it_lasts() {
        let outage = Outage::default();
        assert!(outage.failed(0) && outage.ended(1_000).is_some());
        assert!(!outage.failed(2_000) && !outage.failed(30_000));
        assert!(outage.failed(APART_MS) && !outage.failed(APART_MS + 1));
        assert_eq!(outage.ended(APART_MS + 2_000), Some(Over { failures: 4, lasted_ms: APART_MS }));
    }
}
