//! What a worker reads from a message of a foreign client: what it says of its body, of its trace and of its time, and what the broker says of it.

use std::num::NonZeroU16;

use protocol::{
    Envelope, ErrorCode, Outcome, Reply,
    envelope::{HeaderValue, TIMESTAMP_IN_MS, TRACEPARENT},
};
use serde_json::json;
use task_queue::{Consumer, Outgoing, Queue, Target};
use tests::{
    fleet::{Fleet, FleetPlan, ServerUrls},
    rabbitmq::PrivateRabbitMq,
    raw_amqp::{RawProperties, RawPublisher, entry},
    redis::PrivateRedis,
    tasks::{PATIENCE, echo, replies, result, simulate, started},
    until::until,
};

crate::on_both!(a_task_whose_time_was_over_before_a_worker_had_it_does_not_start);

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A foreign client of a fleet on real servers, with a reply queue of its own.
struct Client<'a> {
    fleet: &'a Fleet,
    raw: RawPublisher,
    answers: Consumer,
    reply_to: String,
}

impl<'a> Client<'a> {
    async fn of(fleet: &'a Fleet) -> Self {
        let (answers, reply_to) = reply_queue(fleet).await;
        Self { fleet, raw: RawPublisher::connect(fleet.amqp().unwrap()).await, answers, reply_to }
    }

    fn task(&self, id: &str) -> RawProperties {
        RawProperties::task(id, "echo").text(RawProperties::REPLY_TO, self.reply_to.as_bytes())
    }

    async fn ask(&mut self, task: RawProperties, body: &[u8]) -> (Envelope, Reply) {
        let queue = self.fleet.ports.queue.names().queue(&Queue::Pool(self.fleet.pool()));
        self.raw.publish(&queue, &task, body).await;
        answer(&mut self.answers).await
    }
}

async fn reply_queue(fleet: &Fleet) -> (Consumer, String) {
    let queue = Queue::Reply("foreign".to_owned());
    fleet.ports.queue.declare(&queue).await.unwrap();
    let consumer = fleet.ports.queue.consume(&queue, NonZeroU16::MIN).await.unwrap();
    (consumer, fleet.ports.queue.names().queue(&queue))
}

