//! A gateway on a free port, and what is behind it.

use std::{
    collections::BTreeMap,
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use gateway::{Gateway, GatewayOptions, Ports, serve};
use gpu_table::{GpuTable, Heartbeat, Leases, MemoryTable};
use producer::{Producer, ProducerOptions};
use prometheus::Registry;
use protocol::{
    BodyHash, Choice, Envelope, Environment, GpuDescription, GpuId, GpuRow, GpuSample, Health, Holding, Incarnation, ItemCounts,
    ItemResult, Json, Outcome, PoolName, Reply, Strategy, TaskBody, TaskError, TaskId, batch,
    claim::Settings,
    environment::{Clock, Job, Random, Spawn},
    gpu::Hardware,
    task::ComputeCapability,
};
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use task_queue::{BodyBudget, MemoryBroker, MemoryQueue, Outgoing, Queue, QueueOptions, Target, TaskQueue};
use task_store::{MemoryStore, Record, RecordRequest, StoreOptions, TaskStore};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

struct SystemClock;

impl Clock for SystemClock {
    fn now_us(&self) -> u64 {
        SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_micros() as u64
    }
}

struct Counter(AtomicU64);

impl Random for Counter {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

struct Tokio;

impl Spawn for Tokio {
    fn spawn(&self, _name: &'static str, job: Job) {
        tokio::spawn(job);
    }
}

pub fn environment() -> Environment {
    Environment { clock: Arc::new(SystemClock), random: Arc::new(Counter(AtomicU64::new(1))), spawner: Arc::new(Tokio), traces: None }
}

pub fn pool() -> Queue {
    Queue::Pool(PoolName::default())
}

/// What a gateway is built from; change what differs, then `start`.
pub struct Setup {
    pub options: GatewayOptions,
    pub queue: QueueOptions,
    pub table: Arc<dyn GpuTable>,
    pub store: Arc<dyn TaskStore>,
    pub bodies: BodyBudget,
    /// What the one GPU of the table serves; none: there is no GPU.
    pub kinds: &'static [&'static str],
    /// Where it listens; it is asked at the loopback address in any case.
    pub listen: &'static str,
}

/// The heartbeat of an idle GPU of 80 GB that serves `kinds`.
pub fn heartbeat(id: &str, kinds: &[&str]) -> Heartbeat {
    let row = GpuRow {
        gpu: GpuDescription {
            gpu_id: GpuId::new(id).expect("valid"),
            name: "Simulated".into(),
            memory_total_mb: 80_000,
            compute_capability: ComputeCapability { major: 9, minor: 0 },
            hardware: Hardware::default(),
        },
        sample: GpuSample {
            memory_used_mb: 1_000,
            utilization_percent: 12.5,
            temperature_celsius: 40.0,
            power_watts: 100.0,
            sm_clock_mhz: 1_500.0,
            age_ms: 5,
            ..GpuSample::default()
        },
        pool: PoolName::default(),
        incarnation: Incarnation::new("i1").expect("valid"),
        host: "test".into(),
        slots: 8,
        health: Health::Healthy,
        health_reason: String::new(),
        consuming: true,
        stopping: false,
        kinds: kinds.iter().map(|kind| kind.parse().expect("valid")).collect(),
        models: Vec::new(),
        model_state: Default::default(),
        data: Default::default(),
        servers: Default::default(),
        emptied: false,
        foreign_utilization_percent: 0.0,
        waiting: 0,
        running: Vec::new(),
        item_ms: BTreeMap::new(),
        kinds_down: BTreeMap::new(),
        run_ms: BTreeMap::new(),
    };
    Heartbeat { row, holding: Holding::default(), taken: Vec::new(), settings: Settings::default() }
}

impl Default for Setup {
    fn default() -> Self {
        let clock = environment().clock;
        Self {
            options: GatewayOptions { predict_timeout: Duration::from_secs(30), ..GatewayOptions::default() },
            queue: QueueOptions::default(),
            table: Arc::new(MemoryTable::new(clock.clone(), Leases { held: Duration::from_secs(60), offered: Duration::from_secs(3) })),
            store: Arc::new(MemoryStore::new(clock, StoreOptions::default())),
            bodies: BodyBudget::new(256),
            kinds: &["echo", "predict"],
            listen: "127.0.0.1:0",
        }
    }
}

pub struct Fleet {
    pub url: String,
    pub http: Client,
    pub broker: MemoryBroker,
    pub queue: Arc<MemoryQueue>,
    pub table: Arc<dyn GpuTable>,
    pub store: Arc<dyn TaskStore>,
    pub stop: CancellationToken,
    pub serving: JoinHandle<Result<(), gateway::ServeError>>,
}

impl Setup {
    pub async fn start(self) -> Fleet {
        let Self { options, queue, table, store, bodies, kinds, listen } = self;
        if !kinds.is_empty() {
            // A table that is down has no GPU.
            let _ = table.heartbeat(&heartbeat("sim-0", kinds)).await;
        }
        let broker = MemoryBroker::new(queue);
        let queue = Arc::new(broker.connect());
        let producer_options = ProducerOptions { body_bytes_max: options.body_bytes_max, ..ProducerOptions::default() };
        let producer = Producer::new(queue.clone(), store.clone(), environment(), producer_options);
        let (queue_port, registry) = (queue.clone(), Registry::new());
        let ports = Ports { producer, queue: queue_port, table: table.clone(), store: store.clone(), registry, bodies };
        let gateway = Gateway::new(ports, options).expect("fresh metrics");
        let listener = TcpListener::bind(listen).await.expect("a free port");
        let url = format!("http://127.0.0.1:{}", listener.local_addr().expect("bound").port());
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, gateway, stop.clone()));
        let http = Client::builder().no_proxy().build().expect("a client");
        Fleet { url, http, broker, queue, table, store, stop, serving }
    }
}

