//! A worker's life as a whole: declare, beat, consume, drain, leave.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use protocol::GpuId;
use task_queue::{Consumer, Queue, QueueError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    attempt::running,
    claim::{needs, telling},
    context::Context,
    data::{Data, telling::Teller},
    fleet::{
        delayed::DelayedTasks,
        mover::{self, Mover},
        reaper::Reaper,
        topology::{self, Warden},
        waiting::{self, Waiting},
    },
    gpu::{describing::Describer, heartbeat::Heart, models, trouble},
    options::WorkerParts,
    ports::{Abandoned, Backoff, HAND_BACK, Link, Ports},
    receiving::{self, PoolConsumer},
    steps,
};

/// How long lives that are cut off may take: an executor to notice, and the store to hear that its attempt was handed back.
const LAST_WORDS: Duration = running::NOTICE.saturating_add(HAND_BACK).saturating_add(Duration::from_secs(1));

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
    unrouted: Consumer,
    returned: Consumer,
    waiting: Vec<(Queue, Consumer)>,
}

impl GpuWorker {
    /// A worker that has not started yet.
    #[must_use]
    pub fn new(parts: WorkerParts, stop: Stop) -> Self {
        Self { context: Context::new(parts, stop) }
    }

    /// Ends once this worker serves: the table knows that it consumes. Waits for ever where it never does.
    pub fn serves(&self) -> impl Future<Output = ()> + Send + use<> {
        let signals = Arc::clone(&self.context.signals);
        async move { signals.beats.above(0).await }
    }

    /// Works until it is stopped. While the broker or Redis are away it waits for them.
    ///
    /// # Errors
    /// [`WorkerError::Topology`] if the broker refuses it; the worker then never started. [`WorkerError::Lost`] if the GPU is of no more use to this process: what ran is
    /// delivered again.
    pub async fn run(self) -> Result<(), WorkerError> {
        let context = self.context;
        let nudged = Arc::clone(&context.signals);
        let told: Arc<dyn Fn() + Send + Sync> = Arc::new(move || nudged.nudge.notify_one());
        context.gpu.executors.on_change(&told);
        // Before the first heartbeat, so that its row says how to reach the tensors.
        if let Some(data) = Data::start(&context, needs::usable_here_mb(&context)).await {
            let _ = context.gpu.data.set(data);
        }
        context.ports.environment.spawn("heartbeat", Heart::of(&context).beat());
        context.ports.environment.spawn("what the table hears of tensors", Teller::of(&context).run());
        context.ports.environment.spawn("what the kinds do", Describer::of(&context).run());
        context.ports.environment.spawn("watch of the GPU", trouble::watch(Arc::clone(&context)));
        context.ports.environment.spawn("models", models::keep(Arc::clone(&context)));
        match start(&context).await {
            Ok(Some(consumers)) => work(&context, consumers).await,
            Ok(None) => {}
            Err(source) => {
                context.ports.stop.now.cancel();
                context.signals.last_beat.cancel();
                stop_executors_at_once(&context).await;
                stop_data(&context).await;
                return Err(WorkerError::Topology { gpu_id: context.me.gpu_id.clone(), source });
            }
        }
        if context.ports.stop.now.is_cancelled() {
            // First, so that what runs in them does not hold up the end: nobody waits for it.
            stop_executors_at_once(&context).await;
        }
        leave(&context).await;
        let _ = tokio::time::timeout(context.me.options.lease.max(LAST_WORDS), context.gpu.executors.stop()).await;
        match context.gpu.lost.get() {
            Some(lost) => {
                // Never dropped: giving back what a lost context holds asks a driver that may not answer. Whoever runs a worker ends its process now.
                std::mem::forget((Arc::clone(&context.gpu), Arc::clone(&context)));
                Err(WorkerError::Lost { gpu_id: context.me.gpu_id.clone(), reason: lost.reason.clone(), xid: lost.xid })
            }
            None => Ok(()),
        }
    }
}

