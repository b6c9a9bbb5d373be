//! A simulated fleet: memory back ends, workers behind [`Chaos`], a client that publishes and collects replies, and the events of a scenario.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU16,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use devices::simulated::{SimulatedGpu, SimulatedOptions};
use executors::Executors;
use gpu_table::{GpuTable, Leases, MemoryTable, TableCopy};
use gpu_worker::{GpuWorker, Stop, WorkerMetrics, WorkerOptions, WorkerParts};
use prometheus::Registry;
use protocol::{
    Envelope, Environment, GpuId, GpuOptions, GroupName, GroupStatus, Json, OnError, PoolName, TaskBody, TaskId, config::Configuration,
    envelope::Headers, environment::Clock, task::Limits,
};
use serde_json::json;
use task_queue::{BodyBudget, MemoryBroker, Outgoing, PublishError, Queue, QueueOptions, Target, TaskQueue};
use task_store::{MemoryStore, Reach, StoreOptions, TaskStore};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::Instant,
};

use super::{
    bugs::{Bug, MostHeld},
    chaos::{Chaos, Site},
    ports::ChaosQueue,
    scenario::{Class, Event, PlannedBatch, PlannedTask, Scenario},
    tables::{ChaosStore, ChaosTable},
    world::{KIND, Work, World},
};

const REPLIES: &str = "simulated";
/// How long a task may wait in the own queue of a GPU: short, so that what comes back from there does so while other things go wrong.
const GPU_QUEUE_TTL_MS: u64 = 10_000;

/// One worker's process.
struct Process {
    chaos: Arc<Chaos>,
    inner: Arc<dyn TaskQueue>,
    queue: Arc<ChaosQueue>,
    stop: Stop,
    skew_ms: Arc<AtomicI64>,
}

/// A fleet that lives through a scenario.
pub struct SimulatedFleet {
    pub scenario: Scenario,
    pub world: Arc<World>,
    pub sites: BTreeSet<Site>,
    /// Tasks that the broker or a worker held when the store was emptied.
    pub held_when_emptied: Option<BTreeSet<String>>,
    bug: Option<Bug>,
    environment: Environment,
    configuration: Configuration,
    broker: MemoryBroker,
    table: Arc<MemoryTable>,
    store: Arc<MemoryStore>,
    client: Arc<dyn TaskQueue>,
    metrics: Arc<WorkerMetrics>,
    processes: BTreeMap<usize, Process>,
    /// The ids that each GPU has had, one after the other.
    ids: Vec<Vec<GpuId>>,
    generations: u64,
    copy: Option<TableCopy>,
    scheduled: u64,
    died: UnboundedSender<(usize, Site)>,
    deaths: UnboundedReceiver<(usize, Site)>,
    due: BTreeMap<(Instant, u64), Event>,
    trouble: f64,
}

/// A host's clock, which may jump.
struct SkewedClock {
    inner: Arc<dyn Clock>,
    skew_ms: Arc<AtomicI64>,
}

impl Clock for SkewedClock {
    fn now_us(&self) -> u64 {
        self.inner.now_us().saturating_add_signed(self.skew_ms.load(Ordering::Relaxed) * 1_000)
    }
}

/// The id of a GPU that was replaced so many times.
fn nth_id(gpu: usize, replaced: usize) -> GpuId {
    let id = if replaced == 0 { format!("gpu-{gpu}") } else { format!("gpu-{gpu}-{replaced}") };
    GpuId::new(id).expect("a valid id")
}

/// The queue that all tasks name for their replies.
fn replies() -> Queue {
    Queue::Reply(REPLIES.to_owned())
}

