//! When a task stops being worth starting, and being worth finishing.
//!
//! A deadline counts from the publish, or from when the task may start where that is later, and AMQP does not say when the publish was. What is known, in this order: the header
//! `timestamp_in_ms`, where the broker's interceptor writes it; the property `timestamp`, which the producer's clock set; else nothing, and the time counts from the first delivery.
//! What the broker does with an `expiration` tells nothing: a classic priority queue delivers a message whose time is over while others wait beside it.

use super::expiration_ms;
use crate::{Envelope, Limits};

/// A clock that runs ahead of ours by more than this is not believed.
const AHEAD_MS: u64 = 5_000;

/// Absolute deadlines in Unix milliseconds, from what earlier hops wrote or from the message's own limits.
pub(super) struct Deadlines {
    pub(super) start: Option<u64>,
    pub(super) end: Option<u64>,
}

impl Deadlines {
    /// `earliest_ms`: the time before which the task must not start, or must not have started.
    pub(super) fn of(envelope: &Envelope, limits: &Limits, (earliest_ms, now_ms): (Option<u64>, u64)) -> Self {
        // What a worker sent on carries its deadlines as headers; its `expiration` may be that of the queue it was sent to.
        let is_a_producers = envelope.headers.pool.is_none();
        let published = published_ms(envelope, now_ms);
        let base = match earliest_ms {
            // It has waited until then, however long ago it was published. In a producer's own message a time in the past says nothing.
            Some(earliest_ms) if !is_a_producers => published.unwrap_or(0).max(earliest_ms),
            _ => published.unwrap_or(now_ms).max(earliest_ms.unwrap_or(0)),
        };
        let from_base = |ms: Option<u64>| ms.map(|ms| base.saturating_add(ms));
        let expiration = from_base(expiration_ms(envelope).ok().flatten().filter(|_| is_a_producers));
        let end = envelope.headers.end_before_ms.or_else(|| from_base(limits.total_deadline_ms));
        let start = envelope.headers.start_before_ms.or_else(|| earliest([expiration, from_base(limits.queue_deadline_ms)]));
        Self { start: earliest([start, end]), end }
    }
}

/// When a task was first published, in Unix ms, as far as its message tells that: by the rules of its deadlines, but for what a broker says of a message that a worker has sent on. That one
/// was published again since.
#[must_use]
pub fn first_published_ms(envelope: &Envelope, now_ms: u64) -> Option<u64> {
    if envelope.headers.pool.is_none() {
        return published_ms(envelope, now_ms);
    }
    by_producer_ms(envelope, now_ms).map(|ms| ms.min(now_ms))
}

/// When the message was published, as far as that can be known. A time is believed unless it lies in the future or further back than any limit reaches.
pub(super) fn published_ms(envelope: &Envelope, now_ms: u64) -> Option<u64> {
    let by_broker = envelope.headers.published_ms.filter(|ms| is_believed(*ms, now_ms));
    by_broker.or_else(|| by_producer_ms(envelope, now_ms)).map(|ms| ms.min(now_ms))
}

fn by_producer_ms(envelope: &Envelope, now_ms: u64) -> Option<u64> {
    // AMQP's timestamp is in whole seconds, rounded down: no deadline may come early by that.
    let by_producer = envelope.timestamp.map(|seconds| seconds.saturating_mul(1_000).saturating_add(999));
    by_producer.filter(|ms| is_believed(*ms, now_ms))
}

const fn is_believed(ms: u64, now_ms: u64) -> bool {
    ms <= now_ms.saturating_add(AHEAD_MS) && ms.saturating_add(Limits::LONGEST_MS) > now_ms
}

