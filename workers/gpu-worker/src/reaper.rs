//! The reaper: empties the queues of GPUs that are gone back into their pools, and deletes them after an hour.
//!
//! A queue is emptied when its GPU's row has been missing for two leases *and* nobody consumes it. Every worker reaps; taking a message is
//! atomic, so they share the work. Which GPUs ever had a queue is in the store, because the table may be emptied.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use protocol::GpuId;
use task_queue::Queue;
use task_store::KnownGpu;
use tokio::time::Instant;

use crate::{
    context::Context,
    mover,
    persist::{Abandoned, pause_or_abandon},
};

/// How long a queue outlives its GPU.
const KEPT: Duration = Duration::from_secs(3_600);

/// Reaps once a lease, until the worker stops.
pub(crate) async fn run(context: Arc<Context>) {
    let mut missing = BTreeMap::new();
    loop {
        // Spread over the lease, so that a fleet's workers do not look all at once.
        let pause = context.options.lease.mul_f64(0.75 + context.environment.random.unit() / 2.0);
        tokio::select! {
            biased;
            () = context.stop.gently.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if look_around(&context, &mut missing).await.is_err() {
            return;
        }
    }
}

async fn look_around(context: &Context, missing: &mut BTreeMap<GpuId, Instant>) -> Result<(), Abandoned> {
    let (Ok(announced), Ok(rows)) = tokio::join!(context.store.announced(), context.table.rows(&context.options.pool)) else {
        return Ok(());
    };
    let now = Instant::now();
    let gone = |gpu: &KnownGpu| gpu.pool == context.options.pool && !rows.iter().any(|view| view.row.gpu.gpu_id == gpu.gpu_id);
    let gone: Vec<KnownGpu> = announced.into_iter().filter(gone).collect();
    missing.retain(|gpu_id, _| gone.iter().any(|gpu| gpu.gpu_id == *gpu_id));
    for gpu in gone {
        let since = *missing.entry(gpu.gpu_id.clone()).or_insert(now);
        if now.saturating_duration_since(since) >= context.options.lease * 2 {
            reap(context, &gpu).await?;
        }
    }
    Ok(())
}

async fn reap(context: &Context, gpu: &KnownGpu) -> Result<(), Abandoned> {
    let queue = Queue::Gpu(gpu.gpu_id.clone());
    match context.queue.depth(&queue).await {
        Ok(Some(depth)) if depth.consumers == 0 => {
            let moved = empty(context, &queue).await?;
            if moved > 0 {
                tracing::warn!(gpu_id = %gpu.gpu_id, moved, "the GPU is gone; its queue was emptied back to the pool");
            }
            delete_when_old(context, gpu, &queue).await;
        }
        Ok(None) => delete_when_old(context, gpu, &queue).await,
        Ok(Some(_)) => {}
        Err(error) => tracing::debug!(gpu_id = %gpu.gpu_id, %error, "not reaped this time"),
    }
    Ok(())
}

/// Moves everything that waits in `queue` back to its pool. How many messages that were.
pub(crate) async fn empty(context: &Context, queue: &Queue) -> Result<u64, Abandoned> {
    let mut moved = 0;
    loop {
        match context.queue.take(queue).await {
            Ok(Some(delivery)) => mover::move_one(context, delivery).await?,
            Ok(None) => return Ok(moved),
            Err(error) => {
                tracing::debug!(%error, "not emptied this time");
                pause_or_abandon(&context.stop.now, Duration::ZERO).await?;
                return Ok(moved);
            }
        }
        moved += 1;
    }
}

async fn delete_when_old(context: &Context, gpu: &KnownGpu, queue: &Queue) {
    let age_ms = u128::from(context.now_ms().saturating_sub(gpu.announced_ms));
    if age_ms < KEPT.as_millis() {
        return;
    }
    match context.queue.delete_if_unused(queue).await {
        Ok(true) => {
            if let Err(error) = context.store.withdraw(gpu).await {
                tracing::debug!(gpu_id = %gpu.gpu_id, %error, "not withdrawn this time");
            }
        }
        Ok(false) => {}
        Err(error) => tracing::debug!(gpu_id = %gpu.gpu_id, %error, "not deleted this time"),
    }
}
