//! Queues, exchanges and bindings that somebody deletes under a running fleet; tasks that find no pool; what is kept of what was refused.

use std::{num::NonZeroU16, time::Duration};

use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeleteOptions},
    types::FieldTable,
};
use protocol::{Envelope, GpuId, Outcome, PoolName, Reply, config::SecretUrl};
use serde_json::json;
use task_queue::{Consumer, Outgoing, Queue, Target};
use tests::{
    fleet::{Fleet, FleetPlan},
    raw_amqp::{RawProperties, RawPublisher},
    tasks::{PATIENCE, echo, reply, result},
    until::until,
};

crate::on_both!(
    after_the_queue_of_the_dead_letters_was_deleted_tasks_are_refused_and_served_as_before,
    queues_that_nobody_consumes_come_back_though_nobody_publishes_to_them,
    a_task_for_a_pool_that_does_not_exist_is_refused_with_the_pools_that_do,
    a_task_that_is_no_task_and_finds_no_pool_is_refused_for_what_is_wrong_with_it,
    a_task_that_came_before_its_pool_is_moved_there,
    a_task_for_a_pool_that_nobody_serves_at_present_waits_for_its_queue,
    of_a_body_that_is_too_large_only_its_size_is_kept,
);

/// Often enough for a test on real servers.
const SOON: Duration = Duration::from_millis(200);

/// A client of the test's own, with a reply queue.
struct Client<'f> {
    fleet: &'f Fleet,
    answers: Consumer,
    reply_to: String,
}

impl<'f> Client<'f> {
    async fn of(fleet: &'f Fleet) -> Self {
        let own = Queue::Reply("topology".to_owned());
        fleet.ports.queue.declare(&own).await.unwrap();
        let answers = fleet.ports.queue.consume(&own, NonZeroU16::new(64).unwrap()).await.unwrap();
        Self { fleet, answers, reply_to: fleet.ports.queue.names().queue(&own) }
    }

    async fn to_the_pool(&self, id: &str, body: &[u8]) {
        let pool = Target::Queue(Queue::Pool(self.fleet.pool()));
        self.fleet.ports.queue.publish(Outgoing::new(pool, self.envelope(id), body.to_vec().into())).await.unwrap();
    }

    /// As a client that is not ours, under any routing key.
    async fn to_the_exchange(&self, routing_key: &str, id: &str, body: &[u8]) {
        let Some(amqp) = self.fleet.amqp() else {
            return self.fleet.broker().publish_to_exchange(routing_key, self.envelope(id), body.to_vec().into());
        };
        let properties = RawProperties::task(id, "echo").text(RawProperties::REPLY_TO, self.reply_to.as_bytes());
        let exchange = self.fleet.ports.queue.names().exchange();
        let mut raw = RawPublisher::connect(amqp).await;
        raw.publish_to(exchange.as_bytes(), routing_key.as_bytes(), &properties, body).await;
    }

    fn envelope(&self, id: &str) -> Envelope {
        Envelope {
            message_id: Some(id.to_owned()),
            kind: Some("echo".to_owned()),
            reply_to: Some(self.reply_to.clone()),
            ..Envelope::default()
        }
    }

    async fn answer(&mut self) -> Reply {
        let answer = tokio::time::timeout(PATIENCE, self.answers.next()).await.expect("an answer in time").unwrap();
        let reply = serde_json::from_slice(&answer.body).unwrap();
        answer.receipt.ack().await.unwrap();
        reply
    }
}

