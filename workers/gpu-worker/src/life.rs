//! The life of one delivery: refuse, skip, claim, run, end. The steps are DESIGN's, in order.

use std::{sync::Arc, time::Duration};

use executors::Usage;
use protocol::{
    Outcome, Task, TaskError,
    intake::{Message, Reading},
    read_task,
    reply::Timings,
};
use task_queue::Queue;
use task_store::Look;
use tokio::time::Instant;
use tracing::Instrument;

use crate::{
    beginning,
    context::Context,
    ending::{self, End, Identity},
    health,
    intake::{Deadlines, InHand},
    memory::{self, Next},
    persist::Abandoned,
    placing::{self, Placed, Slot},
    retrying,
    running::{self, Attempt},
};

/// Lives the life of one delivery. Whatever happens, the delivery is acked only when what must follow it is safe.
pub(crate) async fn live(context: Arc<Context>, mut in_hand: InHand) {
    let reading = read(&context, &in_hand);
    in_hand.deadlines = deadlines(&context, &in_hand, &reading);
    let span = tracing::debug_span!("task", task_id = %reading.task_id, gpu_id = %context.gpu_id);
    let lived = async {
        match reading.task {
            Ok(task) if in_hand.queue == Queue::Expired => expire(&context, in_hand, &task).await,
            Err(ref refusal) => {
                let refusal = refusal.clone();
                let identity = identity_of_refused(&reading, &in_hand);
                ending::refuse(&context, in_hand, identity, refusal).await
            }
            Ok(task) => steps(&context, in_hand, &task).await,
        }
    };
    if lived.instrument(span).await == Err(Abandoned) {
        tracing::debug!("left unacked: the broker will deliver it again");
    }
}

fn read(context: &Context, in_hand: &InHand) -> Reading {
    let fresh_id = || context.environment.fresh_task_id();
    let message = Message { envelope: &in_hand.envelope, body: &in_hand.body, delivery: in_hand.id };
    read_task(message, context.options.intake, context.now_ms(), fresh_id)
}

/// What the broker took out of a queue because its time had run out has lost the property that said so, and must never start.
fn deadlines(context: &Context, in_hand: &InHand, reading: &Reading) -> Deadlines {
    let Ok(task) = &reading.task else { return Deadlines::default() };
    let start_before_ms = if in_hand.queue == Queue::Expired { Some(context.now_ms()) } else { task.start_before_ms };
    Deadlines { start_before_ms, end_before_ms: task.end_before_ms }
}

async fn steps(context: &Arc<Context>, in_hand: InHand, task: &Task) -> Result<(), Abandoned> {
    if let Some(look) = look(context, &in_hand, task).await? {
        return no_run(context, in_hand, task, look).await;
    }
    match placing::place(context, &in_hand, task).await? {
        Placed::Here(slot) => run_here(context, in_hand, task, slot).await,
        Placed::Sent => {
            in_hand.ack_elsewhere().await;
            Ok(())
        }
        Placed::Ends(Some(error)) => ending::end(context, in_hand, identity(task), End::without_run(Outcome::Failed, error), None).await,
        Placed::Ends(None) => ending::end(context, in_hand, identity(task), End::expired(), None).await,
        Placed::GiveBack => {
            in_hand.give_back().await;
            Ok(())
        }
    }
}

/// Looks in the store first where the task may have a history. A fresh delivery need not: `begin` finds the same, one round trip later.
async fn look(context: &Context, in_hand: &InHand, task: &Task) -> Result<Option<Look>, Abandoned> {
    if !(in_hand.redelivered || in_hand.envelope.headers.returned || task.attempt > 1) {
        return Ok(None);
    }
    Ok(match ending::look(context, &identity(task)).await? {
        Look::Open => None,
        look => Some(look),
    })
}

/// What needs no run.
pub(crate) async fn no_run(context: &Context, in_hand: InHand, task: &Task, look: Look) -> Result<(), Abandoned> {
    match look {
        Look::Ended(stored) => ending::resend(context, in_hand, identity(task), stored).await,
        Look::Cancelled => {
            let error = TaskError::new("cancelled", "the task was cancelled before it began");
            ending::end(context, in_hand, identity(task), End::without_run(Outcome::Cancelled, error), None).await
        }
        Look::ReusedId => ending::refuse_reused_id(context, in_hand, identity(task)).await,
        Look::Retried(due) => retrying::publish(context, in_hand, task, due).await,
        Look::Open => ending::park(context, in_hand, &task.id).await,
    }
}

async fn run_here(context: &Arc<Context>, in_hand: InHand, task: &Task, mut slot: Slot) -> Result<(), Abandoned> {
    let waited = in_hand.received.elapsed();
    let begun = beginning::begin(context, task, &in_hand, &mut slot).await;
    observe_waits(context, &in_hand, waited.as_secs_f64());
    // Only now: beginning may have exchanged the claim for another.
    let claim = slot.claim.clone();
    let ran = match begun {
        Ok(not_begun) => run_and_end(context, in_hand, task, Turn { slot, waited, not_begun }).await,
        Err(Abandoned) => Err(Abandoned),
    };
    if ran == Err(Abandoned) {
        // Wherever it was abandoned: what has ended or was superseded cannot be handed back.
        context.held.remove(&claim);
        // One that may have cost this process its GPU is left as a crash leaves it: the next worker runs it alone.
        if !context.lost.get().is_some_and(|lost| lost.by_a_task) {
            beginning::hand_back(context, task, claim.token).await;
        }
    }
    ran
}