impl Fleet {
    pub async fn start() -> Self {
        Setup::default().start().await
    }

    pub async fn get(&self, path: &str) -> Response {
        self.http.get(format!("{}{path}", self.url)).send().await.expect("an answer")
    }

    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.http.post(format!("{}{path}", self.url)).json(body).send().await.expect("an answer")
    }

    /// Starts a worker that answers every task with what `answer` makes of its body.
    pub async fn work(&self, answer: impl Fn(TaskBody) -> Result<Value, (Outcome, TaskError)> + Send + 'static) {
        self.work_with(move |task_id, body| reply(task_id, answer(body))).await;
    }

    /// Starts a worker that answers every batch with what `answer` makes of each of its items.
    pub async fn work_on_items(&self, answer: impl Fn(u32, Json) -> Result<Value, TaskError> + Send + 'static) {
        let came_out = move |(index, item): (u32, Json)| match answer(index, item) {
            Ok(result) => ItemResult::succeeded(result.into()),
            Err(error) => ItemResult::failed(error),
        };
        self.work_with(move |task_id, body| {
            let items = body.items.expect("items");
            batch_reply(task_id, &(0..).zip(items).map(&came_out).collect::<Vec<_>>())
        })
        .await;
    }

    /// Starts a worker that answers every task with this result, and every batch with it for each item.
    pub async fn work_on_either(&self, result: Value) {
        self.work_with(move |task_id, body| match body.items {
            None => reply(task_id, Ok(result.clone())),
            Some(items) => batch_reply(task_id, &vec![ItemResult::succeeded(result.clone().into()); items.len()]),
        })
        .await;
    }

    /// Starts a worker that answers every task with the reply that `answer` makes of its id and its body.
    pub async fn work_with(&self, answer: impl Fn(TaskId, TaskBody) -> Reply + Send + 'static) {
        let queue = self.broker.connect();
        let store = self.store.clone();
        queue.declare(&pool()).await.expect("declare");
        let mut consumer = queue.consume(&pool(), NonZeroU16::new(8).expect("not zero")).await.expect("consume");
        tokio::spawn(async move {
            while let Some(delivery) = consumer.next().await {
                let task_id = TaskId::new(delivery.envelope.message_id.clone().expect("an id")).expect("valid");
                let body = protocol::read_body(&delivery.body).expect("a task");
                let reply = answer(task_id, body);
                finish(&queue, &*store, &delivery.envelope, &delivery.body, &reply).await;
                delivery.receipt.ack().await.expect("ack");
            }
        });
    }
}

