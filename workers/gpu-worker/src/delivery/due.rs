//! When a message in a waiting queue is due.

use std::time::Duration;

use protocol::envelope::Headers;
use task_queue::{Outgoing, Queue, Target};

/// Leads a message into a waiting queue, where it is due after `wait`.
pub(crate) fn waits(outgoing: &mut Outgoing, queue: Queue, wait: Duration, now_ms: u64) {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    outgoing.target = Target::Queue(queue);
    // In a waiting queue nothing expires: it would be gone.
    outgoing.envelope.expiration = None;
    outgoing.envelope.headers.due_ms = Some(now_ms.saturating_add(wait_ms));
}

/// How long a message is still to be held that has just come from a waiting queue of this delay. The clocks of hosts differ, which must not make it wait longer than its
/// queue says; one that somebody has put there by hand says nothing.
pub(crate) fn left(headers: &Headers, delay: Duration, now_ms: u64) -> Duration {
    headers.due_ms.map_or(delay, |due_ms| Duration::from_millis(due_ms.saturating_sub(now_ms)).min(delay))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_clock_and_no_header_makes_a_message_wait_longer_than_its_queue_says() {
        const DELAY: Duration = Duration::from_millis(500);
        let left_ms = |due_ms| left(&Headers { due_ms, ..Headers::default() }, DELAY, 1_000).as_millis();
        assert_eq!([None, Some(900), Some(1_200), Some(9_000), Some(u64::MAX)].map(left_ms), [500, 0, 200, 500, 500]);
    }
}
