//! A worker's life as a whole: declare, beat, consume, drain, leave.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use protocol::GpuId;
use task_queue::{Consumer, Queue, QueueError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    beginning,
    context::{Context, WorkerParts},
    heartbeat, intake, mover,
    persist::{Abandoned, Backoff, pause_or_abandon},
    pool::{self, PoolConsumer},
    reaper, running, trouble,
};

/// How long lives that are cut off may take: an executor to notice, and the store to hear that its attempt was handed back.
const LAST_WORDS: Duration = running::NOTICE.saturating_add(beginning::HAND_BACK).saturating_add(Duration::from_secs(1));

/// How a worker is asked to stop.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Take nothing new, finish what runs (within the grace time), give back what waits, leave.
    pub gently: CancellationToken,
    /// Stop at once. Nothing is lost: what was not acked is delivered again.
    pub now: CancellationToken,
}

/// Why a worker did not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The broker refuses what the worker needs, and no retry would mend it.
    #[error("start the worker of GPU {gpu_id}: {source}")]
    Topology {
        /// Its GPU.
        gpu_id: GpuId,
        /// The refusal.
        source: QueueError,
    },
    /// This process can use its GPU no more. A new one may.
    #[error("GPU {gpu_id} is lost to this process: {reason}")]
    Lost {
        /// The GPU.
        gpu_id: GpuId,
        /// What went wrong.
        reason: String,
        /// The Xid that told it, if one did.
        xid: Option<u64>,
    },
}

/// The worker of one GPU.
pub struct GpuWorker {
    context: Arc<Context>,
}

/// What a worker consumes.
struct Consumers {
    pool: Consumer,
    own: Consumer,
    expired: Consumer,
    returned: Consumer,
}

impl GpuWorker {
    /// A worker that has not started yet.
    #[must_use]
    pub fn new(parts: WorkerParts, stop: Stop) -> Self {
        Self { context: Context::new(parts, stop) }
    }

    /// Works until it is stopped. While the broker or Redis are away it waits for them.
    ///
    /// # Errors
    /// [`WorkerError::Topology`] if the broker refuses it; the worker then never started. [`WorkerError::Lost`] if the GPU is of no more use to this process: what ran is
    /// delivered again.
    pub async fn run(self) -> Result<(), WorkerError> {
        let context = self.context;
        context.environment.spawn("heartbeat", heartbeat::beat(Arc::clone(&context)));
        context.environment.spawn("watch of the GPU", trouble::watch(Arc::clone(&context)));
        match start(&context).await {
            Ok(Some(consumers)) => work(&context, consumers).await,
            Ok(None) => {}
            Err(source) => {
                context.stop.now.cancel();
                context.last_beat.cancel();
                return Err(WorkerError::Topology { gpu_id: context.gpu_id.clone(), source });
            }
        }
        leave(&context).await;
        match context.lost.get() {
            Some(lost) => {
                // Never dropped: giving back what a lost context holds asks a driver that may not answer. Whoever runs a worker ends its process now.
                std::mem::forget((Arc::clone(&context.device), context.executors.clone()));
                Err(WorkerError::Lost { gpu_id: context.gpu_id.clone(), reason: lost.reason.clone(), xid: lost.xid })
            }
            None => Ok(()),
        }
    }
}

/// Every queue that a worker needs.
fn topology(context: &Context) -> Vec<Queue> {
    let retries = Queue::RETRY_DELAYS_MS.map(|ms| Queue::Retry(Duration::from_millis(ms)));
    let mut queues = vec![Queue::Returned, Queue::Expired, Queue::Dead, Queue::Unplaceable, Queue::Parked];
    queues.extend(retries);
    queues.push(Queue::Pool(context.options.pool.clone()));
    queues.push(Queue::Gpu(context.gpu_id.clone()));
    queues
}

/// Declares and consumes. `None`: stopped meanwhile.
async fn start(context: &Arc<Context>) -> Result<Option<Consumers>, QueueError> {
    for queue in topology(context) {
        let declared = insist(context, || context.queue.declare(&queue)).await?;
        if declared.is_none() {
            return Ok(None);
        }
    }
    let slots = NonZeroU16::new(context.options.slots).unwrap_or(NonZeroU16::MIN);
    let at_once = NonZeroU16::new(mover::AT_ONCE).unwrap_or(NonZeroU16::MIN);
    let wanted = [
        (Queue::Gpu(context.gpu_id.clone()), slots),
        (Queue::Expired, at_once),
        (Queue::Returned, at_once),
        (Queue::Pool(context.options.pool.clone()), slots),
    ];
    let mut consumers = Vec::new();
    for (queue, prefetch) in &wanted {
        let Some(consumer) = insist(context, || context.queue.consume(queue, *prefetch)).await? else { return Ok(None) };
        consumers.push(consumer);
    }
    let mut consumers = consumers.into_iter();
    let (Some(own), Some(expired), Some(returned), Some(pool)) = (consumers.next(), consumers.next(), consumers.next(), consumers.next())
    else {
        return Ok(None);
    };
    Ok(Some(Consumers { pool, own, expired, returned }))
}

