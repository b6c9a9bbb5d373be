//! How long tasks of a kind run here, where that can be told.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::Kind;

/// Runs of a kind that are remembered.
const REMEMBERED: usize = 16;
/// Runs that must be known before any forecast.
const KNOWN_MIN: usize = 4;
/// How far the middle of the known runs may lie above the shortest: kinds that vary more have no forecast.
const SPREAD_MAX: Duration = Duration::from_millis(4);

/// The last runs of each kind.
#[derive(Debug, Default)]
pub(crate) struct Forecast(Mutex<BTreeMap<Kind, VecDeque<Duration>>>);

impl Forecast {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, VecDeque<Duration>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run that ended by itself took so long.
    pub(crate) fn ran(&self, kind: &Kind, took: Duration) {
        let mut kinds = self.lock();
        if !kinds.contains_key(kind) {
            kinds.insert(kind.clone(), VecDeque::with_capacity(REMEMBERED));
        }
        let Some(runs) = kinds.get_mut(kind) else { return };
        if runs.len() == REMEMBERED {
            runs.pop_front();
        }
        runs.push_back(took);
    }

    /// How long the next run takes at least; `None` for kinds that are not known or vary.
    pub(crate) fn shortest(&self, kind: &Kind) -> Option<Duration> {
        let kinds = self.lock();
        let runs = kinds.get(kind).filter(|runs| runs.len() >= KNOWN_MIN)?;
        let mut sorted: Vec<Duration> = runs.iter().copied().collect();
        sorted.sort_unstable();
        let (shortest, middle) = (sorted[0], sorted[sorted.len() / 2]);
        (middle - shortest <= SPREAD_MAX).then_some(shortest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast(ms: &[u64]) -> Option<Duration> {
        let (forecast, kind) = (Forecast::default(), Kind::new("echo").unwrap());
        ms.iter().for_each(|ms| forecast.ran(&kind, Duration::from_millis(*ms)));
        forecast.shortest(&kind)
    }

    #[test]
    fn a_kind_that_runs_alike_is_forecast_by_its_shortest_run() {
        assert_eq!(forecast(&[20, 21, 20]), None, "too few are known");
        assert_eq!(forecast(&[21, 20, 22, 21]), Some(Duration::from_millis(20)));
        assert_eq!(forecast(&[20, 21, 22, 90]), Some(Duration::from_millis(20)), "one that took longer changes nothing");
    }

    #[test]
    fn a_kind_that_varies_has_no_forecast() {
        assert_eq!(forecast(&[10, 110, 10, 110, 110]), None);
        let mixed: Vec<u64> = (0..16).map(|n| 10 + n * 5).collect();
        assert_eq!(forecast(&mixed), None);
    }

    #[test]
    fn old_runs_are_forgotten() {
        let runs: Vec<u64> = [5; 10].into_iter().chain([30; 16]).collect();
        assert_eq!(forecast(&runs), Some(Duration::from_millis(30)));
    }
}