async fn channel(amqp: &SecretUrl) -> (Connection, Channel) {
    let connection = Connection::connect(amqp.reveal(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

pub async fn delete(fleet: &Fleet, queue: &Queue) {
    let Some(amqp) = fleet.amqp() else { return fleet.broker().delete(queue) };
    let (_connection, channel) = channel(amqp).await;
    let name = fleet.ports.queue.names().queue(queue);
    channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
}

async fn ready(fleet: &Fleet, queue: &Queue) -> Option<u32> {
    fleet.ports.queue.depth(queue).await.unwrap().map(|depth| depth.ready)
}

async fn after_the_queue_of_the_dead_letters_was_deleted_tasks_are_refused_and_served_as_before(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let mut client = Client::of(&fleet).await;
    delete(&fleet, &Queue::Dead).await;
    // One more than the worker has slots.
    for n in 0..9 {
        client.to_the_pool(&format!("wrong-{n}"), b"no json").await;
    }
    for _ in 0..9 {
        assert_eq!(client.answer().await.outcome, Outcome::Failed);
    }
    assert_eq!(result(&reply(&fleet.producer, echo("healthy")).await), json!("healthy"));
    until("all are among the dead letters", async || ready(&fleet, &Queue::Dead).await == Some(9)).await;
}

async fn queues_that_nobody_consumes_come_back_though_nobody_publishes_to_them(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1).looking_after_queues_every(SOON)).start().await;
    let deleted = [Queue::Dead, Queue::Parked];
    for queue in &deleted {
        delete(&fleet, queue).await;
    }
    for queue in &deleted {
        until("it is back", async || ready(&fleet, queue).await.is_some()).await;
    }
    let letter = Envelope { message_id: Some("letter".to_owned()), ..Envelope::default() };
    fleet.ports.queue.publish(Outgoing::new(Target::Queue(Queue::Dead), letter, b"{}"[..].into())).await.unwrap();
    until("the metric shows what waits", async || {
        fleet.counted("gpufleet_queue_messages", "queue=\"dead\"") == 1.0 && fleet.metrics().contains("queue=\"parked\"} 0")
    })
    .await;
}

async fn a_task_for_a_pool_that_does_not_exist_is_refused_with_the_pools_that_do(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let mut client = Client::of(&fleet).await;
    for (n, routing_key) in ["defualt", "no name of a pool"].into_iter().enumerate() {
        client.to_the_exchange(routing_key, &format!("astray-{n}"), br#"{"payload": "astray"}"#).await;
        let answer = client.answer().await;
        let error = answer.error.clone().unwrap();
        let found = (answer.outcome, error.code.as_str(), error.field.as_deref());
        assert_eq!(found, (Outcome::Failed, "unknown_pool", Some("routing_key")), "{answer:?}");
        assert!(error.message.contains(routing_key) && error.message.contains("knows default"), "{}", error.message);
        assert_eq!(answer.task_id.as_str(), format!("astray-{n}"));
        let letter = fleet.ports.queue.take(&Queue::Dead).await.unwrap().unwrap();
        assert_eq!((letter.envelope.headers.pool.as_deref(), &letter.body[..]), (Some(routing_key), &br#"{"payload": "astray"}"#[..]));
        letter.receipt.ack().await.unwrap();
    }
    assert_eq!(fleet.counted("gpufleet_unrouted_total", "refused"), 2.0);
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 0.0);
}

async fn a_task_that_is_no_task_and_finds_no_pool_is_refused_for_what_is_wrong_with_it(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let mut client = Client::of(&fleet).await;
    client.to_the_exchange("defualt", "wrong", br#"{"prioritee": 9}"#).await;
    let error = client.answer().await.error.unwrap();
    assert_eq!((error.code.as_str(), error.field.as_deref()), ("invalid_task", Some("prioritee")));
}

async fn a_task_that_came_before_its_pool_is_moved_there(on: fn(FleetPlan) -> FleetPlan) {
    let mut fleet = on(Fleet::of(0)).start().await;
    // Some other pool brings the exchange.
    fleet.ports.queue.declare(&Queue::Pool(PoolName::new("other").unwrap())).await.unwrap();
    let pool = fleet.pool();
    let early = Client::of(&fleet).await;
    early.to_the_exchange(pool.as_str(), "early", br#"{"payload": "early"}"#).await;
    assert_eq!(ready(&fleet, &Queue::Unrouted).await, Some(1));
    let Client { answers, reply_to, .. } = early;
    fleet.add_gpu().await;
    let mut client = Client { fleet: &fleet, answers, reply_to };
    assert_eq!(result(&client.answer().await), json!("early"));
    assert_eq!(fleet.counted("gpufleet_unrouted_total", "moved"), 1.0);
}

/// As an operator leaves it who ends all workers of a pool and deletes its queue.
async fn a_task_for_a_pool_that_nobody_serves_at_present_waits_for_its_queue(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let asleep = PoolName::new("asleep").unwrap();
    fleet.ports.store.announce(&GpuId::new("gone").unwrap(), &asleep).await.unwrap();
    let client = Client::of(&fleet).await;
    client.to_the_exchange(asleep.as_str(), "early", br#"{"payload": "early"}"#).await;
    until("it waits", async || fleet.counted("gpufleet_unrouted_total", "waits") == 1.0).await;
    let queue = Queue::Pool(asleep);
    fleet.ports.queue.declare(&queue).await.unwrap();
    until("it is in its pool", async || ready(&fleet, &queue).await == Some(1)).await;
    assert_eq!(fleet.counted("gpufleet_unrouted_total", "refused"), 0.0);
}

async fn of_a_body_that_is_too_large_only_its_size_is_kept(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1).configured(|configuration| configuration.worker.body_bytes_max = 2_000)).start().await;
    let mut client = Client::of(&fleet).await;
    let body = json!({"payload": "x".repeat(3_000)}).to_string();
    client.to_the_pool("large", body.as_bytes()).await;
    let error = client.answer().await.error.unwrap();
    assert_eq!((error.code.as_str(), error.field.as_deref()), ("invalid_task", Some("body")));
    let letter = fleet.ports.queue.take(&Queue::Dead).await.unwrap().unwrap();
    let reason = letter.envelope.headers.reason.clone().unwrap();
    assert!(letter.body.is_empty() && reason.contains(&format!("{} bytes", body.len())), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_and_a_binding_that_were_deleted_are_back_and_no_task_is_lost_meanwhile() {
    let fleet = Fleet::of(1).on_real_servers().looking_after_queues_every(SOON).start().await;
    let mut client = Client::of(&fleet).await;
    let (amqp, names) = (fleet.amqp().unwrap(), fleet.ports.queue.names());
    let (exchange, pool_queue, pool) = (names.exchange(), names.queue(&Queue::Pool(fleet.pool())), fleet.pool());
    let (_connection, operator) = channel(amqp).await;
    operator.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    until("the exchange is back", async || {
        let (_connection, looking) = channel(amqp).await;
        let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        looking.exchange_declare(exchange.as_str().into(), ExchangeKind::Direct, passive, FieldTable::default()).await.is_ok()
    })
    .await;

    let mut sent = 0;
    for round in 0..2 {
        if round == 1 {
            let unbind =
                operator.queue_unbind(pool_queue.as_str().into(), exchange.as_str().into(), pool.as_str().into(), FieldTable::default());
            unbind.await.unwrap();
        }
        until("a task finds its way by the binding", async || {
            let moved = fleet.counted("gpufleet_unrouted_total", "moved");
            sent += 1;
            client.to_the_exchange(pool.as_str(), &format!("task-{sent}"), &json!({"payload": sent}).to_string().into_bytes()).await;
            assert_eq!(result(&client.answer().await), json!(sent), "however it went");
            fleet.counted("gpufleet_unrouted_total", "moved") == moved
        })
        .await;
    }
}
