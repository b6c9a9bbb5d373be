//! Progress beside the reply.

use bytes::Bytes;
use producer::{Pending, ProgressStream};
use protocol::{Envelope, Fraction, Partial, Progress, ProgressMessage, Token, progress::PROGRESS_TYPE};
use task_queue::{Delivery, Outgoing, Target};

use super::*;
use crate::fleet::reply;

fn said(token: u64, number: u64) -> ProgressMessage {
    ProgressMessage {
        task_id: id("t"),
        attempt: 1,
        token: Token(token),
        number,
        slice: None,
        items: None,
        results: Vec::new(),
        progress: Some(Progress { fraction: Fraction::clamped(0.5), message: None, at_ms: 1 }),
        partials: vec![Partial { number, value: json!("text").into() }],
    }
}

/// A task that waits for its reply, and the delivery of which a worker would have it.
async fn waiting(fleet: &Fleet, producer: &Producer, progress: bool) -> (Pending, Delivery) {
    let new = NewTask { task_id: Some(id("t")), progress, ..task(json!(1)) };
    let pending = producer.pending(new, LONG).await.expect("room");
    let delivery = fleet.queue.take(&pool()).await.expect("a queue").expect("a task");
    assert_eq!(delivery.envelope.headers.progress, progress);
    (pending, delivery)
}

async fn send(fleet: &Fleet, delivery: &Delivery, kind: Option<&str>, body: Vec<u8>) {
    let Envelope { correlation_id, reply_to, .. } = delivery.envelope.clone();
    let envelope = Envelope { message_id: Some("t".into()), kind: kind.map(str::to_owned), correlation_id, ..Envelope::default() };
    let outgoing = Outgoing::new(Target::ReplyTo(reply_to.expect("a reply queue")), envelope, Bytes::from(body));
    fleet.queue.publish(outgoing).await.expect("a reply queue");
}

async fn say(fleet: &Fleet, delivery: &Delivery, message: &ProgressMessage) {
    send(fleet, delivery, Some(PROGRESS_TYPE), serde_json::to_vec(message).expect("JSON")).await;
}

async fn answer(fleet: &Fleet, delivery: &Delivery) {
    send(fleet, delivery, None, serde_json::to_vec(&reply(&id("t"), json!(1))).expect("JSON")).await;
}

async fn numbers(stream: ProgressStream) -> Vec<(u64, u64)> {
    stream.map(|message| (message.token.0, message.number)).collect().await
}

#[tokio::test(start_paused = true)]
async fn progress_arrives_in_order_and_its_stream_ends_with_the_reply() {
    let fleet = fleet();
    let producer = fleet.producer();
    let (mut pending, delivery) = waiting(&fleet, &producer, true).await;
    let mut stream = pending.progress().expect("asked for");
    assert!(pending.progress().is_none(), "it was taken");
    for number in [1, 2, 4] {
        say(&fleet, &delivery, &said(7, number)).await;
    }
    assert_eq!(stream.next().await, Some(said(7, 1)));
    answer(&fleet, &delivery).await;
    assert_eq!(pending.await.expect("a reply").result, json!({"echo": 1}));
    assert_eq!(numbers(stream).await, [(7, 2), (7, 4)]);
    let counts = producer.counts();
    assert_eq!((counts.progress, counts.progress_dropped, counts.replies, counts.replies_ignored), (3, 0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_attempt_still_says_and_what_is_no_progress_is_left_out() {
    let fleet = fleet();
    let producer = fleet.producer();
    let (mut pending, delivery) = waiting(&fleet, &producer, true).await;
    let stream = pending.progress().expect("asked for");
    for (token, number) in [(7, 1), (7, 2), (9, 1), (7, 3), (9, 2), (9, 2)] {
        say(&fleet, &delivery, &said(token, number)).await;
    }
    send(&fleet, &delivery, Some(PROGRESS_TYPE), b"hm".to_vec()).await;
    say(&fleet, &delivery, &ProgressMessage { task_id: id("another"), ..said(9, 3) }).await;
    answer(&fleet, &delivery).await;
    pending.await.expect("a reply");
    assert_eq!(numbers(stream).await, [(7, 1), (7, 2), (9, 1), (9, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_keep_up_loses_progress_and_never_the_reply() {
    let fleet = fleet();
    let producer = fleet.producer();
    let (mut pending, delivery) = waiting(&fleet, &producer, true).await;
    let stream = pending.progress().expect("asked for");
    for number in 1..=100 {
        say(&fleet, &delivery, &said(7, number)).await;
    }
    answer(&fleet, &delivery).await;
    pending.await.expect("a reply");
    assert_eq!(numbers(stream).await.len(), ProgressStream::WAITING_MAX);
    assert_eq!(producer.counts().progress_dropped, 100 - ProgressStream::WAITING_MAX as u64);
}

#[tokio::test(start_paused = true)]
async fn progress_that_nobody_asked_for_is_never_taken_for_the_reply() {
    let fleet = fleet();
    let producer = fleet.producer();
    let (mut pending, delivery) = waiting(&fleet, &producer, false).await;
    assert!(pending.progress().is_none());
    say(&fleet, &delivery, &said(7, 1)).await;
    answer(&fleet, &delivery).await;
    assert_eq!(pending.await.expect("a reply").result, json!({"echo": 1}));
    assert_eq!(producer.counts().progress_dropped, 1);
}
