//! Why a message is in the queue of what expired: not everything there has expired.

use protocol::envelope::Headers;
use task_queue::{Death, DeathReason, Names};

/// Why a message is in the queue of what expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WhyItCame {
    /// Its time in the queue was over; or the broker does not say why, or gives a reason that is not known here.
    TimeOver,
    /// It waited in vain in the queue of a GPU, and its own time is not over: what a worker sent on carries its deadline with it, if it has one. It goes back to its pool.
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
pub(crate) fn why_it_came(death: Option<&Death>, headers: &Headers, (names, now_ms): (&Names, u64)) -> WhyItCame {
    let Some(Death { queue, reason }) = death else { return WhyItCame::TimeOver };
    let in_time = || headers.start_before_ms.is_none_or(|deadline_ms| deadline_ms > now_ms);
    let (reason, message) = match reason {
        DeathReason::Expired if names.is_of_a_gpu(queue) && in_time() => return WhyItCame::Stranded,
        DeathReason::Expired | DeathReason::Other => return WhyItCame::TimeOver,
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_000;

    fn came(reason: DeathReason) -> WhyItCame {
        why_it_came(
            Some(&Death { queue: "gpufleet.tasks.default".to_owned(), reason }),
            &Headers::default(),
            (&Names::new("gpufleet"), NOW_MS),
        )
    }

    #[test]
    fn only_what_left_the_queue_of_a_gpu_in_time_is_stranded() {
        let came = |queue: &str, reason, start_before_ms| {
            let headers = Headers { start_before_ms, ..Headers::default() };
            why_it_came(Some(&Death { queue: queue.to_owned(), reason }), &headers, (&Names::new("gpufleet"), NOW_MS))
        };
        let of_a_gpu = "gpufleet.gpu.a";
        for deadline in [None, Some(NOW_MS + 1)] {
            assert_eq!(came(of_a_gpu, DeathReason::Expired, deadline), WhyItCame::Stranded);
        }
        assert_eq!(came(of_a_gpu, DeathReason::Expired, Some(NOW_MS)), WhyItCame::TimeOver);
        assert_eq!(came("gpufleet.tasks.gpu.a", DeathReason::Expired, None), WhyItCame::TimeOver, "its producer's expiration ended it");
    }

    #[test]
    fn what_expired_and_what_the_broker_does_not_explain_has_had_its_time() {
        assert_eq!(
            [
                why_it_came(None, &Headers::default(), (&Names::new("gpufleet"), NOW_MS)),
                came(DeathReason::Expired),
                came(DeathReason::Other)
            ],
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
