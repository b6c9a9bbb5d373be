//! Trying again: an attempt that failed and may be mended by another try waits in a retry queue, never in a worker's memory.
//!
//! The retry is recorded before it is published. A crash between the two leads to a redelivery of the failed attempt, and that to the same publish.

use std::time::Duration;

use protocol::{ErrorCode, Task, TaskError};
use task_queue::{Outgoing, Queue, Target};
use task_store::{Retry, RetryAnswer, RetryRequest};

use super::{carry_out::Settling, ending, history};
use crate::{
    delivery::{due, onward},
    disposition::{Disposition, End, Retrying},
    ports::{Abandoned, Sent},
    steps, traces,
};

/// The pause before the second attempt; it doubles with each, and half of it is random.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Records that the attempt failed and the next one is due, publishes that one, and acks. What becomes of the delivery instead, where the store knows that no other attempt
/// follows.
pub(super) async fn retry<'t>(settling: &Settling<'_>, retrying: Retrying<'t>) -> Result<Option<Disposition<'t>>, Abandoned> {
    let context = settling.context;
    let task = retrying.task;
    let Retrying { memory_mb, error, token, after, .. } = &retrying;
    let request = RetryRequest {
        task_id: task.id.clone(),
        body_hash: task.body_hash.clone(),
        attempt: task.attempt,
        token: *token,
        error: format!("{}: {}", error.code, error.message),
        after_ms: pause_ms(context.ports.environment.random.unit(), task.attempt, *after),
    };
    match context.ports.record_retry(&request).await? {
        RetryAnswer::Due(due) => {
            context.metrics.retries.inc();
            if let Some(group) = settling.in_hand.group_of(&task.id) {
                context.ports.store.groups().note_retried(group, &task.id, task.attempt);
            }
            ending::tell_retry(settling, &retrying, due.after_ms);
            steps::retrying(settling, &retrying, due.after_ms);
            let line = history::failed(task.attempt, &context.me.gpu_id, error, context.ports.now_ms());
            let history = history::with(settling.in_hand.envelope.headers.history.as_deref(), [line]);
            let next = Next { task, due, memory_mb: memory_mb.or(task.memory_mb), history: Some(history) };
            publish_next(settling, next).await?;
        }
        RetryAnswer::Not(look) => return Ok(Some(Disposition::not_run(task, look, context.me.options.lease))),
        RetryAnswer::Superseded => settling.is_late().await?,
    }
    Ok(None)
}

/// Publishes a retry that was recorded before (its identity makes a further copy harmless), and acks the attempt that it follows.
pub(super) async fn publish(settling: &Settling<'_>, task: &Task, due: Retry) -> Result<(), Abandoned> {
    let history = settling.in_hand.envelope.headers.history.clone();
    publish_next(settling, Next { task, due, memory_mb: task.memory_mb, history }).await
}

/// The attempt that follows a failed one.
struct Next<'a> {
    task: &'a Task,
    due: Retry,
    memory_mb: Option<u64>,
    history: Option<String>,
}

async fn publish_next(settling: &Settling<'_>, next: Next<'_>) -> Result<(), Abandoned> {
    let Settling { context, in_hand, .. } = settling;
    let Next { task, due, memory_mb, history } = next;
    let now_ms = context.ports.now_ms();
    let mut envelope = onward::envelope(in_hand, task, &context.me.options.pool, now_ms);
    let headers = &mut envelope.headers;
    headers.attempt = Some(due.attempt);
    headers.hops = Some(0);
    headers.memory_mb = memory_mb;
    headers.history = history;
    headers.returned = true;
    // The task started in time: from now on its total deadline counts alone.
    headers.start_before_ms = Some(task.end_before_ms.unwrap_or_else(|| onward::began_in_time(now_ms)));
    let pause = Duration::from_millis(due.after_ms);
    let queue = Queue::retry_after(pause);
    let mut outgoing = Outgoing::new(Target::Queue(queue.clone()), envelope, in_hand.body.clone());
    due::waits(&mut outgoing, queue.clone(), pause, now_ms);
    let publishing = traces::publishes_again(context, (&task.id, in_hand), &mut outgoing.envelope);
    match context.ports.publish(&outgoing).await? {
        Sent::There => {
            traces::sent_on(context, (task, in_hand), publishing.as_ref(), (&queue, "retry"));
            in_hand.ack_elsewhere().await;
            Ok(())
        }
        // The store knows of the retry: whoever finds the delivery again tries again to publish it.
        Sent::NoQueue(_) => settling.park(context.me.options.lease).await,
        Sent::Unsendable(_) => {
            let error = TaskError::new(ErrorCode::ExecutorFailed, "the retry could not be published");
            settling.of_attempt(due.attempt).end_unrun(End::without_run(protocol::Outcome::Failed, error)).await
        }
    }
}

/// Doubles with each attempt; half of it is random (`chance`, 0 to 1), so that tasks that failed together do not come back together. At least what the executor asked for, as far as a
/// waiting queue holds a task.
fn pause_ms(chance: f64, attempt: u32, asked_for: Option<Duration>) -> u64 {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(LONGEST_PAUSE);
    let jittered = doubled.mul_f64(0.5 + chance / 2.0);
    let pause = jittered.max(asked_for.unwrap_or(Duration::ZERO).min(LONGEST_PAUSE));
    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_is_at_least_what_was_asked_for_and_never_longer_than_a_queue_holds() {
        let s = Duration::from_secs;
        assert_eq!([1, 2, 3].map(|attempt| pause_ms(1.0, attempt, None)), [500, 1_000, 2_000]);
        assert_eq!(pause_ms(0.0, 1, None), 250);
        assert_eq!([pause_ms(0.0, 1, Some(s(7))), pause_ms(1.0, 6, Some(s(7)))], [7_000, 16_000], "the longer of the two");
        assert_eq!([pause_ms(0.0, 1, Some(s(3_600))), pause_ms(1.0, 40, None)], [300_000, 300_000]);
    }
}
