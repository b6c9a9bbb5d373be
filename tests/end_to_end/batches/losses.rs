//! Batches of which something got lost, or that a store fails at the wrong moment: each still comes to its one end.

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use producer::{WantedResults, results_of};
use protocol::{ErrorCode, Limits, SliceCounts, SliceResults, TaskError, batch::list};
use task_store::{RecordRequest, SliceRecord, SliceRecordRequest, Split};

use super::*;
use crate::groups::store::{ControlledStore, Controls};

/// One GPU that has a slot for each slice of a batch, and one for the batch itself.
fn one_gpu() -> FleetPlan {
    plan(1).slots(4)
}

/// The same on a store that a test controls.
fn controlled(controls: &Arc<Controls>) -> FleetPlan {
    let controls = Arc::clone(controls);
    one_gpu().store_through(move |inner| Arc::new(ControlledStore { inner, controls: Arc::clone(&controls) }))
}

/// Records that a batch with this body is split into slices of these lengths, of which nothing is published.
async fn split_by_hand(fleet: &Fleet, client: &Client, body: &Bytes, lengths: &[u32]) -> Split {
    let request = SplitRequest {
        task_id: client.id.clone(),
        body_hash: BodyHash::of(body),
        kind: Kind::new("work").unwrap(),
        attempt: 1,
        published_s: None,
        slices: Slice::of_lengths(lengths),
    };
    match fleet.ports.store.split(&request).await.unwrap() {
        SplitAnswer::Split(split) => split,
        other => panic!("not split: {other:?}"),
    }
}

/// Records that a slice has ended, with these results, of which so many failed.
async fn ended_by_hand(fleet: &Fleet, client: &Client, slice: Slice, (results, items_failed): (Json, u32)) {
    let request = SliceRecordRequest {
        task_id: client.id.of_slice(slice),
        body_hash: BodyHash::of(b"its items"),
        kind: Kind::new("work").unwrap(),
        outcome: Outcome::Succeeded,
        attempt: 1,
        token: None,
        items_failed,
        results: SliceResults { gpu_id: None, run_ms: 1.0, device_ms: None, batch_size: None, results }.into_bytes(),
    };
    let answer = fleet.ports.store.record_slice(&request).await.unwrap();
    assert!(matches!(answer, SliceRecord::Recorded(_)), "{answer:?}");
}

/// A copy of the batch that says of this split that its slices were published: all, or those before an item.
fn copy_of(client: &Client, split: &Split, published_before: Option<u32>) -> Envelope {
    let mut copy = any_copy_of(client);
    copy.headers.token = Some(split.token.0);
    copy.headers.published_before = published_before;
    copy
}

/// A copy of the batch that says nothing of its slices.
fn any_copy_of(client: &Client) -> Envelope {
    let mut copy = client.envelope();
    copy.headers.copy = true;
    copy
}

async fn counts(fleet: &Fleet, client: &Client) -> SliceCounts {
    fleet.producer.status(&client.id).await.unwrap().unwrap().slices.unwrap_or_default()
}

async fn publish(fleet: &Fleet, envelope: Envelope, body: &Bytes) {
    let target = Target::Queue(Queue::Pool(fleet.pool()));
    fleet.ports.queue.publish(Outgoing::new(target, envelope, body.clone())).await.unwrap();
}

/// A queue was purged, or a broker died at the wrong moment, or the store lost that a slice had ended.
#[tokio::test(start_paused = true)]
async fn slices_that_got_lost_are_published_anew() {
    let fleet = one_gpu().start().await;
    let mut client = Client::of(&fleet, "lost").await;
    let split = split_by_hand(&fleet, &client, &body_of(taking(10, 8)), &[3, 5]).await;
    client.send(&fleet, copy_of(&client, &split, None), taking(10, 8)).await;
    until("the copy waits", async || fleet.counted("gpufleet_held_messages", "wait.5000") == 1.0).await;
    assert_eq!(counts(&fleet, &client).await, SliceCounts { waiting: 2, running: 0, ended: 0 }, "it says that both were published");
    assert_eq!(results(&client.next().await), taking(10, 8).collect::<Vec<_>>());
    client.nothing_else(&fleet).await;
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "work"), 2.0);
}