async fn answer(answers: &mut Consumer) -> (Envelope, Reply) {
    let delivery = tokio::time::timeout(PATIENCE, answers.next()).await.expect("an answer").unwrap();
    let reply = serde_json::from_slice(&delivery.body).unwrap();
    delivery.receipt.ack().await.unwrap();
    (delivery.envelope, reply)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_header_that_cannot_be_used_fails_no_task_and_does_not_come_back() {
    let fleet = Fleet::of(1).on_real_servers().start().await;
    let mut client = Client::of(&fleet).await;
    let unusable = [
        HeaderValue::Integer(7),
        HeaderValue::Bytes(TRACE.into()),
        HeaderValue::Other,
        HeaderValue::Text("00-xyz".to_owned()),
        HeaderValue::Text("x".repeat(1_000)),
    ];
    for (n, value) in unusable.iter().enumerate() {
        let task = client.task(&format!("trace-{n}")).headers(&entry(TRACEPARENT, value));
        let (envelope, reply) = client.ask(task, br#"{"payload": 1}"#).await;
        assert_eq!(result(&reply), 1, "{value:?}");
        assert_eq!((envelope.headers.traceparent, envelope.headers.traceparent_dropped), (None, false), "{value:?}");
    }
    assert_eq!(fleet.counted("gpufleet_trace_headers_dropped_total", ""), unusable.len() as f64);

    let task = client.task("traced").headers(&entry(TRACEPARENT, &HeaderValue::Text(TRACE.to_owned())));
    let (envelope, _) = client.ask(task, b"{}").await;
    assert_eq!(envelope.headers.traceparent.as_deref(), Some(TRACE));
    assert_eq!(fleet.counted("gpufleet_trace_headers_dropped_total", ""), unusable.len() as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coded_body_is_refused_by_the_name_of_its_coding_and_kept_as_it_came() {
    let fleet = Fleet::of(1).on_real_servers().start().await;
    let mut client = Client::of(&fleet).await;
    let plain = &br#"{"payload": 1}"#[..];
    for coding in ["utf-8", "UTF-8", "identity", ""] {
        let task = client.task(&format!("read-{coding}")).text(RawProperties::CONTENT_ENCODING, coding.as_bytes());
        assert_eq!(result(&client.ask(task, plain).await.1), 1, "{coding}");
    }
    let gzipped = &b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xab"[..];
    for (n, (coding, body)) in
        [("gzip", gzipped), ("gzip", plain), ("utf-16", &b"\xff\xfe{\0}\0"[..]), ("base64", &b"e30="[..])].into_iter().enumerate()
    {
        let task = client.task(&format!("coded-{n}")).text(RawProperties::CONTENT_ENCODING, coding.as_bytes());
        let error = client.ask(task, body).await.1.error.unwrap();
        assert_eq!((error.code.as_str(), error.field.as_deref()), ("invalid_task", Some("content_encoding")), "{}", error.message);
        assert!(error.message.contains(coding) && error.message.contains("send the JSON uncoded"), "{}", error.message);
        let dead = fleet.ports.queue.take(&Queue::Dead).await.unwrap().unwrap();
        assert_eq!((dead.envelope.content_encoding.as_deref(), &dead.body[..]), (Some(coding), body));
        dead.receipt.ack().await.unwrap();
    }
}

async fn a_task_whose_time_was_over_before_a_worker_had_it_does_not_start(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1)).start().await;
    let (mut answers, reply_to) = reply_queue(&fleet).await;
    let now_s = fleet.environment().clock.now_ms() / 1_000;
    let mut ask = async |id: &str, seconds_ago: u64| {
        let envelope = Envelope {
            message_id: Some(id.to_owned()),
            kind: Some("echo".to_owned()),
            reply_to: Some(reply_to.clone()),
            timestamp: Some(now_s - seconds_ago),
            expiration: Some("600000".to_owned()),
            ..Envelope::default()
        };
        let outgoing = Outgoing::new(Target::Queue(Queue::Pool(fleet.pool())), envelope, b"{}"[..].into());
        fleet.ports.queue.publish(outgoing).await.unwrap();
        answer(&mut answers).await.1
    };
    // The broker delivers all of them: what it knows of their time begins now.
    assert_eq!(ask("long-ago", 700).await.outcome, Outcome::Expired);
    assert_eq!(ask("lately", 60).await.outcome, Outcome::Succeeded);
    assert_eq!(ask("beyond-belief", 31 * 24 * 3_600).await.outcome, Outcome::Succeeded);
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_that_the_broker_wrote_counts() {
    let fleet = Fleet::of(1).on_real_servers().start().await;
    let mut client = Client::of(&fleet).await;
    let now_ms = i64::try_from(fleet.environment().clock.now_ms()).unwrap();
    let body = br#"{"limits": {"queue_deadline_ms": 600000}}"#;
    for (id, published_ms, outcome) in [
        ("long-ago", now_ms - 700_000, Outcome::Expired),
        ("lately", now_ms - 1_000, Outcome::Succeeded),
        ("made-up", now_ms + 3_600_000, Outcome::Succeeded),
        ("absurd", i64::MAX, Outcome::Succeeded),
        ("negative", -1, Outcome::Succeeded),
    ] {
        let task = client.task(id).headers(&entry(TIMESTAMP_IN_MS, &HeaderValue::Integer(published_ms)));
        assert_eq!(client.ask(task, body).await.1.outcome, outcome, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operators_policy_drops_is_answered_with_the_true_reason() {
    let broker = PrivateRabbitMq::start().await;
    broker.control(&["set_policy", "--apply-to", "queues", "narrow", "[.]tasks[.]", r#"{"max-length": 2}"#]).await;
    let redis = PrivateRedis::shared().await.url();
    let plan = Fleet::of(1).slots(1).on_servers(ServerUrls { amqp: broker.url(), table: redis.clone(), store: redis });
    // A queue with a bound of its own refuses publishes at a policy's bound too.
    let fleet = plan.configured(|configuration| configuration.amqp.queue_length_max = None).start().await;
    let busy = started(&fleet.producer, simulate(600_000, "busy")).await;
    let producer = fleet.producer.clone();
    let waiting = tokio::spawn(async move { replies(&producer, (0..4).map(|n| echo(json!(n))).collect(), 4).await });
    until("two of them are dropped", async || fleet.counted("gpufleet_tasks_dropped_total", "maxlen") == 2.0).await;
    fleet.producer.cancel(busy.task_id()).await.unwrap();

    let (succeeded, dropped): (Vec<_>, Vec<_>) = waiting.await.unwrap().into_iter().partition(|reply| reply.outcome == Outcome::Succeeded);
    assert_eq!((succeeded.len(), dropped.len()), (2, 2));
    let pool = fleet.ports.queue.names().queue(&Queue::Pool(fleet.pool()));
    for reply in dropped {
        let error = reply.error.unwrap();
        assert_eq!((reply.outcome, ErrorCode::named(&error.code)), (Outcome::Failed, Some(ErrorCode::Dropped)));
        assert_eq!(
            error.message,
            format!("the broker dropped it: queue {pool} was at its maximum length (a limit or policy of the broker)")
        );
    }
    assert_eq!(busy.await.unwrap().outcome, Outcome::Cancelled);
}
