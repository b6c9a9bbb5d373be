//! Raw bytes through a fleet: whatever way a task or a reply goes, they arrive to the last byte and as what they are.

use std::{
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use executors::{Executor, Executors, Failure, Run};
use producer::NewTask;
use protocol::{Envelope, Framed, Kind, Outcome, Reply, Segments, TaskBody, TaskId, frame};
use serde_json::json;
use task_queue::{Consumer, Delivery, Outgoing, Queue, Target};
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, on, reply, result, task},
    until::until,
};

crate::on_both!(
    raw_bytes_come_back_from_every_gpu_by_every_way,
    another_attempt_and_a_second_life_have_the_same_bytes,
    a_reply_with_raw_bytes_waits_for_room_and_goes_out_again_as_it_was,
    a_result_that_no_reply_can_carry_fails_the_task_and_is_told,
    a_producer_that_sends_json_gets_a_frame_only_where_the_result_has_raw_bytes,
    a_frame_that_is_none_is_refused_and_kept_as_it_came,
);

/// Gives payload and raw bytes back: at its first run only after a failure, if the payload says so; and as many bytes more as it says.
#[derive(Default)]
struct Giving {
    runs: AtomicU32,
}

#[async_trait]
impl Executor for Giving {
    fn kind(&self) -> Kind {
        Kind::new("giving").unwrap()
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let asked: serde_json::Value = run.payload.to().unwrap();
        if self.runs.fetch_add(1, Relaxed) == 0 && asked["fails"] == true {
            return Err(Failure { retry: asked["again"] == true, ..Failure::transient("as asked") });
        }
        let mut segments: Vec<Bytes> = run.segments().iter().cloned().collect();
        segments.extend(asked["more"].as_u64().map(|bytes| vec![7; bytes as usize].into()));
        Ok(Framed { json: run.payload.clone(), segments: Segments::of(segments) })
    }
}

fn executors() -> Executors {
    Executors::new().with(executors::echo()).with(Arc::new(Giving::default()))
}

fn segments() -> Segments {
    Segments::of(vec![Bytes::from_static(b"\0\xff\xfe\0"), Bytes::new(), (0..=255_u8).cycle().take(70_000).collect()])
}

fn framed(kind: &str, payload: serde_json::Value) -> NewTask {
    let task = task(kind, payload);
    NewTask { body: TaskBody { segments: segments(), ..task.body }, ..task }
}

/// A reply queue of the test's own, and its name.
async fn answers(fleet: &Fleet) -> (Consumer, String) {
    let queue = Queue::Reply("raw".to_owned());
    fleet.ports.queue.declare(&queue).await.unwrap();
    let consumer = fleet.ports.queue.consume(&queue, NonZeroU16::new(8).unwrap()).await.unwrap();
    (consumer, fleet.ports.queue.names().queue(&queue))
}

async fn next(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(PATIENCE, consumer.next()).await.expect("an answer").unwrap()
}

async fn publish(fleet: &Fleet, id: &str, kind: &str, (content_type, body): (&str, Bytes), reply_to: &str) {
    let envelope = Envelope {
        message_id: Some(id.to_owned()),
        kind: Some(kind.to_owned()),
        content_type: Some(content_type.to_owned()),
        reply_to: Some(reply_to.to_owned()),
        correlation_id: Some(id.to_owned()),
        ..Envelope::default()
    };
    fleet.ports.queue.publish(Outgoing::new(Target::Queue(Queue::Pool(fleet.pool())), envelope, body)).await.unwrap();
}

async fn raw_bytes_come_back_from_every_gpu_by_every_way(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(3).executors(executors())).start().await;
    for gpu in fleet.gpus() {
        let payload = json!({"of": gpu.as_str(), "picture": {"$segment": 2}});
        // Two of the three are forwarded.
        let answer = reply(&fleet.producer, on(gpu.as_str(), framed("echo", payload.clone()))).await;
        assert_eq!((result(&answer), &answer.segments, answer.gpu_id.as_ref()), (payload, &segments(), Some(&gpu)));
        let stored = fleet.producer.status(&answer.task_id).await.unwrap().unwrap().reply;
        assert_eq!(stored, Some(answer));
    }
    let delayed = NewTask { delay_ms: Some(1_000), ..framed("echo", json!(1)) };
    assert_eq!(reply(&fleet.producer, delayed).await.segments, segments());
    fleet.idle().await;
}

