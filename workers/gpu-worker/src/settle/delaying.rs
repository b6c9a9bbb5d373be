//! A task that must not start yet, in the queue of those that may: an AMQP producer has published it there. It goes where it waits, and its delivery is acked.

use std::time::Duration;

use protocol::{ErrorCode, Task, TaskError};
use task_queue::Queue;
use task_store::{DelayRequest, Look};

use super::carry_out::Settling;
use crate::{
    delivery::{
        delayed::{self, Delayed},
        due, onward,
    },
    disposition::Disposition,
    ports::Abandoned,
    steps,
};

/// How long a task waits that no queue of delayed tasks takes now.
const REST: Duration = Duration::from_secs(60);

/// Notes that the task is delayed, publishes it to a queue in which it waits, and acks. What becomes of it instead, where the store knows that it is not to run: who cancelled it
/// need not wait until it is due.
pub(super) async fn delay<'t>(settling: &Settling<'_>, task: &'t Task) -> Result<Option<Disposition<'t>>, Abandoned> {
    let Settling { context, in_hand, identity, .. } = settling;
    match context.ports.look(identity).await? {
        // Another copy of it that runs has no word in when this one may.
        Look::Open | Look::Unfinished(_) => {}
        look => return Ok(Some(Disposition::not_run(task, look, context.me.options.lease))),
    }
    let (now_ms, options) = (context.ports.now_ms(), &context.me.options);
    let not_before_ms = task.not_before_ms.unwrap_or(now_ms);
    let request = DelayRequest {
        task_id: task.id.clone(),
        kind: task.kind.clone(),
        body_hash: task.body_hash.clone(),
        not_before_ms,
        left_ms: not_before_ms.saturating_sub(now_ms),
    };
    context.ports.note_delayed(&request).await?;
    let envelope = onward::envelope(in_hand, task, &options.pool, now_ms);
    // One that comes again was told of.
    let mut told = in_hand.envelope.headers.returned;
    match delayed::try_once(&context.ports, (&envelope, &in_hand.body), not_before_ms, &mut told).await? {
        Delayed::Waits => {
            context.metrics.forwarded("delayed");
            steps::delayed(context, (task, in_hand));
        }
        // In hand it would keep a credit, and a flood of such tasks would stop the pool. Its time travels with it: what comes back too early is decided on anew.
        Delayed::NoRoom => {
            let now_ms = context.ports.now_ms();
            let rest = REST.min(Duration::from_millis(not_before_ms.saturating_sub(now_ms)));
            let mut waiting = onward::returned(envelope, in_hand.body.clone(), &options.pool, task.id.clone(), now_ms);
            due::waits(&mut waiting, Queue::retry_after(rest), rest, now_ms);
            context.ports.publish_surely(&waiting, options.lease).await?;
            context.metrics.forwarded("delayed");
            steps::delayed(context, (task, in_hand));
        }
        // As what has waited: where nobody knows when it was published, its delay would count anew from its next delivery.
        Delayed::Due => {
            let due = onward::returned(envelope, in_hand.body.clone(), &options.pool, task.id.clone(), context.ports.now_ms());
            context.ports.publish_surely(&due, options.lease).await?;
        }
        Delayed::Unsendable => {
            let message = "the broker does not take the message on to where it waits until it is due; are its properties too long?";
            return Ok(Some(Disposition::fails(TaskError::new(ErrorCode::InvalidTask, message))));
        }
    }
    in_hand.ack_elsewhere().await;
    Ok(None)
}
