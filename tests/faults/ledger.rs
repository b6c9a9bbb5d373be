//! A producer's ledger: what it published, and what came back. Its reply queue is durable and is read when all is over, so that it survives the broker.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{BasicGetOptions, QueueDeclareOptions},
    types::FieldTable,
};
use protocol::{Envelope, GpuId, GpuOptions, ItemResult, Json, Kind, Outcome, Reply, TaskBody, config::SecretUrl, envelope::Headers};
use serde_json::{Value, json};
use task_queue::{Outgoing, Queue, Target};
use tests::{fleet::Fleet, until::until};
use tokio::time::Instant;

/// What was published, under names of its own.
pub struct Ledger {
    name: String,
    amqp: SecretUrl,
    published: BTreeSet<String>,
    replies: BTreeMap<String, Vec<Reply>>,
}

/// What the ledger found when all was over.
#[derive(Debug)]
pub struct Balance {
    pub published: usize,
    pub lost: usize,
    pub failed: usize,
    pub duplicated_replies: usize,
    pub different_replies: usize,
}

impl Ledger {
    /// An empty ledger with a durable reply queue on this broker.
    pub async fn open(amqp: SecretUrl) -> Self {
        let name = format!("ledger-{}", uuid::Uuid::new_v4().simple());
        let (_connection, channel) = channel(&amqp).await;
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        // RabbitMQ 3.10 has the queue that was declared last on its disk only when it writes the next one: without that, one that is killed forgets it.
        for queue in [name.clone(), format!("{name}.next")] {
            channel.queue_declare(queue.as_str().into(), durable, FieldTable::default()).await.unwrap();
        }
        Self { name, amqp, published: BTreeSet::new(), replies: BTreeMap::new() }
    }

    /// Publishes `count` tasks, again and again until the broker has confirmed each.
    pub async fn publish(&mut self, fleet: &Fleet, count: usize, payload: impl Fn(usize) -> Value) {
        let body = |n: usize| TaskBody { payload: payload(n).into(), ..TaskBody::default() };
        self.publish_to(fleet, (&Queue::Pool(fleet.pool()), &Headers::default()), count, body).await;
    }

    /// Publishes tasks for one GPU alone.
    pub async fn publish_for(&mut self, fleet: &Fleet, gpu_id: &GpuId, count: usize) {
        let gpu_options = GpuOptions { specific_gpu_id: Some(gpu_id.clone()), ..GpuOptions::default() };
        let body = |n: usize| TaskBody { payload: json!({"result": n}).into(), gpu_options: gpu_options.clone(), ..TaskBody::default() };
        self.publish_to(fleet, (&Queue::Pool(fleet.pool()), &Headers::default()), count, body).await;
    }

    /// Leaves tasks in the own queue of a GPU, as a worker does that forwards them.
    pub async fn forward(&mut self, fleet: &Fleet, gpu_id: &GpuId, count: usize) {
        let queue = Queue::Gpu(gpu_id.clone());
        until("the queue of the GPU is declared", async || fleet.ports.queue.declare(&queue).await.is_ok()).await;
        let headers = Headers { pool: Some(fleet.pool().to_string()), hops: Some(1), ..Headers::default() };
        let body = |n: usize| TaskBody { payload: json!({"result": n}).into(), ..TaskBody::default() };
        self.publish_to(fleet, (&queue, &headers), count, body).await;
    }

    async fn publish_to(&mut self, fleet: &Fleet, (queue, headers): (&Queue, &Headers), count: usize, body: impl Fn(usize) -> TaskBody) {
        let publishing = (0..count).map(|n| {
            let id = format!("{}-{}", self.name, self.published.len() + n);
            let envelope = Envelope {
                message_id: Some(id.clone()),
                kind: Some(Kind::new("simulate").unwrap().to_string()),
                priority: Some((n % 10) as u8),
                reply_to: Some(self.name.clone()),
                headers: headers.clone(),
                ..Envelope::default()
            };
            let outgoing = Outgoing::new(Target::Queue(queue.clone()), envelope, body(n).to_bytes());
            async move {
                until("a task is confirmed", async || fleet.ports.queue.publish(outgoing.clone()).await.is_ok()).await;
                id
            }
        });
        let ids = futures::future::join_all(publishing).await;
        self.published.extend(ids);
    }

    /// Publishes tasks that take `ms` milliseconds each.
    pub async fn publish_simulated(&mut self, fleet: &Fleet, count: usize, ms: u64) {
        self.publish(fleet, count, |n| json!({"duration_ms": ms, "result": n})).await;
    }

    /// Publishes batches of so many items, which take `ms` milliseconds each. Each item gives the number of its batch and its own.
    pub async fn publish_batches(&mut self, fleet: &Fleet, count: usize, (items, ms): (usize, u64)) {
        let before = self.published.len();
        let body = |n: usize| {
            let item = |index: usize| Json::from(json!({"duration_ms": ms, "result": [before + n, index]}));
            TaskBody { items: Some((0..items).map(item).collect()), ..TaskBody::default() }
        };
        self.publish_to(fleet, (&Queue::Pool(fleet.pool()), &Headers::default()), count, body).await;
    }

    /// The highest attempt of which a reply that was read tells.
    pub fn attempts_max(&self) -> u32 {
        self.replies.values().flatten().map(|reply| reply.attempt).max().unwrap_or(0)
    }

