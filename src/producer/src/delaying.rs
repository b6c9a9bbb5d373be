//! Tasks that must not start before a time: they never pass their pool's queue before that.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use protocol::{Envelope, PoolName};
use task_queue::{Outgoing, Queue, Target};

/// The message of a task, on its way to its pool, or to the queue in which it waits until then.
pub(crate) fn outgoing(mut envelope: Envelope, body: Bytes, pool: &PoolName, (not_before_ms, now_ms): (Option<u64>, u64)) -> Outgoing {
    let left_ms = not_before_ms.map_or(0, |at_ms| at_ms.saturating_sub(now_ms));
    let (Some(not_before_ms), Some(queue)) = (not_before_ms, Queue::delayed_for(left_ms).into_iter().next()) else {
        return Outgoing::new(Target::Queue(Queue::Pool(pool.clone())), envelope, body);
    };
    // Nothing expires there: its deadline travels as a header, and counts from when it is due.
    let expiration_ms = envelope.expiration.take().and_then(|text| text.parse::<u64>().ok());
    envelope.headers.start_before_ms = expiration_ms.map(|ms| not_before_ms.saturating_add(ms));
    envelope.headers.pool = Some(pool.to_string());
    Outgoing::delayed(queue, envelope, body, (not_before_ms, now_ms))
}

/// The queues of delayed tasks that this producer has declared.
#[derive(Debug, Default)]
pub(crate) struct Declared(Mutex<BTreeSet<Queue>>);

impl Declared {
    fn queues(&self) -> MutexGuard<'_, BTreeSet<Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The target, if it is a queue that is to be declared first.
    pub(crate) fn lacks<'t>(&self, target: &'t Target) -> Option<&'t Queue> {
        match target {
            Target::Queue(queue @ Queue::Delayed(_)) if !self.queues().contains(queue) => Some(queue),
            _ => None,
        }
    }

    /// Takes note that a queue is there.
    pub(crate) fn add(&self, queue: &Queue) {
        self.queues().insert(queue.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn what_may_start_goes_to_its_pool_as_it_is() {
        let envelope = Envelope { expiration: Some("500".into()), ..Envelope::default() };
        for not_before_ms in [None, Some(NOW), Some(7)] {
            let sent = outgoing(envelope.clone(), Bytes::new(), &PoolName::default(), (not_before_ms, NOW));
            assert_eq!((sent.target, &sent.envelope), (Target::Queue(Queue::Pool(PoolName::default())), &envelope));
        }
    }

    #[test]
    fn what_waits_carries_its_pool_and_its_deadline_from_when_it_is_due() {
        let envelope = Envelope { expiration: Some("500".into()), priority: Some(7), ..Envelope::default() };
        let sent = outgoing(envelope, Bytes::new(), &PoolName::default(), (Some(NOW + 90_000), NOW));
        assert_eq!(sent.target, Target::Queue(Queue::Delayed(Duration::from_secs(60))));
        let headers = sent.envelope.headers;
        assert_eq!(
            (headers.not_before_ms, headers.start_before_ms, headers.due_ms),
            (Some(NOW + 90_000), Some(NOW + 90_500), Some(NOW + 60_000))
        );
        assert_eq!((headers.pool.as_deref(), sent.envelope.expiration, sent.envelope.priority), (Some("default"), None, Some(7)));
    }

    #[test]
    fn a_queue_is_declared_once() {
        let (declared, queue) = (Declared::default(), Queue::Delayed(Duration::from_secs(60)));
        let target = Target::Queue(queue.clone());
        assert_eq!(declared.lacks(&target), Some(&queue));
        declared.add(&queue);
        assert_eq!(declared.lacks(&target), None);
        assert_eq!(declared.lacks(&Target::Queue(Queue::Pool(PoolName::default()))), None);
    }
}
