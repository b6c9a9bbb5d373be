//! The reaper: empties the queues of GPUs that are gone back into their pools, and deletes them after an hour.
//!
//! A queue is emptied when its GPU's row has been missing for two leases *and* nobody consumes it. Every worker reaps; taking a message is
//! atomic, so they share the work. Which GPUs ever had a queue is in the store, because the table may be emptied; and every worker remembers those that it has
//! seen, because the store may be emptied too: what it finds lost there it announces again. A message that a worker is moving is in no queue that the broker can count, and would
//! be lost with its queue if that worker died: so a queue in which something waits is announced anew before it is emptied, and lives for an hour from then on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use protocol::GpuId;
use task_queue::Queue;
use task_store::KnownGpu;
use tokio::time::Instant;

use super::mover::Mover;
use crate::{
    context::Context,
    me::Me,
    ports::{Abandoned, Ports},
};

/// How long a queue outlives its GPU.
const KEPT: Duration = Duration::from_secs(3_600);

/// What empties queues.
pub(crate) struct Reaper {
    ports: Ports,
    me: Arc<Me>,
    mover: Mover,
}

impl Reaper {
    pub(crate) fn of(context: &Context) -> Self {
        Self { ports: context.ports.clone(), me: Arc::clone(&context.me), mover: Mover::of(context) }
    }

    /// Reaps once a lease, until the worker stops.
    pub(crate) async fn run(self) {
        let mut seen = Seen::default();
        loop {
            // Spread over the lease, so that a fleet's workers do not look all at once.
            let pause = self.me.options.lease.mul_f64(0.75 + self.ports.environment.random.unit() / 2.0);
            tokio::select! {
                biased;
                () = self.ports.stop.gently.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            if seen.look_around(&self).await.is_err() {
                return;
            }
        }
    }

    /// Moves everything that waits in `queue` back to its pool. How many messages that were.
    pub(crate) async fn empty(&self, queue: &Queue) -> Result<u64, Abandoned> {
        let mut moved = 0;
        loop {
            match self.ports.queue.take(queue).await {
                Ok(Some(delivery)) => self.mover.move_one(delivery).await?,
                Ok(None) => return Ok(moved),
                Err(error) => {
                    tracing::debug!(%error, "not emptied this time");
                    self.ports.pause(Duration::ZERO).await?;
                    return Ok(moved);
                }
            }
            moved += 1;
        }
    }

    /// The store has lost it, and no other worker may have seen the GPU; or its queue is to live on.
    async fn announce_again(&self, gpu_id: &GpuId) {
        if let Err(error) = self.ports.store.announce(gpu_id, &self.me.options.pool).await {
            tracing::debug!(%gpu_id, %error, "not announced again this time");
        }
    }

    async fn delete_when_old(&self, gpu: &KnownGpu, queue: &Queue) {
        let age_ms = u128::from(self.ports.now_ms().saturating_sub(gpu.announced_ms));
        if age_ms < KEPT.as_millis() {
            return;
        }
        // Much time may have passed since the list was read, and another worker have found something in the queue.
        if !self.ports.store.announced().await.is_ok_and(|announced| announced.contains(gpu)) {
            return;
        }
        match self.ports.queue.delete_if_unused(queue).await {
            Ok(true) => {
                if let Err(error) = self.ports.store.withdraw(gpu).await {
                    tracing::debug!(gpu_id = %gpu.gpu_id, %error, "not withdrawn this time");
                }
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(gpu_id = %gpu.gpu_id, %error, "not deleted this time"),
        }
    }
}

/// The GPUs of the pool that this worker has seen, alive or announced.
#[derive(Default)]
struct Seen {
    gpus: BTreeSet<GpuId>,
    missing: BTreeMap<GpuId, Instant>,
}

impl Seen {
    async fn look_around(&mut self, reaper: &Reaper) -> Result<(), Abandoned> {
        let pool = &reaper.me.options.pool;
        let (Ok(announced), Ok(rows)) = tokio::join!(reaper.ports.store.announced(), reaper.ports.table.rows(pool)) else { return Ok(()) };
        let (announced, moved): (Vec<KnownGpu>, Vec<KnownGpu>) = announced.into_iter().partition(|gpu| gpu.pool == *pool);
        let alive: BTreeSet<GpuId> = rows.into_iter().map(|view| view.row.gpu.gpu_id).collect();
        self.gpus.extend(announced.iter().map(|gpu| gpu.gpu_id.clone()).chain(alive.iter().cloned()));
        // A GPU that serves another pool by now is that pool's to look after.
        self.gpus.retain(|gpu_id| !moved.iter().any(|gpu| gpu.gpu_id == *gpu_id));
        let gpus = &self.gpus;
        self.missing.retain(|gpu_id, _| gpus.contains(gpu_id) && !alive.contains(gpu_id));
        let gone: Vec<GpuId> = self.gpus.difference(&alive).cloned().collect();
        for gpu_id in gone {
            let since = *self.missing.entry(gpu_id.clone()).or_insert_with(Instant::now);
            if since.elapsed() >= reaper.me.options.lease * 2 {
                let announced = announced.iter().find(|gpu| gpu.gpu_id == gpu_id);
                self.reap(reaper, &gpu_id, announced).await?;
            }
        }
        Ok(())
    }

    async fn reap(&mut self, reaper: &Reaper, gpu_id: &GpuId, announced: Option<&KnownGpu>) -> Result<(), Abandoned> {
        let queue = Queue::Gpu(gpu_id.clone());
        let depth = match reaper.ports.queue.depth(&queue).await {
            Ok(depth) => depth,
            Err(error) => {
                tracing::debug!(%gpu_id, %error, "not reaped this time");
                return Ok(());
            }
        };
        match (depth, announced) {
            (Some(depth), _) if depth.consumers > 0 => {}
            (Some(depth), announced) => {
                if depth.ready > 0 {
                    reaper.announce_again(gpu_id).await;
                }
                let moved = reaper.empty(&queue).await?;
                if moved > 0 {
                    tracing::warn!(%gpu_id, moved, "the GPU is gone; its queue was emptied back to the pool");
                }
                match announced {
                    Some(announced) => reaper.delete_when_old(announced, &queue).await,
                    None => reaper.announce_again(gpu_id).await,
                }
            }
            (None, Some(announced)) => reaper.delete_when_old(announced, &queue).await,
            (None, None) => {
                self.gpus.remove(gpu_id);
                self.missing.remove(gpu_id);
            }
        }
        Ok(())
    }
}
