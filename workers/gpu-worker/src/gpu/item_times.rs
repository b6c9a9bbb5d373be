//! How long an item of a batch takes on this GPU, so that the next batch of its kind is cut by it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::{GpuRow, Kind};

/// Runs of a kind that are remembered.
const REMEMBERED: usize = 16;

/// The last runs of each kind.
#[derive(Debug, Default)]
pub(crate) struct ItemTimes(Mutex<BTreeMap<Kind, VecDeque<ItemsRun>>>);

/// Items that ran one after another.
#[derive(Debug, Clone, Copy)]
struct ItemsRun {
    items: u32,
    /// What one of them took, in ms.
    item_ms: f64,
}

impl ItemTimes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, VecDeque<ItemsRun>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many items ran one after another, and took so long together: what they took beside whatever else ran on the GPU. Whether nothing was known of the kind before;
    /// then a heartbeat at once is of use to the next batch. More kinds than a row may name are not learnt.
    pub(crate) fn ran(&self, kind: &Kind, items: u32, took: Duration) -> bool {
        let mut kinds = self.lock();
        if items == 0 || took.is_zero() || (kinds.len() >= GpuRow::ITEM_TIMES_MAX && !kinds.contains_key(kind)) {
            return false;
        }
        let runs = kinds.entry(kind.clone()).or_default();
        if runs.len() == REMEMBERED {
            runs.pop_front();
        }
        runs.push_back(ItemsRun { items, item_ms: took.as_secs_f64() * 1_000.0 / f64::from(items) });
        runs.len() == 1
    }

    /// What the middle one of the items in the last runs of each kind took, in ms, to the microsecond: a run that was held up changes nothing, and short runs, of whose time much is
    /// no item's, little.
    pub(crate) fn of_each_kind(&self) -> BTreeMap<Kind, f64> {
        self.lock().iter().map(|(kind, runs)| (kind.clone(), middle(runs))).collect()
    }
}

fn middle(runs: &VecDeque<ItemsRun>) -> f64 {
    let mut sorted: Vec<ItemsRun> = runs.iter().copied().collect();
    sorted.sort_unstable_by(|one, other| one.item_ms.total_cmp(&other.item_ms));
    let all: u64 = sorted.iter().map(|run| u64::from(run.items)).sum();
    let mut below = 0;
    let middle = sorted.iter().find(|run| {
        below += u64::from(run.items);
        below * 2 > all
    });
    (middle.map_or(0.0, |run| run.item_ms) * 1_000.0).round().max(1.0) / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> Kind {
        Kind::new(name).unwrap()
    }

    fn learnt(runs: &[(u32, u64)]) -> Option<f64> {
        let times = ItemTimes::default();
        for (items, took_us) in runs {
            times.ran(&kind("embed"), *items, Duration::from_micros(*took_us));
        }
        times.of_each_kind().get(&kind("embed")).copied()
    }

    #[test]
    fn an_item_takes_its_share_of_the_run() {
        assert_eq!(learnt(&[(8, 40_000)]), Some(5.0));
        assert_eq!(learnt(&[(3, 1_000)]), Some(0.333));
        assert_eq!(learnt(&[(10_000, 1)]), Some(0.001), "never nothing");
    }

    #[test]
    fn a_run_that_was_held_up_changes_nothing() {
        assert_eq!(learnt(&[(4, 20_000), (4, 900_000), (8, 40_000)]), Some(5.0));
    }

    #[test]
    fn old_runs_are_forgotten() {
        let runs: Vec<(u32, u64)> = [(1, 5_000); 16].into_iter().chain([(1, 50_000); 9]).collect();
        assert_eq!(learnt(&runs), Some(50.0));
    }

    #[test]
    fn what_ran_no_items_or_took_no_time_tells_nothing() {
        assert_eq!(learnt(&[]), None);
        assert_eq!(learnt(&[(0, 5_000), (4, 0)]), None);
    }

    #[test]
    fn only_the_first_run_of_a_kind_is_news() {
        let times = ItemTimes::default();
        let news = |name: &str| times.ran(&kind(name), 4, Duration::from_millis(20));
        assert_eq!([news("embed"), news("embed"), news("predict"), news("embed")], [true, false, true, false]);
    }

    #[test]
    fn no_more_kinds_are_learnt_than_a_row_may_name() {
        let times = ItemTimes::default();
        for number in 0..GpuRow::ITEM_TIMES_MAX + 5 {
            times.ran(&kind(&format!("kind-{number}")), 1, Duration::from_millis(1));
        }
        assert_eq!(times.of_each_kind().len(), GpuRow::ITEM_TIMES_MAX);
        times.ran(&kind("kind-0"), 1, Duration::from_millis(9));
        assert_eq!(times.of_each_kind().get(&kind("kind-0")), Some(&9.0), "known ones go on being learnt");
    }
}
