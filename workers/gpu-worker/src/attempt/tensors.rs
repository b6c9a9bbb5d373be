//! The tensors of an attempt.
//!
//! ```text
//!  slot ─► inputs are brought to this GPU ─► executor ─► outputs are kept ─► result
//!                                                         │ by the executor itself, of kinds that compute with tensors
//!                                                         └ here, of all others: the raw bytes that their result refers to (`keeping.rs`)
//! ```
//! A kind that takes raw bytes is given a task of its own making, in which segments stand in the place of tensors; the task as it was published is never changed. What is brought is in use until the payload has
//! run, so nobody evicts it. The time for it counts for the attempt's limit, and not as a run of the kind.

mod keeping;
mod rewriting;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use executors::{Failure, Keeping, KeptSoFar, RunTensors, TakesTensors, failure_of};
use futures::future::try_join_all;
use protocol::{ErrorCode, Json, OnMissing, SegmentRef, Segments, Task, TaskBody, TensorRecord, TensorRef, Token, frame::SEGMENTS_MAX};
use tensors::{DataError, KeepError, Moving, Tensor};
use tokio::time::Instant;

use super::{
    batching::Answer,
    memory::{Trying, Work},
};
use crate::{
    context::Context,
    data::{Data, asked::AskedTensors},
};

/// How many tensors of one payload are brought at once.
const BROUGHT_AT_ONCE: usize = 8;
/// How often the table is asked where they are, while it does not answer.
const LOOKS_MAX: u32 = 5;
/// The pause after the first such look; it doubles with each.
const PAUSE: Duration = Duration::from_millis(50);
/// Most bytes of tensors that a payload may name of a kind that takes them as raw bytes: all of them lie in the host's memory while it runs.
const AS_SEGMENTS_BYTES_MAX: u64 = 1 << 30;

/// The tensors of one attempt.
pub(crate) struct AttemptTensors<'a> {
    context: &'a Context,
    task: &'a Task,
    asked: &'a AskedTensors,
    /// The version of what it keeps.
    token: Token,
}

/// Inputs on this GPU, by what the payload says.
type Inputs = BTreeMap<TensorRef, Arc<Tensor>>;

/// Whether a failure is one of the fleet's data: it says nothing of the GPU.
pub(crate) fn is_of_data(failure: &Failure) -> bool {
    let code = ErrorCode::named(&failure.code);
    matches!(code, Some(ErrorCode::TensorMissing | ErrorCode::TensorExists | ErrorCode::TensorsFull | ErrorCode::TransferFailed))
}

impl<'a> AttemptTensors<'a> {
    pub(crate) const fn new(context: &'a Context, task: &'a Task, asked: &'a AskedTensors, token: Token) -> Self {
        Self { context, task, asked, token }
    }

    /// Whether a payload failed for want of a tensor, and its task is to wait until that is there. A task of which it is not known which ones it needs would not wait, but run again and again.
    pub(super) fn is_waited_for(&self, failure: &Failure) -> bool {
        let is_missing = failure.code == ErrorCode::TensorMissing.name();
        is_missing && self.task.body.on_missing == OnMissing::Wait && !self.asked.references.is_empty()
    }

    /// Runs a payload, once what it names is here, and sees to it that what is to stay does. Where it fails nothing of it stays.
    pub(super) async fn run(&self, trying: Trying<'_>) -> Answer {
        let Some(data) = self.context.gpu.data.get() else { return Err(self.nothing_is_kept_here().into()) };
        let keeping = self.keeping(trying.item);
        let answer = self.run_and_keep(data, &trying, keeping.as_ref()).await;
        // What comes after the attempt was ended is no result of it.
        if (answer.is_err() || trying.work.cancel.is_cancelled())
            && let Some(keeping) = &keeping
        {
            keeping::let_go(&data.plane, keeping).await;
        }
        answer
    }

    async fn run_and_keep(&self, data: &Data, trying: &Trying<'_>, keeping: Option<&Keeping>) -> Answer {
        let asked = Instant::now();
        let inputs = self.bring(data, trying).await?;
        trying.work.usage.brought_for(asked.elapsed());
        if self.asked.takes == TakesTensors::OnGpu {
            let given = RunTensors::new(Arc::clone(&data.plane), inputs, keeping.cloned());
            let result = run_within(trying, (self.task, trying.payload), given).await?;
            let Some(keeping) = keeping else { return Ok(result) };
            return match keeping::check_all_kept(keeping) {
                // A program that takes tensors where they lie gives its outputs as raw bytes all the same.
                Err(_) if !result.segments.is_empty() => Ok(keeping::keep_segments(&data.plane, keeping, result).await?),
                Err(failure) => Err(failure.into()),
                Ok(()) => Ok(result),
            };
        }
        let result = if inputs.is_empty() {
            run_within(trying, (self.task, trying.payload), data.plain.clone()).await?
        } else {
            let task = as_segments(data, &inputs, (self.task, trying.payload)).await?;
            // Its bytes have been read: the tensors need not stay for it.
            drop(inputs);
            run_within(trying, (&task, &task.body.payload), data.plain.clone()).await?
        };
        match keeping {
            Some(keeping) => Ok(keeping::keep_segments(&data.plane, keeping, result).await?),
            None => Ok(result),
        }
    }

