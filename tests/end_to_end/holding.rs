//! What lies in a waiting queue: workers hold it until it is due, and it goes back to its pool whoever stops or dies meanwhile.

use std::{collections::BTreeSet, num::NonZeroU16, time::Duration};

use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicPublishOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use protocol::{Envelope, GpuId, PoolName};
use serde_json::json;
use task_queue::{Consumer, Outgoing, Queue, Target};
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, echo, reply, result},
    until::until,
};
use tokio::time::Instant;

crate::on_both!(
    what_a_killed_worker_held_is_put_back_by_another_one_when_it_is_due,
    what_a_worker_holds_that_stops_gently_goes_back_at_once,
    large_bodies_that_wait_come_back_in_their_order_and_hold_up_no_other_task,
);

/// As long as any test can wait for on real servers.
const SHORT: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(300);
/// What clocks round off.
const ROUNDED: Duration = Duration::from_millis(1);
/// Larger than half of a budget of 1 MB.
const LARGE: usize = 600_000;

/// A pool that no worker serves: what comes back there is the test's.
struct OtherPool<'f> {
    fleet: &'f Fleet,
    name: PoolName,
    arrivals: Consumer,
}

impl<'f> OtherPool<'f> {
    async fn of(fleet: &'f Fleet) -> Self {
        let name = PoolName::new("other").unwrap();
        let queue = Queue::Pool(name.clone());
        fleet.ports.queue.declare(&queue).await.unwrap();
        let arrivals = fleet.ports.queue.consume(&queue, NonZeroU16::new(1_000).unwrap()).await.unwrap();
        Self { fleet, name, arrivals }
    }

    /// Lets a message wait that belongs to this pool. `due_in`: what its header says; `None`: it has none.
    async fn waits(&self, id: &str, queue: Queue, due_in: Option<Duration>, body: Vec<u8>) {
        let mut envelope = Envelope { message_id: Some(id.to_owned()), kind: Some("echo".to_owned()), ..Envelope::default() };
        envelope.headers.pool = Some(self.name.to_string());
        let now_ms = self.fleet.environment().clock.now_ms();
        envelope.headers.due_ms = due_in.map(|due_in| now_ms + due_in.as_millis() as u64);
        self.fleet.ports.queue.publish(Outgoing::new(Target::Queue(queue), envelope, body.into())).await.unwrap();
    }

    /// The next one that came back, which must come.
    async fn next(&mut self) -> String {
        let delivery = tokio::time::timeout(PATIENCE * 6, self.arrivals.next()).await.expect("a message in time").unwrap();
        let headers = &delivery.envelope.headers;
        assert_eq!((headers.due_ms, headers.returned), (None, true), "it waits no more");
        delivery.receipt.ack().await.unwrap();
        delivery.envelope.message_id.unwrap()
    }
}

async fn ready(fleet: &Fleet, queue: &Queue) -> u32 {
    fleet.ports.queue.depth(queue).await.unwrap().unwrap().ready
}

