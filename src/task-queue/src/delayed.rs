//! Where a task waits that must not start before a time, outside its pool's queue.
//!
//! ```text
//!  5 days ─► 1 day ─► 6 h ─► 80 min ─► 20 min ─► 5 min ─► 60 s ─► 15 s ─► 5 s ─► 1 s ─► pool
//!  └──────────── workers look at the head now and then ─┘  └──── workers hold what comes ─┘
//! ```
//!
//! A task goes to the longest queue that is not longer than what it still has to wait, and from there to the next one. All messages of a queue wait for the same time, so the first
//! one is due first, and none blocks another one that is due before it. A queue that took any wait up to its own would not have that.
//!
//! What lies in the long queues for days cannot be held: a broker closes the channel of who holds a message for half an hour. Workers take the head out now and then, and place it
//! anew by what it still has to wait, which may be at the end of the same queue. Nothing is given back there: quorum queues count that, and drop what was given back too often. A look
//! may come late by a tenth of the queue's wait, so a long queue takes only what has a fifth more to wait. The short ones, which follow, are exact.

use std::time::Duration;

use bytes::Bytes;
use protocol::Envelope;

use crate::{Outgoing, Queue, Target};

/// A short queue takes what has so much less to wait than its name says, so that a task whose delay is that of a queue takes one step. It waits no longer for that; what stands
/// behind it may.
const ROUNDED_MS: u64 = 100;
/// A long queue takes only what has this part of its wait more to wait.
const SPARE_PART: u64 = 5;

impl Queue {
    /// The waits of those queues of delayed tasks whose messages workers hold until they are due, in milliseconds. The first one takes any wait up to its own.
    pub const DELAYS_HELD_MS: [u64; 4] = [1_000, 5_000, 15_000, 60_000];

    /// The waits of those queues of delayed tasks whose head workers look at now and then, in milliseconds.
    pub const DELAYS_LOOKED_AT_MS: [u64; 6] = [300_000, 1_200_000, 4_800_000, 21_600_000, 86_400_000, 432_000_000];

    /// The queues of delayed tasks whose messages workers hold.
    #[must_use]
    pub fn where_delayed_tasks_are_held() -> Vec<Self> {
        Self::DELAYS_HELD_MS.into_iter().map(delayed).collect()
    }

    /// The queues of delayed tasks whose head workers look at now and then.
    #[must_use]
    pub fn where_delayed_tasks_are_looked_at() -> Vec<Self> {
        Self::DELAYS_LOOKED_AT_MS.into_iter().map(delayed).collect()
    }

    /// Every queue of delayed tasks, the shortest first.
    #[must_use]
    pub fn where_tasks_are_delayed() -> Vec<Self> {
        Self::DELAYS_HELD_MS.into_iter().chain(Self::DELAYS_LOOKED_AT_MS).map(delayed).collect()
    }

    /// The queues in which a task may wait next that still has so many milliseconds to wait, the best one first. Empty: it is due.
    #[must_use]
    pub fn delayed_for(left_ms: u64) -> Vec<Self> {
        if left_ms == 0 {
            return Vec::new();
        }
        let shortest = Self::DELAYS_HELD_MS[0];
        let held = Self::DELAYS_HELD_MS.into_iter().filter(|ms| *ms <= left_ms.saturating_add(ROUNDED_MS) || *ms == shortest);
        let looked_at = Self::DELAYS_LOOKED_AT_MS.into_iter().filter(|ms| ms + ms / SPARE_PART <= left_ms);
        let mut fitting: Vec<Self> = held.chain(looked_at).map(delayed).collect();
        fitting.reverse();
        fitting
    }
}

const fn delayed(ms: u64) -> Queue {
    Queue::Delayed(Duration::from_millis(ms))
}