pub async fn finish(queue: &MemoryQueue, store: &dyn TaskStore, envelope: &Envelope, body: &[u8], reply: &Reply) {
    let bytes = reply.clone().into_bytes();
    let request = RecordRequest {
        task_id: reply.task_id.clone(),
        body_hash: BodyHash::of(body),
        kind: None,
        outcome: reply.outcome,
        attempt: 1,
        token: reply.token,
        reply: bytes.clone(),
    };
    assert_eq!(store.record(&request).await.expect("record"), Record::Recorded);
    if let Some(reply_to) = envelope.reply_to.clone() {
        let message_id = Some(reply.task_id.to_string());
        let answer = Envelope { message_id, correlation_id: envelope.correlation_id.clone(), ..Envelope::default() };
        // A producer that has stopped waiting may be gone.
        let _ = queue.publish(Outgoing::new(Target::ReplyTo(reply_to), answer, bytes)).await;
    }
}

pub fn reply(task_id: TaskId, answer: Result<Value, (Outcome, TaskError)>) -> Reply {
    let (outcome, result, error) = match answer {
        Ok(result) => (Outcome::Succeeded, result, None),
        Err((outcome, error)) => (outcome, Value::Null, Some(error)),
    };
    Reply {
        result: result.into(),
        error,
        gpu_id: Some(GpuId::new("sim-0").expect("valid")),
        strategy: Some(Choice { used: Strategy::LeastLoaded, requested: None, fallback: None }),
        ..Reply::ended(task_id, outcome, 1)
    }
}

/// The reply of a batch whose items came out so, run by two GPUs.
pub fn batch_reply(task_id: TaskId, came_out: &[ItemResult]) -> Reply {
    let of = u32::try_from(came_out.len()).expect("few items");
    let failed = came_out.iter().filter(|item| item.error.is_some()).count();
    Reply {
        results: batch::list(&came_out.iter().map(ItemResult::to_json).collect::<Vec<_>>()),
        items: Some(ItemCounts { of, done: of, failed: u32::try_from(failed).ok() }),
        gpu_ids: ["sim-0", "sim-1"].map(|id| GpuId::new(id).expect("valid")).into(),
        ..Reply::ended(task_id, Outcome::Succeeded, 1)
    }
}

/// The problem document in an answer, once its status, content type and required members were checked.
pub async fn problem(response: Response, status: StatusCode) -> Value {
    let content_type = response.headers().get("content-type").map(|value| value.to_str().expect("text").to_owned());
    let answered = response.status();
    let text = response.text().await.expect("a body");
    assert_eq!((answered, content_type.as_deref()), (status, Some("application/problem+json")), "{text}");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["status"], status.as_u16());
    for member in ["type", "title", "detail"] {
        assert!(document[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {document}");
    }
    document
}

/// Longest wait for what is to come about. Generous: it bounds a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until the answer is the wanted one, and returns it.
pub async fn until(what: &str, mut ask: impl AsyncFnMut() -> Value, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let asking = async {
        loop {
            last = ask().await;
            if is_wanted(&last) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, asking).await;
    assert!(found.is_ok(), "{what} has not come about; last was {last}");
    last
}

pub async fn json(response: Response) -> Value {
    response.json().await.expect("JSON")
}

pub fn retry_after_s(response: &Response) -> u64 {
    response.headers()["retry-after"].to_str().expect("text").parse().expect("seconds")
}
