//! Queues that did not confirm soon: for a while their messages have a lane of their own, so that the others are not delayed again and again.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long a queue counts as slow after it did not confirm soon. At most so often it delays the messages for others.
const SLOW_FOR: Duration = Duration::from_secs(10);
/// Most queues that are remembered. One that finds no room stays on the lane of all.
const QUEUES_MAX: usize = 1_024;

/// The slow queues of a connection, by name, each until when.
#[derive(Debug, Default)]
pub(in crate::rabbitmq) struct SlowQueues(Mutex<BTreeMap<String, Instant>>);

impl SlowQueues {
    pub(in crate::rabbitmq) fn has(&self, queue: &str) -> bool {
        self.lock().get(queue).is_some_and(|until| *until > Instant::now())
    }

    /// Takes note that these queues did not confirm soon. Which of them were not known for it.
    pub(super) fn add(&self, queues: impl IntoIterator<Item = String>) -> Vec<String> {
        let now = Instant::now();
        let mut slow = self.lock();
        slow.retain(|_, until| *until > now);
        let mut new = Vec::new();
        for queue in queues {
            if slow.len() >= QUEUES_MAX && !slow.contains_key(&queue) {
                continue;
            }
            if slow.insert(queue.clone(), now + SLOW_FOR).is_none() {
                new.push(queue);
            }
        }
        new
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        // Nothing panics while it holds this lock, so a poisoned state is a whole one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_slow_for_a_while_and_no_more_are_remembered_than_there_is_room_for() {
        let slow = SlowQueues::default();
        assert_eq!(slow.add(["a".to_owned()]), ["a"]);
        assert_eq!(slow.add(["a".to_owned(), "b".to_owned()]), ["b"]);
        assert!(slow.has("a") && slow.has("b") && !slow.has("c"));
        let more = slow.add((0..2 * QUEUES_MAX).map(|number| number.to_string()));
        assert_eq!(more.len(), QUEUES_MAX - 2);
        tokio::time::advance(SLOW_FOR).await;
        assert!(!slow.has("a"));
        assert_eq!(slow.add(["c".to_owned()]), ["c"], "there is room again");
    }
}