async fn another_attempt_and_a_second_life_have_the_same_bytes(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1).executors(executors())).start().await;
    let tried_again = reply(&fleet.producer, framed("giving", json!({"fails": true, "again": true}))).await;
    assert_eq!((tried_again.outcome, tried_again.attempt, &tried_again.segments), (Outcome::Succeeded, 2, &segments()));

    // What no worker here can read is kept; requeued, it is the same message.
    let (mut answers, reply_to) = answers(&fleet).await;
    let body = frame::of(br#"{"payload": 1, "colour": 2}"#.to_vec(), &segments()).unwrap();
    publish(&fleet, "buried", "echo", (frame::FRAME, body.clone()), &reply_to).await;
    let refused = next(&mut answers).await;
    assert_eq!(Reply::read(&refused.body).unwrap().error.unwrap().field.as_deref(), Some("colour"));
    refused.receipt.ack().await.unwrap();
    let letter = fleet.producer.dead_letters().list(1).await.unwrap().remove(0);
    assert!(letter.body.starts_with(r#"{"payload": 1"#), "{}", letter.body);
    assert_eq!(letter.segments.iter().map(|segment| segment.bytes).collect::<Vec<_>>(), [4, 0, 70_000]);
    let id = TaskId::new("buried").unwrap();
    assert_eq!(fleet.producer.dead_letters().requeue(Some(&id)).await.unwrap().unwrap().requeued, 1);
    next(&mut answers).await.receipt.ack().await.unwrap();
    let again = fleet.ports.queue.take(&Queue::Dead).await.unwrap().expect("refused once more");
    assert_eq!((again.envelope.content_type.as_deref(), &again.body), (Some(frame::FRAME), &body));
    again.receipt.ack().await.unwrap();
}

async fn a_reply_with_raw_bytes_waits_for_room_and_goes_out_again_as_it_was(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1).executors(executors())).start().await;
    let body = framed("echo", json!({"$segment": 0})).body.to_bytes();
    publish(&fleet, "forsaken", "echo", (frame::FRAME, body.clone()), "a-queue-that-is-gone").await;
    until("it is parked", async || fleet.ports.queue.depth(&Queue::Parked).await.unwrap().is_some_and(|depth| depth.ready == 1)).await;
    let parked = fleet.ports.queue.take(&Queue::Parked).await.unwrap().unwrap();
    let reply = Reply::read(&parked.body).unwrap();
    assert_eq!((parked.envelope.content_type.as_deref(), &reply.segments), (Some(frame::FRAME), &segments()));
    parked.receipt.ack().await.unwrap();

    // A copy of the task finds the stored reply.
    let (mut answers, reply_to) = answers(&fleet).await;
    publish(&fleet, "forsaken", "echo", (frame::FRAME, body), &reply_to).await;
    let sent_again = next(&mut answers).await;
    assert_eq!((sent_again.envelope.content_type.as_deref(), &sent_again.body), (Some(frame::FRAME), &parked.body));
    sent_again.receipt.ack().await.unwrap();
}

async fn a_result_that_no_reply_can_carry_fails_the_task_and_is_told(here: fn(FleetPlan) -> FleetPlan) {
    let plan = Fleet::of(1).executors(executors()).configured(|configuration| configuration.worker.body_bytes_max = 100_000);
    let fleet = here(plan).start().await;
    let fits = reply(&fleet.producer, task("giving", json!({"more": 99_000}))).await;
    assert_eq!(fits.segments.lengths(), [99_000]);
    let failed = reply(&fleet.producer, task("giving", json!({"more": 100_000}))).await;
    let error = failed.error.as_ref().unwrap();
    assert_eq!((failed.outcome, error.code.as_str(), error.field.as_deref()), (Outcome::Failed, "reply_too_large", Some("result")));
    assert!(failed.segments.is_empty() && error.message.contains("worker.body_bytes_max"), "{}", error.message);
    assert_eq!(fleet.producer.status(&failed.task_id).await.unwrap().unwrap().reply, Some(failed));
    // JSON alone has the same bound: the task itself is within it, and a reply says more.
    let failed = reply(&fleet.producer, task("echo", json!("x".repeat(99_900)))).await;
    let error = failed.error.unwrap();
    assert_eq!((failed.outcome, error.code.as_str(), error.field.as_deref()), (Outcome::Failed, "reply_too_large", Some("result")));
}

async fn a_producer_that_sends_json_gets_a_frame_only_where_the_result_has_raw_bytes(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1).executors(executors())).start().await;
    let (mut answers, reply_to) = answers(&fleet).await;
    for (id, payload, content_type) in [("plain", json!({}), frame::JSON), ("framed", json!({"more": 3}), frame::FRAME)] {
        let body = Bytes::from(json!({ "payload": payload }).to_string());
        publish(&fleet, id, "giving", (frame::JSON, body), &reply_to).await;
        let answer = next(&mut answers).await;
        assert_eq!(answer.envelope.content_type.as_deref(), Some(content_type));
        assert_eq!(frame::content_type(&answer.body), content_type);
        answer.receipt.ack().await.unwrap();
    }
}

async fn a_frame_that_is_none_is_refused_and_kept_as_it_came(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1).executors(executors())).start().await;
    let (mut answers, reply_to) = answers(&fleet).await;
    let whole = framed("echo", json!(1)).body.to_bytes();
    let cut = whole.slice(..whole.len() - 1);
    publish(&fleet, "cut", "echo", (frame::FRAME, cut.clone()), &reply_to).await;
    let answer = next(&mut answers).await;
    let error = Reply::read(&answer.body).unwrap().error.unwrap();
    assert_eq!((error.code.as_str(), error.field.as_deref()), ("invalid_task", Some("segments")));
    answer.receipt.ack().await.unwrap();
    let dead = fleet.ports.queue.take(&Queue::Dead).await.unwrap().unwrap();
    assert_eq!((dead.envelope.content_type.as_deref(), &dead.body), (Some(frame::FRAME), &cut));
    dead.receipt.ack().await.unwrap();
}
