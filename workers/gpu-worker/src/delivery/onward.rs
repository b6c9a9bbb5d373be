//! Sending a task on: to another GPU, back to its pool, to wait, or to the dead letters.
//!
//! Every message is built anew from an [`Envelope`], which is the whitelist of properties. What a producer's login was moves to a header,
//! because a `user_id` that is not the publisher's own closes the channel.

use std::time::Duration;

use bytes::Bytes;
use protocol::{Envelope, PoolName, Slice, Task, TaskBody, TaskId};
use task_queue::{Outgoing, Queue, Target};

use super::{InHand, delayed, due, in_hand::Deadlines};

/// Long enough for whatever goes round of a task that has begun.
const BEGAN_IN_TIME: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Until when a task that has begun once must start: it began in time, so that neither a copy of it nor another attempt may expire for that.
pub(crate) fn began_in_time(now_ms: u64) -> u64 {
    now_ms + BEGAN_IN_TIME.as_millis() as u64
}

/// What a message in a retry queue waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// The end of somebody else's attempt, which may be a crash: its deadlines go on.
    AnotherHolder,
    /// The end of its own attempt, or of one that followed: the task began in time.
    ItsEnd,
}

/// A delivery's message for a retry queue, in which it waits for `wait` before it comes back to its pool. A `copy` goes round beside a task that has begun.
pub(crate) fn waiting(
    in_hand: &InHand,
    task_id: &TaskId,
    (copy, waits_for): (bool, WaitsFor),
    (pool, wait): (&PoolName, Duration),
    now_ms: u64,
) -> Outgoing {
    let mut envelope = in_hand.envelope.clone();
    envelope.headers.copy = copy;
    // It was placed since.
    envelope.headers.unserved_since_ms = None;
    // Every hop restarts the broker's clock: deadlines travel as headers.
    let Deadlines { start_before_ms, end_before_ms } = in_hand.deadlines;
    let began = copy && waits_for == WaitsFor::ItsEnd && in_hand.queue != Queue::Expired;
    envelope.headers.start_before_ms = if began { Some(began_in_time(now_ms)) } else { start_before_ms };
    envelope.headers.end_before_ms = end_before_ms;
    // Nor is it to wait for its time once more.
    (envelope.headers.not_before_ms, envelope.headers.delay_ms) = (None, None);
    envelope.headers.pool = Some(pool.to_string());
    let mut outgoing = returned(envelope, in_hand.body.clone(), pool, task_id.clone(), now_ms);
    due::waits(&mut outgoing, Queue::retry_after(wait), wait, now_ms);
    outgoing
}

/// The envelope with which `task` travels on. Deadlines become absolute, because every hop restarts the broker's clock.
pub(crate) fn envelope(in_hand: &InHand, task: &Task, pool: &PoolName, now_ms: u64) -> Envelope {
    let mut envelope = bare(&in_hand.envelope, &task.id, pool);
    envelope.priority = Some(task.priority);
    expire_at(&mut envelope, task.start_before_ms, now_ms);
    let headers = &mut envelope.headers;
    headers.attempt = Some(task.attempt);
    headers.hops = Some(task.hops);
    headers.memory_mb = task.memory_mb;
    headers.start_before_ms = task.start_before_ms;
    headers.end_before_ms = task.end_before_ms;
    // Once that has passed, its deadlines say all.
    headers.not_before_ms = delayed::not_before_ms(task, now_ms);
    envelope
}

/// Whether a slice is published for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Publish {
    /// Nobody has seen it: its beginning finds whatever stands against it.
    First,
    /// It may be in somebody's hand.
    Again,
}

/// A slice of the batch in hand, for its pool's queue: a task like others, with the batch's deadlines, addresses and options, and the bytes of its items as they came. `None`: the batch has
/// no such items. The same slice always has the same body, so that a second publish is a copy and no other task.
pub(crate) fn slice(
    in_hand: &InHand,
    task: &Task,
    (slice, publish): (Slice, Publish),
    (pool, now_ms): (&PoolName, u64),
) -> Option<Outgoing> {
    let (from, to) = (usize::try_from(slice.from).ok()?, usize::try_from(slice.to).ok()?);
    let items = task.body.items.as_ref()?.get(from..to)?.to_vec();
    let TaskBody { on_error, gpu_options, needs, limits, keep_as, on_missing, .. } = &task.body;
    let (gpu_options, needs, limits) = (gpu_options.clone(), needs.clone(), limits.clone());
    let (keep_as, on_missing) = (keep_as.clone(), *on_missing);
    let body = TaskBody { items: Some(items), on_error: *on_error, gpu_options, needs, limits, keep_as, on_missing, ..TaskBody::default() }
        .to_bytes();
    let mut envelope = bare(&in_hand.envelope, &task.id.of_slice(slice), pool);
    envelope.priority = Some(task.priority);
    // It was written anew.
    envelope.content_type = Some("application/json".to_owned());
    envelope.content_encoding = None;
    let Deadlines { start_before_ms, end_before_ms } = in_hand.deadlines;
    expire_at(&mut envelope, start_before_ms, now_ms);
    let headers = &mut envelope.headers;
    headers.attempt = Some(1);
    headers.hops = Some(0);
    headers.memory_mb = task.memory_mb;
    headers.start_before_ms = start_before_ms;
    headers.end_before_ms = end_before_ms;
    headers.history = None;
    headers.copy = false;
    headers.batch_hash = Some(task.body_hash.clone());
    headers.returned = publish == Publish::Again;
    Some(Outgoing::new(Target::Queue(Queue::Pool(pool.clone())), envelope, body))
}

