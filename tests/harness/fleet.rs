//! Whole fleets for tests: `Fleet::of(4).start().await`, on memory or on private servers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use devices::simulated::{SimulatedGpu, SimulatedKnobs, SimulatedOptions};
use executors::{Executors, ModelBounds, ModelCache};
use gpu_table::{GpuTable, Leases, MemoryTable, RedisTable};
use gpu_worker::{GpuWorker, Stop, WorkerMetrics, WorkerOptions, WorkerParts};
use producer::{Producer, ProducerOptions};
use prometheus::Registry;
use protocol::{
    Environment, GpuId, PoolName, Strategy, TraceSink,
    config::{Configuration, SecretUrl},
    gpu::GpuView,
};
use task_queue::{BodyBudget, MemoryBroker, QueueOptions, RabbitMq, TaskQueue};
use task_store::{MemoryStore, RedisStore, StoreOptions, TaskStore};
use tokio::task::JoinHandle;

use crate::{environment::Lifeline, rabbitmq::PrivateRabbitMq, redis::PrivateRedis, until::until};

/// What a fleet is to be, before it starts.
pub struct FleetPlan {
    gpus: usize,
    environment: Environment,
    configuration: Configuration,
    real: bool,
    own: Option<ServerUrls>,
    executors: Executors,
    /// Makes executors for each worker, in place of the ones above.
    own_executors: Option<OwnExecutors>,
    topology_every: Option<Duration>,
    store_through: Option<StoreThrough>,
}

/// Makes the executors of one worker.
type OwnExecutors = Arc<dyn Fn() -> Executors + Send + Sync>;

/// Makes of a store what a client of it is given.
type StoreThrough = Arc<dyn Fn(Arc<dyn TaskStore>) -> Arc<dyn TaskStore> + Send + Sync>;

/// Where a fleet's servers listen.
#[derive(Debug, Clone)]
pub struct ServerUrls {
    /// RabbitMQ.
    pub amqp: SecretUrl,
    /// The table's Redis.
    pub table: SecretUrl,
    /// The store's Redis.
    pub store: SecretUrl,
}

/// The servers of a fleet.
enum Servers {
    Memory { broker: MemoryBroker, table: Arc<MemoryTable>, store: Arc<MemoryStore> },
    Real(ServerUrls),
}

/// The three ports, opened.
#[derive(Clone)]
pub struct Ports {
    /// How tasks travel.
    pub queue: Arc<dyn TaskQueue>,
    /// Who holds which GPU.
    pub table: Arc<dyn GpuTable>,
    /// What became of tasks.
    pub store: Arc<dyn TaskStore>,
}

/// One worker of a fleet.
struct Member {
    stop: Stop,
    queue: Arc<dyn TaskQueue>,
    knobs: SimulatedKnobs,
    lifeline: Lifeline,
    running: JoinHandle<()>,
}

/// A running fleet. Dropping it leaves its workers to the end of the test's runtime.
pub struct Fleet {
    servers: Servers,
    plan: FleetPlan,
    members: BTreeMap<GpuId, Member>,
    registry: Registry,
    metrics: Arc<WorkerMetrics>,
    /// The ports, as a client has them.
    pub ports: Ports,
    /// Submits to the fleet.
    pub producer: Producer,
    started: usize,
}

/// Tensors stay within the process, where the GPUs of a fleet reach each other: on a paused clock nothing waits for a socket. A test that wants ports says so (`data.listen`).
fn without_data_ports(mut configuration: Configuration) -> Configuration {
    configuration.data.listen = None;
    // What tests count that moves is what they move.
    configuration.data.trial_mb = 0;
    configuration
}

/// These, and the kinds that put, read, copy, join and free tensors.
#[must_use]
pub fn with_data_kinds(executors: Executors) -> Executors {
    executors::data_kinds().into_iter().fold(executors, Executors::with)
}

static FLEETS: AtomicU64 = AtomicU64::new(0);

impl Fleet {
    /// A plan of a fleet of `gpus` simulated GPUs, in memory, with the default configuration.
    #[must_use]
    pub fn of(gpus: usize) -> FleetPlan {
        FleetPlan {
            gpus,
            environment: crate::environment::seeded(crate::environment::seed_of_test()),
            configuration: without_data_ports(Configuration::default()),
            real: false,
            own: None,
            executors: with_data_kinds(Executors::new().with(executors::echo()).with(executors::simulate())),
            own_executors: None,
            topology_every: None,
            store_through: None,
        }
    }
}

