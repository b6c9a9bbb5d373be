//! What becomes of a delivery: decided by its life, carried out by `settle/carry_out.rs`.

use std::time::Duration;

use protocol::{
    Choice, ErrorCode, GpuId, ItemCounts, ItemResult, Json, Offer, Outcome, Refusal, Segments, Slice, Task, TaskError, Token, batch,
    reply::Timings,
};
use task_queue::Queue;
use task_store::{Crash, Look, Retry, Split, Stored};

use crate::steps::Beside;

/// How a task ended.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    pub(crate) result: Json,
    /// The raw bytes that the result refers to.
    pub(crate) segments: Segments,
    /// Of items: a list of how each came out. `null` where there is no such list.
    pub(crate) results: Json,
    /// Of items: how many ended and failed, where that is known.
    pub(crate) items: Option<ItemCounts>,
    /// Of a batch that was split: the GPUs that ran its slices, sorted.
    pub(crate) gpu_ids: Vec<GpuId>,
    pub(crate) error: Option<TaskError>,
    pub(crate) timings: Timings,
    /// What its attempt took beside its work, where that was measured.
    pub(crate) beside: Beside,
}

impl End {
    /// An end of which nothing else is known.
    pub(crate) fn of(outcome: Outcome) -> Self {
        let (gpu_ids, timings) = (Vec::new(), Timings::default());
        Self {
            outcome,
            result: Json::null(),
            segments: Segments::none(),
            results: Json::null(),
            items: None,
            gpu_ids,
            error: None,
            timings,
            beside: Beside::default(),
        }
    }

    /// The end of items that ran, each of which came out so.
    pub(crate) fn of_items(results: Vec<Result<Json, TaskError>>, timings: Timings) -> Self {
        let count = |items: usize| u32::try_from(items).unwrap_or(u32::MAX);
        let failed = results.iter().filter(|result| result.is_err()).count();
        let counts = ItemCounts { of: count(results.len()), done: count(results.len()), failed: Some(count(failed)) };
        let first_error = results.first().and_then(|first| first.as_ref().err()).filter(|_| failed == results.len()).cloned();
        let texts: Vec<Json> =
            results.into_iter().map(|result| result.map_or_else(ItemResult::failed, ItemResult::succeeded).to_json()).collect();
        let ended = first_error.map_or_else(|| Self::of(Outcome::Succeeded), Self::by);
        Self { results: batch::list(&texts), items: Some(counts), timings, ..ended }
    }

    /// The end that the error of an item says, where it stands for the whole task.
    pub(crate) fn by(error: TaskError) -> Self {
        let outcome = match ErrorCode::named(&error.code) {
            Some(ErrorCode::Deadline) => Outcome::Expired,
            Some(ErrorCode::Cancelled) => Outcome::Cancelled,
            _ => Outcome::Failed,
        };
        Self::without_run(outcome, error)
    }

    /// An end without a run.
    pub(crate) fn without_run(outcome: Outcome, error: TaskError) -> Self {
        Self { error: Some(error), ..Self::of(outcome) }
    }

    /// The total deadline of a batch passed before all of it had ended.
    pub(crate) fn batch_expired() -> Self {
        let message = "the batch's total deadline passed before all of its items had ended";
        Self::without_run(Outcome::Expired, TaskError::new(ErrorCode::Deadline, message))
    }

    /// The deadline passed before it could start.
    pub(crate) fn expired() -> Self {
        Self::without_run(Outcome::Expired, TaskError::new(ErrorCode::Deadline, "the task's deadline passed before a GPU could start it"))
    }
}

/// What an attempt ran under.
#[derive(Debug, Clone)]
pub(crate) struct Ran {
    /// What refuses a late holder.
    pub(crate) token: Token,
    /// The strategy that chose its GPU, for the reply.
    pub(crate) choice: Choice,
}