impl Outgoing {
    /// A task that must not start before `not_before_ms`, on its way to a queue in which it waits: for that queue's time, or until it is due. Nothing expires there, so its
    /// deadlines and its pool must stand in its headers.
    #[must_use]
    pub fn delayed(queue: Queue, mut envelope: Envelope, body: Bytes, (not_before_ms, now_ms): (u64, u64)) -> Self {
        let wait_ms = queue.delay().map_or(0, |delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        envelope.expiration = None;
        envelope.headers.delay_ms = None;
        envelope.headers.not_before_ms = Some(not_before_ms);
        envelope.headers.due_ms = Some(now_ms.saturating_add(wait_ms).min(not_before_ms));
        Self::new(Target::Queue(queue), envelope, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST_MS: u64 = protocol::Limits::LONGEST_MS;

    fn best_ms(left_ms: u64) -> Option<u128> {
        Some(Queue::delayed_for(left_ms).first()?.delay()?.as_millis())
    }

    #[test]
    fn a_task_goes_to_the_longest_queue_that_is_not_longer_than_its_wait() {
        assert_eq!([0, 1, 999, 4_000, 20_000].map(best_ms), [None, Some(1_000), Some(1_000), Some(1_000), Some(15_000)]);
        assert_eq!(
            [4_950, 5_000, 59_900, 59_899].map(best_ms),
            [Some(5_000), Some(5_000), Some(60_000), Some(15_000)],
            "some milliseconds went by"
        );
        assert_eq!([300_000, 359_999, 360_000].map(best_ms), [Some(60_000), Some(60_000), Some(300_000)], "a look may come late");
        assert_eq!(best_ms(LONGEST_MS), Some(432_000_000));
    }

    #[test]
    fn where_the_best_queue_is_full_a_shorter_one_takes_it() {
        let all: Vec<u128> = Queue::delayed_for(400_000).iter().filter_map(|queue| Some(queue.delay()?.as_millis())).collect();
        assert_eq!(all, [300_000, 60_000, 15_000, 5_000, 1_000]);
    }

    /// However late the looks come, within the tenth that is theirs.
    #[test]
    fn no_wait_takes_many_steps_and_none_ends_late_or_early() {
        for late_part in [0, 10] {
            for wait_ms in [1, 1_000, 59_950, 299_999, 359_999, 3_600_000, 86_400_000, LONGEST_MS - 1, LONGEST_MS] {
                let (mut now_ms, mut steps) = (0, 0);
                while let Some(queue) = Queue::delayed_for(wait_ms - now_ms).into_iter().next() {
                    let sent = Outgoing::delayed(queue.clone(), Envelope::default(), Bytes::new(), (wait_ms, now_ms));
                    let due_ms = sent.envelope.headers.due_ms.expect("just set");
                    let queue_ms = u64::try_from(queue.delay().expect("a delay").as_millis()).expect("small");
                    let late_ms = if Queue::DELAYS_LOOKED_AT_MS.contains(&queue_ms) { queue_ms * late_part / 100 } else { 0 };
                    assert!(due_ms > now_ms && due_ms <= now_ms + queue_ms, "{wait_ms}: {queue} at {now_ms}");
                    now_ms = due_ms + late_ms;
                    assert!(now_ms <= wait_ms, "{wait_ms}: {queue} ends late");
                    steps += 1;
                }
                assert!(now_ms == wait_ms && steps <= 25, "{wait_ms}: {steps} steps");
            }
        }
    }

    #[test]
    fn what_is_put_into_a_queue_is_due_after_its_wait_or_when_its_task_is() {
        let headers = protocol::envelope::Headers { delay_ms: Some(7), ..Default::default() };
        let envelope = Envelope { expiration: Some("9".into()), headers, ..Envelope::default() };
        let sent = |ms, not_before_ms| Outgoing::delayed(delayed(ms), envelope.clone(), Bytes::new(), (not_before_ms, 1_000)).envelope;
        let sent_short = sent(5_000, 5_950);
        assert_eq!((sent_short.headers.due_ms, sent_short.headers.not_before_ms), (Some(5_950), Some(5_950)));
        assert_eq!((sent_short.headers.delay_ms, sent_short.expiration), (None, None));
        assert_eq!(sent(5_000, 90_000).headers.due_ms, Some(6_000));
    }
}
