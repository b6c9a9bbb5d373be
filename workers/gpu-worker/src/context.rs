//! What every step of a worker shares.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use devices::Device;
use executors::Executors;
use gpu_table::GpuTable;
use protocol::{
    DeliveryId, Environment, GpuId, Incarnation, IntakeLimits, PoolName, claim::Settings, config::Configuration, gpu::PastTrouble,
};
use task_queue::TaskQueue;
use task_store::TaskStore;
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    health::HealthWatch,
    held::HeldClaims,
    memory::Learnt,
    metrics::{GpuMetrics, WorkerMetrics},
    slots::Slots,
    trouble::Lost,
    worker::Stop,
};

/// What a worker is made of.
pub struct WorkerParts {
    /// How tasks and replies travel.
    pub queue: Arc<dyn TaskQueue>,
    /// Who holds which GPU.
    pub table: Arc<dyn GpuTable>,
    /// What became of each task.
    pub store: Arc<dyn TaskStore>,
    /// The GPU.
    pub device: Arc<dyn Device>,
    /// What it can run.
    pub executors: Executors,
    /// Clock, randomness, spawning.
    pub environment: Environment,
    /// Its settings.
    pub options: WorkerOptions,
    /// Where it counts; shared by the workers of one process.
    pub metrics: Arc<WorkerMetrics>,
}

/// A worker's settings. See [`protocol::config::WorkerSection`] for defaults and bounds.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// The pool that it serves.
    pub pool: PoolName,
    /// The host's name, for operators.
    pub host: String,
    /// How many tasks the GPU may hold at once, at least 1.
    pub slots: u16,
    /// How long its row and claims live without a heartbeat; it sends three in that time.
    pub lease: Duration,
    /// Longest run of one attempt where the task sets none.
    pub attempt_timeout: Duration,
    /// How long a running task's delivery stays unacked before it is exchanged for a copy.
    pub unacked: Duration,
    /// After so many crashes of its worker a task is quarantined.
    pub crashes_max: u32,
    /// After so many different tasks in a row that failed here the GPU is quarantined; 0: never.
    pub failures_to_quarantine: u32,
    /// The first pause before a quarantined GPU's canary; doubles with each quarantine.
    pub quarantine: Duration,
    /// See [`protocol::config::WorkerSection::tasks_waiting_within_ms`].
    pub tasks_waiting_within: Duration,
    /// See [`protocol::config::WorkerSection::in_hand_patience_ms`].
    pub in_hand_patience: Duration,
    /// How often a running task's progress is noted in the store at most.
    pub progress_every: Duration,
    /// Bounds on what is accepted.
    pub intake: IntakeLimits,
    /// How long running tasks may go on after a gentle stop.
    pub drain_grace: Duration,
    /// What an empty table's settings become.
    pub initial_settings: Settings,
    /// What was wrong with the GPU when the last worker's process had to end: this one has probed it, and proves it with one slot first.
    pub after_trouble: Option<PastTrouble>,
}

impl WorkerOptions {
    /// The options that a configuration gives, on `host`.
    #[must_use]
    pub fn of(configuration: &Configuration, host: impl Into<String>) -> Self {
        let worker = &configuration.worker;
        let multi_gpu = &configuration.gpu.multi_gpu;
        Self {
            pool: worker.pool.clone(),
            host: host.into(),
            slots: u16::try_from(multi_gpu.max_concurrent_tasks_per_gpu.max(1)).unwrap_or(u16::MAX),
            lease: Duration::from_millis(worker.lease_ms),
            attempt_timeout: Duration::from_millis(worker.attempt_timeout_ms),
            unacked: Duration::from_millis(worker.unacked_ms),
            crashes_max: worker.crashes_max,
            failures_to_quarantine: worker.failures_to_quarantine,
            quarantine: Duration::from_millis(worker.quarantine_ms),
            tasks_waiting_within: Duration::from_millis(worker.tasks_waiting_within_ms),
            in_hand_patience: Duration::from_millis(worker.in_hand_patience_ms),
            progress_every: Duration::from_millis(worker.progress_every_ms),
            intake: IntakeLimits { body_bytes_max: worker.body_bytes_max },
            drain_grace: Duration::from_millis(worker.drain_grace_ms),
            initial_settings: multi_gpu.initial_settings(),
            after_trouble: None,
        }
    }
}

/// Counts up, and wakes who waits for that in the order in which they came (a watch channel would wake them in a random one, and no simulated fleet
/// would live the same life twice).
#[derive(Debug, Default)]
pub(crate) struct Beats {
    count: AtomicU64,
    counted: Notify,
}

