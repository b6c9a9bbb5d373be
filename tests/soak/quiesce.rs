//! What is left when nothing arrives any more: nothing may be.

use std::{sync::Arc, time::Duration};

use gpu_table::GpuTable;
use protocol::PoolName;
use task_queue::{Queue, RabbitMq, TaskQueue};
use tokio::time::timeout;

use crate::{
    Fault, keys,
    ledger::Ledger,
    programs::{NVIDIA_POOL, within},
    sampler::queues,
    servers::{DEAD_LETTERS_MAX, OUTCOME_RETENTION, Servers},
};

/// How long the last replies may take. Delayed tasks come due, and some run for seconds.
const REPLIES_LIMIT: Duration = Duration::from_secs(240);
/// How long queues and slots may take to become empty after that.
const EMPTY_LIMIT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(10);
/// Sorts of keys that are gone when what they were for has been forgotten. Everything else in Redis is there once for each fleet, GPU, kind or model.
const OF_TASKS: [&str; 4] = ["task", "group", "table:slots:offered", "table:slots:tensor"];

/// What is asked.
pub(crate) struct Quiesce<'a> {
    pub(crate) servers: &'a Servers,
    pub(crate) queue: &'a Arc<RabbitMq>,
    pub(crate) ledger: &'a Ledger,
}

impl Quiesce<'_> {
    /// Waits until all is over; what is left then, a sentence each.
    pub(crate) async fn leftovers(&self) -> Vec<String> {
        // What did not come is told by the ledger.
        let _late = within(REPLIES_LIMIT, "every task has its reply", async || self.ledger.open_tasks() == 0).await;
        let _late = within(EMPTY_LIMIT, "the queues are empty", async || self.in_queues().await.is_empty()).await;
        let _late = within(EMPTY_LIMIT, "no slot is held", async || self.held().await.is_empty()).await;
        let forgotten = OUTCOME_RETENTION + EMPTY_LIMIT;
        let _late = within(forgotten, "the tasks are forgotten", async || self.keys_of_tasks().await.is_empty()).await;
        [self.in_queues().await, self.held().await, self.keys_of_tasks().await].concat()
    }

    async fn in_queues(&self) -> Vec<String> {
        let mut left = Vec::new();
        for queue in queues() {
            let most = if queue == Queue::Dead { DEAD_LETTERS_MAX } else { 0 };
            match timeout(PATIENCE, self.queue.depth(&queue)).await {
                Ok(Ok(depth)) => {
                    let ready = depth.map_or(0, |depth| depth.ready);
                    left.extend(
                        (ready > most).then(|| format!("{ready} messages are left in the queue of {queue} (at most {most} may be)")),
                    );
                }
                Ok(Err(error)) => left.push(format!("the depth of the queue of {queue}: {error}")),
                Err(_) => left.push(format!("the depth of the queue of {queue}: no answer within {PATIENCE:?}")),
            }
        }
        left
    }

    async fn held(&self) -> Vec<String> {
        match self.try_held().await {
            Ok(left) => left,
            Err(error) => vec![format!("the slots that are held: {error}")],
        }
    }

    async fn try_held(&self) -> Result<Vec<String>, Fault> {
        let (table, mut left) = (self.servers.table()?, Vec::new());
        for pool in [PoolName::default(), PoolName::new(NVIDIA_POOL)?] {
            for view in table.rows(&pool).await? {
                let (gpu_id, running) = (&view.row.gpu.gpu_id, view.row.running.len());
                if view.held > 0 || running > 0 || view.draining {
                    left.push(format!("{gpu_id} holds {} slots, runs {running} tasks, is drained: {}", view.held, view.draining));
                }
            }
        }
        Ok(left)
    }

    async fn keys_of_tasks(&self) -> Vec<String> {
        match self.try_keys().await {
            Ok(left) => left,
            Err(error) => vec![format!("the keys in Redis: {error}")],
        }
    }

    async fn try_keys(&self) -> Result<Vec<String>, Fault> {
        let sorts = keys::sorts(&mut self.servers.redis_connection().await?).await?;
        let of_a_task =
            |sort: &str| OF_TASKS.iter().any(|one| sort == *one || sort.strip_prefix(one).is_some_and(|rest| rest.starts_with(':')));
        let left = sorts.into_iter().filter(|(sort, _)| of_a_task(sort) || sort == "foreign");
        Ok(left.map(|(sort, keys::Sort { count, .. })| format!("{count} keys of the sort {sort} are left in Redis")).collect())
    }
}
