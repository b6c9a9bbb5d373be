//! The configuration: the document's keys plus ours. One struct for every program; a program reads the sections it needs.
//!
//! Loading (defaults < file < environment < flags, all mistakes at once) is in `service`. `deploy/config/gpufleet.yaml` is the reference with
//! every default; a test loads it.

mod batch;
mod data;
mod handlers;
mod journal;
mod kinds;
mod models;
mod operate;
mod simulated;
mod store;
mod traces;

use std::{fmt, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    batch::BatchSection,
    data::DataSection,
    handlers::{HandlerProtocol, HandlerSection},
    journal::{JournalSection, ScalingSection},
    kinds::{KernelSection, PredictSection},
    models::{ModelProvider, ModelsSection, SimulatedModel},
    operate::Operate,
    simulated::SimulatedSection,
    store::StoreSection,
    traces::TracesSection,
};
use crate::{PoolName, Strategy, claim::Settings};

/// Everything that can be configured. Every key has a default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "gpufleet configuration")]
pub struct Configuration {
    /// GPUs and how they are chosen.
    pub gpu: GpuSection,
    /// The broker. Without a URL the queue is in memory, inside the process.
    pub amqp: AmqpSection,
    /// Redis: the table and the store. Without a URL both are in memory, inside the process.
    pub redis: RedisSection,
    /// Workers.
    pub worker: WorkerSection,
    /// Payloads that run together.
    pub batch: BatchSection,
    /// Memory of a process.
    pub memory: MemorySection,
    /// The task store.
    pub store: StoreSection,
    /// What the fleet remembers of its course, for people.
    pub journal: JournalSection,
    /// How many workers it should have.
    pub scaling: ScalingSection,
    /// The HTTP gateway.
    pub gateway: GatewaySection,
    /// The `predict` kind.
    pub predict: PredictSection,
    /// The `kernel` kind.
    pub kernel: KernelSection,
    /// Models that GPUs keep between tasks.
    pub models: ModelsSection,
    /// Tensors that stay on GPUs, and how they move.
    pub data: DataSection,
    /// Programs of the user's that run kinds.
    pub handlers: Vec<HandlerSection>,
    /// Simulated GPUs.
    pub simulated: SimulatedSection,
    /// Traces.
    pub traces: TracesSection,
    /// Logs.
    pub log: LogSection,
}

/// `gpu:`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GpuSection {
    /// Whether real GPUs are looked for. Simulated ones need no GPU. Default: true.
    pub enabled: bool,
    /// Several GPUs.
    pub multi_gpu: MultiGpuSection,
    /// Where workers of this host keep the lock of each real GPU: one folder for all users and services of the host (mind systemd's `PrivateTmp`, and mount it into
    /// containers that share a GPU). Default: `/tmp/gpufleet-locks`.
    pub lock_folder: PathBuf,
}

impl Default for GpuSection {
    fn default() -> Self {
        Self { enabled: true, multi_gpu: MultiGpuSection::default(), lock_folder: PathBuf::from("/tmp/gpufleet-locks") }
    }
}

/// `gpu.multi_gpu:`. The strategy, the thresholds and the list of strategies are the fleet's *initial* settings: the first worker writes
/// them to an empty table; afterwards operators change them there while the fleet runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MultiGpuSection {
    /// False: one GPU, the first, serves everything. Default: true.
    pub enabled: bool,
    /// The strategy of tasks that name none. Default: `least_loaded`.
    pub default_strategy: Strategy,
    /// The strategies that tasks may name. Default: all.
    pub strategies: Vec<Strategy>,
    /// Whether batches are split over GPUs. Default: true.
    pub batch_split: bool,
    /// Items of a slice of a split batch at least. Default: 4.
    #[schemars(range(min = 1))]
    pub min_batch_size_per_gpu: u32,
    /// Slots of a GPU. For kinds that take several payloads in one run, one to two times the run that is wanted. Default: 8.
    #[schemars(range(min = 1, max = 1024))]
    pub max_concurrent_tasks_per_gpu: u32,
    /// A GPU takes tasks below this share of its memory in use. Default: 0.9.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub memory_threshold: f64,
    /// A GPU takes tasks below this utilisation by others than our tasks. Default: 0.95.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub utilization_threshold: f64,
}

impl Default for MultiGpuSection {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            enabled: true,
            default_strategy: settings.default_strategy,
            strategies: settings.strategies,
            batch_split: true,
            min_batch_size_per_gpu: 4,
            max_concurrent_tasks_per_gpu: 8,
            memory_threshold: settings.memory_threshold,
            utilization_threshold: settings.utilization_threshold,
        }
    }
}

