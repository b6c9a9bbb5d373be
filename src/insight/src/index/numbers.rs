//! The last while in numbers.

use std::{
    cmp::Reverse,
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

use protocol::{GpuId, Kind, TaskState, insight::StateCounts};

use super::{TaskIndex, place_of};
use crate::{Activity, KindNumbers};

/// Of how many kinds it is told how many tasks wait; of all others only the sum. Whoever submits may make up as many as there are tasks, and judgements walk through all that are told.
const KINDS_MAX: usize = 256;
/// So many pairs of kind and memory, and so many GPUs that tasks name, are told.
const PAIRS_MAX: usize = 4_096;

/// What waits.
#[derive(Default)]
struct Waiting<'a> {
    kinds: HashMap<&'a Kind, OfKind>,
    memory: HashMap<(&'a Kind, u64), u64>,
    gpus: HashMap<&'a GpuId, u64>,
}

/// What waits of one kind.
#[derive(Default)]
struct OfKind {
    by_priority: [u64; 10],
    unserved: u64,
}

impl OfKind {
    fn tasks(&self) -> u64 {
        self.by_priority.iter().sum()
    }
}

impl TaskIndex {
    /// What happened in the last `window_ms` before `now_ms`, at most a quarter of an hour; and what waits and runs now. Slices count as tasks, and an unknown priority as 0.
    #[must_use]
    pub fn activity(&self, now_ms: u64, window_ms: u64) -> Activity {
        let [activity] = self.activities(now_ms, [window_ms]);
        activity
    }

    /// The same for several windows: all tasks that wait are looked at once.
    #[must_use]
    pub fn activities<const N: usize>(&self, now_ms: u64, windows_ms: [u64; N]) -> [Activity; N] {
        let mut now = Activity { at_ms: now_ms, states: self.states(), ..Activity::default() };
        self.add_waiting(&mut now);
        for record in self.in_state(TaskState::Running).filter(|record| !record.is_split) {
            if let Some(kind) = &record.kind {
                numbers_of(&mut now, kind).running += 1;
            }
        }
        windows_ms.map(|window_ms| {
            let mut activity = Activity { window_ms, ..now.clone() };
            self.recent.add_to(&mut activity);
            activity
        })
    }

    fn states(&self) -> StateCounts {
        let count = |state| self.by_state[place_of(state)].len() as u64;
        StateCounts {
            delayed: count(TaskState::Delayed),
            waiting: count(TaskState::Waiting),
            running: count(TaskState::Running),
            retrying: count(TaskState::Retrying),
            succeeded: count(TaskState::Succeeded),
            failed: count(TaskState::Failed),
            cancelled: count(TaskState::Cancelled),
            expired: count(TaskState::Expired),
        }
    }

    fn add_waiting(&self, activity: &mut Activity) {
        let mut waiting = Waiting::default();
        for record in self.in_state(TaskState::Waiting) {
            let priority = usize::from(record.priority.unwrap_or(0));
            let numbers = &mut activity.priorities[priority];
            numbers.oldest_ms = numbers.oldest_ms.max(activity.at_ms.saturating_sub(record.waits_since_ms()));
            let is_unserved = u64::from(record.is_unserved());
            activity.unserved += is_unserved;
            if let Some(only) = record.only.as_deref() {
                count_within(&mut waiting.gpus, only);
            }
            let Some(kind) = record.kind.as_deref() else {
                numbers.waiting_others += 1;
                continue;
            };
            let of_kind = waiting.kinds.entry(kind).or_default();
            of_kind.by_priority[priority] += 1;
            of_kind.unserved += is_unserved;
            if let Some(memory_mb) = record.needs.as_ref().and_then(|needs| needs.memory_mb) {
                count_within(&mut waiting.memory, (kind, memory_mb));
            }
        }
        waiting.add_to(activity);
    }
}

impl Waiting<'_> {
    fn add_to(self, activity: &mut Activity) {
        let Self { kinds, memory, gpus } = self;
        let mut kinds: Vec<(&Kind, OfKind)> = kinds.into_iter().collect();
        if kinds.len() > KINDS_MAX {
            kinds.select_nth_unstable_by_key(KINDS_MAX, |(kind, of_kind)| (Reverse(of_kind.tasks()), *kind));
        }
        for (_, of_kind) in kinds.drain(KINDS_MAX.min(kinds.len())..) {
            for (numbers, count) in activity.priorities.iter_mut().zip(of_kind.by_priority) {
                numbers.waiting_others += count;
            }
        }
        for (kind, of_kind) in kinds {
            numbers_of(activity, kind).waiting = of_kind.tasks();
            for (numbers, count) in activity.priorities.iter_mut().zip(of_kind.by_priority).filter(|(_, count)| *count > 0) {
                numbers.waiting.insert(kind.clone(), count);
            }
            if of_kind.unserved > 0 {
                activity.unserved_kinds.insert(kind.clone(), of_kind.unserved);
            }
        }
        let told = memory.into_iter().filter(|((kind, _), _)| activity.kinds.get(*kind).is_some_and(|numbers| numbers.waiting > 0));
        activity.waiting_memory = told.map(|((kind, memory_mb), count)| ((kind.clone(), memory_mb), count)).collect();
        activity.waiting_for_gpu = gpus.into_iter().map(|(gpu_id, count)| (gpu_id.clone(), count)).collect();
    }
}

/// Counts one more, where there is room for it.
fn count_within<K: Eq + Hash>(counts: &mut HashMap<K, u64>, key: K) {
    let is_full = counts.len() >= PAIRS_MAX;
    match counts.entry(key) {
        Entry::Occupied(mut count) => *count.get_mut() += 1,
        Entry::Vacant(place) if !is_full => {
            place.insert(1);
        }
        Entry::Vacant(_) => {}
    }
}

fn numbers_of<'a>(activity: &'a mut Activity, kind: &Kind) -> &'a mut KindNumbers {
    activity.kinds.entry(kind.clone()).or_default()
}