impl Beats {
    pub(crate) fn now(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    pub(crate) fn count(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.counted.notify_waiters();
    }

    /// Waits until more than `seen` are counted.
    pub(crate) async fn above(&self, seen: u64) {
        loop {
            let counted = self.counted.notified();
            if self.now() > seen {
                return;
            }
            counted.await;
        }
    }
}

/// What every step of a worker shares.
pub(crate) struct Context {
    pub(crate) queue: Arc<dyn TaskQueue>,
    pub(crate) table: Arc<dyn GpuTable>,
    pub(crate) store: Arc<dyn TaskStore>,
    pub(crate) device: Arc<dyn Device>,
    pub(crate) executors: Executors,
    pub(crate) environment: Environment,
    pub(crate) options: WorkerOptions,
    pub(crate) metrics: GpuMetrics,
    pub(crate) gpu_id: GpuId,
    pub(crate) incarnation: Incarnation,
    pub(crate) slots: Arc<Slots>,
    pub(crate) held: HeldClaims,
    pub(crate) stop: Stop,
    /// The lives of deliveries in hand.
    pub(crate) lives: TaskTracker,
    /// Whether both consumers are live.
    pub(crate) consuming: watch::Sender<bool>,
    /// Counts the heartbeats that the table took while this worker was consuming; 0 before the first.
    pub(crate) beats: Beats,
    /// The settings last seen.
    pub(crate) settings: watch::Sender<Settings>,
    /// What became of the attempts on this GPU.
    pub(crate) health: HealthWatch,
    /// The memory that kinds took here.
    pub(crate) learnt: Learnt,
    /// Why this process can use its GPU no more.
    pub(crate) lost: OnceLock<Lost>,
    /// Whether new tasks may come: it is healthy and does not drain, as far as the last heartbeat knew.
    pub(crate) taking: watch::Sender<bool>,
    /// Asks for a heartbeat now.
    pub(crate) nudge: Arc<Notify>,
    /// No heartbeat is to follow.
    pub(crate) last_beat: CancellationToken,
    /// No heartbeat follows.
    pub(crate) silent: CancellationToken,
    confirm_us: AtomicU64,
    deliveries: AtomicU64,
}

impl Context {
    pub(crate) fn new(parts: WorkerParts, stop: Stop) -> Arc<Self> {
        let gpu_id = parts.device.description().gpu_id.clone();
        let nudge = Arc::new(Notify::new());
        let metrics = parts.metrics.of(&gpu_id);
        let past = parts.options.after_trouble.as_ref();
        if let Some(xid) = past.and_then(|trouble| trouble.xid) {
            metrics.xid(xid);
        }
        Arc::new(Self {
            metrics,
            incarnation: parts.environment.fresh_incarnation(),
            slots: Slots::new(u32::from(parts.options.slots), Arc::clone(&nudge)),
            held: HeldClaims::default(),
            lives: TaskTracker::new(),
            consuming: watch::Sender::new(false),
            beats: Beats::default(),
            settings: watch::Sender::new(parts.options.initial_settings.clone()),
            health: HealthWatch::after(past.map(|trouble| trouble.reason.as_str())),
            learnt: Learnt::default(),
            lost: OnceLock::new(),
            taking: watch::Sender::new(true),
            nudge,
            last_beat: CancellationToken::new(),
            silent: CancellationToken::new(),
            confirm_us: AtomicU64::new(0),
            deliveries: AtomicU64::new(0),
            queue: parts.queue,
            table: parts.table,
            store: parts.store,
            device: parts.device,
            executors: parts.executors,
            environment: parts.environment,
            options: parts.options,
            gpu_id,
            // Leaving ends what is left of this worker's own jobs; the caller may share its token with other workers.
            stop: Stop { gently: stop.gently, now: stop.now.child_token() },
        })
    }

    /// The number of the next delivery.
    pub(crate) fn next_delivery(&self) -> DeliveryId {
        DeliveryId(self.deliveries.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Unix time in milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.environment.clock.now_ms()
    }

    /// Takes note of how long a reply's confirm took: the broker's pace right now.
    pub(crate) fn confirmed_after(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let smoothed = (self.confirm_us.load(Ordering::Relaxed) * 7 + took_us.min(1_000_000)) / 8;
        self.confirm_us.store(smoothed, Ordering::Relaxed);
    }

    /// How soon after an ack a delivery means that tasks wait: the configured time, stretched while the broker is slow, since an ack and
    /// its delivery then take as long as a confirm does.
    pub(crate) fn tasks_waiting_within(&self) -> Duration {
        let pace = Duration::from_micros(self.confirm_us.load(Ordering::Relaxed) * 2);
        self.options.tasks_waiting_within.max(pace)
    }
}