#[tokio::test(start_paused = true)]
async fn a_round_that_a_full_pool_ended_goes_on_where_it_stopped() {
    let fleet = one_gpu().start().await;
    let mut client = Client::of(&fleet, "went-on").await;
    let split = split_by_hand(&fleet, &client, &body_of(taking(10, 8)), &[3, 5]).await;
    client.send(&fleet, copy_of(&client, &split, Some(3)), taking(10, 8)).await;
    until("the second slice has ended", async || fleet.counted("gpufleet_slices_total", "succeeded") == 1.0).await;
    assert_eq!(counts(&fleet, &client).await, SliceCounts { waiting: 1, running: 0, ended: 1 }, "the first one was published before");
    // It was not, and so it is lost: that is found out later.
    assert_eq!(results(&client.next().await), taking(10, 8).collect::<Vec<_>>());
    client.nothing_else(&fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_total_deadline_that_ends_all_slices_at_once_is_answered_once() {
    let controls = Arc::<Controls>::default();
    controls.slow_slices.store(true, Relaxed);
    let fleet = controlled(&controls).start().await;
    let mut client = Client::of(&fleet, "all-at-once").await;
    let limits = Limits { total_deadline_ms: Some(3_000), ..Limits::default() };
    let items = taking(600_000, 8).map(Json::from).collect();
    let body = TaskBody { items: Some(items), limits, ..TaskBody::default() }.to_bytes();
    split_by_hand(&fleet, &client, &body, &[4, 4]).await;
    publish(&fleet, any_copy_of(&client), &body).await;
    let reply = client.next().await;
    assert_eq!((reply.outcome, code(&reply)), (Outcome::Expired, "deadline"), "{reply:?}");
    client.nothing_else(&fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_cancelled_although_the_store_fails_when_its_last_slice_ends() {
    let controls = Arc::<Controls>::default();
    controls.silent_on_batches.store(true, Relaxed);
    let fleet = controlled(&controls).start().await;
    let mut client = Client::of(&fleet, "cancelled").await;
    let body = body_of(taking(10, 4).chain(taking(600_000, 4)));
    split_by_hand(&fleet, &client, &body, &[4, 4]).await;
    publish(&fleet, any_copy_of(&client), &body).await;
    until("one slice has ended", async || counts(&fleet, &client).await == SliceCounts { waiting: 0, running: 1, ended: 1 }).await;
    fleet.producer.cancel(&client.id).await.unwrap();
    let reply = client.next().await;
    assert_eq!((reply.outcome, code(&reply)), (Outcome::Cancelled, "cancelled"), "{reply:?}");
    client.nothing_else(&fleet).await;
}

/// What a merger leaves behind that dies after it has recorded the end.
#[tokio::test(start_paused = true)]
async fn whoever_finds_the_end_of_a_batch_forgets_its_slices() {
    let too_large = TaskError::new(ErrorCode::ReplyTooLarge, "read them in pieces");
    for (id, error, kept) in [("merged", None, 0), ("in-pieces", Some(too_large), 2)] {
        let fleet = one_gpu().start().await;
        let store = &fleet.ports.store;
        let mut client = Client::of(&fleet, id).await;
        let body = body_of(taking(10, 8));
        let split = split_by_hand(&fleet, &client, &body, &[4, 4]).await;
        let nulls = vec![ItemResult::succeeded(Json::null()).to_json(); 4];
        for (slice, _) in &split.slices {
            ended_by_hand(&fleet, &client, *slice, (list(&nulls), 0)).await;
        }
        let outcome = if error.is_none() { Outcome::Succeeded } else { Outcome::Failed };
        let request = RecordRequest {
            task_id: client.id.clone(),
            body_hash: BodyHash::of(&body),
            kind: Some(Kind::new("work").unwrap()),
            outcome,
            attempt: 1,
            token: None,
            reply: Reply { error, ..Reply::ended(client.id.clone(), outcome, 1) }.into_bytes(),
        };
        store.record(&request).await.unwrap();
        assert_eq!(store.slice_results(&client.id, 0, 1_000).await.unwrap().len(), 2);
        publish(&fleet, copy_of(&client, &split, None), &body).await;
        assert_eq!(client.next().await.outcome, outcome);
        client.nothing_else(&fleet).await;
        assert_eq!(store.slice_results(&client.id, 0, 1_000).await.unwrap().len(), kept, "{id}");
        assert_eq!(store.status(&client.id.of_slice(split.slices[0].0)).await.unwrap(), None, "its slices are forgotten");
    }
}

/// The store was emptied, and the id was given to another batch before a slice of the first one came.
#[tokio::test(start_paused = true)]
async fn no_slice_of_another_batch_that_had_the_id_before_runs() {
    let fleet = one_gpu().start().await;
    let mut client = Client::of(&fleet, "had-before").await;
    let body = body_of(taking(10, 8));
    split_by_hand(&fleet, &client, &body, &[4, 4]).await;
    let mut old = client.envelope();
    old.headers.slice = Slice::new(0, 4);
    old.headers.batch_hash = Some(BodyHash::of(b"the other batch"));
    client.send(&fleet, old, taking(20, 4)).await;
    until("it is dropped", async || fleet.counted("gpufleet_slices_unwanted_total", "") == 1.0).await;
    publish(&fleet, any_copy_of(&client), &body).await;
    assert_eq!(results(&client.next().await), taking(10, 8).collect::<Vec<_>>());
    client.nothing_else(&fleet).await;
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "work"), 2.0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_for_whose_results_the_store_has_no_room_ends_and_says_so() {
    let fleet = plan(2).configured(|configuration| configuration.store.reply_bytes_max = 0).start().await;
    let reply = reply(&fleet.producer, batch("work", (0..16).map(|_| json!({"bytes": 500})))).await;
    assert_eq!((reply.outcome, code(&reply), reply.items.unwrap().failed), (Outcome::Failed, "reply_not_kept", Some(16)), "{reply:?}");
    for (n, item) in items(&reply).into_iter().enumerate() {
        let error = item.error.unwrap();
        assert_eq!((error.code.as_str(), error.field.as_deref()), ("reply_not_kept", Some(format!("items[{n}]").as_str())));
        assert!(error.message.contains("store.reply_bytes_max"), "{}", error.message);
    }
    fleet.idle().await;
}

#[tokio::test(start_paused = true)]
async fn results_for_which_the_store_had_no_room_are_read_as_failures() {
    let fleet = plan(0).start().await;
    let client = Client::of(&fleet, "no-room").await;
    let split = split_by_hand(&fleet, &client, &body_of(taking(10, 8)), &[4, 4]).await;
    ended_by_hand(&fleet, &client, split.slices[0].0, (Json::null(), 4)).await;
    let wanted = WantedResults { from: 2, ..WantedResults::default() };
    let read = results_of(&*fleet.ports.store, &client.id, wanted).await.unwrap();
    let errors: Vec<TaskError> = read.results.to::<Vec<ItemResult>>().unwrap().into_iter().map(|item| item.error.unwrap()).collect();
    let said: Vec<_> = errors.iter().map(|error| (error.code.as_str(), error.field.as_deref().unwrap())).collect();
    assert_eq!(said, [("reply_not_kept", "items[2]"), ("reply_not_kept", "items[3]")]);
    assert_eq!(read.next, Some(4), "the others have not ended");
}
