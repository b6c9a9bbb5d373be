//! Running one attempt: the executor under its time limits.

use std::{convert::Infallible, panic::AssertUnwindSafe, pin::pin, time::Duration};

use executors::{Executor, Failure, Report, Usage};
use futures::FutureExt;
use protocol::{ErrorCode, Framed, Task, TaskError, Token};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    batching::Failed,
    items::{self, CameOut, ItemsRan, ItemsSoFar},
    memory::{Gathering, Trying, Work, lacks_memory},
    progress::Relay,
    tensors::{AttemptTensors, is_of_data},
};
use crate::{
    context::Context,
    data::asked::AskedTensors,
    delivery::{
        InHand,
        onward::{self, WaitsFor},
    },
    ports::Abandoned,
};

/// How long an executor may take to notice that its worker ends at once, whatever it says of itself.
pub(crate) const NOTICE: Duration = Duration::from_secs(5);
/// How soon the loss of a GPU is told.
const LOSS_TOLD: Duration = Duration::from_secs(15);
/// How often a running task is looked up for a cancel.
const CANCEL_LOOK: Duration = Duration::from_millis(500);

/// How an attempt came out.
pub(crate) enum Outcome {
    /// It gave a result.
    Succeeded(Framed),
    /// Its items ran; each has its own result or error.
    Items(ItemsRan),
    /// One of its items failed for good, and the batch is to fail with it.
    ItemFailed(TaskError),
    /// It failed, or its attempt limit passed; another try may mend it, after so long at least where the executor said that.
    Failed(TaskError, Option<Duration>),
    /// As [`Outcome::Failed`], and it says nothing of the GPU: its run failed as a whole, and another of its members stands for that, or its data did not arrive.
    FailedBeside(TaskError, Option<Duration>),
    /// The process that it ran in is gone, and this worker lives: whatever else ran there may have done it.
    Crashed(TaskError),
    /// The GPU had too little memory for it, whatever was tried; what it needed, in MB, where that is known.
    OutOfMemory(TaskError, Option<u64>),
    /// A tensor that was there is gone, and the task is to wait until it is there again.
    TensorMissing(TaskError),
    /// It failed, and no other try would mend it.
    FailedForGood(TaskError),
    /// A cancel was asked for while it ran.
    Cancelled,
    /// The task's total deadline passed while it ran.
    DeadlinePassed,
}

/// What an attempt runs with.
#[derive(Clone, Copy)]
pub(crate) struct RunsWith<'a> {
    pub(crate) usage: &'a Usage,
    /// Where its payloads may run together with others.
    pub(crate) gathering: Option<&'a Gathering>,
    /// What it asks of tensors. `None`: nothing.
    pub(crate) tensors: Option<&'a AskedTensors>,
}

/// Runs the attempt. One that takes long does not keep its delivery for so long that the broker loses patience: a copy goes round through a retry queue (where
/// every worker finds the task held) and is there if this worker dies.
pub(crate) async fn run(context: &Context, task: &Task, in_hand: &InHand, token: Token, with: RunsWith<'_>) -> Result<Outcome, Abandoned> {
    let mut running = pin!(run_in_time(context, task, in_hand, token, with));
    let options = &context.me.options;
    tokio::select! {
        biased;
        outcome = &mut running => return outcome,
        () = tokio::time::sleep(options.unacked.saturating_sub(in_hand.received.elapsed())) => {}
    }
    let copy = onward::waiting(in_hand, &task.id, (true, WaitsFor::ItsEnd), (&options.pool, options.lease), context.ports.now_ms());
    let left = tokio::select! {
        biased;
        outcome = &mut running => return outcome,
        left = context.ports.publish_surely(&copy, options.lease) => left,
    };
    if left.is_err() {
        return running.await;
    }
    tracing::debug!(task_id = %task.id, "runs for long; its delivery is exchanged for a copy in a retry queue");
    // Both to their ends: an ack that was dropped half-way would be none.
    tokio::join!(running, in_hand.ack_elsewhere()).0
}

