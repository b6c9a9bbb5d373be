//! The last while in numbers.

use std::collections::HashMap;

use protocol::{Kind, TaskState, insight::StateCounts};

use super::{TaskIndex, place_of};
use crate::{Activity, KindNumbers};

/// What waits of one kind, by priority.
type Waiting<'a> = HashMap<&'a Kind, [u64; 10]>;

impl TaskIndex {
    /// What happened in the last `window_ms` before `now_ms`, at most a quarter of an hour; and what waits and runs now. Slices count as tasks, and an unknown priority as 0.
    #[must_use]
    pub fn activity(&self, now_ms: u64, window_ms: u64) -> Activity {
        let mut activity = Activity { at_ms: now_ms, window_ms, states: self.states(), ..Activity::default() };
        self.add_waiting(&mut activity);
        for record in self.in_state(TaskState::Running).filter(|record| !record.is_split) {
            if let Some(kind) = &record.kind {
                numbers_of(&mut activity, kind).running += 1;
            }
        }
        self.recent.add_to(&mut activity);
        activity
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
        let mut waiting = Waiting::new();
        for record in self.in_state(TaskState::Waiting) {
            let priority = usize::from(record.priority.unwrap_or(0));
            let numbers = &mut activity.priorities[priority];
            numbers.oldest_ms = numbers.oldest_ms.max(activity.at_ms.saturating_sub(record.waits_since_ms()));
            activity.unserved += u64::from(record.is_unserved());
            if let Some(only) = record.only.as_deref() {
                *activity.waiting_for_gpu.entry(only.clone()).or_insert(0) += 1;
            }
            if let Some(kind) = record.kind.as_deref() {
                waiting.entry(kind).or_default()[priority] += 1;
                if record.is_unserved() {
                    *activity.unserved_kinds.entry(kind.clone()).or_insert(0) += 1;
                }
                if let Some(memory_mb) = record.needs.as_ref().and_then(|needs| needs.memory_mb) {
                    *activity.waiting_memory.entry((kind.clone(), memory_mb)).or_insert(0) += 1;
                }
            }
        }
        for (kind, counts) in waiting {
            numbers_of(activity, kind).waiting = counts.iter().sum();
            for (priority, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
                activity.priorities[priority].waiting.insert(kind.clone(), count);
            }
        }
    }
}

fn numbers_of<'a>(activity: &'a mut Activity, kind: &Kind) -> &'a mut KindNumbers {
    activity.kinds.entry(kind.clone()).or_default()
}