impl FleetPlan {
    /// On the private RabbitMQ and Redis instead of memory, under names of its own.
    #[must_use]
    pub fn on_real_servers(mut self) -> Self {
        self.real = true;
        self
    }

    /// On servers of the test's own, to break.
    #[must_use]
    pub fn on_servers(mut self, urls: ServerUrls) -> Self {
        self.real = true;
        self.own = Some(urls);
        self
    }

    /// Slots of each GPU.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.configuration.gpu.multi_gpu.max_concurrent_tasks_per_gpu = slots;
        self
    }

    /// The strategy of tasks that name none.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.configuration.gpu.multi_gpu.default_strategy = strategy;
        self
    }

    /// Anything else of the configuration.
    #[must_use]
    pub fn configured(mut self, change: impl FnOnce(&mut Configuration)) -> Self {
        change(&mut self.configuration);
        self
    }

    /// Its workers and its producer give their spans to this.
    #[must_use]
    pub fn tracing(mut self, sink: Arc<dyn TraceSink>) -> Self {
        self.environment.traces = Some(sink);
        self
    }

    /// Another set of executors.
    #[must_use]
    pub fn executors(mut self, executors: Executors) -> Self {
        self.executors = executors;
        self
    }

    /// Workers each of which keeps models of its own, as the configuration says (`models.pinned`, `models.memory_mb`, `models.simulated`).
    #[must_use]
    pub fn keeping_models(mut self) -> Self {
        let models = self.configuration.models.clone();
        let memory_share = self.configuration.gpu.multi_gpu.memory_threshold;
        self.own_executors = Some(Arc::new(move || {
            let bounds = ModelBounds { memory_mb: models.memory_mb, memory_share, pinned: models.pinned.clone() };
            let simulate = executors::simulate_keeping(Arc::new(ModelCache::new(bounds)), &models.simulated);
            with_data_kinds(Executors::new().with(executors::echo()).with(simulate))
        }));
        self
    }

    /// Workers that look after the queues that they need so often, instead of once a minute.
    #[must_use]
    pub fn looking_after_queues_every(mut self, every: Duration) -> Self {
        self.topology_every = Some(every);
        self
    }

    /// Workers and producer reach the store through what `wrap` makes of it.
    #[must_use]
    pub fn store_through(mut self, wrap: impl Fn(Arc<dyn TaskStore>) -> Arc<dyn TaskStore> + Send + Sync + 'static) -> Self {
        self.store_through = Some(Arc::new(wrap));
        self
    }

    /// Starts the workers, and waits until all of them can be claimed.
    pub async fn start(mut self) -> Fleet {
        let servers = self.servers().await;
        let ports = self.ports(&servers).await;
        let options = ProducerOptions { pool: self.configuration.worker.pool.clone(), ..ProducerOptions::default() };
        let producer = Producer::new(Arc::clone(&ports.queue), Arc::clone(&ports.store), self.environment.clone(), options);
        let registry = Registry::new();
        let metrics = Arc::new(WorkerMetrics::new(&registry).expect("a fresh registry"));
        let gpus = self.gpus;
        let mut fleet = Fleet { servers, plan: self, members: BTreeMap::new(), registry, metrics, ports, producer, started: 0 };
        for _ in 0..gpus {
            fleet.add_gpu().await;
        }
        fleet.eligible(gpus).await;
        fleet
    }

    async fn servers(&mut self) -> Servers {
        if self.real {
            let number = FLEETS.fetch_add(1, Ordering::Relaxed);
            let prefix = format!("fleet-{}-{number}", std::process::id());
            self.configuration.amqp.prefix.clone_from(&prefix);
            self.configuration.redis.prefix = prefix;
            if let Some(own) = self.own.clone() {
                return Servers::Real(own);
            }
            let redis = PrivateRedis::shared().await.url();
            let amqp = PrivateRabbitMq::shared().await.url();
            return Servers::Real(ServerUrls { amqp, table: redis.clone(), store: redis });
        }
        let clock = Arc::clone(&self.environment.clock);
        Servers::Memory {
            broker: MemoryBroker::new(QueueOptions::from(&self.configuration.amqp)),
            table: Arc::new(MemoryTable::new(Arc::clone(&clock), self.leases())),
            store: Arc::new(MemoryStore::new(clock, StoreOptions::from(&self.configuration))),
        }
    }

    fn leases(&self) -> Leases {
        let worker = &self.configuration.worker;
        Leases { held: Duration::from_millis(worker.lease_ms), offered: Duration::from_millis(worker.offer_ms) }
    }

    async fn ports(&self, servers: &Servers) -> Ports {
        let ports = self.ports_of(servers).await;
        match &self.store_through {
            Some(wrap) => Ports { store: wrap(ports.store), ..ports },
            None => ports,
        }
    }

    async fn ports_of(&self, servers: &Servers) -> Ports {
        match servers {
            Servers::Memory { broker, table, store } => Ports {
                queue: Arc::new(broker.connect()),
                table: Arc::<MemoryTable>::clone(table),
                store: Arc::<MemoryStore>::clone(store),
            },
            Servers::Real(urls) => self.real_ports(urls).await,
        }
    }

    async fn real_ports(&self, urls: &ServerUrls) -> Ports {
        let section = &self.configuration.redis;
        let timeout = Duration::from_millis(section.response_timeout_ms);
        let queue = RabbitMq::connect(&urls.amqp, QueueOptions::from(&self.configuration.amqp)).await.expect("the private broker");
        let table = RedisTable::connect(&urls.table, &section.prefix, self.leases(), timeout).expect("the private Redis");
        let options = StoreOptions::from(&self.configuration);
        let store = RedisStore::connect(&urls.store, &section.prefix, options, timeout).await.expect("the private Redis");
        Ports { queue: Arc::new(queue), table: Arc::new(table), store: Arc::new(store) }
    }
}

