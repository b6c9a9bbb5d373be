//! What a worker is made of, and its settings.

use std::{sync::Arc, time::Duration};

use devices::Device;
use executors::Executors;
use gpu_table::GpuTable;
use protocol::{
    Environment, IntakeLimits, PoolName,
    claim::Settings,
    config::{BatchSection, Configuration, DataSection},
    gpu::PastTrouble,
};
use task_queue::{BodyBudget, Queue, TaskQueue};
use task_store::TaskStore;

use crate::metrics::WorkerMetrics;

/// About how often a worker looks after the queues that it needs.
const TOPOLOGY_EVERY: Duration = Duration::from_secs(60);

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
    /// The memory for the bodies in hand; shared by the workers of one process, and with its gateway.
    pub bodies: BodyBudget,
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
    /// How long a task waits for a GPU that serves it while no living GPU does; then it fails.
    pub unserved_wait: Duration,
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
    /// How payloads gather that run together.
    pub batch: BatchSection,
    /// Whether the fleet uses several GPUs: else no batch is split.
    pub multi_gpu: bool,
    /// Whether a batch is split that does not say.
    pub batch_split: bool,
    /// The fewest items of a slice, at least 1.
    pub min_batch_size_per_gpu: u32,
    /// How often a running task's progress is noted in the store at most.
    pub progress_every: Duration,
    /// Bounds on what is accepted.
    pub intake: IntakeLimits,
    /// How long running tasks may go on after a gentle stop.
    pub drain_grace: Duration,
    /// How long a task that fits no GPU rests. See [`protocol::config::AmqpSection::unplaceable_ttl_ms`].
    pub unplaceable_rest: Duration,
    /// How long a reply is tried again whose queue does not take it. See [`protocol::config::AmqpSection::parked_ttl_ms`].
    pub reply_tried_for: Duration,
    /// About how often it looks whether the queues that it needs, their exchange and its bindings are there. [`WorkerOptions::of`]: a minute.
    pub topology_every: Duration,
    /// So many dead letters are kept: the log says when they are there.
    pub dead_letters_max: u32,
    /// How the GPU keeps tensors and moves them. `None`: it keeps none, and tasks that name or keep some fail here.
    pub data: Option<DataSection>,
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
            unserved_wait: Duration::from_millis(worker.unserved_wait_ms),
            crashes_max: worker.crashes_max,
            failures_to_quarantine: worker.failures_to_quarantine,
            quarantine: Duration::from_millis(worker.quarantine_ms),
            tasks_waiting_within: Duration::from_millis(worker.tasks_waiting_within_ms),
            in_hand_patience: Duration::from_millis(worker.in_hand_patience_ms),
            batch: configuration.batch.clone(),
            multi_gpu: multi_gpu.enabled,
            batch_split: multi_gpu.batch_split,
            min_batch_size_per_gpu: multi_gpu.min_batch_size_per_gpu.max(1),
            progress_every: Duration::from_millis(worker.progress_every_ms),
            intake: IntakeLimits { body_bytes_max: worker.body_bytes_max },
            drain_grace: Duration::from_millis(worker.drain_grace_ms),
            unplaceable_rest: Duration::from_millis(configuration.amqp.unplaceable_ttl_ms),
            reply_tried_for: Duration::from_millis(configuration.amqp.parked_ttl_ms),
            topology_every: TOPOLOGY_EVERY,
            dead_letters_max: configuration.amqp.dead_letters_max,
            data: Some(configuration.data.clone()),
            initial_settings: multi_gpu.initial_settings(),
            after_trouble: None,
        }
    }

    /// How long what is put into a waiting queue stays there; `None`: it is none.
    pub(crate) const fn delay_of(&self, queue: &Queue) -> Option<Duration> {
        match queue {
            Queue::Unplaceable => Some(self.unplaceable_rest),
            queue => queue.delay(),
        }
    }
}
