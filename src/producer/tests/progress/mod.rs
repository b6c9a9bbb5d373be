//! Progress beside the reply.

use bytes::Bytes;
use producer::{Pending, ProgressStream};
use protocol::{
    Envelope, Fraction, IndexedItem, ItemResult, Json, Kind, Partial, Progress, ProgressMessage, Slice, Token, progress::PROGRESS_TYPE,
};
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
async fn slices_speak_beside_each_other_and_the_result_of_each_item_is_given_once() {
    let fleet = fleet();
    let producer = fleet.producer();
    let (mut pending, delivery) = waiting(&fleet, &producer, true).await;
    let stream = pending.progress().expect("asked for");
    let of_slice = |slice: &str, (token, number), items: &[u32]| ProgressMessage {
        slice: Some(slice.parse().expect("a slice")),
        results: items
            .iter()
            .map(|index| IndexedItem { index: *index, came_out: ItemResult::succeeded(json!({"n": index}).into()) })
            .collect(),
        ..said(token, number)
    };
    for message in [
        of_slice("0..4", (9, 1), &[0]),
        of_slice("4..8", (7, 1), &[5]),
        of_slice("0..4", (9, 1), &[1]),
        of_slice("4..8", (7, 2), &[5, 4]),
        // A second attempt of a slice, and what the first one still says.
        of_slice("0..4", (11, 1), &[0, 2]),
        of_slice("0..4", (9, 2), &[3]),
    ] {
        say(&fleet, &delivery, &message).await;
    }
    answer(&fleet, &delivery).await;
    pending.await.expect("a reply");
    let told: Vec<(u64, Vec<u32>)> =
        stream.map(|message| (message.token.0, message.results.iter().map(|item| item.index).collect())).collect().await;
    assert_eq!(told, [(9, vec![0]), (7, vec![5]), (7, vec![4]), (11, vec![2])]);
}

#[tokio::test(start_paused = true)]
async fn the_speakers_that_are_told_apart_are_bounded() {
    let fleet = fleet();
    let producer = fleet.producer();
    let (mut pending, delivery) = waiting(&fleet, &producer, true).await;
    let mut stream = pending.progress().expect("asked for");
    for from in 0..2_000 {
        let message = ProgressMessage { slice: Slice::new(from, from + 1), ..said(7 + u64::from(from), 1) };
        say(&fleet, &delivery, &message).await;
        assert_eq!(stream.next().await, Some(message), "the latest is always heard");
    }
    let last = ProgressMessage { slice: Slice::new(1_999, 2_000), ..said(7 + 1_999, 1) };
    say(&fleet, &delivery, &last).await;
    answer(&fleet, &delivery).await;
    pending.await.expect("a reply");
    assert_eq!(stream.next().await, None, "a copy is known for one");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_one_task_with_its_items() {
    let fleet = fleet();
    let producer = fleet.producer();
    let items = [json!(1), json!({"n": 2})].map(Json::from).into();
    let new = NewTask { task_id: Some(id("t")), ..NewTask::batch(Kind::new("echo").expect("valid"), items) };
    producer.submit(new).await.expect("room");
    let delivery = fleet.queue.take(&pool()).await.expect("a queue").expect("a task");
    assert_eq!(delivery.body, &br#"{"items":[1,{"n":2}]}"#[..]);
    for wrong in [Vec::new(), vec![Json::null(); 10_001]] {
        let refused = producer.submit(NewTask::batch(Kind::new("echo").expect("valid"), wrong)).await.expect_err("refused");
        assert_eq!(refused.refusal().map(|refusal| refusal.field.as_str()), Some("items"));
    }
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