    fn nothing_is_kept_here(&self) -> Failure {
        let message = format!("GPU {} keeps no tensors, and the task names or keeps some", self.context.me.gpu_id);
        Failure { code: ErrorCode::TransferFailed.into(), ..Failure::transient(message) }
    }

    /// How the outputs of a payload are kept; `None`: they are part of the result.
    fn keeping(&self, item: Option<u32>) -> Option<Keeping> {
        let keep_as = self.task.body.keep_as.clone()?;
        let item = item.and_then(|item| usize::try_from(item).ok());
        // All slices of a batch are of one owner: another cut of it replaces what the first has left.
        Some(Keeping { keep_as, owner: self.task.id.batch().to_string(), version: self.token.0, item, kept: KeptSoFar::default() })
    }

    /// Brings what a payload names to this GPU. Where there is too little memory, what is kept to save time makes way.
    async fn bring(&self, data: &Data, trying: &Trying<'_>) -> Result<Inputs, Failure> {
        let references = match (self.asked.takes, trying.item) {
            (TakesTensors::No | TakesTensors::ByName, _) => return Ok(Inputs::new()),
            (_, None) => self.asked.references.clone(),
            (_, Some(_)) => TensorRef::all_in(trying.payload),
        };
        let (context, cancel) = (self.context, &trying.work.cancel);
        let (mut looks, mut evicted, mut pause) = (0, false, PAUSE);
        while !references.is_empty() {
            looks += 1;
            let error = match self.fetch(data, &references, trying).await {
                Ok(inputs) => return Ok(inputs),
                Err(error) => error,
            };
            match &error {
                _ if cancel.is_cancelled() => return Err(Failure::cancelled()),
                error if lacks_memory(error) && !std::mem::replace(&mut evicted, true) => {
                    if !context.gpu.executors.evict(context.gpu.device.as_ref()).await {
                        return Err(self.failure(error).await);
                    }
                    context.metrics.memory_relief("evicted");
                }
                // What was found before may be gone, or elsewhere.
                DataError::Missing { .. } if looks == 1 => self.asked.forget_found(),
                DataError::Directory(unanswered) if unanswered.is_transient && looks < LOOKS_MAX => {
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => return Err(Failure::cancelled()),
                        () = tokio::time::sleep(pause) => pause *= 2,
                    }
                }
                error => return Err(self.failure(error).await),
            }
        }
        Ok(Inputs::new())
    }

    async fn fetch(&self, data: &Data, references: &[TensorRef], trying: &Trying<'_>) -> Result<Inputs, DataError> {
        let copies = match (self.asked.found_lately(), trying.item) {
            (Some(found), _) => found,
            (None, None) => self.asked.find(&data.plane).await?,
            (None, Some(_)) => data.plane.find(references).await?.into(),
        };
        let (mut inputs, was_told) = (Inputs::new(), AtomicBool::new(false));
        for part in references.chunks(BROUGHT_AT_ONCE) {
            let fetching = part.iter().map(|reference| fetch_one(data, (reference, &copies[..]), (trying, &was_told)));
            inputs.extend(try_join_all(fetching).await?);
        }
        if was_told.into_inner() {
            // From here on the run says how far it is.
            trying.report.progress(0.0, "");
        }
        Ok(inputs)
    }

    /// How it fails the payload. That a table which may have been emptied knows nothing of a tensor does not mean that it is gone.
    async fn failure(&self, error: &DataError) -> Failure {
        let failure = failure_of(error);
        match error {
            DataError::Missing { .. } => {
                let steady = self.context.ports.table.steady(&self.context.me.options.pool).await;
                if steady.is_ok_and(|steady| steady >= self.context.me.options.lease) {
                    return Failure { field: Some("payload".to_owned()), ..failure };
                }
                let message = format!("{}, as far as the table knows, which may have been emptied", failure.message);
                Failure { code: ErrorCode::TransferFailed.into(), message, retry: true, ..failure }
            }
            error if lacks_memory(error) => Failure::out_of_memory(failure.message),
            _ => failure,
        }
    }
}

