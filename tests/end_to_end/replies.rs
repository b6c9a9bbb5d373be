//! Replies whose queues do not take them: they hold up nobody, wait, and arrive once there is room.

use std::{collections::BTreeMap, num::NonZeroU16, time::Duration};

use futures::FutureExt;
use lapin::{
    Connection, ConnectionProperties,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};
use protocol::{Envelope, Outcome, Reply, TaskId};
use serde_json::json;
use task_queue::{Consumer, Delivery, Outgoing, Queue, Target};
use tests::{
    fleet::{Fleet, FleetPlan},
    rabbitmq::PrivateRabbitMq,
    tasks::{PATIENCE, echo, reply, result},
    until::until,
};

crate::on_both!(
    a_full_reply_queue_holds_up_nobody_and_gets_its_replies_when_there_is_room,
    a_reply_that_finds_no_room_to_wait_is_parked_with_its_address,
);

/// More than a worker has slots.
const TASKS: usize = 12;
/// How many messages of a waiting queue a worker holds.
const HELD: usize = 16;

/// Declares a queue of a client that is not ours, under a name of ours.
async fn declare_foreign(fleet: &Fleet, queue: &Queue, arguments: FieldTable) {
    let connection = Connection::connect(fleet.amqp().unwrap().reveal(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let (name, durable) = (fleet.ports.queue.names().queue(queue), QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() });
    channel.queue_declare(name.as_str().into(), durable, arguments).await.unwrap();
}

/// A reply queue of the test's own that is at its bound of one message.
async fn full_queue(fleet: &Fleet) -> Queue {
    let full = Queue::Reply("full".to_owned());
    if fleet.amqp().is_some() {
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        declare_foreign(fleet, &full, arguments).await;
    } else {
        fleet.ports.queue.declare(&full).await.unwrap();
        fleet.broker().bound(&full, Some(1));
    }
    let old = Envelope { message_id: Some("old".to_owned()), ..Envelope::default() };
    fleet.ports.queue.publish(Outgoing::new(Target::Queue(full.clone()), old, b"old"[..].into())).await.unwrap();
    full
}

/// Submits tasks that want their replies in the queue of this name.
async fn submit(fleet: &Fleet, reply_to: &str, tasks: usize) {
    for n in 0..tasks {
        let envelope = Envelope {
            message_id: Some(id(n).to_string()),
            kind: Some("echo".to_owned()),
            reply_to: Some(reply_to.to_owned()),
            correlation_id: Some(format!("c-{n}")),
            ..Envelope::default()
        };
        let body = json!({ "payload": n }).to_string().into_bytes();
        fleet.ports.queue.publish(Outgoing::new(Target::Queue(Queue::Pool(fleet.pool())), envelope, body.into())).await.unwrap();
    }
}

fn id(n: usize) -> TaskId {
    TaskId::new(format!("for-the-full-{n}")).unwrap()
}

/// Acks deliveries until replies to so many different tasks have come; how many copies came of each.
async fn collect(fleet: &Fleet, consumer: &mut Consumer, tasks: usize) -> BTreeMap<String, usize> {
    let mut copies = BTreeMap::new();
    while copies.len() < tasks {
        let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await;
        let delivery = delivery.unwrap_or_else(|_| panic!("only {} of {tasks} tasks were answered", copies.len())).unwrap();
        if delivery.body != b"old"[..] {
            check(fleet, &delivery).await;
            *copies.entry(delivery.envelope.message_id.clone().unwrap()).or_default() += 1;
        }
        delivery.receipt.ack().await.unwrap();
    }
    copies
}

/// A reply has the bytes that the store has, and nothing on it says that it has waited.
async fn check(fleet: &Fleet, delivery: &Delivery) {
    let task_id = TaskId::new(delivery.envelope.message_id.clone().unwrap()).unwrap();
    let reply: Reply = serde_json::from_slice(&delivery.body).unwrap();
    let stored = fleet.producer.status(&task_id).await.unwrap().unwrap().reply;
    assert_eq!((stored.as_ref(), reply.outcome), (Some(&reply), Outcome::Succeeded));
    let headers = &delivery.envelope.headers;
    assert_eq!((&headers.reply_to, headers.first_try_ms, &headers.reason), (&None, None, &None));
    let n: usize = reply.result.to().unwrap();
    assert_eq!((task_id, delivery.envelope.correlation_id.clone()), (id(n), Some(format!("c-{n}"))));
}

async fn ready(fleet: &Fleet, queue: &Queue) -> u32 {
    fleet.ports.queue.depth(queue).await.unwrap().map_or(0, |depth| depth.ready)
}

/// How many replies wait for another try.
async fn waiting(fleet: &Fleet) -> u32 {
    let mut waiting = fleet.counted("gpufleet_held_messages", "undelivered") as u32;
    for queue in Queue::where_replies_wait() {
        waiting += ready(fleet, &queue).await;
    }
    waiting
}

async fn a_full_reply_queue_holds_up_nobody_and_gets_its_replies_when_there_is_room(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1)).start().await;
    let full = full_queue(&fleet).await;
    submit(&fleet, &fleet.ports.queue.names().queue(&full), TASKS).await;
    assert_eq!(result(&reply(&fleet.producer, echo("healthy")).await), json!("healthy"));
    until("all replies wait", async || fleet.counted("gpufleet_replies_put_aside_total", "full") == TASKS as f64).await;
    fleet.idle().await;

    let mut consumer = fleet.ports.queue.consume(&full, NonZeroU16::new(100).unwrap()).await.unwrap();
    let copies = collect(&fleet, &mut consumer, TASKS).await;
    assert!(copies.values().all(|count| *count == 1), "{copies:?}");
    until("each is counted", async || fleet.counted("gpufleet_replies_delivered_late_total", "") == TASKS as f64).await;
    until("none waits any more", async || waiting(&fleet).await == 0).await;
    assert!(consumer.next().now_or_never().is_none(), "another copy came");
    assert_eq!(fleet.counted("gpufleet_replies_returned_total", ""), 0.0);
}

