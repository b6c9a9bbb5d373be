//! Hostile input among good tasks: each bad message is refused with its reason and kept, each good one is served, no worker notices.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU16,
    time::Duration,
};

use protocol::{Envelope, Outcome, PoolName, Reply, TaskId, TaskState, envelope::Headers, intake::IntakeLimits};
use serde_json::json;
use task_queue::{Consumer, Outgoing, Queue, Target};
use tests::{
    fleet::{Fleet, FleetPlan},
    hostile::{Hostile, messages},
    raw_amqp::{RawProperties, RawPublisher, nested},
    tasks::{echo, replies, result},
    until::until,
};

const MESSAGES: usize = 2_000;
const GOOD: usize = 400;

crate::on_both!(
    two_thousand_hostile_messages_are_refused_and_the_good_ones_among_them_are_served,
    messages_for_a_pool_that_does_not_exist_hold_up_no_message_that_comes_back,
    messages_for_a_pool_that_is_full_hold_up_no_message_that_comes_back,
);

/// As this back end can: on the wire headers may have any type.
async fn publish(fleet: &Fleet, messages: &[Hostile]) {
    let pool = Queue::Pool(fleet.pool());
    let Some(amqp) = fleet.amqp() else {
        for hostile in messages {
            let outgoing = Outgoing::new(Target::Queue(pool.clone()), hostile.envelope(), hostile.body.clone().into());
            fleet.ports.queue.publish(outgoing).await.unwrap();
        }
        return;
    };
    let mut raw = RawPublisher::connect(amqp).await;
    for hostile in messages {
        raw.publish(&fleet.ports.queue.names().queue(&pool), &hostile.raw(), &hostile.body).await;
    }
}

async fn two_thousand_hostile_messages_are_refused_and_the_good_ones_among_them_are_served(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(3)).start().await;
    let (mut answers, reply_to) = reply_queue(&fleet).await;
    let hostile = messages(7, MESSAGES, &reply_to);
    let good = (0..GOOD).map(|n| echo(json!({ "good": n }))).collect();
    let expected = hostile.iter().filter(|message| message.properties.reply_to.as_deref() == Some(&reply_to)).count();
    let (served, (), answered) =
        tokio::join!(replies(&fleet.producer, good, 32), publish(&fleet, &hostile), collect(&mut answers, expected));

    for (n, reply) in served.iter().enumerate() {
        assert_eq!(result(reply), json!({ "good": n }));
    }
    for (n, message) in hostile.iter().enumerate() {
        check_answer(message, &reply_to, answered.get(&format!("c-{n}")));
    }
    let refused: Vec<&Hostile> = hostile.iter().filter(|message| message.field.is_some()).collect();
    assert!(refused.len() > MESSAGES * 3 / 4, "{} of {MESSAGES} are to be refused", refused.len());
    until("every refused message is among the dead letters", async || ready(&fleet, &Queue::Dead).await == refused.len()).await;
    // Of a body that was refused for its size only the size is kept.
    let kept = |body: &Vec<u8>| if body.len() > IntakeLimits::default().body_bytes_max { Vec::new() } else { body.clone() };
    let bodies = count(refused.iter().map(|message| kept(&message.body)));
    assert!(bodies == count(take_all(&fleet, &Queue::Dead).await.into_iter().map(|(_, body)| body)), "other bodies");

    fleet.idle().await;
    fleet.eligible(3).await;
    for queue in [Queue::Pool(fleet.pool()), Queue::Expired, Queue::Returned] {
        assert_eq!(ready(&fleet, &queue).await, 0, "{queue:?}");
    }
    assert_eq!(fleet.counted("gpufleet_redelivered_total", ""), 0.0);
}