fn earliest<const N: usize>(times: [Option<u64>; N]) -> Option<u64> {
    times.into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Headers;

    const NOW: u64 = 1_800_000_000_000;
    const MINUTE: Limits =
        Limits { queue_deadline_ms: Some(60_000), attempt_timeout_ms: None, total_deadline_ms: None, max_attempts: None };

    fn start(envelope: &Envelope, limits: &Limits) -> Option<u64> {
        Deadlines::of(envelope, limits, (None, NOW)).start
    }

    #[test]
    fn what_a_worker_sent_on_was_published_when_its_producer_said() {
        let (second, headers) = (NOW / 1_000 - 10, Headers { published_ms: Some(NOW - 3), ..Headers::default() });
        let fresh = Envelope { timestamp: Some(second), headers, ..Envelope::default() };
        assert_eq!(first_published_ms(&fresh, NOW), Some(NOW - 3), "to the millisecond, where the broker says it");
        let headers = Headers { pool: Some("default".to_owned()), ..fresh.headers.clone() };
        assert_eq!(first_published_ms(&Envelope { headers, ..fresh }, NOW), Some(second * 1_000 + 999));
    }

    #[test]
    fn the_shorter_wins_and_absolute_ones_survive_hops() {
        let envelope = Envelope { expiration: Some("500".into()), ..Envelope::default() };
        let limits = Limits { queue_deadline_ms: Some(2_000), total_deadline_ms: Some(9_000), ..Limits::default() };
        let of = |envelope: &Envelope| {
            let Deadlines { start, end } = Deadlines::of(envelope, &limits, (None, NOW));
            (start, end)
        };
        assert_eq!(of(&envelope), (Some(NOW + 500), Some(NOW + 9_000)));
        let headers = Headers { start_before_ms: Some(NOW + 100), end_before_ms: Some(NOW + 200), ..Headers::default() };
        assert_eq!(of(&Envelope { headers, ..envelope }), (Some(NOW + 100), Some(NOW + 200)));
    }

    #[test]
    fn the_time_to_live_that_a_worker_gave_a_message_is_no_deadline_of_its_task() {
        let headers = Headers { pool: Some("default".to_owned()), ..Headers::default() };
        let sent_on = Envelope { expiration: Some("500".into()), headers, ..Envelope::default() };
        assert_eq!(start(&sent_on, &Limits::default()), None);
        assert_eq!(start(&sent_on, &MINUTE), Some(NOW + 60_000));
    }

    #[test]
    fn an_expiration_counts_from_the_end_of_the_second_of_its_publish_also_where_it_is_over() {
        let expiring = |seconds_ago: u64, expiration: &str| {
            let envelope =
                Envelope { timestamp: Some(NOW / 1_000 - seconds_ago), expiration: Some(expiration.into()), ..Envelope::default() };
            start(&envelope, &Limits::default())
        };
        assert_eq!(expiring(9, "10000"), Some(NOW - 9_000 + 999 + 10_000), "it has waited nine of its ten seconds");
        assert_eq!(expiring(4, "500"), Some(NOW - 4_000 + 999 + 500), "the broker delivered it although its time was over");
        assert_eq!(expiring(0, "500"), Some(NOW + 500), "the end of this second is still to come");
        let unstamped = Envelope { expiration: Some("500".into()), ..Envelope::default() };
        assert_eq!(start(&unstamped, &Limits::default()), Some(NOW + 500), "nobody knows how long it has waited");
    }

    #[test]
    fn a_time_from_the_future_or_from_long_ago_is_not_believed() {
        let by_producer = |timestamp| start(&Envelope { timestamp: Some(timestamp), ..Envelope::default() }, &MINUTE);
        let by_broker = |published_ms| {
            let headers = Headers { published_ms: Some(published_ms), ..Headers::default() };
            start(&Envelope { headers, ..Envelope::default() }, &MINUTE)
        };
        assert_eq!(by_producer(NOW / 1_000 - 10), Some(NOW - 10_000 + 999 + 60_000));
        assert_eq!(by_producer(NOW / 1_000 + 4), Some(NOW + 60_000), "a clock that is a little ahead");
        assert_eq!(by_broker(NOW - 10_000), Some(NOW - 10_000 + 60_000));
        assert_eq!(by_broker(NOW + AHEAD_MS), Some(NOW + 60_000));
        for unbelievable in [NOW + 3_600_000, NOW - Limits::LONGEST_MS - 1_000] {
            assert_eq!(by_producer(unbelievable / 1_000), Some(NOW + 60_000));
            assert_eq!(by_broker(unbelievable), Some(NOW + 60_000));
        }
        assert_eq!([by_producer(0), by_producer(u64::MAX), by_broker(0), by_broker(u64::MAX)], [Some(NOW + 60_000); 4]);
    }

    #[test]
    fn the_deadlines_of_a_task_that_starts_later_count_from_then() {
        let limits = Limits { queue_deadline_ms: Some(2_000), total_deadline_ms: Some(9_000), ..Limits::default() };
        let of = |envelope: &Envelope, earliest| {
            let Deadlines { start, end } = Deadlines::of(envelope, &limits, (Some(earliest), NOW));
            (start, end)
        };
        let expiring = Envelope { timestamp: Some(NOW / 1_000 - 10), expiration: Some("500".into()), ..Envelope::default() };
        assert_eq!(of(&expiring, NOW + 60_000), (Some(NOW + 60_500), Some(NOW + 69_000)));
        assert_eq!(of(&Envelope::default(), 7), (Some(NOW + 2_000), Some(NOW + 9_000)), "a time in the past means at once");
        // By now it was published longer ago than any limit reaches, and has waited.
        let headers = Headers { pool: Some("default".to_owned()), ..Headers::default() };
        let waited = Envelope { timestamp: Some(NOW / 1_000 - 2_600_000), headers, ..Envelope::default() };
        assert_eq!(of(&waited, NOW - 100), (Some(NOW - 100 + 2_000), Some(NOW - 100 + 9_000)));
    }

    #[test]
    fn the_brokers_time_wins_over_the_producers_clock() {
        let both = |published_ms, timestamp| {
            let headers = Headers { published_ms: Some(published_ms), ..Headers::default() };
            start(&Envelope { headers, timestamp: Some(timestamp), ..Envelope::default() }, &MINUTE)
        };
        assert_eq!(both(NOW - 1, NOW / 1_000 - 3 * 3_600), Some(NOW - 1 + 60_000), "the producer's clock is hours behind");
        assert_eq!(both(NOW + 3_600_000, NOW / 1_000 - 10), Some(NOW - 10_000 + 999 + 60_000), "a header that somebody made up");
    }
}
