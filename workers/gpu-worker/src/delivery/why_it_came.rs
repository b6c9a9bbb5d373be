//! Why a message is in the queue of what expired: not everything there has expired.

use protocol::envelope::Headers;
use task_queue::{Death, DeathReason};

/// Why a message is in the queue of what expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WhyItCame {
    /// Its time in the queue was over; or the broker does not say why, or gives a reason that is not known here.
    TimeOver,
    /// It waited in vain in a queue that nobody consumes, and its own time is not over: what a worker sent on carries its deadline with it, if it has one. It goes back to its pool.
    Stranded,
    /// It was taken out before its time, by a limit or a policy of the broker or by a stranger's consumer.
    Dropped(Dropped),
}

/// How a message was taken out of its queue before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// The broker's word for it, as the metric names it.
    pub(crate) reason: &'static str,
    /// What the producer is told.
    pub(crate) message: String,
}

/// Why a message with these headers is in the queue of what expired, by what the broker says of it.
pub(crate) fn why_it_came(death: Option<&Death>, headers: &Headers, now_ms: u64) -> WhyItCame {
    let Some(Death { queue, reason }) = death else { return in_time(headers, now_ms) };
    let (reason, message) = match reason {
        DeathReason::Expired | DeathReason::Other => return in_time(headers, now_ms),
        DeathReason::MaxLength => {
            ("maxlen", format!("the broker dropped it: queue {queue} was at its maximum length (a limit or policy of the broker)"))
        }
        DeathReason::DeliveryLimit => (
            "delivery_limit",
            format!(
                "the broker dropped it: queue {queue} had delivered it as often as its delivery limit allows (a limit or policy of the broker)"
            ),
        ),
        DeathReason::Rejected => {
            ("rejected", format!("a consumer that is no worker of the fleet rejected it: only workers may consume queue {queue}"))
        }
    };
    WhyItCame::Dropped(Dropped { reason, message })
}

fn in_time(Headers { pool, start_before_ms, .. }: &Headers, now_ms: u64) -> WhyItCame {
    let sent_on_by_a_worker = pool.is_some();
    if sent_on_by_a_worker && start_before_ms.is_none_or(|deadline_ms| deadline_ms > now_ms) {
        WhyItCame::Stranded
    } else {
        WhyItCame::TimeOver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_000;

    fn came(reason: DeathReason) -> WhyItCame {
        why_it_came(Some(&Death { queue: "gpufleet.tasks.default".to_owned(), reason }), &Headers::default(), NOW_MS)
    }

    #[test]
    fn only_what_a_worker_sent_on_and_is_in_time_is_stranded() {
        let came = |pool: Option<&str>, start_before_ms| {
            let headers = Headers { pool: pool.map(str::to_owned), start_before_ms, ..Headers::default() };
            let death = Death { queue: "gpufleet.gpu.a".to_owned(), reason: DeathReason::Expired };
            why_it_came(Some(&death), &headers, NOW_MS)
        };
        assert_eq!([None, Some(NOW_MS + 1)].map(|deadline| came(Some("default"), deadline)), [const { WhyItCame::Stranded }; 2]);
        assert_eq!(came(Some("default"), Some(NOW_MS)), WhyItCame::TimeOver);
        assert_eq!(came(None, None), WhyItCame::TimeOver, "only its producer's expiration can have ended it");
    }

    #[test]
    fn what_expired_and_what_the_broker_does_not_explain_has_had_its_time() {
        assert_eq!(
            [why_it_came(None, &Headers::default(), NOW_MS), came(DeathReason::Expired), came(DeathReason::Other)],
            [const { WhyItCame::TimeOver }; 3]
        );
    }

    #[test]
    fn what_was_dropped_is_told_by_whom_and_out_of_which_queue() {
        for (reason, word, named) in [
            (DeathReason::MaxLength, "maxlen", "queue gpufleet.tasks.default was at its maximum length"),
            (
                DeathReason::DeliveryLimit,
                "delivery_limit",
                "queue gpufleet.tasks.default had delivered it as often as its delivery limit allows",
            ),
            (DeathReason::Rejected, "rejected", "only workers may consume queue gpufleet.tasks.default"),
        ] {
            let WhyItCame::Dropped(dropped) = came(reason) else { panic!("{reason:?}") };
            assert_eq!((dropped.reason, dropped.message.contains(named)), (word, true), "{}", dropped.message);
        }
    }
}
