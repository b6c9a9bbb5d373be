//! How long tasks of a kind run here: for the look-ahead, where the next run can be told, and for people, who see it in the row.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::{GpuRow, Kind};

/// Runs of a kind that are remembered.
const REMEMBERED: usize = 16;
/// Runs that must be known before any forecast.
const KNOWN_MIN: usize = 4;
/// How far the middle of the known runs may lie above the shortest: kinds that vary more have no forecast.
const SPREAD_MAX: Duration = Duration::from_millis(4);

/// The last runs of each kind.
#[derive(Debug, Default)]
pub(crate) struct Forecast(Mutex<BTreeMap<Kind, Runs>>);

/// The last runs of one kind.
#[derive(Debug, Default)]
struct Runs {
    /// How long attempts took that ran by themselves, with all that they waited for: it says when the next one ends.
    alone: VecDeque<Duration>,
    /// How long the runs of all took.
    all: VecDeque<Duration>,
}

impl Forecast {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, Runs>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt that ran by itself took so long, with all that it waited for.
    pub(crate) fn ended_alone(&self, kind: &Kind, took: Duration) {
        self.on(kind, |runs| remember(&mut runs.alone, took));
    }

    /// The run of a task took so long; or, of items that ran one after another, that of one of them.
    pub(crate) fn ran(&self, kind: &Kind, took: Duration) {
        self.on(kind, |runs| remember(&mut runs.all, took));
    }

    fn on(&self, kind: &Kind, note: impl FnOnce(&mut Runs)) {
        let mut kinds = self.lock();
        if !kinds.contains_key(kind) {
            kinds.insert(kind.clone(), Runs::default());
        }
        if let Some(runs) = kinds.get_mut(kind) {
            note(runs);
        }
    }

    /// How long the next run takes at least; `None` for kinds that are not known or vary.
    pub(crate) fn shortest(&self, kind: &Kind) -> Option<Duration> {
        let kinds = self.lock();
        let runs = kinds.get(kind).map(|runs| &runs.alone).filter(|runs| runs.len() >= KNOWN_MIN)?;
        let sorted = sorted(runs);
        let (shortest, middle) = (sorted[0], sorted[sorted.len() / 2]);
        (middle - shortest <= SPREAD_MAX).then_some(shortest)
    }

    /// What the middle one of the last runs of each kind took, in ms, to three digits: one that was held up changes nothing. At most as many kinds as a row may name.
    pub(crate) fn of_each_kind(&self) -> BTreeMap<Kind, f64> {
        let kinds = self.lock();
        let known = kinds.iter().filter(|(_, runs)| !runs.all.is_empty()).take(GpuRow::ITEM_TIMES_MAX);
        known.map(|(kind, runs)| (kind.clone(), in_ms(sorted(&runs.all)[runs.all.len() / 2]))).collect()
    }
}

fn remember(runs: &mut VecDeque<Duration>, took: Duration) {
    if runs.capacity() == 0 {
        runs.reserve_exact(REMEMBERED);
    }
    if runs.len() == REMEMBERED {
        runs.pop_front();
    }
    runs.push_back(took);
}

fn sorted(runs: &VecDeque<Duration>) -> Vec<Duration> {
    let mut sorted: Vec<Duration> = runs.iter().copied().collect();
    sorted.sort_unstable();
    sorted
}

/// Three digits say enough, and keep rows short. Never less than a microsecond, which is no run of anything.
fn in_ms(took: Duration) -> f64 {
    let ms = (took.as_secs_f64() * 1_000.0).max(0.001);
    format!("{ms:.2e}").parse().unwrap_or(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast(ms: &[u64]) -> Option<Duration> {
        let (forecast, kind) = (Forecast::default(), Kind::new("echo").unwrap());
        ms.iter().for_each(|ms| forecast.ended_alone(&kind, Duration::from_millis(*ms)));
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

    fn run_ms(us: &[u64]) -> Option<f64> {
        let (forecast, kind) = (Forecast::default(), Kind::new("echo").unwrap());
        us.iter().for_each(|us| forecast.ran(&kind, Duration::from_micros(*us)));
        forecast.of_each_kind().get(&kind).copied()
    }

    #[test]
    fn the_row_says_what_the_middle_run_took_to_three_digits() {
        assert_eq!(run_ms(&[]), None);
        assert_eq!(run_ms(&[333]), Some(0.333));
        assert_eq!(run_ms(&[12_345_678]), Some(12_300.0));
        assert_eq!(run_ms(&[5_000, 5_100, 900_000]), Some(5.1), "one that was held up changes nothing");
        assert_eq!(run_ms(&[0]), Some(0.001), "never nothing");
        assert_eq!(run_ms(&[[1_000; 20].as_slice(), &[7_000; 9]].concat()), Some(7.0), "the old ones are forgotten");
    }

    #[test]
    fn what_attempts_waited_for_is_forecast_and_not_shown() {
        let (forecast, kind) = (Forecast::default(), Kind::new("echo").unwrap());
        for _ in 0..16 {
            forecast.ran(&kind, Duration::from_millis(20));
        }
        assert_eq!((forecast.shortest(&kind), forecast.of_each_kind().get(&kind)), (None, Some(&20.0)));
        for _ in 0..4 {
            forecast.ended_alone(&kind, Duration::from_millis(25));
        }
        assert_eq!(forecast.shortest(&kind), Some(Duration::from_millis(25)));
        assert_eq!(forecast.of_each_kind().get(&kind), Some(&20.0));
    }

    #[test]
    fn a_row_names_so_many_kinds_and_no_more() {
        let forecast = Forecast::default();
        for number in 0..GpuRow::ITEM_TIMES_MAX + 5 {
            forecast.ran(&Kind::new(format!("kind-{number}")).unwrap(), Duration::from_millis(1));
        }
        assert_eq!(forecast.of_each_kind().len(), GpuRow::ITEM_TIMES_MAX);
    }
}