impl SimulatedFleet {
    /// The fleet of a scenario, before its first event.
    pub async fn new(scenario: Scenario, bug: Option<Bug>) -> Self {
        let environment = tests::environment::seeded(scenario.seed);
        let mut configuration = Configuration::default();
        configuration.worker.lease_ms = scenario.lease.as_millis() as u64;
        configuration.worker.offer_ms = configuration.worker.lease_ms / 2;
        configuration.worker.drain_grace_ms = 700;
        configuration.worker.unacked_ms = if scenario.seed.is_multiple_of(2) { 800 } else { 600_000 };
        configuration.worker.crashes_max = match scenario.class {
            Class::Poison => 3,
            Class::TableLost => 1,
            Class::Calm | Class::Faults | Class::StoreEmptied | Class::Replaced => 1_000_000,
        };
        configuration.amqp.gpu_queue_ttl_ms = if bug == Some(Bug::WaitsForEver) { Limits::LONGEST_MS } else { GPU_QUEUE_TTL_MS };
        configuration.gpu.multi_gpu.max_concurrent_tasks_per_gpu = scenario.slots;
        configuration.gpu.multi_gpu.default_strategy = scenario.strategy;
        configuration.data.trial_mb = 0;
        let worker = &configuration.worker;
        let leases = Leases { held: Duration::from_millis(worker.lease_ms), offered: Duration::from_millis(worker.offer_ms) };
        let broker = MemoryBroker::new(QueueOptions::from(&configuration.amqp));
        let client: Arc<dyn TaskQueue> = Arc::new(broker.connect());
        let world = World::new(scenario.slots, scenario.class == Class::TableLost);
        let (died, deaths) = unbounded_channel();
        let mut fleet = Self {
            table: Arc::new(MemoryTable::new(Arc::clone(&environment.clock), leases)),
            store: Arc::new(MemoryStore::new(Arc::clone(&environment.clock), StoreOptions::from(&configuration))),
            metrics: Arc::new(WorkerMetrics::new(&Registry::new()).expect("a fresh registry")),
            trouble: 0.0,
            world,
            sites: BTreeSet::new(),
            held_when_emptied: None,
            bug,
            environment,
            configuration,
            broker,
            client,
            processes: BTreeMap::new(),
            ids: (0..scenario.gpus).map(|gpu| vec![nth_id(gpu, 0)]).collect(),
            generations: 0,
            copy: None,
            scheduled: 0,
            died,
            deaths,
            due: BTreeMap::new(),
            scenario,
        };
        fleet.collect_replies().await;
        fleet
    }

    async fn collect_replies(&mut self) {
        let (replies, pool) = (replies(), Queue::Pool(PoolName::default()));
        for queue in [&replies, &pool] {
            self.client.declare(queue).await.expect("the client is connected");
        }
        let mut consumer = self.client.consume(&replies, NonZeroU16::MAX).await.expect("the client is connected");
        let world = Arc::clone(&self.world);
        tokio::spawn(async move {
            while let Some(delivery) = consumer.next().await {
                let id = delivery.envelope.message_id.clone().unwrap_or_default();
                world.replied(&TaskId::new(id).expect("the id of a task"), delivery.body.clone());
                let _ = delivery.receipt.ack().await;
            }
        });
    }

    /// Lives through the scenario's events, then heals, and waits until nothing is left to do (or for 20 simulated minutes).
    pub async fn live(&mut self) {
        let start = Instant::now();
        for (at_ms, event) in self.scenario.events.clone() {
            self.schedule(start + Duration::from_millis(at_ms), event);
        }
        self.events_until(start + Duration::from_secs(25)).await;
        self.heal().await;
        let deadline = Instant::now() + Duration::from_secs(1_200);
        while Instant::now() < deadline && !self.at_rest().await {
            self.events_until(Instant::now() + Duration::from_millis(250)).await;
        }
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.scheduled += 1;
        self.due.insert((at, self.scheduled), event);
    }

    async fn events_until(&mut self, end: Instant) {
        loop {
            let next = self.due.first_key_value().map_or(end, |((at, _), _)| *at).min(end);
            tokio::select! {
                biased;
                Some((gpu, site)) = self.deaths.recv() => self.buried(gpu, site).await,
                () = tokio::time::sleep_until(next) => {
                    if Instant::now() >= end && self.due.first_key_value().is_none_or(|((at, _), _)| *at > end) {
                        return;
                    }
                    if let Some((_, event)) = self.due.pop_first() {
                        self.happens(event).await;
                    }
                }
            }
        }
    }