    /// Checks that every reply that was read has the results of all items of its batch, in order, where nothing but batches of so many items was published. How many of the batches were
    /// split.
    pub fn batches_are_whole(&self, items: usize) -> usize {
        for (id, replies) in &self.replies {
            let number: usize = id.rsplit('-').next().unwrap().parse().unwrap();
            let expected: Vec<Value> = (0..items).map(|index| json!([number, index])).collect();
            for reply in replies {
                let came_out: Vec<ItemResult> = reply.results.to().unwrap_or_else(|_| panic!("no results of items: {reply:?}"));
                let results: Vec<Value> = came_out.iter().map(|item| item.result.to().unwrap()).collect();
                assert_eq!(results, expected, "{id}: {reply:?}");
            }
        }
        self.replies.values().filter(|replies| !replies[0].gpu_ids.is_empty()).count()
    }

    /// Waits until the store knows an outcome of every task. The limit bounds a hang: beside the simulation, which takes all cores, a minute's work may take several.
    pub async fn until_all_ended(&self, fleet: &Fleet) {
        self.until_all_ended_within(fleet, Duration::from_secs(300)).await;
    }

    /// Waits until the store knows an outcome of every task, for so long.
    pub async fn until_all_ended_within(&self, fleet: &Fleet, limit: Duration) {
        let mut open = self.published.clone();
        let deadline = Instant::now() + limit;
        while let Some(id) = open.first().cloned() {
            let ended =
                fleet.ports.store.status(&id.parse().unwrap()).await.is_ok_and(|status| status.is_some_and(|status| status.state.ended()));
            if ended {
                open.pop_first();
            } else {
                assert!(Instant::now() < deadline, "{} of {} tasks did not end, among them {id}", open.len(), self.published.len());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// How many runs of these tasks the store counts as ended by a crash of the worker. After each, the task ran again.
    pub async fn crashes(&self, fleet: &Fleet) -> usize {
        let mut crashes = 0;
        for id in &self.published {
            let status = fleet.ports.store.status(&id.parse().unwrap()).await.unwrap();
            crashes += status.unwrap_or_else(|| panic!("the store forgot {id}")).crashes as usize;
        }
        crashes
    }

    /// How many replies wait in the queue, as long as none was read.
    pub async fn answered(&self) -> usize {
        let (_connection, channel) = channel(&self.amqp).await;
        self.count(&channel).await
    }

    async fn count(&self, channel: &Channel) -> usize {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(self.name.as_str().into(), passive, FieldTable::default()).await.unwrap();
        queue.message_count() as usize
    }

    /// Waits until there is a reply for every task, whatever the store knows. Two for one are none for another.
    pub async fn until_all_answered(&mut self) {
        let (_connection, channel) = channel(&self.amqp).await;
        until("every task is answered", async || {
            self.read(&channel).await;
            self.published.iter().all(|id| self.replies.contains_key(id))
        })
        .await;
    }

    /// Reads the replies that are there.
    async fn read(&mut self, channel: &Channel) {
        while let Some(message) = channel.basic_get(self.name.as_str().into(), BasicGetOptions { no_ack: true }).await.unwrap() {
            let reply: Reply = serde_json::from_slice(&message.delivery.data).unwrap();
            self.replies.entry(reply.task_id.to_string()).or_default().push(reply);
        }
    }

    /// Reads the rest, and tells what all replies together say.
    pub async fn balance(&mut self) -> Balance {
        let (_connection, channel) = channel(&self.amqp).await;
        self.read(&channel).await;
        let replies = &self.replies;
        let foreign: Vec<&String> = replies.keys().filter(|id| !self.published.contains(*id)).collect();
        assert!(foreign.is_empty(), "replies to nobody's tasks: {foreign:?}");
        let different = |replies: &&Vec<Reply>| replies.iter().any(|reply| *reply != replies[0]);
        Balance {
            published: self.published.len(),
            lost: self.published.iter().filter(|id| !replies.contains_key(*id)).count(),
            failed: replies.values().filter(|replies| replies[0].outcome != Outcome::Succeeded).count(),
            duplicated_replies: replies.values().map(|replies| replies.len() - 1).sum(),
            different_replies: replies.values().filter(different).count(),
        }
    }
}

impl Balance {
    /// The promise: nothing lost, nothing failed, one outcome for each.
    pub fn holds(&self) {
        assert_eq!((self.lost, self.failed, self.different_replies), (0, 0, 0), "{self:?}");
    }
}

async fn channel(amqp: &SecretUrl) -> (Connection, Channel) {
    let connection = Connection::connect(amqp.reveal(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// One row of the table of faults, printed for those who run the tests with `--nocapture`.
pub fn report(fault: &str, fleet: &Fleet, balance: &Balance, recovered: Duration) {
    // Counted when a run begins, so that those which were killed count too.
    let runs = fleet.counted("gpufleet_in_hand_seconds_count", "") as usize;
    print_row(fault, balance, &runs.saturating_sub(balance.published).to_string(), recovered);
}

/// The row of a fleet whose workers are processes of their own, and take their counts with them when they are killed.
pub fn report_by_crashes(fault: &str, balance: &Balance, crashes: usize) {
    print_row(fault, balance, &format!("at least {crashes}"), Duration::ZERO);
}

fn print_row(fault: &str, balance: &Balance, again: &str, recovered: Duration) {
    let (published, lost, twice) = (balance.published, balance.lost, balance.duplicated_replies);
    println!("| {fault} | {published} | {lost} | {again} | {twice} | {:.1} |", recovered.as_secs_f64());
}

/// How many attempts ended well, so far.
pub fn succeeded(fleet: &Fleet) -> f64 {
    fleet.counted("gpufleet_tasks_total", "succeeded")
}