impl MultiGpuSection {
    /// The settings that an empty table gets.
    #[must_use]
    pub fn initial_settings(&self) -> Settings {
        let mut strategies = self.strategies.clone();
        strategies.sort();
        strategies.dedup();
        Settings {
            version: 0,
            default_strategy: self.default_strategy,
            strategies,
            memory_threshold: self.memory_threshold,
            utilization_threshold: self.utilization_threshold,
            ..Settings::default()
        }
    }
}

/// A URL whose password never shows in `Debug`, logs or `config print`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Wraps a URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL with its password, for the client that connects.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The URL with `***` for its password.
    #[must_use]
    pub fn redacted(&self) -> String {
        let Some((scheme, rest)) = self.0.split_once("://") else { return self.0.clone() };
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let Some(at) = rest[..authority_end].rfind('@') else { return self.0.clone() };
        let user = rest[..at].split(':').next().unwrap_or_default();
        format!("{scheme}://{user}:***{}", &rest[at..])
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.redacted())
    }
}

/// The type of the fleet's queues: part of the topology, immutable once declared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueueType {
    /// Classic queues with `x-max-priority`: strict priorities on every broker version.
    #[default]
    Classic,
    /// Quorum queues: replicated; what their priorities mean depends on the broker's version (`gpufleet doctor` says).
    Quorum,
}

/// `amqp:`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AmqpSection {
    /// `amqp://user:password@host:5672/vhost`. Default: none, the queue is in memory.
    pub url: Option<SecretUrl>,
    /// First part of the name of every queue and exchange. Default: `gpufleet`.
    pub prefix: String,
    /// Default: `classic`.
    pub queue_type: QueueType,
    /// Most tasks that may wait in a pool's queue; above it publishes are refused (HTTP 429). `null`: no bound. Default: 1,000,000.
    #[schemars(range(min = 1))]
    pub queue_length_max: Option<u32>,
    /// Most tasks that may wait in each of the queues `<prefix>.delayed.<ms>`, in which tasks wait that must not start before a time; above it publishes are refused (HTTP 429).
    /// Part of the topology: it cannot be changed once the queues exist. Default: 1,000,000.
    #[schemars(range(min = 1))]
    pub delayed_max: u32,
    /// How long a publish may wait for the broker's confirm, in ms. Default: 10,000.
    #[schemars(range(min = 100))]
    pub publish_timeout_ms: u64,
    /// How long a task may wait in the own queue of a GPU, in ms. Then the broker takes it out, and it goes back to its pool, so that nothing stays in the queue of a GPU that is
    /// gone, also when nobody remembers that there was one. A task that fits only a busy GPU waits there too, and goes to the end of the line when it comes back.
    /// A task for which a slot was kept there waits for ten leases at most. Default: 3,600,000 (1 h).
    #[schemars(range(min = 1_000))]
    pub gpu_queue_ttl_ms: u64,
    /// How long a task that fits no GPU rests before it is looked at again, in ms; one that nobody serves rests longer with time, up to 60 s. Default: 5,000.
    #[schemars(range(min = 100))]
    pub unplaceable_ttl_ms: u64,
    /// How long a reply is tried again whose queue is full, cannot be reached or does not confirm, in ms. After that, and at once where its queue is gone, it is kept as long
    /// again in the queue `<prefix>.parked`. Default: 3,600,000 (1 h).
    #[schemars(range(min = 1_000))]
    pub parked_ttl_ms: u64,
    /// Most replies that may wait for another try in each of the queues `<prefix>.undelivered.<ms>`; above it they are parked. Part of the topology: it cannot be changed once
    /// the queues exist. Default: 100,000.
    #[schemars(range(min = 1))]
    pub undelivered_max: u32,
    /// Most that the bodies of these replies may take together in each of the queues, in MB (10^6 bytes); above it they are parked. Part of the topology. Default: 1,024.
    #[schemars(range(min = 1))]
    pub undelivered_mb: u32,
    /// Most dead letters that are kept in the queue `<prefix>.dead`; above it the oldest are dropped. Default: 10,000.
    #[schemars(range(min = 1))]
    pub dead_letters_max: u32,
    /// Most that the bodies of the dead letters may take together, in MB (10^6 bytes); above it the oldest are dropped. Default: 1,024.
    #[schemars(range(min = 1))]
    pub dead_letters_mb: u32,
    /// How long a dead letter is kept, in ms. Default: 2,592,000,000 (30 days).
    #[schemars(range(min = 1_000, max = 4_294_967_295_u64))]
    pub dead_letters_ttl_ms: u64,
}