    /// A process died: its connection ends, and another one starts after a while.
    async fn buried(&mut self, gpu: usize, site: Site) {
        self.world.note(format!("{} died at {:?} ({})", self.gpu_id(gpu), site.0, site.1));
        self.sites.insert(site);
        if let Some(process) = self.processes.remove(&gpu) {
            process.inner.close().await;
            let pause = self.scenario.lease.mul_f64(0.02 + self.environment.random.unit() * 1.5);
            self.schedule(Instant::now() + pause, Event::Start(gpu));
        }
    }

    async fn happens(&mut self, event: Event) {
        if !matches!(event, Event::Publish(_)) {
            self.world.note(format!("{event:?}"));
        }
        match event {
            Event::Publish(task) => self.publish(task).await,
            Event::Cancel(task) => {
                let id = self.scenario.tasks[task].id.parse().expect("a valid id");
                self.store.cancel(&id, Reach::Published).await.expect("memory answers");
            }
            Event::Start(gpu) => self.start(gpu).await,
            Event::Kill(gpu) => self.with(gpu, |process| process.chaos.kill(("anywhere", "at a time"))),
            Event::Replace(gpu) => {
                let ids = &mut self.ids[gpu];
                ids.push(nth_id(gpu, ids.len()));
                self.start(gpu).await;
            }
            Event::CrashIn(gpu, calls) => self.with(gpu, |process| process.chaos.crash_in(calls)),
            Event::CrashAt(gpu, site) => self.with(gpu, |process| process.chaos.crash_at(site)),
            Event::LoseChannels(gpu) => {
                if let Some(process) = self.processes.get(&gpu) {
                    process.queue.lose_channels().await;
                }
            }
            Event::Stall(gpu, duration) => {
                self.with(gpu, |process| process.chaos.stall(duration));
                // The broker notices a client that is silent for long.
                if duration > self.scenario.lease {
                    self.schedule(Instant::now() + duration / 3, Event::LoseChannels(gpu));
                }
            }
            Event::CutOff(gpu, port, duration) => {
                for (number, process) in &self.processes {
                    if gpu.is_none_or(|gpu| gpu == *number) {
                        process.chaos.cut_off(port, duration);
                    }
                }
            }
            Event::TroubleBegins => {
                self.trouble = self.scenario.trouble;
                for process in self.processes.values() {
                    process.chaos.trouble(self.trouble);
                }
            }
            Event::ClearTable => self.table.clear(),
            Event::CopyTable => self.copy = Some(self.table.copy()),
            Event::FailTableOver => {
                if let Some(copy) = self.copy.take() {
                    self.table.fall_back_to(&copy);
                }
            }
            Event::ClearStore => self.clear_store(),
            Event::BlockPublishers => self.broker.block_publishers("memory"),
            Event::UnblockPublishers => self.broker.unblock_publishers(),
            Event::BoundReplies(most) => self.broker.bound(&replies(), most),
            Event::DeleteIfUnused(queue) => self.delete_if_unused(&queue).await,
            Event::DeleteQueuesOfTheGone => {
                let gone = self.ids.iter().filter_map(|ids| ids.split_last()).flat_map(|(_, gone)| gone);
                for queue in gone.cloned().map(Queue::Gpu) {
                    self.delete_if_unused(&queue).await;
                }
            }
            Event::JumpClock(gpu, by_ms) => self.with(gpu, |process| _ = process.skew_ms.fetch_add(by_ms, Ordering::Relaxed)),
            Event::Drain(gpu) => {
                self.with(gpu, |process| process.stop.gently.cancel());
                self.schedule(Instant::now() + self.scenario.lease * 2, Event::Start(gpu));
            }
        }
    }

    fn with(&self, gpu: usize, act: impl FnOnce(&Process)) {
        if let Some(process) = self.processes.get(&gpu) {
            act(process);
        }
    }

    /// What a worker has in its hand counts as in the queue: it would have no way back.
    async fn delete_if_unused(&self, queue: &Queue) {
        if self.broker.message_ids(queue).is_empty() {
            self.client.delete_if_unused(queue).await.expect("memory answers");
        }
    }

    /// The id that a GPU has now.
    fn gpu_id(&self, gpu: usize) -> GpuId {
        self.ids[gpu].last().expect("its first one").clone()
    }

