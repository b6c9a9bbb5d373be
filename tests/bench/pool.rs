//! Real workers on the private servers, in this process: one per simulated GPU, each with connections of its own, as separate processes have.

use std::{sync::Arc, time::Duration};

use devices::simulated::{LinkSpeed, SimulatedGpu, SimulatedOptions, Sleeper};
use executors::{Executors, ModelBounds, ModelCache, ModelCounts};
use gpu_worker::{GpuWorker, Stop, WorkerError, WorkerMetrics, WorkerOptions, WorkerParts};
use prometheus::Registry;
use protocol::{GpuId, Strategy, TaskBody};
use serde_json::Value;
use task_queue::{BodyBudget, RabbitMq, TaskQueue};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    Fault,
    client::Question,
    namespace::{Namespace, environment},
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
    /// So many of them, the first, work at half speed.
    pub(crate) slowed: usize,
    /// What they keep of models, where the part is about that.
    pub(crate) models: Option<KeptModels>,
    /// How fast the links between them are, where the part is about tensors: then their workers know the kinds of tensors too, and take tasks of up to 32 MiB.
    pub(crate) tensors: Option<LinkSpeed>,
}

/// What the GPUs of a pool keep of models.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeptModels {
    /// The strategy of all tasks.
    pub(crate) strategy: Strategy,
    /// Most that the models of one GPU take together, in MB.
    pub(crate) memory_mb: u64,
}

impl PoolPlan {
    pub(crate) const fn new(name: String, gpus: usize, slots: u16) -> Self {
        Self { name, gpus, slots, slowed: 0, models: None, tensors: None }
    }
}

/// Running workers.
pub(crate) struct Pool {
    names: Namespace,
    registry: Registry,
    stop: Stop,
    workers: JoinSet<Result<(), WorkerError>>,
    queues: Vec<Arc<RabbitMq>>,
    caches: Vec<Arc<ModelCache>>,
    model_mb: Option<u64>,
    tensors: Option<LinkSpeed>,
}

impl Pool {
    /// Starts the workers, and returns once each can be claimed.
    pub(crate) async fn start(servers: &Servers, plan: PoolPlan) -> Result<Self, Fault> {
        let registry = Registry::new();
        let metrics = Arc::new(WorkerMetrics::new(&registry)?);
        let mut names = Namespace::new(&plan.name, plan.slots);
        if let Some(models) = plan.models {
            names.configuration.gpu.multi_gpu.default_strategy = models.strategy;
        }
        if plan.tensors.is_some() {
            names.configuration.worker.body_bytes_max = 32 << 20;
        }
        let (queues, caches, model_mb) = (Vec::new(), Vec::new(), plan.models.map(|models| models.memory_mb));
        let (stop, workers, tensors) = (Stop::default(), JoinSet::new(), plan.tensors);
        let mut pool = Self { names, registry, stop, workers, queues, caches, model_mb, tensors };
        for number in 0..plan.gpus {
            pool.add_worker(servers, number, (number < plan.slowed, &metrics)).await?;
        }
        pool.names.until_eligible(servers, plan.gpus).await?;
        Ok(pool)
    }

    async fn add_worker(&mut self, servers: &Servers, number: usize, (slowed, metrics): (bool, &Arc<WorkerMetrics>)) -> Result<(), Fault> {
        let gpu_id = GpuId::new(format!("sim-{number}"))?;
        // As the real binary makes them.
        let mut simulated = SimulatedOptions { sleeper: Sleeper::Precise, ..SimulatedOptions::new(gpu_id) };
        simulated.peer_link = self.tensors.or(simulated.peer_link);
        let gpu = SimulatedGpu::new(simulated);
        if slowed {
            gpu.knobs().set_speed(0.5);
        }
        let queue = self.names.queue(servers).await?;
        self.queues.push(Arc::clone(&queue));
        let cache = Arc::new(ModelCache::new(ModelBounds { memory_mb: self.model_mb, ..ModelBounds::default() }));
        self.caches.push(Arc::clone(&cache));
        let mut executors = Executors::new().with(executors::echo()).with(executors::simulate_keeping(cache, &[]));
        if self.tensors.is_some() {
            executors = executors::data_kinds().into_iter().fold(executors, Executors::with);
        }
        let parts = WorkerParts {
            queue,
            table: Arc::new(self.names.table(servers)?),
            store: Arc::new(self.names.store(servers).await?),
            device: Arc::new(gpu),
            executors,
            environment: environment(),
            options: WorkerOptions::of(&self.names.configuration, "bench"),
            metrics: Arc::clone(metrics),
            bodies: BodyBudget::new(self.names.configuration.memory.bodies_mb),
        };
        self.workers.spawn(GpuWorker::new(parts, self.stop.clone()).run());
        Ok(())
    }

    /// A task for this pool, for a bare client.
    pub(crate) fn question(&self, kind: &'static str, payload: Value) -> Result<Question, Fault> {
        self.names.question(kind, payload)
    }

    /// A task as this body says, for a bare client.
    pub(crate) fn asking(&self, kind: &'static str, body: &TaskBody) -> Question {
        self.names.asking(kind, body)
    }

    /// A batch for this pool, for a bare client.
    pub(crate) fn batch(&self, kind: &'static str, items: Vec<Value>) -> Result<Question, Fault> {
        self.names.batch(kind, items)
    }

    /// How often the workers sent a task on so far.
    pub(crate) fn forwards(&self) -> f64 {
        let families = self.registry.gather();
        let forwarded = families.iter().filter(|family| family.name() == "gpufleet_forwarded_total");
        forwarded.flat_map(|family| family.get_metric()).map(|metric| metric.get_counter().get_value()).sum()
    }

    /// What happened to the models of all GPUs so far.
    pub(crate) fn model_counts(&self) -> ModelCounts {
        self.caches.iter().map(|cache| cache.counts()).fold(ModelCounts::default(), ModelCounts::with)
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