/// Lets the broker end the message at its deadline, and at once where that has passed; never, where there is none.
fn expire_at(envelope: &mut Envelope, deadline_ms: Option<u64>, now_ms: u64) {
    envelope.expiration = None;
    if let Some(deadline_ms) = deadline_ms {
        envelope.expires_in(Duration::from_millis(deadline_ms.saturating_sub(now_ms)));
    }
}

/// The properties of a message that is no valid task, or is not to be read again: identity, addresses and trace only.
pub(crate) fn bare(original: &Envelope, task_id: &TaskId, pool: &PoolName) -> Envelope {
    let mut envelope = Envelope {
        message_id: Some(task_id.to_string()),
        kind: original.kind.clone(),
        reply_to: original.reply_to.clone(),
        correlation_id: original.correlation_id.clone(),
        content_type: original.content_type.clone(),
        content_encoding: original.content_encoding.clone(),
        timestamp: original.timestamp,
        ..Envelope::default()
    };
    envelope.headers.traceparent.clone_from(&original.headers.traceparent);
    envelope.headers.tracestate.clone_from(&original.headers.tracestate);
    envelope.headers.links.clone_from(&original.headers.links);
    envelope.headers.unreadable.clone_from(&original.headers.unreadable);
    envelope.headers.properties.clone_from(&original.headers.properties);
    envelope.headers.progress = original.headers.progress;
    envelope.headers.group.clone_from(&original.headers.group);
    envelope.headers.copy = original.headers.copy;
    envelope.headers.history.clone_from(&original.headers.history);
    envelope.headers.user = original.user_id.clone().or_else(|| original.headers.user.clone());
    envelope.headers.pool = Some(pool.to_string());
    // Whatever way a slice goes, it is one.
    envelope.headers.slice = task_id.slice();
    envelope.headers.batch_hash = original.headers.batch_hash.clone().filter(|_| task_id.slice().is_some());
    envelope
}

/// A message from a waiting queue goes back to its pool as it is; only the broker's clock is set anew.
pub(crate) fn returned(envelope: Envelope, body: Bytes, fallback_pool: &PoolName, fallback_id: TaskId, now_ms: u64) -> Outgoing {
    let pool = envelope.pool_or(fallback_pool);
    let mut envelope = envelope;
    envelope.message_id.get_or_insert_with(|| fallback_id.to_string());
    let start_before_ms = envelope.headers.start_before_ms;
    expire_at(&mut envelope, start_before_ms, now_ms);
    envelope.headers.user = envelope.user_id.take().or(envelope.headers.user);
    envelope.headers.returned = true;
    // A delayed task that has waited: no worker whose clock is behind is to let it wait once more.
    envelope.headers.due_ms = envelope.headers.not_before_ms.filter(|at_ms| *at_ms <= now_ms);
    envelope.headers.invalid.clear();
    envelope.headers.forget_findings();
    Outgoing::new(Target::Queue(Queue::Pool(pool)), envelope, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_deadline_never_expires_and_what_is_late_does_at_once() {
        let expiration = |deadline| {
            let mut envelope = Envelope { expiration: Some("7".into()), ..Envelope::default() };
            expire_at(&mut envelope, deadline, 1_000);
            envelope.expiration
        };
        assert_eq!([None, Some(10), Some(3_000)].map(expiration), [None, Some("1".to_owned()), Some("2000".to_owned())]);
    }

    #[test]
    fn whatever_way_a_slice_goes_it_is_one_and_its_dead_letter_is_none() {
        let (mut original, pool) = (Envelope::default(), PoolName::default());
        let of = protocol::BodyHash::of(b"the batch");
        original.headers.batch_hash = Some(of.clone());
        let written = |id: &TaskId| {
            let envelope = bare(&original, id, &pool);
            (envelope.message_id, envelope.headers.slice, envelope.headers.batch_hash)
        };
        let slice = Slice::new(4, 8).expect("a slice");
        let task_id = TaskId::new("order-17").expect("valid").of_slice(slice);
        assert_eq!(written(&task_id), (Some("order-17{4..8}".to_owned()), Some(slice), Some(of)));
        let letter = written(&protocol::identify_letter(&task_id));
        assert_eq!((letter.1, letter.2), (None, None));
    }
}
