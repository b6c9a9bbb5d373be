//! Trying again: an attempt that failed and may be mended by another try waits in a retry queue, never in a worker's memory.
//!
//! The retry is recorded before it is published. A crash between the two leads to a redelivery of the failed attempt, and that to the same publish.

use std::time::Duration;

use protocol::{Task, TaskError};
use task_queue::Queue;
use task_store::{Retry, RetryAnswer, RetryRequest};

use crate::{
    context::Context,
    ending::{self, End},
    history,
    intake::InHand,
    life,
    onward::{self, Sent},
    persist::{Abandoned, persist},
    placing::Slot,
};

/// Attempts of a task that sets no `max_attempts`.
const ATTEMPTS: u32 = 3;
/// The pause before the second attempt; it doubles with each, and half of it is random.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How often a task may be tried.
pub(crate) fn attempts_max(task: &Task) -> u32 {
    task.body.limits.max_attempts.unwrap_or(ATTEMPTS)
}

/// Records that the attempt failed and the next one is due, publishes that one, and gives the slot away.
pub(crate) async fn retry(context: &Context, mut in_hand: InHand, task: &Task, slot: Slot, error: TaskError) -> Result<(), Abandoned> {
    tracing::info!(task_id = %task.id, attempt = task.attempt, code = error.code, message = error.message, "will be tried again");
    let request = RetryRequest {
        task_id: task.id.clone(),
        body_hash: task.body_hash.clone(),
        attempt: task.attempt,
        token: slot.claim.token,
        error: format!("{}: {}", error.code, error.message),
        after_ms: pause_ms(context, task.attempt),
    };
    let answer = persist(&context.environment, &context.stop.now, || context.store.retry(&request)).await?;
    // The store has it: the slot is free for others while the retry is published.
    ending::finish(context, slot).await;
    match answer {
        Ok(RetryAnswer::Due(due)) => {
            context.metrics.retries.inc();
            let line = history::failed(task.attempt, &context.gpu_id, &error, context.now_ms());
            in_hand.envelope.headers.history = Some(history::with(in_hand.envelope.headers.history.as_deref(), [line]));
            publish(context, in_hand, task, due).await
        }
        Ok(RetryAnswer::Not(look)) => life::no_run(context, in_hand, task, look).await,
        Ok(RetryAnswer::Superseded) => {
            context.metrics.late_outcomes.inc();
            ending::park(context, in_hand, &task.id).await
        }
        Err(error) => {
            tracing::error!(task_id = %task.id, %error, "the delivery stays unacked");
            Err(Abandoned)
        }
    }
}

/// Publishes a recorded retry (perhaps once more: its identity makes the copy harmless) and acks the attempt that it follows.
pub(crate) async fn publish(context: &Context, in_hand: InHand, task: &Task, due: Retry) -> Result<(), Abandoned> {
    let pause = Duration::from_millis(due.after_ms);
    let mut next = task.clone();
    next.attempt = due.attempt;
    next.hops = 0;
    // The task started in time: from now on its total deadline counts alone.
    next.start_before_ms = Some(next.end_before_ms.unwrap_or_else(|| ending::began_in_time(context)));
    let mut envelope = onward::envelope(&in_hand, &next, &context.options.pool, context.now_ms());
    envelope.headers.returned = true;
    envelope.expiration = Some(due.after_ms.max(1).to_string());
    let outgoing = onward::to(Queue::retry_after(pause), envelope, in_hand.body.clone());
    match onward::send(context, outgoing).await? {
        Sent::There => {
            in_hand.ack_elsewhere().await;
            Ok(())
        }
        // The store knows of the retry: whoever finds the delivery again tries again to publish it.
        Sent::NoQueue => ending::park(context, in_hand, &task.id).await,
        Sent::Unsendable => {
            let error = TaskError::new("executor_failed", "the retry could not be published");
            ending::end(context, in_hand, life::identity(&next), End::without_run(protocol::Outcome::Failed, error), None).await
        }
    }
}

/// Doubles with each attempt; half of it is random, so that tasks that failed together do not come back together.
fn pause_ms(context: &Context, attempt: u32) -> u64 {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(LONGEST_PAUSE);
    let jittered = doubled.mul_f64(0.5 + context.environment.random.unit() / 2.0);
    u64::try_from(jittered.as_millis()).unwrap_or(u64::MAX)
}
