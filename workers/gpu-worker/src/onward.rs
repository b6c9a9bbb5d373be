//! Sending a task on: to another GPU, back to its pool, to wait, or to the dead letters.
//!
//! Every message is built anew from an [`Envelope`], which is the whitelist of properties. What a producer's login was moves to a header,
//! because a `user_id` that is not the publisher's own closes the channel.

use bytes::Bytes;
use protocol::{Envelope, Limits, PoolName, Task, TaskId};
use task_queue::{Outgoing, PublishError, Queue, Target};

use crate::{
    context::Context,
    intake::InHand,
    persist::{Abandoned, pause_or_abandon, persist},
};

/// Whether a task that was sent on has arrived in the other queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is there, confirmed: this delivery can be acked.
    There,
    /// No such queue, or none that can be reached now.
    NoQueue,
    /// The message cannot be sent at all.
    Unsendable,
}

/// Publishes, trying again while the broker is away or blocked. Not while only the queue cannot be reached: there are others.
pub(crate) async fn publish(context: &Context, outgoing: &Outgoing) -> Result<Result<(), PublishError>, Abandoned> {
    let publish = async || match context.queue.publish(outgoing.clone()).await {
        Err(error @ PublishError::Inaccessible { .. }) => Ok(Err(error)),
        result => result.map(Ok),
    };
    Ok(persist(&context.environment, &context.stop.now, publish).await?.unwrap_or_else(Err))
}

/// Sends `outgoing`, trying again while the broker is away or blocked.
pub(crate) async fn send(context: &Context, outgoing: Outgoing) -> Result<Sent, Abandoned> {
    Ok(match publish(context, &outgoing).await? {
        Ok(()) => Sent::There,
        Err(PublishError::Unroutable { .. } | PublishError::Inaccessible { .. }) => Sent::NoQueue,
        Err(error) => {
            tracing::error!(%error, "cannot be sent");
            Sent::Unsendable
        }
    })
}

/// Sends `outgoing` and does not give up: where its queue is gone or takes no such message, somebody must look, and nothing may be acked until then.
pub(crate) async fn send_surely(context: &Context, outgoing: Outgoing) -> Result<(), Abandoned> {
    while send(context, outgoing.clone()).await? != Sent::There {
        tracing::error!(target = ?outgoing.target, "the fleet's own queue takes no message: start the broker's node that has it, or declare it again by restarting a worker; tried again after a lease");
        pause_or_abandon(&context.stop.now, context.options.lease).await?;
    }
    Ok(())
}

/// The envelope with which `task` travels on. Deadlines become absolute, because every hop restarts the broker's clock.
pub(crate) fn envelope(in_hand: &InHand, task: &Task, pool: &PoolName, now_ms: u64) -> Envelope {
    let mut envelope = bare(&in_hand.envelope, &task.id, pool);
    envelope.priority = Some(task.priority);
    envelope.expiration = remaining(task.start_before_ms, now_ms);
    let headers = &mut envelope.headers;
    headers.attempt = Some(task.attempt);
    headers.hops = Some(task.hops);
    headers.memory_mb = task.memory_mb;
    headers.start_before_ms = task.start_before_ms;
    headers.end_before_ms = task.end_before_ms;
    envelope
}

/// What is left until a deadline, as AMQP writes it; at least 1 ms, so that the broker ends it and not nobody, and no more than any limit
/// allows: the deadline may be a header that a producer made up, and the broker takes no time to live of centuries.
fn remaining(deadline_ms: Option<u64>, now_ms: u64) -> Option<String> {
    deadline_ms.map(|deadline| deadline.saturating_sub(now_ms).clamp(1, Limits::LONGEST_MS).to_string())
}

/// The properties of a message that is no valid task, or is not to be read again: identity, addresses and trace only.
pub(crate) fn bare(original: &Envelope, task_id: &TaskId, pool: &PoolName) -> Envelope {
    let mut envelope = Envelope {
        message_id: Some(task_id.to_string()),
        kind: original.kind.clone(),
        reply_to: original.reply_to.clone(),
        correlation_id: original.correlation_id.clone(),
        content_type: original.content_type.clone(),
        timestamp: original.timestamp,
        ..Envelope::default()
    };
    envelope.headers.traceparent.clone_from(&original.headers.traceparent);
    envelope.headers.unreadable.clone_from(&original.headers.unreadable);
    envelope.headers.properties.clone_from(&original.headers.properties);
    envelope.headers.progress = original.headers.progress;
    envelope.headers.copy = original.headers.copy;
    envelope.headers.history.clone_from(&original.headers.history);
    envelope.headers.user = original.user_id.clone().or_else(|| original.headers.user.clone());
    envelope.headers.pool = Some(pool.to_string());
    envelope
}

/// A message from a waiting queue goes back to its pool as it is; only the broker's clock is set anew.
pub(crate) fn returned(envelope: Envelope, body: Bytes, fallback_pool: &PoolName, fallback_id: TaskId, now_ms: u64) -> Outgoing {
    let pool = envelope.pool_or(fallback_pool);
    let mut envelope = envelope;
    envelope.message_id.get_or_insert_with(|| fallback_id.to_string());
    envelope.expiration = remaining(envelope.headers.start_before_ms, now_ms);
    envelope.headers.user = envelope.user_id.take().or(envelope.headers.user);
    envelope.headers.returned = true;
    envelope.headers.invalid.clear();
    Outgoing::new(Target::Queue(Queue::Pool(pool)), envelope, body)
}

/// A message for another queue of the fleet.
pub(crate) fn to(queue: Queue, envelope: Envelope, body: Bytes) -> Outgoing {
    Outgoing::new(Target::Queue(queue), envelope, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_deadline_is_too_far_for_the_broker_and_none_is_in_the_past() {
        let ms = |deadline| remaining(Some(deadline), 1_000).expect("a deadline").parse::<u64>().expect("a number");
        assert_eq!([ms(3_000), ms(10), ms(u64::MAX)], [2_000, 1, Limits::LONGEST_MS]);
        assert!(Limits::LONGEST_MS < u32::MAX.into(), "RabbitMQ takes no more");
    }
}