/// A task whose turn has come.
struct Turn {
    slot: Slot,
    /// From its receipt until it was to begin.
    waited: Duration,
    /// What happens instead of a run.
    not_begun: Option<Attempt>,
}

async fn run_and_end(context: &Arc<Context>, in_hand: InHand, task: &Task, turn: Turn) -> Result<(), Abandoned> {
    let Turn { slot, waited, not_begun } = turn;
    let (started, usage) = (Instant::now(), Usage::default());
    let attempt = match not_begun {
        Some(attempt) => attempt,
        None => run_and_stay_acked(context, &in_hand, (task, &usage), &slot).await?,
    };
    match &attempt {
        Attempt::Succeeded(_) => {
            context.health.succeeded();
            context.learnt.took(&task.kind, usage.peak_mb());
        }
        Attempt::Failed(error) => health::failed(context, &task.id, &format!("{}: {}", error.code, error.message)).await,
        _ => {}
    }
    let timings = Timings { waited_ms: millis(waited), run_ms: millis(started.elapsed()), device_ms: usage.device_time().map(millis) };
    let end = |outcome, result, error| End { outcome, result, error, timings };
    let end = match attempt {
        Attempt::Succeeded(result) => end(Outcome::Succeeded, result, None),
        Attempt::Failed(error) if task.attempt < retrying::attempts_max(task) => {
            return retrying::retry(context, in_hand, task, slot, error).await;
        }
        // Too little memory is no fault of the GPU.
        Attempt::OutOfMemory(error, wanted_mb) if task.attempt < retrying::attempts_max(task) => {
            match memory::next(context, task, error, wanted_mb).await {
                Next::Retry(task, error) => return retrying::retry(context, in_hand, &task, slot, error).await,
                Next::End(error) => end(Outcome::Failed, serde_json::Value::Null, Some(error)),
            }
        }
        Attempt::Failed(error) | Attempt::FailedForGood(error) | Attempt::OutOfMemory(error, _) => {
            end(Outcome::Failed, serde_json::Value::Null, Some(error))
        }
        Attempt::Cancelled => {
            let error = TaskError::new("cancelled", "the task was cancelled while it ran");
            end(Outcome::Cancelled, serde_json::Value::Null, Some(error))
        }
        Attempt::DeadlinePassed => {
            let error = TaskError::new("deadline", "the task's total deadline passed while it ran");
            end(Outcome::Expired, serde_json::Value::Null, Some(error))
        }
        Attempt::NotBegun(look) => {
            ending::finish(context, slot).await;
            return no_run(context, in_hand, task, look).await;
        }
        Attempt::Superseded => {
            ending::finish(context, slot).await;
            return ending::park(context, in_hand, &task.id).await;
        }
        Attempt::TooLate => End::expired(),
        Attempt::GivenBack => {
            ending::finish(context, slot).await;
            in_hand.give_back().await;
            return Ok(());
        }
        Attempt::Condemned(crashes) => return ending::quarantine(context, in_hand, task, &crashes, slot).await,
    };
    ending::end(context, in_hand, identity(task), end, Some(slot)).await
}

/// Runs the attempt. One that takes long does not keep its delivery for so long that the broker loses patience: a copy goes round through a retry queue (where
/// every worker finds the task held) and is there if this worker dies.
async fn run_and_stay_acked(
    context: &Context,
    in_hand: &InHand,
    (task, usage): (&Task, &Usage),
    slot: &Slot,
) -> Result<Attempt, Abandoned> {
    let mut running = std::pin::pin!(running::run(context, task, in_hand, slot, usage));
    tokio::select! {
        biased;
        attempt = &mut running => return attempt,
        () = tokio::time::sleep(context.options.unacked.saturating_sub(in_hand.received.elapsed())) => {}
    }
    let left = tokio::select! {
        biased;
        attempt = &mut running => return attempt,
        left = ending::leave_copy(context, in_hand, &task.id) => left,
    };
    if left.is_err() {
        return running.await;
    }
    tracing::debug!(task_id = %task.id, "runs for long; its delivery is exchanged for a copy in a retry queue");
    // Both to their ends: an ack that was dropped half-way would be none.
    tokio::join!(running, in_hand.ack_early()).0
}

/// A task that the broker took out of a queue because its time had run out there.
async fn expire(context: &Context, in_hand: InHand, task: &Task) -> Result<(), Abandoned> {
    match ending::look(context, &identity(task)).await? {
        Look::Open => ending::end(context, in_hand, identity(task), End::expired(), None).await,
        look => no_run(context, in_hand, task, look).await,
    }
}

fn observe_waits(context: &Context, in_hand: &InHand, waited_seconds: f64) {
    context.metrics.in_hand_seconds.observe(waited_seconds);
    if let Some(published) = in_hand.envelope.timestamp {
        let published_ms = published.saturating_mul(1_000);
        context.metrics.queue_wait_seconds.observe(context.now_ms().saturating_sub(published_ms) as f64 / 1_000.0);
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

pub(crate) fn identity(task: &Task) -> Identity {
    Identity { task_id: task.id.clone(), body_hash: task.body_hash.clone(), kind: Some(task.kind.clone()), attempt: task.attempt }
}

fn identity_of_refused(reading: &Reading, in_hand: &InHand) -> Identity {
    Identity {
        task_id: reading.task_id.clone(),
        body_hash: reading.body_hash.clone(),
        kind: in_hand.envelope.kind.as_deref().and_then(|kind| protocol::Kind::new(kind).ok()),
        attempt: in_hand.envelope.headers.attempt.unwrap_or(1),
    }
}
