//! The items of a task: those of a whole batch, or of a slice.
//!
//! Kinds that take several payloads at once have as many of them in hand as fit their runs, where items and payloads of other tasks come along; other kinds take one after the
//! other. An item that fails in a way that another try may mend is tried again after the others, here. If every one of them does, it is not the items: then the attempt has
//! failed, and another GPU may try.

mod so_far;

use std::{panic::AssertUnwindSafe, time::Duration};

use executors::{Failure, Report};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use protocol::{ErrorCode, Framed, Json, OnError, TaskError, batch::item_field};

pub(crate) use self::so_far::ItemsSoFar;
use super::{
    batching::{Answer, Failed},
    memory::{Gathering, Trying, Work, lacks_memory},
    running::{error_of, words},
};

/// The pause before items are tried again; it doubles with each.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause that is made because an item's failure asks for it: the attempt keeps its slot meanwhile.
const ASKED_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The items of a task that have run.
#[derive(Debug)]
pub(crate) struct ItemsRan {
    /// How each came out, in their order.
    pub(crate) results: Vec<Result<Json, TaskError>>,
    /// How many payloads ran together at most, where the kind takes several at once.
    pub(crate) batch_size: Option<u32>,
}

/// What running items came to.
pub(crate) enum CameOut {
    /// Each has its result or its error.
    All(ItemsRan),
    /// One failed for good, and the batch is to fail with it.
    One(TaskError),
}

/// Runs the items of a task.
///
/// # Errors
/// Every one of them failed in a way that another try may mend, the GPU is lost, or the process that one of them ran in crashed: that is a crash of the attempt, whichever item did it.
pub(crate) async fn run(work: &Work<'_>, payloads: &[Json], so_far: &ItemsSoFar, report: &Report) -> Result<CameOut, Failed> {
    let mut items = Items { work, payloads, so_far, report, results: payloads.iter().map(|_| None).collect() };
    let tries = work.task.body.limits.attempts_max().saturating_sub(work.task.attempt.saturating_sub(1)).max(1);
    let mut due: Vec<usize> = (0..payloads.len()).collect();
    for this_try in 1..=tries {
        let Round { again, failed_for_good } = items.round(&due).await?;
        if let Some(error) = failed_for_good {
            return Ok(CameOut::One(error));
        }
        if work.cancel.is_cancelled() {
            return Err(Failure::cancelled().into());
        }
        if this_try == 1 && again.len() == payloads.len() {
            return Err(all_failed(again));
        }
        if again.is_empty() {
            break;
        }
        if this_try == tries {
            if let Some(error) = items.give_up(again) {
                return Ok(CameOut::One(error));
            }
            break;
        }
        let pause = PAUSE.saturating_mul(1 << (this_try - 1).min(10)).max(asked_for(&again).min(ASKED_PAUSE_MAX));
        due = again.into_iter().map(|(index, _)| index).collect();
        tokio::select! {
            biased;
            () = work.cancel.cancelled() => return Err(Failure::cancelled().into()),
            () = tokio::time::sleep(pause) => {}
        }
    }
    Ok(CameOut::All(ItemsRan {
        results: items.results.into_iter().map(|result| result.unwrap_or_else(not_run)).collect(),
        batch_size: work.usage.batch_size(),
    }))
}

/// Every item has a result once the tries are over.
fn not_run() -> Result<Json, TaskError> {
    Err(TaskError::new(protocol::ErrorCode::ExecutorFailed, "the item was not run"))
}

/// The items that are run, and what became of them.
struct Items<'a> {
    work: &'a Work<'a>,
    payloads: &'a [Json],
    so_far: &'a ItemsSoFar,
    report: &'a Report,
    results: Vec<Option<Result<Json, TaskError>>>,
}

/// What one try of some items left to do.
#[derive(Default)]
struct Round {
    /// Those that failed, and may not the next time.
    again: Vec<(usize, Failed)>,
    /// With `on_error: fail`: the first that failed for good.
    failed_for_good: Option<TaskError>,
}

