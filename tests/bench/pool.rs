//! Real workers on the private servers: one per simulated GPU, each with connections of its own, as separate processes have.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use devices::simulated::{SimulatedGpu, SimulatedOptions};
use executors::Executors;
use gpu_table::{GpuTable, Leases, RedisTable};
use gpu_worker::{GpuWorker, Stop, WorkerError, WorkerMetrics, WorkerOptions, WorkerParts};
use producer::{Producer, ProducerOptions};
use prometheus::Registry;
use protocol::{Environment, GpuId, TaskBody, config::Configuration};
use serde_json::Value;
use task_queue::{Names, Queue, QueueOptions, RabbitMq, TaskQueue};
use task_store::{RedisStore, StoreOptions};
use tests::{environment::seeded, until::until};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    Fault,
    client::Question,
    occupancy::{Occupancy, WatchedTable},
    servers::Servers,
};

/// Longest wait for the workers to end; what is left ends with the process.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How many GPUs, and what they are like.
#[derive(Debug, Clone)]
pub(crate) struct PoolPlan {
    /// The first part of every name on the servers: two pools of one run never meet.
    pub(crate) name: String,
    pub(crate) gpus: usize,
    pub(crate) slots: u16,
    /// Where slots' occupancy is noted; `None` leaves the table alone.
    pub(crate) occupancy: Option<Arc<Occupancy>>,
}

/// Running workers.
pub(crate) struct Pool {
    configuration: Configuration,
    registry: Registry,
    stop: Stop,
    workers: JoinSet<Result<(), WorkerError>>,
    queues: Vec<Arc<RabbitMq>>,
}

impl Pool {
    /// Starts the workers, and returns once each can be claimed.
    pub(crate) async fn start(servers: &Servers, plan: PoolPlan) -> Result<Self, Fault> {
        let mut configuration = Configuration::default();
        configuration.amqp.prefix.clone_from(&plan.name);
        configuration.redis.prefix.clone_from(&plan.name);
        configuration.gpu.multi_gpu.max_concurrent_tasks_per_gpu = plan.slots.into();
        let registry = Registry::new();
        let metrics = Arc::new(WorkerMetrics::new(&registry)?);
        let mut pool = Self { configuration, registry, stop: Stop::default(), workers: JoinSet::new(), queues: Vec::new() };
        for number in 0..plan.gpus {
            pool.add_worker(servers, &plan, number, &metrics).await?;
        }
        let table = pool.table(servers)?;
        let of = &pool.configuration.worker.pool;
        let all_eligible = async || table.rows(of).await.is_ok_and(|rows| rows.iter().filter(|row| row.eligible).count() == plan.gpus);
        until(&format!("{} GPUs are eligible", plan.gpus), all_eligible).await;
        Ok(pool)
    }

    async fn add_worker(&mut self, servers: &Servers, plan: &PoolPlan, number: usize, metrics: &Arc<WorkerMetrics>) -> Result<(), Fault> {
        let gpu_id = GpuId::new(format!("sim-{number}"))?;
        let queue = self.queue(servers).await?;
        let table: Arc<dyn GpuTable> = match &plan.occupancy {
            Some(occupancy) => Arc::new(WatchedTable { table: self.table(servers)?, occupancy: Arc::clone(occupancy) }),
            None => Arc::new(self.table(servers)?),
        };
        let parts = WorkerParts {
            queue,
            table,
            store: Arc::new(self.store(servers).await?),
            device: Arc::new(SimulatedGpu::new(SimulatedOptions::new(gpu_id))),
            executors: Executors::new().with(executors::echo()).with(executors::simulate()),
            environment: environment(),
            options: WorkerOptions::of(&self.configuration, "bench"),
            metrics: Arc::clone(metrics),
        };
        self.workers.spawn(GpuWorker::new(parts, self.stop.clone()).run());
        Ok(())
    }

    /// Two connections of one's own to the broker, kept until the pool stops.
    async fn queue(&mut self, servers: &Servers) -> Result<Arc<RabbitMq>, Fault> {
        let queue = Arc::new(RabbitMq::connect(&servers.amqp(), QueueOptions::from(&self.configuration.amqp)).await?);
        self.queues.push(Arc::clone(&queue));
        Ok(queue)
    }

    fn table(&self, servers: &Servers) -> Result<RedisTable, Fault> {
        let worker = &self.configuration.worker;
        let leases = Leases { held: Duration::from_millis(worker.lease_ms), offered: Duration::from_millis(worker.offer_ms) };
        Ok(RedisTable::connect(&servers.redis(), &self.configuration.redis.prefix, leases, self.response_timeout())?)
    }

    async fn store(&self, servers: &Servers) -> Result<RedisStore, Fault> {
        let options = StoreOptions::from(&self.configuration.store);
        Ok(RedisStore::connect(&servers.redis(), &self.configuration.redis.prefix, options, self.response_timeout()).await?)
    }

    fn response_timeout(&self) -> Duration {
        Duration::from_millis(self.configuration.redis.response_timeout_ms)
    }

    /// Our own library's producer, with connections of its own.
    pub(crate) async fn producer(&mut self, servers: &Servers) -> Result<Producer, Fault> {
        let store = Arc::new(self.store(servers).await?);
        Ok(Producer::new(self.queue(servers).await?, store, environment(), ProducerOptions::default()))
    }

    /// A task for this pool, for a bare client.
    pub(crate) fn question(&self, kind: &'static str, payload: Value) -> Result<Question, Fault> {
        let names = Names::new(self.configuration.amqp.prefix.clone());
        let body = serde_json::to_vec(&TaskBody { payload, ..TaskBody::default() })?;
        Ok(Question { queue: names.queue(&Queue::Pool(self.configuration.worker.pool.clone())), kind, body: Bytes::from(body) })
    }

    /// How often the workers sent a task on so far.
    pub(crate) fn forwards(&self) -> f64 {
        self.counts("gpufleet_forwarded_total", "reason").values().sum()
    }

    /// What the workers counted so far under a name, summed over them, by the value of a label.
    pub(crate) fn counts(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut counts = BTreeMap::new();
        let families = self.registry.gather();
        for metric in families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric()) {
            let value = metric.get_label().iter().find(|pair| pair.name() == label).map_or("", |pair| pair.value());
            *counts.entry(value.to_owned()).or_default() += metric.get_counter().get_value();
        }
        counts
    }

    /// Ends the workers and their connections.
    pub(crate) async fn stop(mut self) {
        self.stop.gently.cancel();
        let ending = async {
            while self.workers.join_next().await.is_some() {}
            futures::future::join_all(self.queues.iter().map(|queue| queue.close())).await;
        };
        let _left_to_the_end = timeout(STOP_LIMIT, ending).await;
        self.stop.now.cancel();
    }
}

/// Every environment has a seed of its own, so that no two draw the same ids.
fn environment() -> Environment {
    seeded(uuid::Uuid::new_v4().as_u64_pair().0)
}