async fn messages_for_a_pool_that_does_not_exist_hold_up_no_message_that_comes_back(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let (mut answers, reply_to) = reply_queue(&fleet).await;
    let returned = async |id: String, pool: &str| {
        let mut envelope = Envelope { message_id: Some(id), kind: Some("echo".to_owned()), ..Envelope::default() };
        envelope.headers.pool = Some(pool.to_owned());
        envelope.reply_to = Some(reply_to.clone());
        envelope.correlation_id = Some(pool.to_owned());
        let outgoing = Outgoing::new(Target::Queue(Queue::Returned), envelope, b"{}"[..].into());
        fleet.ports.queue.publish(outgoing).await.unwrap();
    };
    for n in 0..200 {
        returned(format!("lost-{n}"), "made-up").await;
    }
    returned("real".to_owned(), fleet.pool().as_str()).await;
    let answered = collect(&mut answers, 1).await;
    assert!(answered.contains_key(fleet.pool().as_str()));
    let resting = Queue::retry_after(Duration::from_secs(60));
    // The worker holds the first of them.
    until("the others rest, and none is lost", async || {
        ready(&fleet, &resting).await + fleet.counted("gpufleet_held_messages", "wait.60000") as usize == 200
    })
    .await;
}

async fn messages_for_a_pool_that_is_full_hold_up_no_message_that_comes_back(on: fn(FleetPlan) -> FleetPlan) {
    const ROOM: u32 = 5;
    /// More than a worker moves at a time.
    const BACK: usize = 100;
    let fleet = on(Fleet::of(1).configured(|configuration| configuration.amqp.queue_length_max = Some(ROOM))).start().await;
    let (mut answers, reply_to) = reply_queue(&fleet).await;
    let full = Queue::Pool(PoolName::new("full").unwrap());
    fleet.ports.queue.declare(&full).await.unwrap();
    let publish = async |queue: &Queue, id: String, pool: &str| {
        let mut envelope = Envelope { message_id: Some(id), kind: Some("echo".to_owned()), ..Envelope::default() };
        envelope.headers.pool = Some(pool.to_owned());
        envelope.reply_to = Some(reply_to.clone());
        envelope.correlation_id = Some(pool.to_owned());
        fleet.ports.queue.publish(Outgoing::new(Target::Queue(queue.clone()), envelope, b"{}"[..].into())).await.unwrap();
    };
    for n in 0..ROOM {
        publish(&full, format!("old-{n}"), "full").await;
    }
    for n in 0..BACK {
        publish(&Queue::Returned, format!("back-{n}"), "full").await;
    }
    publish(&Queue::Returned, "real".to_owned(), fleet.pool().as_str()).await;
    let answered = collect(&mut answers, 1).await;
    assert!(answered.contains_key(fleet.pool().as_str()));
    // Once there is room, they all come.
    let mut consumer = fleet.ports.queue.consume(&full, NonZeroU16::new(100).unwrap()).await.unwrap();
    let mut came = BTreeSet::new();
    while came.len() < BACK + ROOM as usize {
        let delivery = tokio::time::timeout(tests::tasks::PATIENCE, consumer.next()).await;
        let delivery = delivery.unwrap_or_else(|_| panic!("only {came:?} came")).unwrap();
        came.insert(delivery.envelope.message_id.clone().unwrap());
        delivery.receipt.ack().await.unwrap();
    }
}

fn check_answer(message: &Hostile, reply_to: &str, answer: Option<&Reply>) {
    if message.properties.reply_to.as_deref() != Some(reply_to) {
        assert!(answer.is_none(), "{message:?} is answered: {answer:?}");
        return;
    }
    let answer = answer.unwrap_or_else(|| panic!("no answer to {message:?}"));
    if let Some(field) = message.field {
        let error = answer.error.as_ref().unwrap_or_else(|| panic!("{answer:?} to {message:?}"));
        let found = (answer.outcome, error.code.as_str(), error.field.as_deref());
        assert_eq!(found, (Outcome::Failed, "invalid_task", Some(field)), "{message:?}");
    }
}

/// A reply queue of the test's own, and its name.
async fn reply_queue(fleet: &Fleet) -> (Consumer, String) {
    let queue = Queue::Reply("hostile".to_owned());
    fleet.ports.queue.declare(&queue).await.unwrap();
    let consumer = fleet.ports.queue.consume(&queue, NonZeroU16::new(256).unwrap()).await.unwrap();
    (consumer, fleet.ports.queue.names().queue(&queue))
}

