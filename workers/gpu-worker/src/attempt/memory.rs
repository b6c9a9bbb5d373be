//! An attempt that finds too little memory: evict what is only kept to save time, cut the work into pieces, look for a bigger GPU, fail clearly.

use std::sync::{Arc, OnceLock};

use executors::{Executor, Failure, Report, Run, RunTensors, Usage};
use protocol::{ErrorCode, GpuRow, Json, Needs, Task, TaskError};
use tokio_util::sync::CancellationToken;

use super::{
    batching::{Answer, Asked, Failed, Gatherer},
    tensors::AttemptTensors,
};
use crate::{
    claim::needs::{usable_here_mb, usable_mb},
    context::Context,
};

/// Whether it failed for want of memory, and another try may find more.
pub(crate) fn lacks_memory(failure: &Failure) -> bool {
    failure.retry && !failure.crashed && failure.code == ErrorCode::OutOfMemory.name()
}

/// What one attempt is at.
pub(crate) struct Work<'a> {
    pub(crate) context: &'a Context,
    pub(crate) executor: &'a dyn Executor,
    pub(crate) task: &'a Task,
    /// Where its payloads may run together with others.
    pub(crate) gathering: Option<&'a Gathering>,
    pub(crate) cancel: CancellationToken,
    pub(crate) usage: &'a Usage,
    /// What it asks of tensors. `None`: nothing.
    pub(crate) tensors: Option<&'a AttemptTensors<'a>>,
    /// What its executor is given of tensors, where it asks nothing of them.
    pub(crate) given: RunTensors,
}

/// Where an attempt's payloads are gathered with others.
pub(crate) struct Gathering {
    gatherer: Arc<Gatherer>,
    /// Runs outlive who joined them, so they have a task of their own: from the first payload on that joins.
    task: OnceLock<Arc<Task>>,
}

impl Gathering {
    /// `None`: its kind takes one payload at a time, or its one payload runs by itself. The executor is asked here, once for the attempt; for items it is asked as their turn comes.
    pub(crate) fn of(gatherer: Option<&Arc<Gatherer>>, task: &Task) -> Option<Self> {
        let gatherer = gatherer.filter(|gatherer| task.body.items.is_some() || gatherer.takes(&task.body.payload))?;
        Some(Self { gatherer: Arc::clone(gatherer), task: OnceLock::new() })
    }

    /// How many payloads of the attempt are worth having here at once.
    pub(crate) fn width(&self) -> usize {
        self.gatherer.width()
    }

    fn task(&self, task: &Task) -> Arc<Task> {
        Arc::clone(self.task.get_or_init(|| Arc::new(task.clone())))
    }
}

impl<'a> Work<'a> {
    /// Where an item runs together with others. `None`: it runs by itself.
    pub(crate) fn gathering_of(&self, item: &Json) -> Option<&'a Gathering> {
        self.gathering.filter(|gathering| gathering.gatherer.takes(item))
    }
}

/// One payload of an attempt, with whatever it takes to fit it into the GPU's memory.
pub(crate) struct Trying<'a> {
    pub(crate) work: &'a Work<'a>,
    pub(crate) payload: &'a Json,
    /// Where this payload runs together with others.
    pub(crate) gathering: Option<&'a Gathering>,
    pub(crate) report: Report,
    /// The number of the item in its whole batch; `None`: it is no item.
    pub(crate) item: Option<u32>,
}

impl Trying<'_> {
    /// Runs it, with the tensors that it names, and with what memory there is.
    pub(crate) async fn with_what_memory_there_is(self) -> Answer {
        match self.work.tensors {
            // Boxed, as it is rare.
            Some(tensors) => Box::pin(tensors.run(self)).await,
            None => self.in_pieces().await,
        }
    }

    /// Runs it; out of memory, again after each eviction (of models, then of tensors), then in 2, 4, 8 … pieces. What runs together with others has been cut down to one payload by then.
    pub(super) async fn in_pieces(self) -> Answer {
        let Work { context, executor, task, cancel, .. } = self.work;
        let (mut pieces, mut reliefs) = (1, Relief::IN_TURN.into_iter());
        loop {
            let failed = match self.once(pieces).await {
                Err(failed) if lacks_memory(&failed.failure) => failed,
                ended => return ended,
            };
            let least_mb = failed.failure.memory_mb.map(|wanted_mb| wanted_mb / u64::from(executor.pieces_max(self.payload).max(1)));
            if Relief::next_that_frees(&mut reliefs, context, &failed.failure, least_mb).await {
                context.metrics.memory_relief("evicted");
                tracing::info!(task_id = %task.id, "out of memory: kept memory was freed, and it is tried again");
                continue;
            }
            if cancel.is_cancelled() || pieces * 2 > executor.pieces_max(self.payload) {
                return Err(failed);
            }
            pieces *= 2;
            context.metrics.memory_relief("split");
            tracing::info!(task_id = %task.id, pieces, "out of memory: it is tried again in pieces");
        }
    }

    async fn once(&self, pieces: u32) -> Answer {
        let work = self.work;
        if let Some(gathering) = self.gathering.filter(|_| pieces == 1) {
            let asked = Asked {
                task: gathering.task(work.task),
                payload: self.payload.clone(),
                cancel: work.cancel.clone(),
                report: self.report.clone(),
                usage: work.usage.clone(),
            };
            return Box::pin(gathering.gatherer.join(asked).answered()).await;
        }
        let run = Run {
            task: work.task,
            payload: self.payload,
            device: &work.context.gpu.device,
            cancel: work.cancel.clone(),
            report: self.report.clone(),
            pieces,
            usage: work.usage.clone(),
            tensors: work.given.clone(),
        };
        work.executor.run(run).await.map_err(Failed::from)
    }
}

/// What is only kept to save time, and goes where a run needs its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relief {
    /// Models that nobody uses.
    Models,
    /// Tensors that nobody uses: they go to the host's memory.
    Tensors,
}

impl Relief {
    /// Each is tried once, and the run after each that freed anything: what is still too little then takes the next.
    const IN_TURN: [Self; 2] = [Self::Models, Self::Tensors];

    /// Frees what comes next of what is left to be freed; whether any was.
    async fn next_that_frees(
        reliefs: &mut (impl Iterator<Item = Self> + Send),
        context: &Context,
        failure: &Failure,
        least_mb: Option<u64>,
    ) -> bool {
        for relief in reliefs {
            if relief.frees(context, failure, least_mb).await {
                return true;
            }
        }
        false
    }

    /// Frees it, if so much as `least_mb` can fit here at all, for tensors. Whether any was freed.
    async fn frees(self, context: &Context, failure: &Failure, least_mb: Option<u64>) -> bool {
        let Self::Tensors = self else { return context.gpu.executors.evict(context.gpu.device.as_ref()).await };
        let Some(data) = context.gpu.data.get() else { return false };
        // What needs more than there is, in however many pieces, finds no room when nothing is kept either.
        if least_mb.is_some_and(|least_mb| least_mb > usable_here_mb(context)) {
            return false;
        }
        let bytes = failure.memory_mb.map_or(u64::MAX, |wanted_mb| wanted_mb.saturating_mul(1_000_000));
        data.plane.make_room(bytes).await
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
    // A kind that is down there comes back.
    let runs = |row: &GpuRow| row.kinds.contains(&task.kind) || row.kinds_down.contains_key(&task.kind);
    let fitting = rows.iter().filter(|view| runs(&view.row));
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
