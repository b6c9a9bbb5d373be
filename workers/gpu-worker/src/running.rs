//! Running one attempt: the executor under its time limits.

use std::{convert::Infallible, panic::AssertUnwindSafe, pin::pin, time::Duration};

use executors::{Failure, Usage};
use futures::FutureExt;
use protocol::{Task, TaskError};
use serde_json::Value;
use task_store::{Crash, Look};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{context::Context, intake::InHand, memory::Trying, persist::Abandoned, placing::Slot, progress::Relay};

/// How long an executor whose time is up may take to notice.
pub(crate) const NOTICE: Duration = Duration::from_secs(5);
/// How soon the loss of a GPU is told.
const LOSS_TOLD: Duration = Duration::from_secs(15);
/// How often a running task is looked up for a cancel.
const CANCEL_LOOK: Duration = Duration::from_millis(500);

/// What became of an attempt.
pub(crate) enum Attempt {
    /// It gave a result.
    Succeeded(Value),
    /// It failed, or its attempt limit passed; another try may mend it.
    Failed(TaskError),
    /// The GPU had too little memory for it, whatever was tried; what it needed, in MB, where that is known.
    OutOfMemory(TaskError, Option<u64>),
    /// It failed, and no other try would mend it.
    FailedForGood(TaskError),
    /// A cancel was asked for while it ran.
    Cancelled,
    /// The task's total deadline passed while it ran.
    DeadlinePassed,
    /// It did not begin: the store says why.
    NotBegun(Look),
    /// It did not begin: an attempt with a higher token did.
    Superseded,
    /// It did not begin: its queue deadline passed while it waited to run alone.
    TooLate,
    /// It did not begin: the worker drains, or it waited for too long to run alone. Its delivery goes back.
    GivenBack,
    /// It did not begin, and never will: its crashes are used up.
    Condemned(Vec<Crash>),
}

/// Runs the attempt under the claim of `slot`, and hands on what it reports.
pub(crate) async fn run(context: &Context, task: &Task, in_hand: &InHand, slot: &Slot, usage: &Usage) -> Result<Attempt, Abandoned> {
    let Some(executor) = context.executors.get(&task.kind) else {
        let message = format!("this worker runs no kind {:?}", task.kind.as_str());
        return Ok(Attempt::FailedForGood(TaskError::new("unknown_kind", message)));
    };
    let limit = Limit::of(context, task);
    let cancel = CancellationToken::new();
    let relay = Relay::new(context, task, in_hand, slot.claim.token);
    let (report, reports) = relay.reports();
    let mut relaying = pin!(relay.run(reports));
    let trying = Trying { context, executor: executor.as_ref(), task, cancel: cancel.clone(), report, usage };
    let mut running = pin!(AssertUnwindSafe(trying.with_what_memory_there_is()).catch_unwind());
    let started = Instant::now();
    let mut relayed = false;
    let ended = tokio::select! {
        biased;
        () = context.stop.now.cancelled() => Ended::Early(Err(Abandoned)),
        ended = &mut running => Ended::ByItself(ended),
        () = tokio::time::sleep(limit.after) => Ended::Early(Ok(limit.passed())),
        () = cancel_asked(context, task) => Ended::Early(Ok(Attempt::Cancelled)),
        never = beside(&mut relaying, &mut relayed) => match never {},
    };
    if matches!(ended, Ended::Early(_)) {
        cancel.cancel();
        // What it gives now is too late; but it should let go of the GPU before the slot is given away.
        if tokio::time::timeout(NOTICE, &mut running).await.is_err() {
            context.metrics.cancel_ignored.inc();
            tracing::warn!(task_id = %task.id, kind = %task.kind, "the executor did not end when asked to; it was dropped");
        }
    }
    context.metrics.ran(task.kind.as_str(), started.elapsed().as_secs_f64());
    if !relayed && !context.stop.now.is_cancelled() {
        relay.finish(relaying).await;
    }
    match ended {
        Ended::ByItself(Ok(Ok(result))) => Ok(Attempt::Succeeded(result)),
        // What it says of itself is worth nothing: any task on the GPU may have done it.
        Ended::ByItself(_) if context.device.is_lost() => {
            // The watch of the GPU tells why, and ends this worker. Where it does not, this attempt's delivery still goes back.
            let _ = tokio::time::timeout(LOSS_TOLD, context.stop.now.cancelled()).await;
            context.stop.now.cancel();
            Err(Abandoned)
        }
        Ended::ByItself(Ok(Err(failure))) if failure.code == Failure::OUT_OF_MEMORY && failure.retry => {
            let wanted_mb = failure.memory_mb;
            Ok(Attempt::OutOfMemory(error_of(failure), wanted_mb))
        }
        Ended::ByItself(Ok(Err(failure))) if failure.retry => Ok(Attempt::Failed(error_of(failure))),
        Ended::ByItself(Ok(Err(failure))) => Ok(Attempt::FailedForGood(error_of(failure))),
        Ended::ByItself(Err(panic)) => {
            Ok(Attempt::Failed(TaskError::new("executor_failed", format!("the executor panicked: {}", words(&*panic)))))
        }
        Ended::Early(attempt) => attempt,
    }
}

/// Drives what goes on beside the attempt and ends nothing; says when it is over, for nobody may drive it once more.
async fn beside(work: impl Future<Output = ()>, over: &mut bool) -> Infallible {
    work.await;
    *over = true;
    std::future::pending().await
}

/// Why an attempt is over.
enum Ended {
    ByItself(std::thread::Result<Result<Value, Failure>>),
    Early(Result<Attempt, Abandoned>),
}

/// Waits until somebody asks for the task's end. Short tasks never pay for it: the first look comes after [`CANCEL_LOOK`].
async fn cancel_asked(context: &Context, task: &Task) {
    loop {
        tokio::time::sleep(CANCEL_LOOK).await;
        match context.store.cancel_asked(&task.id).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::debug!(task_id = %task.id, %error, "not known whether it is cancelled; asks again"),
        }
    }
}

/// The time limit that comes first.
struct Limit {
    after: Duration,
    total: bool,
}

impl Limit {
    fn of(context: &Context, task: &Task) -> Self {
        let attempt = task.body.limits.attempt_timeout_ms.map_or(context.options.attempt_timeout, Duration::from_millis);
        let total = task.end_before_ms.map(|deadline| Duration::from_millis(deadline.saturating_sub(context.now_ms())));
        match total {
            Some(total) if total < attempt => Self { after: total, total: true },
            _ => Self { after: attempt, total: false },
        }
    }

    fn passed(&self) -> Attempt {
        if self.total {
            return Attempt::DeadlinePassed;
        }
        let message = format!("the attempt ran longer than its limit of {} ms", self.after.as_millis());
        Attempt::Failed(TaskError::new("attempt_timeout", message))
    }
}

fn error_of(failure: Failure) -> TaskError {
    TaskError { code: failure.code, message: failure.message, field: failure.field }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