/// Replies by correlation, until there are so many different ones.
async fn collect(answers: &mut Consumer, expected: usize) -> BTreeMap<String, Reply> {
    let mut answered = BTreeMap::new();
    while answered.len() < expected {
        let delivery = tokio::time::timeout(tests::tasks::PATIENCE, answers.next()).await;
        let delivery = delivery.unwrap_or_else(|_| panic!("{} of {expected} answers came", answered.len())).unwrap();
        let reply: Reply = serde_json::from_slice(&delivery.body).unwrap();
        answered.insert(delivery.envelope.correlation_id.unwrap(), reply);
        delivery.receipt.ack().await.unwrap();
    }
    answered
}

async fn ready(fleet: &Fleet, queue: &Queue) -> usize {
    fleet.ports.queue.depth(queue).await.unwrap().map_or(0, |depth| depth.ready as usize)
}

/// Takes every message of a queue for good.
async fn take_all(fleet: &Fleet, queue: &Queue) -> Vec<(Headers, Vec<u8>)> {
    let mut taken = Vec::new();
    while let Some(delivery) = fleet.ports.queue.take(queue).await.unwrap() {
        taken.push((delivery.envelope.headers, delivery.body.to_vec()));
        delivery.receipt.ack().await.unwrap();
    }
    taken
}

fn count<T: Ord>(things: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    things.into_iter().for_each(|thing| *counts.entry(thing).or_insert(0) += 1);
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_no_library_can_read_are_answered_and_kept_and_no_connection_is_lost() {
    let fleet = Fleet::of(2).on_real_servers().start().await;
    let (mut answers, reply_to) = reply_queue(&fleet).await;
    let mut raw = RawPublisher::connect(fleet.amqp().unwrap()).await;
    let name = fleet.ports.queue.names().queue(&Queue::Pool(fleet.pool()));
    let task = |n: usize| {
        let correlation = format!("c-{n}");
        let task = RawProperties::task(&format!("raw-{n}"), "echo").text(RawProperties::CORRELATION_ID, correlation.as_bytes());
        task.text(RawProperties::REPLY_TO, reply_to.as_bytes())
    };
    let cases = [
        (task(0).text(RawProperties::TYPE, b"\xff"), "type"),
        (task(1).text(RawProperties::MESSAGE_ID, b"raw-\xc0"), "message_id"),
        (task(2).headers(&nested(8_000)), "headers"),
        (task(3).text(RawProperties::APP_ID, b"\x80"), "app_id"),
    ];
    let publish = async {
        for (n, (properties, _)) in cases.iter().enumerate() {
            raw.publish(&name, properties, format!("raw {n}").as_bytes()).await;
        }
    };
    let good = (0..50).map(|n| echo(json!(n))).collect();
    let (served, (), answered) = tokio::join!(replies(&fleet.producer, good, 4), publish, collect(&mut answers, cases.len()));
    assert!(served.iter().enumerate().all(|(n, reply)| result(reply) == json!(n)));
    for (n, (_, field)) in cases.iter().enumerate() {
        let error = answered[&format!("c-{n}")].error.clone().unwrap();
        assert_eq!((error.code.as_str(), error.field.as_deref()), ("invalid_task", Some(*field)));
    }
    until("they are among the dead letters", async || ready(&fleet, &Queue::Dead).await == cases.len()).await;
    let letters = take_all(&fleet, &Queue::Dead).await;
    let kept: BTreeSet<Vec<u8>> = letters.iter().map(|(headers, _)| headers.properties.clone().unwrap()).collect();
    let sent: BTreeSet<Vec<u8>> = cases.iter().map(|(properties, _)| properties.bytes()).map(cut).collect();
    assert_eq!(kept, sent);
    assert!(letters.iter().all(|(headers, body)| body.starts_with(b"raw ") && headers.unreadable.is_some()));
    let status = fleet.producer.status(&TaskId::new("raw-0").unwrap()).await.unwrap().unwrap();
    assert_eq!(status.state, TaskState::Failed);
    // A lost connection would have brought the messages of both consumers again.
    assert_eq!(fleet.counted("gpufleet_redelivered_total", ""), 0.0);
}

fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(Headers::BYTES_MAX);
    bytes
}
