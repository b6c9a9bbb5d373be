//! `GET /api/v1/tasks/{task_id}/results`.

use std::sync::Arc;

use bytes::Bytes;
use protocol::{
    BodyHash, ErrorCode, ItemCounts, ItemResult, Json, Kind, Outcome, Reply, Slice, SliceResults, TaskBody, TaskError, TaskId, batch,
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use task_store::{
    MemoryStore, Record, RecordRequest, SliceRecord, SliceRecordRequest, SplitAnswer, SplitRequest, StoreOptions, Submission,
};

use crate::fleet::{Fleet, Setup, batch_reply, environment, json as read, problem};

const BATCH: &str = "/api/v1/tasks/b";

fn id() -> TaskId {
    TaskId::new("b").expect("valid")
}

fn kind() -> Kind {
    Kind::new("echo").expect("valid")
}

/// The body of a batch of so many items, and its hash.
fn body(items: u32) -> (Bytes, BodyHash) {
    let items = (0..items).map(|index| json!(index).into()).collect();
    let bytes = TaskBody { items: Some(items), ..TaskBody::default() }.to_bytes();
    let hash = BodyHash::of(&bytes);
    (bytes, hash)
}

async fn submitted(fleet: &Fleet, items: u32) {
    let noted = fleet.store.submitted(&id(), &kind(), &body(items).1).await;
    assert_eq!(noted.expect("a store"), Submission::Noted);
}

async fn ended(fleet: &Fleet, items: u32, reply: Reply) {
    let request = RecordRequest {
        task_id: id(),
        body_hash: body(items).1,
        kind: Some(kind()),
        outcome: reply.outcome,
        attempt: 1,
        token: None,
        reply: reply.into_bytes(),
    };
    assert_eq!(fleet.store.record(&request).await.expect("a store"), Record::Recorded);
}

/// A batch of six items in three slices.
async fn split(fleet: &Fleet) {
    submitted(fleet, 6).await;
    let slices = Slice::of_lengths(&[2, 2, 2]);
    let request = SplitRequest { task_id: id(), body_hash: body(6).1, kind: kind(), attempt: 1, published_s: None, slices };
    assert!(matches!(fleet.store.split(&request).await.expect("a store"), SplitAnswer::Split(_)));
}

async fn slice_ended(fleet: &Fleet, slice: &str) {
    let slice: Slice = slice.parse().expect("a slice");
    let results: Vec<Json> = (slice.from..slice.to).map(|index| ItemResult::succeeded(json!(index).into()).to_json()).collect();
    let request = SliceRecordRequest {
        task_id: id().of_slice(slice),
        body_hash: body(6).1,
        kind: kind(),
        outcome: Outcome::Succeeded,
        attempt: 1,
        token: None,
        items_failed: 0,
        results: SliceResults { gpu_id: None, run_ms: 1.0, device_ms: None, batch_size: None, results: batch::list(&results) }.into_bytes(),
    };
    assert!(matches!(fleet.store.record_slice(&request).await.expect("a store"), SliceRecord::Recorded(_)));
}

/// The reply of a batch of six items whose results did not fit one.
fn too_large() -> Reply {
    Reply {
        error: Some(TaskError::new(ErrorCode::ReplyTooLarge, "too large")),
        items: Some(ItemCounts { of: 6, done: 6, failed: Some(0) }),
        ..Reply::ended(id(), Outcome::Failed, 1)
    }
}

/// The results from an item on, and the item to go on with.
async fn results(fleet: &Fleet, query: &str) -> (Vec<Value>, Option<u64>) {
    let response = fleet.get(&format!("{BATCH}/results{query}")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let answer = read(response).await;
    let results = answer["results"].as_array().expect("results").iter().map(|came_out| came_out["result"].clone()).collect();
    (results, answer["next"].as_u64())
}

#[tokio::test]
async fn the_results_of_a_batch_that_ended_come_in_pieces_with_their_bytes() {
    let fleet = Fleet::start().await;
    submitted(&fleet, 3).await;
    let kept = Json::parse("{\"a\": 1.00}").expect("JSON");
    let came_out = [
        ItemResult::succeeded(kept),
        ItemResult::failed(TaskError::new("broken", "as asked").at("items[1]")),
        ItemResult::succeeded(json!(3).into()),
    ];
    ended(&fleet, 3, batch_reply(id(), &came_out)).await;
    let text = fleet.get(&format!("{BATCH}/results?limit=2")).await.text().await.expect("text");
    let results = r#"[{"result":{"a": 1.00}},{"error":{"code":"broken","message":"as asked","field":"items[1]"}}]"#;
    let counts = r#""items":{"of":3,"done":3,"failed":1}"#;
    assert_eq!(text, format!(r#"{{"task_id":"b","state":"succeeded",{counts},"from":0,"results":{results},"next":2}}"#));
    assert_eq!(self::results(&fleet, "?from=2&limit=2").await, (vec![json!(3)], None));
    assert_eq!(self::results(&fleet, "?from=3").await, (vec![], None));
    assert_eq!(self::results(&fleet, "?from=10000").await, (vec![], None));
}

#[tokio::test]
async fn while_a_split_batch_runs_what_is_there_is_given_up_to_the_first_gap() {
    let fleet = Fleet::start().await;
    split(&fleet).await;
    assert_eq!(results(&fleet, "").await, (vec![], Some(0)), "nothing is there yet");
    slice_ended(&fleet, "0..2").await;
    slice_ended(&fleet, "4..6").await;
    assert_eq!(results(&fleet, "").await, (vec![json!(0), json!(1)], Some(2)), "what lies behind the gap waits");
    assert_eq!(results(&fleet, "?from=1").await, (vec![json!(1)], Some(2)));
    assert_eq!(results(&fleet, "?from=2").await, (vec![], Some(2)));
    assert_eq!(results(&fleet, "?from=5").await, (vec![json!(5)], None));
    slice_ended(&fleet, "2..4").await;
    assert_eq!(results(&fleet, "?from=2").await, ((2..6).map(Value::from).collect(), None));
    assert_eq!(results(&fleet, "?from=2&limit=3").await, ((2..5).map(Value::from).collect(), Some(5)));
}

#[tokio::test]
async fn results_that_did_not_fit_a_reply_are_read_in_pieces() {
    let fleet = Fleet::start().await;
    split(&fleet).await;
    for slice in ["0..2", "2..4", "4..6"] {
        slice_ended(&fleet, slice).await;
    }
    ended(&fleet, 6, too_large()).await;
    fleet.store.forget_slices(&id(), true);
    let mut gathered = Vec::new();
    let mut next = Some(0);
    while let Some(from) = next {
        let (piece, then) = results(&fleet, &format!("?from={from}&limit=4")).await;
        gathered.extend(piece);
        next = then;
    }
    assert_eq!(gathered, (0..6).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn results_that_are_kept_nowhere_any_more_are_gone() {
    let fleet = Fleet::start().await;
    split(&fleet).await;
    ended(&fleet, 6, too_large()).await;
    fleet.store.forget_slices(&id(), false);
    let document = problem(fleet.get(&format!("{BATCH}/results")).await, StatusCode::GONE).await;
    assert_eq!((&document["type"], &document["task_id"]), (&json!("urn:gpufleet:problem:reply-not-kept"), &json!("b")));
}

#[tokio::test]
async fn a_task_that_waits_has_no_results_yet_and_one_without_any_says_why() {
    let fleet = Fleet::start().await;
    problem(fleet.get(&format!("{BATCH}/results")).await, StatusCode::NOT_FOUND).await;
    submitted(&fleet, 2).await;
    assert_eq!(results(&fleet, "?from=1").await, (vec![], Some(1)));
    let failed = Reply { error: Some(TaskError::new("broken", "as asked")), ..Reply::ended(id(), Outcome::Failed, 1) };
    ended(&fleet, 2, failed).await;
    let document = problem(fleet.get(&format!("{BATCH}/results")).await, StatusCode::CONFLICT).await;
    assert_eq!((&document["type"], &document["code"]), (&json!("urn:gpufleet:problem:no-results"), &json!("broken")));
    assert!(document["detail"].as_str().expect("text").contains("it failed as a whole: broken: as asked"), "{document}");

    let fleet = Fleet::start().await;
    submitted(&fleet, 2).await;
    ended(&fleet, 2, Reply { result: json!(1).into(), ..Reply::ended(id(), Outcome::Succeeded, 1) }).await;
    let document = problem(fleet.get(&format!("{BATCH}/results")).await, StatusCode::CONFLICT).await;
    assert!(document["detail"].as_str().expect("text").contains("it is no batch"), "{document}");
}

#[tokio::test]
async fn results_whose_reply_is_not_kept_are_gone() {
    let options = StoreOptions { reply_bytes_max: 0, ..StoreOptions::default() };
    let store = Arc::new(MemoryStore::new(environment().clock, options));
    let fleet = Setup { store, ..Setup::default() }.start().await;
    submitted(&fleet, 1).await;
    ended(&fleet, 1, batch_reply(id(), &[ItemResult::succeeded(json!(1).into())])).await;
    problem(fleet.get(&format!("{BATCH}/results")).await, StatusCode::GONE).await;
}

#[tokio::test]
async fn a_query_that_is_none_is_refused_with_its_parameter() {
    let fleet = Fleet::start().await;
    for (query, field) in [
        ("from=x", "from"),
        ("from=-1", "from"),
        ("from=10001", "from"),
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("from=1&from=2", "query"),
        ("form=1", "query"),
    ] {
        let document = problem(fleet.get(&format!("{BATCH}/results?{query}")).await, StatusCode::BAD_REQUEST).await;
        assert_eq!(document["field"], field, "{query}: {document}");
    }
    for path in ["/api/v1/tasks/b%7B0..4%7D/results", "/api/v1/tasks/%FF/results"] {
        problem(fleet.get(path).await, StatusCode::NOT_FOUND).await;
    }
}