    fn clear_store(&mut self) {
        let ids = self.queues().into_iter().flat_map(|queue| self.broker.message_ids(&queue));
        self.held_when_emptied = Some(ids.chain(self.world.in_hand()).collect());
        self.store.clear();
        self.world.forget_outcomes();
    }

    /// Every queue through which tasks travel.
    fn queues(&self) -> Vec<Queue> {
        let mut queues = vec![Queue::Pool(PoolName::default()), Queue::Unrouted, Queue::Expired, Queue::Returned];
        queues.extend(Queue::where_tasks_wait());
        queues.extend(Queue::where_tasks_are_delayed());
        queues.extend(self.ids.iter().flatten().cloned().map(Queue::Gpu));
        queues
    }

    /// Every queue in which replies wait.
    fn queues_of_replies() -> impl Iterator<Item = Queue> {
        Queue::where_replies_wait().into_iter().chain([Queue::Parked])
    }

    async fn start(&mut self, gpu: usize) {
        if let Some(process) = self.processes.remove(&gpu) {
            // It has drained, or hangs in its drain.
            process.chaos.lifeline().cut();
            process.inner.close().await;
        }
        self.generations += 1;
        let seed = self.scenario.seed.wrapping_mul(0x9E37_79B9).wrapping_add(self.generations);
        let chaos = Chaos::new(gpu, seed, self.trouble, self.scenario.lease * 2, self.died.clone());
        let inner: Arc<dyn TaskQueue> = Arc::new(self.broker.connect());
        let queue = Arc::new(ChaosQueue::new(Arc::clone(&inner), Arc::clone(&chaos), self.bug, Arc::clone(&self.world)));
        let table = ChaosTable {
            inner: Arc::<MemoryTable>::clone(&self.table),
            chaos: Arc::clone(&chaos),
            bug: self.bug,
            most_held: MostHeld::default(),
        };
        let store = ChaosStore {
            inner: Arc::<MemoryStore>::clone(&self.store),
            chaos: Arc::clone(&chaos),
            bug: self.bug,
            world: Arc::clone(&self.world),
            last_answer: Mutex::default(),
            splits: Mutex::default(),
        };
        let skew_ms = Arc::new(AtomicI64::new(0));
        let clock = Arc::new(SkewedClock { inner: Arc::clone(&self.environment.clock), skew_ms: Arc::clone(&skew_ms) });
        let environment = Environment { clock, ..tests::environment::seeded(seed) };
        let handler = self.scenario.in_handlers().then(Mutex::default);
        let work = Work { world: Arc::clone(&self.world), chaos: Arc::clone(&chaos), handler };
        let parts = WorkerParts {
            queue: Arc::<ChaosQueue>::clone(&queue),
            table: Arc::new(table),
            store: Arc::new(store),
            device: Arc::new(SimulatedGpu::new(SimulatedOptions::new(self.gpu_id(gpu)))),
            executors: Executors::new().with(Arc::new(work)),
            environment: chaos.lifeline().hold(&environment),
            // The clock is paused: no sockets.
            options: WorkerOptions { data: None, ..WorkerOptions::of(&self.configuration, "simulated") },
            metrics: Arc::clone(&self.metrics),
            bodies: BodyBudget::new(self.configuration.memory.bodies_mb),
        };
        let stop = Stop::default();
        let worker = GpuWorker::new(parts, stop.clone());
        chaos.lifeline().add(tokio::spawn(async move { _ = worker.run().await }).abort_handle());
        self.processes.insert(gpu, Process { chaos, inner, queue, stop, skew_ms });
    }

    /// From now on nothing goes wrong, and every GPU has a worker.
    async fn heal(&mut self) {
        self.world.note("heals");
        self.trouble = 0.0;
        self.broker.unblock_publishers();
        self.broker.bound(&replies(), None);
        for process in self.processes.values() {
            process.chaos.calm();
            process.skew_ms.store(0, Ordering::Relaxed);
        }
        for gpu in 0..self.scenario.gpus {
            if self.processes.get(&gpu).is_none_or(|process| process.stop.gently.is_cancelled()) {
                self.start(gpu).await;
            }
        }
    }

