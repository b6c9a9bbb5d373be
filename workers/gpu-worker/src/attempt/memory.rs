//! An attempt that finds too little memory: evict what is only kept to save time, cut the work into pieces, look for a bigger GPU, fail clearly.

use executors::{Executor, Failure, Report, Run, Usage};
use protocol::{ErrorCode, Json, Needs, Task, TaskError};
use tokio_util::sync::CancellationToken;

use crate::{
    claim::needs::{usable_here_mb, usable_mb},
    context::Context,
};

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
    pub(crate) async fn with_what_memory_there_is(self) -> Result<Json, Failure> {
        let Self { context, executor, task, .. } = self;
        let (mut pieces, mut evicted) = (1, false);
        loop {
            let failure = match self.once(pieces).await {
                Err(failure) if failure.code == ErrorCode::OutOfMemory.name() && failure.retry => failure,
                ended => return ended,
            };
            if !std::mem::replace(&mut evicted, true) && context.gpu.executors.evict(context.gpu.device.as_ref()).await {
                context.metrics.memory_relief("evicted");
                tracing::info!(task_id = %task.id, "out of memory: kept memory was freed, and it is tried again");
                continue;
            }
            if self.cancel.is_cancelled() || pieces * 2 > executor.pieces_max(&task.body.payload) {
                return Err(failure);
            }
            pieces *= 2;
            context.metrics.memory_relief("split");
            tracing::info!(task_id = %task.id, pieces, "out of memory: it is tried again in pieces");
        }
    }

    async fn once(&self, pieces: u32) -> Result<Json, Failure> {
        let run = Run {
            task: self.task,
            payload: &self.task.body.payload,
            device: &self.context.gpu.device,
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
    /// Another attempt, perhaps for a bigger GPU: with at least so much memory, in MB, where that is known.
    Retry(Option<u64>, TaskError),
    /// It fits no GPU of the pool.
    End(TaskError),
}

/// Whether a GPU of the pool is big enough.
pub(crate) async fn next(context: &Context, task: &Task, error: TaskError, wanted_mb: Option<u64>) -> Next {
    let Some(wanted_mb) = wanted_mb else { return Next::Retry(None, error) };
    let known = task.memory_mb.max(Some(wanted_mb.min(Needs::MEMORY_MB_MAX)));
    if wanted_mb <= usable_here_mb(context) {
        // Others use it now; here or elsewhere there will be room.
        return Next::Retry(known, error);
    }
    let Ok(rows) = context.ports.table.rows(&context.me.options.pool).await else { return Next::Retry(known, error) };
    let threshold = context.signals.settings.borrow().memory_threshold;
    let fitting = rows.iter().filter(|view| view.row.kinds.contains(&task.kind));
    let largest_mb = fitting.map(|view| usable_mb(view.row.gpu.memory_total_mb, threshold)).max().unwrap_or(0);
    if wanted_mb <= largest_mb {
        context.metrics.memory_relief("bigger_gpu");
        tracing::info!(task_id = %task.id, wanted_mb, "out of memory: it is tried again on a bigger GPU");
        return Next::Retry(known, error);
    }
    context.metrics.memory_relief("gave_up");
    let message = format!(
        "the task needs {wanted_mb} MB at once, and no GPU of the pool has more than {largest_mb} MB for tasks; make it smaller, or add a bigger GPU ({})",
        error.message
    );
    Next::End(TaskError { message, ..error })
}