impl Default for AmqpSection {
    fn default() -> Self {
        Self {
            url: None,
            prefix: "gpufleet".to_owned(),
            queue_type: QueueType::Classic,
            queue_length_max: Some(1_000_000),
            delayed_max: 1_000_000,
            publish_timeout_ms: 10_000,
            gpu_queue_ttl_ms: 3_600_000,
            unplaceable_ttl_ms: 5_000,
            parked_ttl_ms: 3_600_000,
            undelivered_max: 100_000,
            undelivered_mb: 1_024,
            dead_letters_max: 10_000,
            dead_letters_mb: 1_024,
            dead_letters_ttl_ms: 2_592_000_000,
        }
    }
}

/// `redis:`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RedisSection {
    /// `redis://:password@host:6379/0`, for the table and, unless `store_url` says otherwise, the store. Default: none, both in memory.
    pub url: Option<SecretUrl>,
    /// The store's own Redis (AOF on, `noeviction`). Default: `url`.
    pub store_url: Option<SecretUrl>,
    /// First part of every key. Default: `gpufleet`.
    pub prefix: String,
    /// How long a command may take, in ms. Default: 2,000.
    #[schemars(range(min = 50))]
    pub response_timeout_ms: u64,
}

impl Default for RedisSection {
    fn default() -> Self {
        Self { url: None, store_url: None, prefix: "gpufleet".to_owned(), response_timeout_ms: 2_000 }
    }
}

/// `worker:`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerSection {
    /// The pool that this worker's GPU serves. Default: `default`.
    pub pool: PoolName,
    /// How long a row and its held claims live without a heartbeat, in ms; heartbeats come three times as often. Default: 6,000.
    #[schemars(range(min = 300, max = 600_000))]
    pub lease_ms: u64,
    /// How long a slot is offered to another GPU before it lapses, in ms. Default: 3,000.
    #[schemars(range(min = 100, max = 60_000))]
    pub offer_ms: u64,
    /// Longest run of one attempt where the task sets none, in ms. Default: 600,000 (10 min).
    #[schemars(range(min = 1))]
    pub attempt_timeout_ms: u64,
    /// How long a delivery stays unacked, in ms: after that a running task's is exchanged for a copy in a retry queue, and a waiting one's is given back to its place. Must be well below the broker's
    /// `consumer_timeout` (30 min by default). Default: 600,000 (10 min).
    #[schemars(range(min = 100))]
    pub unacked_ms: u64,
    /// How long a task waits for a GPU that serves it while no living GPU of the pool does, in ms, from when a worker first finds so; then it fails with the code `unserved`. Its own
    /// deadlines go on. 0: it fails as soon as that is certain, within a lease or two. Default: 600,000 (10 min).
    #[schemars(range(max = 2_592_000_000_u64))]
    pub unserved_wait_ms: u64,
    /// How often a worker may crash while it runs a task, at least once with nothing else on its GPU, before the task is quarantined. Default: 3.
    #[schemars(range(min = 1, max = 100))]
    pub crashes_max: u32,
    /// A GPU on which so many different tasks in a row failed is quarantined while most others take tasks. 0: never. Default: 3.
    pub failures_to_quarantine: u32,
    /// How long a quarantined GPU rests before its canary decides, in ms; doubles with each quarantine, up to 5 min. Default: 5,000.
    #[schemars(range(min = 100))]
    pub quarantine_ms: u64,
    /// A delivery this soon after the ack that made room for it means that tasks wait, in ms (stretched while the broker is slow, and four times as long where tasks waited a moment
    /// ago). A slot that has become free is kept from the table as long. Default: 5.
    #[schemars(range(min = 1, max = 10_000))]
    pub tasks_waiting_within_ms: u64,
    /// A pool task that waits longer than this in hand looks for a slot elsewhere, in ms. Default: 100.
    #[schemars(range(min = 10))]
    pub in_hand_patience_ms: u64,
    /// How often a running task's progress is noted in the store at most, in ms. Default: 250.
    #[schemars(range(min = 10, max = 600_000))]
    pub progress_every_ms: u64,
    /// Largest body of a task, in bytes. Default: 8 MiB.
    #[schemars(range(min = 1_024))]
    pub body_bytes_max: usize,
    /// How long running tasks may go on after a stop was asked for, in ms. Default: 30,000.
    pub drain_grace_ms: u64,
    /// Where `/metrics` and `/healthz` of a stand-alone worker listen, `host:port`. With one process per GPU the first takes this port, the next ones those that follow;
    /// port 0 gives each a free one. Default: none.
    pub metrics_listen: Option<String>,
}