    async fn publish(&mut self, number: usize) {
        let task = &self.scenario.tasks[number];
        match self.send(task).await {
            Ok(()) => self.world.note(format!("{} is published, priority {}", task.id, task.priority)),
            Err(error) if error.is_transient() => self.schedule(Instant::now() + Duration::from_millis(100), Event::Publish(number)),
            Err(error) => self.world.violated(format!("{} cannot be published: {error}", task.id)),
        }
    }

    pub async fn send(&self, task: &PlannedTask) -> Result<(), PublishError> {
        let work = json!({"ms": task.ms, "fails": task.fails, "poison": task.poison});
        let item = |batch: &PlannedBatch, index: u32| {
            let mut item = work.clone();
            item["item"] = index.into();
            item["bad"] = (batch.bad_item == Some(index)).into();
            item.into()
        };
        let body = TaskBody {
            payload: if task.batch.is_some() { Json::null() } else { work.clone().into() },
            items: task.batch.as_ref().map(|batch| (0..batch.items).map(|index| item(batch, index)).collect()),
            on_error: if task.batch.is_some_and(|batch| batch.fails_whole) { OnError::Fail } else { OnError::Report },
            gpu_options: GpuOptions {
                strategy: task.strategy.map(str::to_owned),
                specific_gpu_id: task.gpu.map(|gpu| self.gpu_id(gpu)),
                batch_split: None,
                model: None,
            },
            limits: Limits { queue_deadline_ms: task.queue_deadline_ms, max_attempts: Some(task.attempts_max), ..Limits::default() },
            ..TaskBody::default()
        };
        if let Some(delay_ms) = task.delay_ms {
            self.world.delays(&id_of(task), Duration::from_millis(delay_ms));
        }
        let not_before_ms = task.delay_ms.map(|delay_ms| self.environment.clock.now_ms() + delay_ms);
        let envelope = Envelope {
            message_id: Some(task.id.clone()),
            kind: Some(KIND.to_owned()),
            priority: Some(task.priority),
            reply_to: Some(self.client.names().queue(&replies())),
            headers: Headers { not_before_ms, group: Some(group()), ..Headers::default() },
            ..Envelope::default()
        };
        let target = Target::Queue(Queue::Pool(PoolName::default()));
        self.client.publish(Outgoing::new(target, envelope, body.to_bytes())).await
    }

    /// Whether every task was answered and nothing is held or waits anywhere.
    async fn at_rest(&self) -> bool {
        self.unrest().await.is_none()
    }

    /// What is still to be done.
    pub async fn unrest(&self) -> Option<String> {
        if let Some(task) = self.scenario.tasks.iter().find(|task| self.world.replies(&id_of(task)).is_empty()) {
            return Some(format!("{} was not answered", task.id));
        }
        for queue in self.queues().into_iter().chain(Self::queues_of_replies()) {
            let ids = self.broker.message_ids(&queue);
            if !ids.is_empty() {
                return Some(format!("{queue:?} holds {ids:?}"));
            }
        }
        let rows = self.table.rows(&PoolName::default()).await.expect("memory answers");
        if let Some(view) = rows.iter().find(|view| view.held > 0 || !view.eligible) {
            return Some(format!("{} holds {} slots, eligible: {}", view.row.gpu.gpu_id, view.held, view.eligible));
        }
        (rows.len() != self.scenario.gpus).then(|| format!("{} of {} GPUs are in the table", rows.len(), self.scenario.gpus))
    }

    pub async fn status(&self, task: &PlannedTask) -> Option<protocol::TaskStatus> {
        self.store.status(&id_of(task)).await.expect("memory answers")
    }

    /// What the store knows of the group of all tasks.
    pub async fn group(&self) -> Option<GroupStatus> {
        self.store.groups().show(&group()).await.expect("memory answers")
    }

    /// The ids of the dead letters.
    pub fn dead(&self) -> Vec<String> {
        self.broker.message_ids(&Queue::Dead)
    }
}

/// The group in which all tasks are counted.
fn group() -> GroupName {
    "simulated".parse().expect("a valid name")
}

pub fn id_of(task: &PlannedTask) -> TaskId {
    task.id.parse().expect("a valid id")
}