/// Waits until nothing is left in the queue for anybody to take.
async fn until_held(fleet: &Fleet, queue: &Queue) {
    until("it is in a worker's hand", async || ready(fleet, queue).await == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_comes_back_when_it_is_due_and_never_later_than_its_queue_says() {
    let fleet = Fleet::of(1).start().await;
    let mut pool = OtherPool::of(&fleet).await;
    // As its header says; without one; with one of a host whose clock is ahead, and behind.
    for (due_in, waited) in [(Some(2), 2_000), (None, 5_000), (Some(3_600), 5_000), (Some(0), 0)] {
        let since = Instant::now();
        pool.waits("m", Queue::Retry(SHORT), due_in.map(Duration::from_secs), Vec::new()).await;
        assert_eq!(pool.next().await, "m");
        let elapsed = since.elapsed().as_millis();
        assert!((waited..waited + 10).contains(&elapsed), "{due_in:?}: {elapsed} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_messages_come_back_each_when_it_is_due() {
    const APART: Duration = Duration::from_millis(2);
    let fleet = Fleet::of(2).start().await;
    let mut pool = OtherPool::of(&fleet).await;
    let mut due = Vec::new();
    for n in 0..1_000 {
        due.push((n.to_string(), Instant::now() + SHORT));
        pool.waits(&n.to_string(), Queue::Retry(SHORT), Some(SHORT), Vec::new()).await;
        tokio::time::sleep(APART).await;
    }
    // All of them wait at the same time, and most of them with the broker.
    assert!(ready(&fleet, &Queue::Retry(SHORT)).await > 900);
    for (id, due) in due {
        assert_eq!(pool.next().await, id);
        assert!(Instant::now() + ROUNDED >= due, "{id} came before it was due");
        assert!(due.elapsed() < APART * 10, "{id} came {:?} after it was due", due.elapsed());
    }
    until("all are acked", async || fleet.broker().message_ids(&Queue::Retry(SHORT)).is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_pool_takes_none_waits_on_until_it_does() {
    let fleet = Fleet::of(1).start().await;
    let name = PoolName::new("full").unwrap();
    let full = Queue::Pool(name.clone());
    fleet.ports.queue.declare(&full).await.unwrap();
    fleet.broker().bound(&full, Some(0));
    let mut envelope = Envelope { message_id: Some("m".to_owned()), ..Envelope::default() };
    envelope.headers.pool = Some(name.to_string());
    let waiting = Queue::Retry(Duration::from_secs(1));
    fleet.ports.queue.publish(Outgoing::new(Target::Queue(waiting), envelope, b"{}"[..].into())).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let everywhere = Queue::RETRY_DELAYS_MS.map(|ms| fleet.broker().message_ids(&Queue::Retry(Duration::from_millis(ms)))).concat();
    assert_eq!(everywhere, ["m"], "it waits, once");
    fleet.broker().bound(&full, None);
    until("it is in its pool", async || ready(&fleet, &full).await == 1).await;
}

/// Whether what lies in a queue must come back though nobody remembers it; else it is for people to look at, or belongs to one connection.
const fn must_come_back(queue: &Queue) -> bool {
    match queue {
        Queue::Pool(_)
        | Queue::Gpu(_)
        | Queue::Expired
        | Queue::Unrouted
        | Queue::Returned
        | Queue::Unplaceable
        | Queue::Retry(_)
        | Queue::Delayed(_)
        | Queue::Undelivered(_) => true,
        Queue::Dead | Queue::Parked | Queue::Reply(_) => false,
    }
}

/// Worker, table and store are new: all that is known is what the broker has.
#[tokio::test(start_paused = true)]
async fn what_lies_in_any_queue_comes_back_to_workers_that_have_never_heard_of_it() {
    let fleet = Fleet::of(1).configured(|configuration| configuration.amqp.gpu_queue_ttl_ms = 600_000).start().await;
    let queue = &fleet.ports.queue;
    let own = Queue::Reply("answers".to_owned());
    queue.declare(&own).await.unwrap();
    let mut answers = queue.consume(&own, NonZeroU16::new(100).unwrap()).await.unwrap();
    let mut lying =
        vec![Queue::Pool(fleet.pool()), Queue::Gpu(GpuId::new("gone").unwrap()), Queue::Expired, Queue::Unrouted, Queue::Returned];
    lying.extend(Queue::where_tasks_wait());
    lying.extend(Queue::where_tasks_are_delayed());
    lying.extend(Queue::where_replies_wait());
    let mut waited_for = BTreeSet::new();
    for (n, lies_in) in lying.into_iter().enumerate() {
        assert!(must_come_back(&lies_in));
        queue.declare(&lies_in).await.unwrap();
        let (id, address) = (format!("{n} in {lies_in}").replace(' ', "-"), queue.names().queue(&own));
        let mut envelope = Envelope { message_id: Some(id.clone()), kind: Some("echo".to_owned()), ..Envelope::default() };
        if matches!(lies_in, Queue::Undelivered(_)) {
            envelope.headers.reply_to = Some(address);
        } else {
            envelope.reply_to = Some(address);
            envelope.headers.pool = Some(fleet.pool().to_string());
        }
        queue.publish(Outgoing::new(Target::Queue(lies_in), envelope, b"{}"[..].into())).await.unwrap();
        waited_for.insert(id);
    }
    while !waited_for.is_empty() {
        let answer = tokio::time::timeout(LONG * 4, answers.next()).await.unwrap_or_else(|_| panic!("these stay: {waited_for:?}")).unwrap();
        waited_for.remove(&answer.envelope.message_id.unwrap());
        answer.receipt.ack().await.unwrap();
    }
}

async fn what_a_killed_worker_held_is_put_back_by_another_one_when_it_is_due(here: fn(FleetPlan) -> FleetPlan) {
    let mut fleet = here(Fleet::of(1)).start().await;
    let (first, waiting) = (fleet.gpus()[0].clone(), Queue::Retry(SHORT));
    let since = Instant::now();
    OtherPool::of(&fleet).await.waits("m", waiting.clone(), Some(SHORT), b"{}".to_vec()).await;
    until_held(&fleet, &waiting).await;
    fleet.kill(&first).await;
    fleet.add_gpu().await;
    until_held(&fleet, &waiting).await;
    assert_eq!(OtherPool::of(&fleet).await.next().await, "m");
    assert!(since.elapsed() + ROUNDED >= SHORT, "it came back before it was due");
}

async fn what_a_worker_holds_that_stops_gently_goes_back_at_once(here: fn(FleetPlan) -> FleetPlan) {
    let mut fleet = here(Fleet::of(1)).start().await;
    let (gpu_id, waiting) = (fleet.gpus()[0].clone(), Queue::Retry(LONG));
    {
        let pool = OtherPool::of(&fleet).await;
        for n in 0..20 {
            pool.waits(&n.to_string(), waiting.clone(), Some(LONG), Vec::new()).await;
        }
    }
    until("some are held", async || ready(&fleet, &waiting).await < 20).await;
    let drained = Instant::now();
    fleet.drain(&gpu_id).await;
    assert!(drained.elapsed() < LONG / 2, "it waited for what it held");
    until("all are back", async || ready(&fleet, &waiting).await == 20).await;
    let first = fleet.ports.queue.take(&waiting).await.unwrap().unwrap();
    assert_eq!(first.envelope.message_id.as_deref(), Some("0"), "each is at its place");
}

async fn large_bodies_that_wait_come_back_in_their_order_and_hold_up_no_other_task(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1).configured(|configuration| configuration.memory.bodies_mb = 1)).start().await;
    let mut pool = OtherPool::of(&fleet).await;
    let since = Instant::now();
    for n in 0..6 {
        pool.waits(&n.to_string(), Queue::Retry(SHORT), Some(SHORT), vec![b'x'; LARGE]).await;
    }
    // It needs most of the memory for bodies.
    let served = reply(&fleet.producer, echo("x".repeat(LARGE))).await;
    assert!(result(&served) == json!("x".repeat(LARGE)));
    for n in 0..6 {
        assert_eq!(pool.next().await, n.to_string());
    }
    assert!(since.elapsed() + ROUNDED >= SHORT, "they came back before they were due");
}

/// As a fleet of an earlier version has left it behind, or still publishes to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_in_a_waiting_queue_of_an_earlier_version_comes_back() {
    let fleet = Fleet::of(1).on_real_servers().start().await;
    let connection = Connection::connect(fleet.amqp().unwrap().reveal(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let prefix = &fleet.configuration().amqp.prefix;
    let (answers, durable) = (format!("{prefix}.answers"), QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() });
    channel.queue_declare(answers.as_str().into(), durable, FieldTable::default()).await.unwrap();
    for (id, name, ttl_ms) in [("again", format!("{prefix}.retry.250"), 250), ("large", format!("{prefix}.unplaceable"), 1_000)] {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(ttl_ms));
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
        arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(format!("{prefix}.returned").into()));
        channel.queue_declare(name.as_str().into(), durable, arguments).await.unwrap();
        let properties = BasicProperties::default().with_message_id(id.into()).with_type("echo".into());
        let properties = properties.with_reply_to(answers.as_str().into()).with_delivery_mode(2);
        let publish =
            channel.basic_publish("".into(), name.as_str().into(), BasicPublishOptions::default(), br#"{"payload": 1}"#, properties);
        publish.await.unwrap();
    }
    until("both tasks are answered", async || {
        let present = channel.queue_declare(answers.as_str().into(), durable, FieldTable::default()).await.unwrap();
        present.message_count() == 2
    })
    .await;
}
