//! A GPU with too little memory for a task: evict what is only kept to save time, cut the work into pieces, look for a bigger GPU, fail clearly. And what kinds
//! took so far, so that the next one is claimed where it fits.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use executors::{Executor, Failure, Report, Run, Usage};
use protocol::{Kind, Needs, Task, TaskError};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::context::Context;

/// How far what was learnt of a kind comes down to what its last attempt took, if that was less.
const FORGETS: f64 = 0.05;

/// The memory that attempts of each kind took on this GPU, in MB.
#[derive(Debug, Default)]
pub(crate) struct Learnt(Mutex<BTreeMap<Kind, f64>>);

impl Learnt {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, f64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt took this much at once. A larger one counts at once, smaller ones bring it down slowly.
    pub(crate) fn took(&self, kind: &Kind, peak_mb: u64) {
        if peak_mb == 0 {
            return;
        }
        let peak = peak_mb as f64;
        let mut learnt = self.lock();
        let known = learnt.entry(kind.clone()).or_insert(peak);
        *known = if peak > *known { peak } else { *known + (peak - *known) * FORGETS };
    }

    fn of(&self, kind: &Kind) -> Option<u64> {
        self.lock().get(kind).map(|mb| mb.ceil() as u64)
    }
}

/// What a claim for the task asks for: what it states, and what an earlier attempt found; where both are silent, what its kind took here. That is a guess: it never asks
/// for more than this GPU has free right now, so that it keeps no task from running here.
pub(crate) fn needs(context: &Context, task: &Task) -> Needs {
    let mut needs = task.body.needs.clone();
    let known = needs.memory_mb.max(task.memory_mb);
    needs.memory_mb = known.or_else(|| Some(context.learnt.of(&task.kind)?.min(free_here_mb(context))));
    needs
}

fn free_here_mb(context: &Context) -> u64 {
    usable_here_mb(context).saturating_sub(context.device.sample().memory_used_mb)
}

fn usable_here_mb(context: &Context) -> u64 {
    let threshold = context.settings.borrow().memory_threshold;
    usable_mb(context.device.description().memory_total_mb, threshold)
}

fn usable_mb(total_mb: u64, threshold: f64) -> u64 {
    (total_mb as f64 * threshold) as u64
}

/// One attempt, with whatever it takes to fit it into the GPU's memory.
pub(crate) struct Trying<'a> {
    pub(crate) context: &'a Context,
    pub(crate) executor: &'a dyn Executor,
    pub(crate) task: &'a Task,
    pub(crate) cancel: CancellationToken,
    pub(crate) report: Report,
    pub(crate) usage: &'a Usage,
}

impl Trying<'_> {
    /// Runs it; out of memory, again after an eviction, then in 2, 4, 8 … pieces.
    pub(crate) async fn with_what_memory_there_is(self) -> Result<Value, Failure> {
        let Self { context, executor, task, .. } = self;
        let (mut pieces, mut evicted) = (1, false);
        loop {
            let failure = match self.once(pieces).await {
                Err(failure) if failure.code == Failure::OUT_OF_MEMORY && failure.retry => failure,
                ended => return ended,
            };
            if !std::mem::replace(&mut evicted, true) && context.executors.evict(context.device.as_ref()).await {
                context.metrics.memory_relief("evicted");
                tracing::info!(task_id = %task.id, "out of memory: kept memory was freed, and it is tried again");
                continue;
            }
            if self.cancel.is_cancelled() || pieces * 2 > executor.pieces_max(task) {
                return Err(failure);
            }
            pieces *= 2;
            context.metrics.memory_relief("split");
            tracing::info!(task_id = %task.id, pieces, "out of memory: it is tried again in pieces");
        }
    }

    async fn once(&self, pieces: u32) -> Result<Value, Failure> {
        let run = Run {
            task: self.task,
            device: &self.context.device,
            cancel: self.cancel.clone(),
            report: self.report.clone(),
            pieces,
            usage: self.usage.clone(),
        };
        self.executor.run(run).await
    }
}

/// What follows when nothing made it fit here.
pub(crate) enum Next {
    /// Another attempt, perhaps for a bigger GPU.
    Retry(Box<Task>, TaskError),
    /// It fits no GPU of the pool.
    End(TaskError),
}

/// Whether a GPU of the pool is big enough.
pub(crate) async fn next(context: &Context, task: &Task, error: TaskError, wanted_mb: Option<u64>) -> Next {
    let mut task = Box::new(task.clone());
    let Some(wanted_mb) = wanted_mb else { return Next::Retry(task, error) };
    task.memory_mb = task.memory_mb.max(Some(wanted_mb.min(Needs::MEMORY_MB_MAX)));
    if wanted_mb <= usable_here_mb(context) {
        // Others use it now; here or elsewhere there will be room.
        return Next::Retry(task, error);
    }
    let Ok(rows) = context.table.rows(&context.options.pool).await else { return Next::Retry(task, error) };
    let threshold = context.settings.borrow().memory_threshold;
    let fitting = rows.iter().filter(|view| view.row.kinds.contains(&task.kind));
    let largest_mb = fitting.map(|view| usable_mb(view.row.gpu.memory_total_mb, threshold)).max().unwrap_or(0);
    if wanted_mb <= largest_mb {
        context.metrics.memory_relief("bigger_gpu");
        tracing::info!(task_id = %task.id, wanted_mb, "out of memory: it is tried again on a bigger GPU");
        return Next::Retry(task, error);
    }
    context.metrics.memory_relief("gave_up");
    let message = format!(
        "the task needs {wanted_mb} MB at once, and no GPU of the pool has more than {largest_mb} MB for tasks; make it smaller, or add a bigger GPU ({})",
        error.message
    );
    Next::End(TaskError { message, ..error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_known_by_its_largest_attempt_and_slowly_forgets_it() {
        let (learnt, kind) = (Learnt::default(), Kind::new("matmul").unwrap());
        assert_eq!(learnt.of(&kind), None);
        learnt.took(&kind, 0);
        assert_eq!(learnt.of(&kind), None, "not measured is not small");
        learnt.took(&kind, 100);
        learnt.took(&kind, 1_000);
        assert_eq!(learnt.of(&kind), Some(1_000));
        learnt.took(&kind, 100);
        assert_eq!(learnt.of(&kind), Some(955));
        (0..200).for_each(|_| learnt.took(&kind, 100));
        assert_eq!(learnt.of(&kind), Some(101));
    }
}