impl Items<'_> {
    /// Tries each of these items once.
    async fn round(&mut self, due: &[usize]) -> Result<Round, Failed> {
        let (work, payloads) = (self.work, self.payloads);
        let width = work.gathering.map_or(1, Gathering::width);
        let mut waiting = due.iter().copied();
        // The executor is asked about each item once: when it is the next.
        let with_gathering = |index: usize| (index, work.gathering_of(&payloads[index]));
        let mut next = waiting.next().map(with_gathering);
        let mut running = FuturesUnordered::new();
        // An item that runs by itself does so beside no other.
        let mut alone = false;
        let mut round = Round::default();
        loop {
            while let Some((index, gathering)) = next {
                let gathers = gathering.is_some();
                let has_room = if gathers { !alone && running.len() < width } else { running.is_empty() };
                if work.cancel.is_cancelled() || !has_room {
                    break;
                }
                next = waiting.next().map(with_gathering);
                alone = !gathers;
                let report = if gathers { Report::to_nobody() } else { self.report_of_one() };
                let item = Some(self.so_far.absolute(index));
                running.push(one(Trying { work, payload: &payloads[index], gathering, report, item }, index));
            }
            let Some((index, answer)) = running.next().await else { return Ok(round) };
            alone = false;
            match answer {
                Ok(Framed { json, segments }) if segments.is_empty() => self.ended(index, Ok(json)),
                Ok(_) => {
                    round.failed_for_good = self.failed_for_good(index, no_room_for_segments());
                    if round.failed_for_good.is_some() {
                        return Ok(round);
                    }
                }
                Err(failed) if failed.failure.crashed || work.context.gpu.device.is_lost() => return Err(failed),
                // All of them wait, not this one alone.
                Err(failed) if work.tensors.is_some_and(|tensors| tensors.is_waited_for(&failed.failure)) => return Err(failed),
                Err(failed) if failed.failure.retry => round.again.push((index, failed)),
                Err(failed) => {
                    round.failed_for_good = self.failed_for_good(index, failed.failure);
                    if round.failed_for_good.is_some() {
                        return Ok(round);
                    }
                }
            }
        }
    }

    /// A report of one item, which begins where those before it have ended.
    fn report_of_one(&self) -> Report {
        let of = self.payloads.len() as f64;
        self.report.of_piece(f64::from(self.so_far.own().done) / of, 1.0 / of)
    }

    fn ended(&mut self, index: usize, result: Result<Json, TaskError>) {
        self.so_far.ended(index, &result);
        let counts = self.so_far.own();
        self.report.progress(f64::from(counts.done) / f64::from(counts.of.max(1)), "");
        self.results[index] = Some(result);
    }

    /// Its error, where the whole batch is to fail with it.
    fn failed_for_good(&mut self, index: usize, failure: Failure) -> Option<TaskError> {
        let error = error_of(failure);
        let field = item_field(self.so_far.absolute(index), error.field.as_deref());
        let error = error.at(field);
        if self.work.task.body.on_error == OnError::Fail {
            return Some(error);
        }
        self.ended(index, Err(error));
        None
    }

    /// The tries are over: what failed now has failed for good.
    fn give_up(&mut self, failed: Vec<(usize, Failed)>) -> Option<TaskError> {
        failed.into_iter().find_map(|(index, failed)| self.failed_for_good(index, failed.failure))
    }
}

/// Results of items are merged as JSON alone.
fn no_room_for_segments() -> Failure {
    let message = "the result has raw bytes, which the results of a batch cannot carry; submit the item as a task of its own";
    Failure { code: ErrorCode::ExecutorFailed.into(), retry: false, ..Failure::transient(message) }
}

/// Runs one item. Its panic is its own.
async fn one(trying: Trying<'_>, index: usize) -> (usize, Answer) {
    let ended = AssertUnwindSafe(trying.with_what_memory_there_is()).catch_unwind().await;
    (index, ended.unwrap_or_else(|panic| Err(Failure::transient(format!("the executor panicked: {}", words(&*panic))).into())))
}

/// How long the failures of these items ask to wait before another try.
fn asked_for(failed: &[(usize, Failed)]) -> Duration {
    Duration::from_millis(retry_after_ms(failed).unwrap_or(0))
}

fn retry_after_ms(failed: &[(usize, Failed)]) -> Option<u64> {
    failed.iter().filter_map(|(_, failed)| failed.failure.retry_after_ms).max()
}

/// The failure of an attempt all of whose items failed. Where all lacked the memory, a GPU that has it for the largest may do.
fn all_failed(failed: Vec<(usize, Failed)>) -> Failed {
    let of = failed.len();
    let beside = failed.iter().all(|(_, failed)| failed.beside);
    let memory_mb = failed.iter().filter_map(|(_, failed)| failed.failure.memory_mb).max();
    let retry_after_ms = retry_after_ms(&failed);
    let other = failed.iter().find(|(_, failed)| !lacks_memory(&failed.failure)).or(failed.first());
    let failure = other.map_or_else(|| Failure::transient("no item ran"), |(_, failed)| failed.failure.clone());
    let message = format!("each of the {of} items failed: {}", failure.message);
    Failed { failure: Failure { message, field: None, memory_mb, retry_after_ms, ..failure }, beside }
}