/// Closes the data port and ends what goes on there. Not where the GPU is lost: its memory must not be touched any more, and the process ends.
async fn stop_data(context: &Context) {
    let Some(data) = context.gpu.data.get().filter(|_| context.gpu.lost.get().is_none()) else { return };
    if tokio::time::timeout(context.me.options.lease, data.plane.stop()).await.is_err() {
        tracing::warn!(gpu_id = %context.me.gpu_id, "transfers did not end when asked to; they end with the process");
    }
}

/// Ends what the executors have started, whatever runs there.
async fn stop_executors_at_once(context: &Context) {
    let _ = tokio::time::timeout(LAST_WORDS, context.gpu.executors.stop_at_once()).await;
}

/// Declares and consumes. `None`: stopped meanwhile.
async fn start(context: &Arc<Context>) -> Result<Option<Consumers>, QueueError> {
    let (ports, options) = (&context.ports, &context.me.options);
    for queue in topology::queues(&context.me) {
        if insist(ports, || ports.queue.declare(&queue)).await?.is_none() {
            return Ok(None);
        }
    }
    let consume = async |queue: Queue, prefetch: u16| {
        let prefetch = NonZeroU16::new(prefetch).unwrap_or(NonZeroU16::MIN);
        insist(ports, || ports.queue.consume(&queue, prefetch)).await
    };
    let Some(own) = consume(Queue::Gpu(context.me.gpu_id.clone()), options.slots).await? else { return Ok(None) };
    let Some(expired) = consume(Queue::Expired, mover::AT_ONCE).await? else { return Ok(None) };
    let Some(unrouted) = consume(Queue::Unrouted, mover::AT_ONCE).await? else { return Ok(None) };
    let Some(returned) = consume(Queue::Returned, mover::AT_ONCE).await? else { return Ok(None) };
    let mut waiting = Vec::new();
    for queue in waiting::queues() {
        let Some(consumer) = consume(queue.clone(), waiting::at_once(&queue).get()).await? else { return Ok(None) };
        waiting.push((queue, consumer));
    }
    let Some(pool) = consume(Queue::Pool(options.pool.clone()), options.slots).await? else { return Ok(None) };
    Ok(Some(Consumers { pool, own, expired, unrouted, returned, waiting }))
}