async fn fetch_one(
    data: &Data,
    (reference, copies): (&TensorRef, &[TensorRecord]),
    (trying, was_told): (&Trying<'_>, &AtomicBool),
) -> Result<(TensorRef, Arc<Tensor>), DataError> {
    // None of the work is done yet: how far this is stands in the words alone.
    let report = &trying.report;
    let told = |moving: &Moving| {
        was_told.store(true, Ordering::Relaxed);
        report.progress(0.0, &words_of(moving));
    };
    Ok((reference.clone(), data.plane.fetch_telling(reference, copies, &trying.work.cancel, &told).await?))
}

/// How far a tensor is on its way here, for people.
fn words_of(moving: &Moving) -> String {
    let from = moving.from.as_ref().map_or_else(|| "another GPU".to_owned(), ToString::to_string);
    format!("bringing tensor {} from {from}: {} %", moving.name, moving.percent())
}

/// Whether the GPU has too little memory for a tensor, other than by the quota for tensors.
fn lacks_memory(error: &DataError) -> bool {
    matches!(error, DataError::Keep(KeepError::Memory(devices::MemoryError::Full { .. })))
}

/// Runs a payload in place of the one that is tried, and takes note of how long that took without what was waited for before.
async fn run_within(trying: &Trying<'_>, (task, payload): (&Task, &Json), given: RunTensors) -> Answer {
    let outer = trying.work;
    let (usage, cancel) = (outer.usage, outer.cancel.clone());
    let work = Work { context: outer.context, executor: outer.executor, task, gathering: None, cancel, usage, tensors: None, given };
    let inner = Trying { work: &work, payload, gathering: None, report: trying.report.clone(), item: trying.item };
    let (started, ran_before) = (Instant::now(), usage.run_time());
    let answer = inner.in_pieces().await;
    if answer.is_ok() && usage.run_time() == ran_before {
        usage.ran_for(started.elapsed());
    }
    answer
}

/// The task as a kind is given it that takes raw bytes: with segments in the place of the tensors that the payload names.
async fn as_segments(data: &Data, inputs: &Inputs, (task, payload): (&Task, &Json)) -> Result<Task, Failure> {
    let mut segments: Vec<Bytes> = task.body.segments.iter().cloned().collect();
    let bytes: u64 = inputs.values().map(|tensor| tensor.about().bytes()).sum();
    if bytes > AS_SEGMENTS_BYTES_MAX || segments.len() + inputs.len() > SEGMENTS_MAX {
        let message = format!(
            "names {} tensors of {bytes} bytes together; a kind that takes tensors as raw bytes takes at most {AS_SEGMENTS_BYTES_MAX} bytes and {SEGMENTS_MAX} segments",
            inputs.len()
        );
        return Err(Failure::invalid("payload", message));
    }
    let mut stands_for = BTreeMap::new();
    for (reference, tensor) in inputs {
        let about = tensor.about();
        let segment = SegmentRef::numbers(segments.len(), about.shape.dtype, about.shape.shape.clone());
        stands_for.insert(reference, Json::of(&segment));
        segments.push(data.plane.read(tensor, 0..about.bytes()).await.map_err(|error| failure_of(&error))?);
    }
    let payload = rewriting::with_replaced(payload, "tensor", |object| stands_for.get(&TensorRef::read(object)?).cloned());
    Ok(derived(task, payload, Segments::of(segments)))
}

/// The task with another payload, for its executor alone.
fn derived(task: &Task, payload: Json, segments: Segments) -> Task {
    // Not all of it is copied: there may be thousands of items.
    let TaskBody { on_error, gpu_options, needs, limits, on_missing, .. } = &task.body;
    let body = TaskBody {
        payload,
        segments,
        on_error: *on_error,
        gpu_options: gpu_options.clone(),
        needs: needs.clone(),
        limits: limits.clone(),
        on_missing: *on_missing,
        ..TaskBody::default()
    };
    Task {
        id: task.id.clone(),
        body_hash: task.body_hash.clone(),
        kind: task.kind.clone(),
        priority: task.priority,
        attempt: task.attempt,
        hops: task.hops,
        memory_mb: task.memory_mb,
        start_before_ms: task.start_before_ms,
        end_before_ms: task.end_before_ms,
        not_before_ms: task.not_before_ms,
        body,
        delivery: task.delivery,
    }
}

#[cfg(test)]
mod tests {
    use protocol::{GpuId, TensorName};

    use super::*;

    #[test]
    fn what_is_on_its_way_is_told_with_where_it_comes_from_and_how_far_it_is() {
        let moving = Moving { name: TensorName::new("x").unwrap(), from: GpuId::new("gpu-a").ok(), done_bytes: 2, bytes: 5 };
        assert_eq!(words_of(&moving), "bringing tensor x from gpu-a: 40 %");
        assert_eq!(words_of(&Moving { from: None, ..moving }), "bringing tensor x from another GPU: 40 %");
    }
}
