//! Replies that their queues did not take at once.

use prometheus::CounterVec;

use super::Registrar;

/// Replies that were not taken at once.
pub(super) struct ReplyCounters {
    pub(super) returned: CounterVec,
    pub(super) put_aside: CounterVec,
    pub(super) delivered_late: CounterVec,
    pub(super) not_parked: CounterVec,
}

impl ReplyCounters {
    pub(super) fn new(to: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        let gpu: &[&str] = &["gpu_id"];
        Ok(Self {
            returned: to.counters(
                "gpufleet_replies_returned_total",
                "Replies that were parked: their queue was gone or took none for too long, or there was no room to wait.",
                gpu,
            )?,
            put_aside: to.counters(
                "gpufleet_replies_put_aside_total",
                "Replies that wait for another try, by what was wrong with their queue: full, unreachable, no_confirm.",
                &["gpu_id", "reason"],
            )?,
            delivered_late: to.counters(
                "gpufleet_replies_delivered_late_total",
                "Replies that their queue took after they had waited.",
                gpu,
            )?,
            not_parked: to.counters(
                "gpufleet_replies_not_parked_total",
                "Replies that could not be parked either: only the store has them.",
                gpu,
            )?,
        })
    }
}