/// Repeats a start-up step while the broker is away.
async fn insist<T, F>(context: &Context, mut step: impl FnMut() -> F) -> Result<Option<T>, QueueError>
where
    F: Future<Output = Result<T, QueueError>>,
{
    let mut backoff = Backoff::default();
    loop {
        match step().await {
            Ok(done) => return Ok(Some(done)),
            Err(error) if error.is_transient() => {
                let pause = backoff.next(&context.environment);
                tracing::warn!(%error, pause_ms = pause.as_millis(), "will try again");
                if context.stop.gently.is_cancelled() || pause_or_abandon(&context.stop.now, pause).await == Err(Abandoned) {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Serves until a gentle stop, then drains.
async fn work(context: &Arc<Context>, consumers: Consumers) {
    let Consumers { pool, own, expired, returned } = consumers;
    let stoppers = [own.stopper(), expired.stopper(), returned.stopper()];
    let (shown, pool_consumer) = watch::channel(PoolConsumer::Lost);
    context.environment.spawn("watch of the consumers", watch_consumers(Arc::clone(context), pool_consumer, own.live()));
    let slots = context.options.slots;
    context.environment.spawn("pool", context.lives.track_future(pool::receive(Arc::clone(context), pool, shown)));
    let receivers = [(own, slots), (expired, mover::AT_ONCE)];
    for (consumer, prefetch) in receivers {
        let receiving = intake::receive(Arc::clone(context), consumer, prefetch);
        context.environment.spawn("receiver", context.lives.track_future(receiving));
    }
    context.environment.spawn("mover", context.lives.track_future(mover::run(Arc::clone(context), returned)));
    context.environment.spawn("reaper", context.lives.track_future(reaper::run(Arc::clone(context))));
    tracing::info!(gpu_id = %context.gpu_id, pool = %context.options.pool, slots, "works");

    tokio::select! {
        biased;
        () = context.stop.now.cancelled() => {}
        () = context.stop.gently.cancelled() => {
            tracing::info!(gpu_id = %context.gpu_id, running = context.slots.busy(), "drains");
        }
    }
    context.nudge.notify_one();
    for stopper in stoppers {
        stopper.stop();
    }
    drain(context).await;
}

/// Lets what runs end, within the grace time.
async fn drain(context: &Arc<Context>) {
    context.lives.close();
    tokio::select! {
        biased;
        () = context.lives.wait() => {}
        () = context.stop.now.cancelled() => {}
        () = tokio::time::sleep(context.options.drain_grace) => {
            tracing::warn!(gpu_id = %context.gpu_id, running = context.slots.busy(), "the grace time is over; what still runs will run again elsewhere");
        }
    }
}

/// Keeps `consuming` true while both queues of tasks are consumed, and tells the table at once when that changes.
async fn watch_consumers(context: Arc<Context>, mut pool: watch::Receiver<PoolConsumer>, mut own: watch::Receiver<bool>) {
    loop {
        let consuming = *pool.borrow_and_update() != PoolConsumer::Lost && *own.borrow_and_update();
        if context.consuming.send_replace(consuming) != consuming {
            tracing::info!(gpu_id = %context.gpu_id, consuming, "consumers");
            context.nudge.notify_one();
        }
        let changed = tokio::select! {
            biased;
            () = context.stop.now.cancelled() => None,
            changed = pool.changed() => changed.ok(),
            changed = own.changed() => changed.ok(),
        };
        if changed.is_none() {
            // The row stays until everything is let go of: nobody is to choose it meanwhile.
            context.consuming.send_replace(false);
            context.nudge.notify_one();
            return;
        }
    }
}

/// Returns what was forwarded here and not taken, and takes the row out of the table.
async fn leave(context: &Arc<Context>) {
    if !context.stop.now.is_cancelled() {
        let own = Queue::Gpu(context.gpu_id.clone());
        let emptied = tokio::time::timeout(context.options.lease, reaper::empty(context, &own)).await;
        tracing::debug!(gpu_id = %context.gpu_id, ?emptied, "own queue returned to the pool");
    }
    context.stop.now.cancel();
    // What is left of the lives ends now, so that nothing writes after the row is gone.
    let _ = tokio::time::timeout(context.options.lease.max(LAST_WORDS), context.lives.wait()).await;
    context.last_beat.cancel();
    let _ = tokio::time::timeout(context.options.lease, context.silent.cancelled()).await;
    let leaving = context.table.leave(&context.options.pool, &context.gpu_id, &context.incarnation);
    match tokio::time::timeout(context.options.lease, leaving).await {
        Ok(Ok(())) => tracing::info!(gpu_id = %context.gpu_id, "left"),
        _ => tracing::info!(gpu_id = %context.gpu_id, "left; its row lapses with its lease"),
    }
}