/// Runs the attempt within its limits, and hands on what it reports.
async fn run_in_time(context: &Context, task: &Task, in_hand: &InHand, token: Token, with: RunsWith<'_>) -> Result<Outcome, Abandoned> {
    let Some(executor) = context.gpu.executors.get(&task.kind) else {
        let message = format!("this worker runs no kind {:?}", task.kind.as_str());
        return Ok(Outcome::FailedForGood(TaskError::new(ErrorCode::UnknownKind, message)));
    };
    let limit = Limit::of(context, task);
    let cancel = CancellationToken::new();
    let relay = Relay::new(context, task, in_hand, token);
    let (report, reports) = relay.reports();
    let mut relaying = pin!(relay.run(reports));
    let RunsWith { usage, gathering, tensors } = with;
    let tensors = tensors.map(|asked| AttemptTensors::new(context, task, asked, token));
    let given = context.gpu.plain_tensors();
    let work =
        Work { context, executor: executor.as_ref(), task, gathering, cancel: cancel.clone(), usage, tensors: tensors.as_ref(), given };
    let mut running = pin!(AssertUnwindSafe(gave(&work, relay.items(), report)).catch_unwind());
    let started = Instant::now();
    let mut relayed = false;
    let ended = tokio::select! {
        biased;
        () = context.ports.stop.now.cancelled() => Ended::Early(Err(Abandoned)),
        ended = &mut running => Ended::ByItself(ended),
        () = tokio::time::sleep(limit.after) => Ended::Early(Ok(limit.passed())),
        () = cancel_asked(context, task) => Ended::Early(Ok(Outcome::Cancelled)),
        never = beside(&mut relaying, &mut relayed) => match never {},
    };
    if matches!(ended, Ended::Early(_)) {
        cancel.cancel();
        // What it gives now is too late; but it should let go of the GPU before the slot is given away.
        if !lets_go(context, executor.as_ref(), &mut running).await {
            context.metrics.cancel_ignored.inc();
            tracing::warn!(task_id = %task.id, kind = %task.kind, "the executor did not end when asked to; it was dropped");
        }
    }
    let took = started.elapsed();
    context.metrics.ran(task.kind.as_str(), took.as_secs_f64());
    if let Ended::ByItself(Ok(Ok(gave))) = &ended {
        learn(context, task, (gave, with), took);
    }
    if !relayed && !context.ports.stop.now.is_cancelled() {
        relay.finish(relaying).await;
    }
    match ended {
        Ended::ByItself(Ok(Ok(gave))) => Ok(gave.into()),
        // What it says of itself is worth nothing: any task on the GPU may have done it.
        Ended::ByItself(_) if context.gpu.device.is_lost() => {
            // The watch of the GPU tells why, and ends this worker. Where it does not, this attempt's delivery still goes back.
            let _ = tokio::time::timeout(LOSS_TOLD, context.ports.stop.now.cancelled()).await;
            context.ports.stop.now.cancel();
            Err(Abandoned)
        }
        Ended::ByItself(Ok(Err(failed))) if tensors.as_ref().is_some_and(|tensors| tensors.is_waited_for(&failed.failure)) => {
            Ok(Outcome::TensorMissing(error_of(failed.failure)))
        }
        Ended::ByItself(Ok(Err(failed))) => Ok(failed.into()),
        Ended::ByItself(Err(panic)) => {
            let message = format!("the executor panicked: {}", words(&*panic));
            Ok(Outcome::Failed(TaskError::new(ErrorCode::ExecutorFailed, message), None))
        }
        Ended::Early(attempt) => attempt,
    }
}

/// Waits until a run that was asked to end has ended, for as long as its executor may take. Whether it has.
async fn lets_go(context: &Context, executor: &dyn Executor, running: impl Future) -> bool {
    let patience = executor.notice();
    let stopped = async {
        context.ports.stop.now.cancelled().await;
        tokio::time::sleep(NOTICE.min(patience)).await;
    };
    tokio::select! {
        biased;
        _ = running => true,
        () = tokio::time::sleep(patience) => false,
        () = stopped => false,
    }
}

/// What an attempt gave that did not fail.
enum Gave {
    Result(Framed),
    Items(CameOut),
}