impl Default for WorkerSection {
    fn default() -> Self {
        Self {
            pool: PoolName::default(),
            lease_ms: 6_000,
            offer_ms: 3_000,
            attempt_timeout_ms: 600_000,
            unacked_ms: 600_000,
            unserved_wait_ms: 600_000,
            crashes_max: 3,
            failures_to_quarantine: 3,
            quarantine_ms: 5_000,
            tasks_waiting_within_ms: 5,
            in_hand_patience_ms: 100,
            progress_every_ms: 250,
            body_bytes_max: 8 * 1024 * 1024,
            drain_grace_ms: 30_000,
            metrics_listen: None,
        }
    }
}

/// `memory:`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MemorySection {
    /// Most that the bodies of requests and tasks in a process's hand may take together, in MB (10^6 bytes). Above it workers wait with what the broker delivers, and the
    /// gateway answers 503. A larger body goes alone. Default: 256.
    #[schemars(range(min = 1, max = 65_536))]
    pub bodies_mb: u32,
}

impl Default for MemorySection {
    fn default() -> Self {
        Self { bodies_mb: 256 }
    }
}

/// `gateway:`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GatewaySection {
    /// `host:port`; port 0 takes a free one. Default: `127.0.0.1:8080`.
    pub listen: String,
    /// How long `POST /api/v1/predict` waits for the result, in ms. Default: 60,000.
    #[schemars(range(min = 1))]
    pub predict_timeout_ms: u64,
    /// What becomes of a task that is submitted while no living GPU of the pool serves its kind or has what it needs: `wait` takes it with a warning, `refuse` refuses it (HTTP 422).
    /// `gpufleet submit` goes by it too. `POST /api/v1/predict` refuses in any case (503), since its caller waits. Default: `wait`.
    pub unserved: WhenUnserved,
    /// Whether a payload is checked against its kind's schema before it travels, and refused (HTTP 422) where it does not fit; those above 1 MiB or with segments are not. `gpufleet submit` goes by it too. Default: true.
    pub check_payloads: bool,
    /// Most connections that may be open at once; never more than half of the files that the process may open. One too many closes the one that has waited longest for its
    /// client; where none waits, it is answered 503, but for `/healthz`, `/readyz` and `/metrics`. Default: 1,024.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections_max: u32,
    /// How long the head of a request may take to arrive, in ms. Default: 10,000.
    #[schemars(range(min = 10, max = 600_000))]
    pub head_timeout_ms: u64,
    /// How long a connection stays open between two requests, and while its client reads nothing of an answer, in ms. Default: 75,000.
    #[schemars(range(min = 10, max = 3_600_000))]
    pub idle_timeout_ms: u64,
    /// How long the body of a request may take to arrive, in ms; of a bulk request, how long its client may be silent between two pieces. Default: 30,000.
    #[schemars(range(min = 10, max = 3_600_000))]
    pub body_timeout_ms: u64,
    /// Where operators' requests are served, which change the fleet, or list its tasks, dead letters and changes: `/api/v1/settings`, `/api/v1/gpus/{gpu_id}/drain`, `/api/v1/models/{model}/…`, `/api/v1/dead`, `GET /api/v1/tasks` and
    /// `/log` of one, `/api/v1/tasks:cancel`, `/api/v1/tasks:requeue`, `/api/v1/actions`. The gateway asks
    /// nobody who they are. `loopback`: only while `gateway.listen` is a loopback address, and to no page of another host in a browser here; `always`: to everybody who reaches the port;
    /// `never`: to nobody. Elsewhere they are answered 403. Default: `loopback`.
    pub operate: Operate,
}

/// What becomes of a task that is submitted while nobody serves it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenUnserved {
    /// It is taken, with a warning, and waits for a GPU that serves it.
    #[default]
    Wait,
    /// It is refused.
    Refuse,
}

impl Default for GatewaySection {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            predict_timeout_ms: 60_000,
            unserved: WhenUnserved::default(),
            check_payloads: true,
            connections_max: 1_024,
            head_timeout_ms: 10_000,
            idle_timeout_ms: 75_000,
            body_timeout_ms: 30_000,
            operate: Operate::default(),
        }
    }
}

/// `log:`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,gpu_worker=debug`. Default: `info`.
    pub level: String,
    /// One JSON object a line instead of text. Default: false.
    pub json: bool,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: "info".to_owned(), json: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_never_shows() {
        let url = SecretUrl::new("amqp://fleet:s3cr@t@broker:5672/%2f");
        assert_eq!(format!("{url:?}"), "amqp://fleet:***@broker:5672/%2f");
        assert_eq!(SecretUrl::new("redis://localhost/0").redacted(), "redis://localhost/0");
        assert_eq!(SecretUrl::new("redis://:pw@h/0").redacted(), "redis://:***@h/0");
    }
}
