//! Which waits were told lately: a task that waits on is told of once for each reason, and not at every turn.

use std::{
    collections::{BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
};

use protocol::TaskId;

/// How many are remembered; the oldest make room.
const REMEMBERED: usize = 4_096;

/// The waits that this worker has told of.
#[derive(Debug, Default)]
pub(crate) struct WaitsTold(Mutex<Told>);

/// Tasks with the hashes of their reasons.
#[derive(Debug, Default)]
struct Told {
    known: BTreeSet<(TaskId, u64)>,
    order: VecDeque<(TaskId, u64)>,
}

impl WaitsTold {
    /// Whether it was not told that this task waits for this reason. From now on it was.
    pub(crate) fn is_news(&self, task_id: &TaskId, reason: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        reason.hash(&mut hasher);
        let wait = (task_id.clone(), hasher.finish());
        // Nothing panics while it holds this lock, so a poisoned state is a whole one.
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.known.insert(wait.clone()) {
            return false;
        }
        told.order.push_back(wait);
        if told.order.len() > REMEMBERED
            && let Some(oldest) = told.order.pop_front()
        {
            told.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_news_once_for_each_reason_and_is_forgotten_in_the_end() {
        let (told, task) = (WaitsTold::default(), |n: usize| TaskId::new(format!("task-{n}")).expect("valid"));
        assert!(told.is_news(&task(0), "busy") && !told.is_news(&task(0), "busy"));
        assert!(told.is_news(&task(0), "away") && told.is_news(&task(1), "busy"));
        (2..REMEMBERED + 2).for_each(|n| assert!(told.is_news(&task(n), "busy")));
        assert!(told.is_news(&task(0), "busy"), "the memory is bounded");
        assert!(!told.is_news(&task(REMEMBERED + 1), "busy"));
    }
}