impl Fleet {
    /// The GPU ids of the running workers, sorted.
    #[must_use]
    pub fn gpus(&self) -> Vec<GpuId> {
        self.members.keys().cloned().collect()
    }

    /// The pool that the fleet serves.
    #[must_use]
    pub fn pool(&self) -> PoolName {
        self.plan.configuration.worker.pool.clone()
    }

    /// Its configuration, with the names that are its own.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        &self.plan.configuration
    }

    /// Its broker; `None` in memory.
    #[must_use]
    pub fn amqp(&self) -> Option<&SecretUrl> {
        match &self.servers {
            Servers::Memory { .. } => None,
            Servers::Real(urls) => Some(&urls.amqp),
        }
    }

    /// The environment of the fleet.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.plan.environment
    }

    /// What `/metrics` would say.
    #[must_use]
    pub fn metrics(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).expect("text")
    }

    /// The sum of all series of a counter whose labels contain `having`.
    #[must_use]
    pub fn counted(&self, name: &str, having: &str) -> f64 {
        let text = self.metrics();
        let lines = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#') && line.contains(having));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Starts one more worker.
    pub async fn add_gpu(&mut self) -> GpuId {
        let gpu_id = GpuId::new(format!("gpu-{}", self.started)).expect("a valid id");
        self.add(SimulatedOptions::new(gpu_id.clone())).await;
        gpu_id
    }

    /// Workers that start from now on have these executors.
    pub fn executors_from_now_on(&mut self, executors: Executors) {
        self.plan.executors = executors;
    }

    /// Starts one more worker, for this GPU.
    pub async fn add(&mut self, simulated: SimulatedOptions) {
        let ports = self.plan.ports(&self.servers).await;
        self.add_with(simulated, ports);
    }

    /// Starts one more worker that reaches its broker over a way of its own.
    pub async fn add_by(&mut self, simulated: SimulatedOptions, amqp: SecretUrl) {
        let Servers::Real(urls) = &self.servers else { panic!("memory has no ways") };
        let ports = self.plan.real_ports(&ServerUrls { amqp, ..urls.clone() }).await;
        self.add_with(simulated, ports);
    }

    fn add_with(&mut self, simulated: SimulatedOptions, ports: Ports) {
        self.started += 1;
        let gpu_id = simulated.gpu_id.clone();
        let device = SimulatedGpu::new(simulated);
        let knobs = device.knobs();
        let queue = Arc::clone(&ports.queue);
        let lifeline = Lifeline::default();
        let mut options = WorkerOptions::of(&self.plan.configuration, "test");
        options.topology_every = self.plan.topology_every.unwrap_or(options.topology_every);
        let parts = WorkerParts {
            queue: ports.queue,
            table: ports.table,
            store: ports.store,
            device: Arc::new(device),
            executors: self.plan.own_executors.as_ref().map_or_else(|| self.plan.executors.clone(), |make| make()),
            environment: lifeline.hold(&self.plan.environment),
            options,
            metrics: Arc::clone(&self.metrics),
            // A worker of a test stands for a process.
            bodies: BodyBudget::new(self.plan.configuration.memory.bodies_mb),
        };
        let stop = Stop::default();
        let worker = GpuWorker::new(parts, stop.clone());
        let running = tokio::spawn(async move { worker.run().await.expect("the worker starts") });
        lifeline.add(running.abort_handle());
        self.members.insert(gpu_id, Member { stop, queue, knobs, lifeline, running });
    }

    /// Empties the table, as a restart without persistence or `FLUSHALL` does. The store stays.
    pub async fn empty_the_table(&self) {
        match &self.servers {
            Servers::Memory { table, .. } => table.clear(),
            Servers::Real(_) => {
                let pattern = format!("{}:{{{}}}:*", self.plan.configuration.redis.prefix, self.pool());
                PrivateRedis::shared().await.delete(&pattern).await;
            }
        }
    }

    /// Empties the store, as no server should. The table stays.
    pub async fn empty_the_store(&self) {
        match &self.servers {
            Servers::Memory { store, .. } => store.clear(),
            Servers::Real(_) => {
                let (redis, prefix) = (PrivateRedis::shared().await, &self.plan.configuration.redis.prefix);
                for pattern in ["{task:*", "{group:*", "store:*"] {
                    redis.delete(&format!("{prefix}:{pattern}")).await;
                }
            }
        }
    }

    /// The broker of a fleet in memory.
    ///
    /// # Panics
    /// On real servers.
    #[must_use]
    pub fn broker(&self) -> &MemoryBroker {
        match &self.servers {
            Servers::Memory { broker, .. } => broker,
            Servers::Real { .. } => panic!("only a fleet in memory has a broker to turn the knobs of"),
        }
    }

    /// The knobs of a GPU.
    #[must_use]
    pub fn knobs(&self, gpu_id: &GpuId) -> SimulatedKnobs {
        self.members[gpu_id].knobs.clone()
    }

    /// Stops a worker gently and waits until it has left.
    pub async fn drain(&mut self, gpu_id: &GpuId) {
        let member = self.members.remove(gpu_id).expect("a running worker");
        member.stop.gently.cancel();
        member.running.await.expect("the worker ends");
        member.queue.close().await;
    }

    /// Ends a worker as `kill -9` does: its connections break, nothing more is written.
    pub async fn kill(&mut self, gpu_id: &GpuId) {
        let member = self.members.remove(gpu_id).expect("a running worker");
        member.lifeline.cut();
        member.queue.close().await;
    }

    /// Kills a worker and starts the next one for the same GPU.
    pub async fn kill_and_restart(&mut self, gpu_id: &GpuId) {
        self.kill(gpu_id).await;
        self.add(SimulatedOptions::new(gpu_id.clone())).await;
    }

    /// Waits until exactly `gpus` GPUs are eligible.
    pub async fn eligible(&self, gpus: usize) {
        until(&format!("{gpus} GPUs are eligible"), async || {
            let rows = self.rows().await;
            rows.iter().filter(|view| view.eligible).count() == gpus && rows.len() == gpus
        })
        .await;
    }

    /// The rows of the table.
    pub async fn rows(&self) -> Vec<GpuView> {
        self.ports.table.rows(&self.pool()).await.expect("the table answers")
    }

    /// Waits until no slot is held.
    pub async fn idle(&self) {
        let held = async || {
            let rows = self.rows().await;
            let held = rows.iter().filter(|view| view.held > 0);
            held.map(|view| format!("{} holds {}, runs {:?}", view.row.gpu.gpu_id, view.held, view.row.running)).collect::<Vec<_>>()
        };
        let idle = until("no slot is held", async || held().await.is_empty());
        tokio::select! {
            biased;
            () = idle => {}
            // Before that wait fails: what it waits for.
            () = async { tokio::time::sleep(std::time::Duration::from_secs(100)).await; panic!("slots are held: {:?}", held().await) } => {}
        }
    }

    /// Tasks that ran on each GPU, by the counter of ended tasks.
    #[must_use]
    pub fn tasks_per_gpu(&self) -> BTreeMap<GpuId, u64> {
        self.gpus()
            .into_iter()
            .map(|gpu_id| {
                let count = self.counted("gpufleet_tasks_total", &format!("gpu_id=\"{gpu_id}\""));
                (gpu_id, count as u64)
            })
            .collect()
    }
}
