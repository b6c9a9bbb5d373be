//! A fleet as a producer sees it: a broker and a store in memory, and a worker that answers as it is told.

use std::{
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use producer::{NewTask, Producer, ProducerOptions};
use protocol::{
    BodyHash, Envelope, Environment, Kind, Outcome, PoolName, Reply, TaskBody, TaskId,
    environment::{Clock, Job, Random, Spawn},
};
use serde_json::{Value, json};
use task_queue::{
    Consumer, Delivery, Depth, Feed, Link, MemoryBroker, MemoryQueue, Names, Outgoing, PublishError, Queue, QueueError, QueueOptions,
    Target, TaskQueue,
};
use task_store::{MemoryStore, RecordRequest, StoreOptions, TaskStore};
use tokio::sync::watch;

struct FixedClock;

impl Clock for FixedClock {
    fn now_us(&self) -> u64 {
        1_800_000_000_000_000
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
    Environment { clock: Arc::new(FixedClock), random: Arc::new(Counter(AtomicU64::new(1))), spawner: Arc::new(Tokio), traces: None }
}

pub fn pool() -> Queue {
    Queue::Pool(PoolName::default())
}

pub fn task(payload: Value) -> NewTask {
    NewTask::new(Kind::new("echo").expect("valid"), TaskBody { payload: payload.into(), ..TaskBody::default() })
}

/// What the worker does with each task.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Records and replies.
    Reply,
    /// Records and replies twice.
    ReplyTwice,
    /// Records only: the reply is lost.
    Record,
    /// Records without the reply's body, and does not reply.
    RecordWithoutBody,
    /// Replies with something that is no reply.
    Mumble,
}

pub struct Fleet {
    pub broker: MemoryBroker,
    pub queue: Arc<MemoryQueue>,
    pub store: Arc<MemoryStore>,
}

impl Fleet {
    pub fn new(options: QueueOptions) -> Self {
        let broker = MemoryBroker::new(options);
        let queue = Arc::new(broker.connect());
        let store = Arc::new(MemoryStore::new(environment().clock, StoreOptions::default()));
        Self { broker, queue, store }
    }

    pub fn producer(&self) -> Producer {
        self.producer_with(ProducerOptions::default())
    }

    pub fn producer_with(&self, options: ProducerOptions) -> Producer {
        Producer::new(self.queue.clone(), self.store.clone(), environment(), options)
    }

    /// Starts a worker that takes tasks until the broker ends.
    pub async fn work(&self, manner: Manner) {
        let queue = self.broker.connect();
        let store = self.store.clone();
        queue.declare(&pool()).await.expect("declare");
        let mut consumer = queue.consume(&pool(), NonZeroU16::new(8).expect("not zero")).await.expect("consume");
        tokio::spawn(async move {
            while let Some(delivery) = consumer.next().await {
                serve(&queue, &*store, manner, delivery).await;
            }
        });
    }
}

async fn serve(queue: &MemoryQueue, store: &dyn TaskStore, manner: Manner, delivery: Delivery) {
    let task_id = TaskId::new(delivery.envelope.message_id.clone().expect("an id")).expect("valid");
    let body: TaskBody = serde_json::from_slice(&delivery.body).expect("a task");
    let reply = Bytes::from(serde_json::to_vec(&reply(&task_id, body.payload.to().expect("JSON"))).expect("JSON"));
    if manner != Manner::Mumble {
        let request = RecordRequest {
            task_id: task_id.clone(),
            body_hash: BodyHash::of(&delivery.body),
            kind: None,
            outcome: Outcome::Succeeded,
            attempt: 1,
            token: None,
            reply: reply.clone(),
        };
        store.record(&request).await.expect("record");
    }
    let replies: &[Bytes] = match manner {
        Manner::Reply => &[reply],
        Manner::ReplyTwice => &[reply.clone(), reply],
        Manner::Record | Manner::RecordWithoutBody => &[],
        Manner::Mumble => &[Bytes::from_static(b"hm")],
    };
    if let Some(reply_to) = delivery.envelope.reply_to {
        for body in replies {
            let correlation_id = delivery.envelope.correlation_id.clone();
            let envelope = Envelope { message_id: Some(task_id.to_string()), correlation_id, ..Envelope::default() };
            queue.publish(Outgoing::new(Target::ReplyTo(reply_to.clone()), envelope, body.clone())).await.expect("a reply queue");
        }
    }
    delivery.receipt.ack().await.expect("ack");
}

pub fn reply(task_id: &TaskId, result: Value) -> Reply {
    Reply { result: json!({ "echo": result }).into(), ..Reply::ended(task_id.clone(), Outcome::Succeeded, 1) }
}

/// A queue whose reply consumers get nothing and can be told to have been away.
pub struct DeafQueue {
    pub inner: Arc<MemoryQueue>,
    pub live: watch::Sender<bool>,
    pub consumers_dropped: Arc<AtomicBool>,
}

struct Nothing(Arc<AtomicBool>);

impl Feed for Nothing {
    fn stop(&self) {}
    fn end(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl TaskQueue for DeafQueue {
    fn names(&self) -> &Names {
        self.inner.names()
    }
    async fn declare(&self, queue: &Queue) -> Result<(), QueueError> {
        self.inner.declare(queue).await
    }
    async fn publish(&self, message: Outgoing) -> Result<(), PublishError> {
        self.inner.publish(message).await
    }
    async fn consume(&self, _queue: &Queue, _prefetch: NonZeroU16) -> Result<Consumer, QueueError> {
        Ok(Consumer::new(Arc::default(), self.live.subscribe(), Arc::new(Nothing(self.consumers_dropped.clone()))))
    }
    async fn take(&self, queue: &Queue) -> Result<Option<Delivery>, QueueError> {
        self.inner.take(queue).await
    }
    async fn depth(&self, queue: &Queue) -> Result<Option<Depth>, QueueError> {
        self.inner.depth(queue).await
    }
    async fn delete_if_unused(&self, queue: &Queue) -> Result<bool, QueueError> {
        self.inner.delete_if_unused(queue).await
    }
    fn link(&self) -> watch::Receiver<Link> {
        self.inner.link()
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}