async fn a_reply_that_finds_no_room_to_wait_is_parked_with_its_address(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1).configured(|configuration| configuration.amqp.undelivered_max = 3)).start().await;
    let full = full_queue(&fleet).await;
    let name = fleet.ports.queue.names().queue(&full);
    // What the worker holds takes no room.
    submit(&fleet, &name, HELD + 5).await;
    until("two are parked", async || ready(&fleet, &Queue::Parked).await == 2).await;
    let waiting_queue = fleet.ports.queue.names().queue(&Queue::undelivered_for(Duration::ZERO));
    for _ in 0..2 {
        let parked = fleet.ports.queue.take(&Queue::Parked).await.unwrap().unwrap();
        let headers = &parked.envelope.headers;
        assert_eq!(headers.reply_to.as_deref(), Some(name.as_str()));
        assert!(headers.reason.as_deref().unwrap().contains(&waiting_queue), "{headers:?}");
        let task_id = TaskId::new(parked.envelope.message_id.clone().unwrap()).unwrap();
        let stored = fleet.producer.status(&task_id).await.unwrap().unwrap().reply;
        assert_eq!(stored, Some(serde_json::from_slice::<Reply>(&parked.body).unwrap()));
        parked.receipt.ack().await.unwrap();
    }
    assert_eq!(fleet.counted("gpufleet_replies_returned_total", ""), 2.0);
    // What could wait arrives.
    let mut consumer = fleet.ports.queue.consume(&full, NonZeroU16::new(100).unwrap()).await.unwrap();
    assert_eq!(collect(&fleet, &mut consumer, HELD + 3).await.len(), HELD + 3);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_not_taken_for_too_long_is_parked() {
    let fleet = Fleet::of(1).configured(|configuration| configuration.amqp.parked_ttl_ms = 20_000).start().await;
    let full = full_queue(&fleet).await;
    let name = fleet.ports.queue.names().queue(&full);
    let submitted = tokio::time::Instant::now();
    submit(&fleet, &name, 1).await;
    until("it is parked", async || ready(&fleet, &Queue::Parked).await == 1).await;
    assert!(submitted.elapsed() >= Duration::from_secs(20), "it was given up before its time");
    let parked = fleet.ports.queue.take(&Queue::Parked).await.unwrap().unwrap();
    let headers = &parked.envelope.headers;
    assert_eq!(headers.reply_to.as_deref(), Some(name.as_str()));
    assert!(headers.reason.as_deref().unwrap().contains("took no reply for 20 s"), "{headers:?}");
    assert_eq!((waiting(&fleet).await, fleet.counted("gpufleet_replies_returned_total", "")), (0, 1.0));
    assert!(fleet.producer.status(&id(0)).await.unwrap().unwrap().reply.is_some(), "the stored reply remains");
}

/// The queue's process hangs, while the broker is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_queue_that_does_not_confirm_holds_up_nobody() {
    let plan = Fleet::of(1).configured(|configuration| configuration.amqp.publish_timeout_ms = 2_000);
    let fleet = plan.on_real_servers().start().await;
    let server = PrivateRabbitMq::shared().await;
    let hangs = Queue::Reply("hangs".to_owned());
    let name = fleet.ports.queue.names().queue(&hangs);
    declare_foreign(&fleet, &hangs, FieldTable::default()).await;
    server.suspend(&name).await;
    submit(&fleet, &name, TASKS).await;
    assert_eq!(result(&reply(&fleet.producer, echo("healthy")).await), json!("healthy"));
    until("all replies wait", async || fleet.counted("gpufleet_replies_put_aside_total", "no_confirm") == TASKS as f64).await;
    fleet.idle().await;
    server.resume(&name).await;
    let mut consumer = fleet.ports.queue.consume(&hangs, NonZeroU16::new(100).unwrap()).await.unwrap();
    collect(&fleet, &mut consumer, TASKS).await;
}

/// The queue that its task named is gone, and the queue of parked replies hangs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_cannot_be_parked_is_given_up_and_counted_and_stays_in_the_store() {
    let plan = Fleet::of(1).configured(|configuration| configuration.amqp.publish_timeout_ms = 2_000);
    let fleet = plan.on_real_servers().start().await;
    let server = PrivateRabbitMq::shared().await;
    let parked = fleet.ports.queue.names().queue(&Queue::Parked);
    server.suspend(&parked).await;
    submit(&fleet, "a-queue-that-is-gone", 1).await;
    until("it is given up", async || fleet.counted("gpufleet_replies_not_parked_total", "") == 1.0).await;
    fleet.idle().await;
    assert!(fleet.producer.status(&id(0)).await.unwrap().unwrap().reply.is_some(), "the stored reply remains");
    server.resume(&parked).await;
}