/// Remembers how long the kind takes: attempts for the look-ahead, runs for people.
fn learn(context: &Context, task: &Task, (gave, with): (&Gave, RunsWith<'_>), took: Duration) {
    let usage = with.usage;
    let ran = usage.run_time().unwrap_or(took);
    // How long its tensors were on their way says nothing of the next task.
    let took = if with.tensors.is_some() { ran } else { took };
    match gave {
        Gave::Result(_) => {
            // What was gathered waited before its run, which does not say how long the next task takes. Without a forecast nothing is fetched ahead; kinds that gather have slots for
            // that.
            if usage.batch_size().is_none() {
                context.gpu.forecast.ended_alone(&task.kind, took);
            }
            context.gpu.forecast.ran(&task.kind, ran);
        }
        Gave::Items(CameOut::All(items_ran)) if items_ran.results.iter().any(Result::is_ok) => {
            let items = u32::try_from(items_ran.results.len()).unwrap_or(u32::MAX);
            context.items_ran(&task.kind, items, took);
            context.gpu.forecast.ran(&task.kind, ran / items.max(1));
        }
        Gave::Items(_) => {}
    }
}

/// Runs the task's payload, or its items.
async fn gave(work: &Work<'_>, items: Option<&ItemsSoFar>, report: Report) -> Result<Gave, Failed> {
    match (&work.task.body.items, items) {
        (Some(payloads), Some(so_far)) => Ok(Gave::Items(Box::pin(items::run(work, payloads, so_far, &report)).await?)),
        _ => {
            let trying = Trying { work, payload: &work.task.body.payload, gathering: work.gathering, report, item: None };
            Ok(Gave::Result(trying.with_what_memory_there_is().await?))
        }
    }
}

impl From<Gave> for Outcome {
    fn from(gave: Gave) -> Self {
        match gave {
            Gave::Result(result) => Self::Succeeded(result),
            Gave::Items(CameOut::All(ran)) => Self::Items(ran),
            Gave::Items(CameOut::One(error)) => Self::ItemFailed(error),
        }
    }
}

impl From<Failed> for Outcome {
    fn from(failed: Failed) -> Self {
        let Failed { failure, beside } = failed;
        let beside = beside || is_of_data(&failure);
        if failure.crashed {
            return Self::Crashed(error_of(failure));
        }
        if lacks_memory(&failure) {
            let wanted_mb = failure.memory_mb;
            return Self::OutOfMemory(error_of(failure), wanted_mb);
        }
        let after = failure.retry_after_ms.map(Duration::from_millis);
        match (failure.retry, beside) {
            (false, _) => Self::FailedForGood(error_of(failure)),
            (true, false) => Self::Failed(error_of(failure), after),
            (true, true) => Self::FailedBeside(error_of(failure), after),
        }
    }
}

/// Drives the relay of reports beside the attempt, and never returns: the attempt ends the wait. `over` is set once the relay has come to its end, since a future that has
/// ended must not be polled again.
async fn beside(work: impl Future<Output = ()>, over: &mut bool) -> Infallible {
    work.await;
    *over = true;
    std::future::pending().await
}

/// Why an attempt is over.
enum Ended {
    ByItself(std::thread::Result<Result<Gave, Failed>>),
    Early(Result<Outcome, Abandoned>),
}

/// Waits until somebody asks for the task's end. Short tasks never pay for it: the first look comes after [`CANCEL_LOOK`].
async fn cancel_asked(context: &Context, task: &Task) {
    loop {
        tokio::time::sleep(CANCEL_LOOK).await;
        if context.ports.cancel_asked(&task.id).await {
            return;
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
        let attempt = task.body.limits.attempt_timeout_ms.map_or(context.me.options.attempt_timeout, Duration::from_millis);
        let total = task.end_before_ms.map(|deadline| Duration::from_millis(deadline.saturating_sub(context.ports.now_ms())));
        match total {
            Some(total) if total < attempt => Self { after: total, total: true },
            _ => Self { after: attempt, total: false },
        }
    }

    fn passed(&self) -> Outcome {
        if self.total {
            return Outcome::DeadlinePassed;
        }
        let message = format!("the attempt ran longer than its limit of {} ms", self.after.as_millis());
        Outcome::Failed(TaskError::new(ErrorCode::AttemptTimeout, message), None)
    }
}

pub(super) fn error_of(failure: Failure) -> TaskError {
    TaskError { code: failure.code, message: failure.message, field: failure.field }
}

pub(super) fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