/// What becomes of a delivery.
#[derive(Debug)]
pub(crate) enum Disposition<'t> {
    /// Its task ended after a run: record, publish, ack.
    Finish(End, Ran),
    /// Its task ended without a run: record, publish, ack. An attempt that began once is fenced off first.
    EndUnrun(End),
    /// Its task had ended before: publish the stored reply again, ack. Of a slice: see to its batch, ack.
    Resend(Stored),
    /// Its attempt failed and may be mended by another: record that, publish the next one, ack.
    Retry(Retrying<'t>),
    /// Its attempt's retry is recorded: publish it (again), ack.
    PublishRetry(&'t Task, Retry),
    /// Somebody else has its task: a copy waits in a retry queue for so long, ack.
    Park(Duration),
    /// Its task goes to another queue: publish, ack.
    SendOn(Onward<'t>),
    /// It goes back to its queue, for another worker.
    GiveBack,
    /// It is no valid task: keep its bytes among the dead letters, then end it as failed.
    Refuse(Refusal),
    /// The exchange could lead it to no pool: publish it to the one that its routing key names, if that one has a queue by now, ack; else it is refused.
    Route(&'t Task),
    /// It names no pool: as [`Disposition::Refuse`], with a code of its own.
    RefuseUnknownPool(Refusal),
    /// It must not start yet: publish it to a queue in which it waits, ack.
    Delay(&'t Task),
    /// Its id is in use for another task: keep its bytes among the dead letters, answer it, record nothing.
    RefuseReusedId,
    /// It is a batch, and these slices run in its place: record that, publish them, let the batch wait for their end, ack.
    Split(&'t Task, Vec<Slice>),
    /// It is a batch that was split before: merge it if all slices have ended; else publish those that may not have been, let the batch wait for their end, ack.
    GoOnSplit(&'t Task, Split),
    /// It is a slice whose batch wants nothing of it: ack.
    Unwanted,
    /// Its worker, or the process that ran it, crashed too often while it ran: keep it among the dead letters, then end it as failed. With the words of the last crash, where it was seen
    /// here.
    Quarantine(Vec<Crash>, Option<String>),
}

impl Disposition<'_> {
    /// Its deadline passed before it could start.
    pub(crate) fn expired() -> Self {
        Self::EndUnrun(End::expired())
    }

    /// It fails without a run.
    pub(crate) fn fails(error: TaskError) -> Self {
        Self::EndUnrun(End::without_run(Outcome::Failed, error))
    }
}

impl<'t> Disposition<'t> {
    /// What follows from what the store knows of a task that is not to run. `lease`: how long somebody else may have it.
    pub(crate) fn not_run(task: &'t Task, look: Look, lease: Duration) -> Self {
        let is_slice = task.slice().is_some();
        match look {
            // Another worker's version wrote the slice's body otherwise, and that one runs.
            Look::Unwanted | Look::ReusedId if is_slice => Self::Unwanted,
            Look::Split(split) => Self::GoOnSplit(task, split),
            Look::Ended(stored) => Self::Resend(stored),
            Look::Cancelled => {
                let error = TaskError::new(ErrorCode::Cancelled, "the task was cancelled before it began");
                Self::EndUnrun(End::without_run(Outcome::Cancelled, error))
            }
            Look::ReusedId => Self::RefuseReusedId,
            Look::Retried(due) => Self::PublishRetry(task, due),
            Look::Open | Look::Unfinished(_) | Look::Unwanted => Self::Park(lease),
        }
    }
}

/// An attempt that failed and is to be followed by another.
#[derive(Debug)]
pub(crate) struct Retrying<'t> {
    pub(crate) task: &'t Task,
    /// What the next attempt needs of memory at least, in MB, where this one found that out.
    pub(crate) memory_mb: Option<u64>,
    pub(crate) error: TaskError,
    /// How long the next attempt is to wait at least, where the executor said so.
    pub(crate) after: Option<Duration>,
    pub(crate) token: Token,
    /// How long it ran, in milliseconds.
    pub(crate) run_ms: f64,
    /// What it took beside its work, where that was measured.
    pub(crate) beside: Beside,
}

/// A task's way to another queue.
#[derive(Debug)]
pub(crate) struct Onward<'t> {
    pub(crate) task: &'t Task,
    pub(crate) queue: Queue,
    /// Why, as the metric names it.
    pub(crate) reason: &'static str,
    /// The slot that is offered for it there.
    pub(crate) offer: Option<Offer>,
    /// Among how many GPUs that one was chosen, where that is known.
    pub(crate) among: Option<u32>,
    /// Since when no living GPU can run it, in Unix milliseconds; `None` where one can.
    pub(crate) unserved_since_ms: Option<u64>,
}

impl Onward<'_> {
    /// How many hops further it is then: a GPU's own queue is one.
    pub(crate) fn hops(&self) -> u32 {
        u32::from(matches!(self.queue, Queue::Gpu(_)))
    }
}