/// Repeats a start-up step while the broker is away. `None`: stopped meanwhile.
async fn insist<T, F>(ports: &Ports, mut step: impl FnMut() -> F) -> Result<Option<T>, QueueError>
where
    F: Future<Output = Result<T, QueueError>>,
{
    let mut backoff = Backoff::default();
    loop {
        match step().await {
            Ok(done) => {
                ports.answered(Link::Broker);
                return Ok(Some(done));
            }
            Err(error) if error.is_transient() => {
                let pause = backoff.next(&ports.environment);
                ports.tried_again(&error, pause);
                if ports.stop.gently.is_cancelled() || ports.pause(pause).await.is_err() {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Serves until a gentle stop, then drains.
async fn work(context: &Arc<Context>, consumers: Consumers) {
    let Consumers { pool, own, expired, unrouted, returned, waiting } = consumers;
    let stoppers = [own.stopper(), expired.stopper(), unrouted.stopper(), returned.stopper()];
    let (shown, pool_consumer) = watch::channel(PoolConsumer::Lost);
    context.ports.environment.spawn("watch of the consumers", watch_consumers(Arc::clone(context), pool_consumer, own.live()));
    let slots = context.me.options.slots;
    context.ports.environment.spawn("pool", context.lives.track_future(receiving::receive_from_pool(Arc::clone(context), pool, shown)));
    let receivers = [(own, slots), (expired, mover::AT_ONCE), (unrouted, mover::AT_ONCE)];
    for (consumer, prefetch) in receivers {
        let receiving = receiving::receive(Arc::clone(context), consumer, prefetch);
        context.ports.environment.spawn("receiver", context.lives.track_future(receiving));
    }
    context.ports.environment.spawn("mover", context.lives.track_future(Mover::of(context).run(returned, context.lives.clone())));
    let holder = Waiting::of(context);
    for (queue, consumer) in waiting {
        let holding = holder.clone().run(queue, consumer, context.lives.clone());
        context.ports.environment.spawn("waiting queue", context.lives.track_future(holding));
    }
    let delayed = DelayedTasks::of(context);
    for queue in Queue::where_delayed_tasks_are_looked_at() {
        context.ports.environment.spawn("delayed tasks", context.lives.track_future(delayed.clone().run(queue)));
    }
    context.ports.environment.spawn("reaper", context.lives.track_future(Reaper::of(context).run()));
    context.ports.environment.spawn("watch of the queues", context.lives.track_future(Warden::of(context).run()));
    let teller = telling::run(context.ports.clone(), Arc::clone(&context.me), Arc::clone(&context.slots), Arc::clone(&context.pace));
    context.ports.environment.spawn("what the table hears", teller);
    tracing::info!(gpu_id = %context.me.gpu_id, pool = %context.me.options.pool, slots, "works");

    tokio::select! {
        biased;
        () = context.ports.stop.now.cancelled() => {}
        () = context.ports.stop.gently.cancelled() => {
            tracing::info!(gpu_id = %context.me.gpu_id, running = context.slots.held(), "drains");
        }
    }
    context.signals.nudge.notify_one();
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
        () = context.ports.stop.now.cancelled() => {}
        () = tokio::time::sleep(context.me.options.drain_grace) => {
            tracing::warn!(gpu_id = %context.me.gpu_id, running = context.slots.held(), "the grace time is over; what still runs will run again elsewhere");
        }
    }
}

/// Keeps `consuming` true while both queues of tasks are consumed, and tells the table at once when that changes.
async fn watch_consumers(context: Arc<Context>, mut pool: watch::Receiver<PoolConsumer>, mut own: watch::Receiver<bool>) {
    loop {
        let consuming = *pool.borrow_and_update() != PoolConsumer::Lost && *own.borrow_and_update();
        if context.signals.consuming.send_replace(consuming) != consuming {
            tracing::info!(gpu_id = %context.me.gpu_id, consuming, "consumers");
            context.signals.nudge.notify_one();
        }
        let changed = tokio::select! {
            biased;
            () = context.ports.stop.now.cancelled() => None,
            changed = pool.changed() => changed.ok(),
            changed = own.changed() => changed.ok(),
        };
        if changed.is_none() {
            // The row stays until everything is let go of: nobody is to choose it meanwhile.
            context.signals.consuming.send_replace(false);
            context.signals.nudge.notify_one();
            return;
        }
    }
}

/// Returns what was forwarded here and not taken, lets go of the tensors, and takes the row out of the table.
async fn leave(context: &Arc<Context>) {
    if !context.ports.stop.now.is_cancelled() {
        let (own, reaper) = (Queue::Gpu(context.me.gpu_id.clone()), Reaper::of(context));
        let emptied = tokio::time::timeout(context.me.options.lease, reaper.empty(&own)).await;
        let moved = emptied.unwrap_or(Err(Abandoned)).ok();
        tracing::debug!(gpu_id = %context.me.gpu_id, moved, "own queue returned to the pool");
    }
    context.ports.stop.now.cancel();
    // What is left of the lives ends now, so that nothing writes after the row is gone.
    let _ = tokio::time::timeout(context.me.options.lease.max(LAST_WORDS), context.lives.wait()).await;
    context.signals.last_beat.cancel();
    let _ = tokio::time::timeout(context.me.options.lease, context.signals.silent.cancelled()).await;
    // While the row was there others may have read tensors, also while this worker drained; with the row they are gone.
    stop_data(context).await;
    let leaving = context.ports.table.leave(&context.me.options.pool, &context.me.gpu_id, &context.me.incarnation);
    match tokio::time::timeout(context.me.options.lease, leaving).await {
        Ok(Ok(())) => tracing::info!(gpu_id = %context.me.gpu_id, "left"),
        _ => tracing::info!(gpu_id = %context.me.gpu_id, "left; its row lapses with its lease"),
    }
    steps::flush(&context.ports).await;
}
