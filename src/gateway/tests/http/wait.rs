//! `POST /api/v1/tasks:wait`.

use std::{collections::BTreeSet, sync::Arc};

use reqwest::StatusCode;
use serde_json::{Value, json};
use task_store::{MemoryStore, StoreOptions};

use crate::{
    down::DownStore,
    fleet::{Fleet, Setup, environment, problem},
    streaming::Listener,
};

const WAIT: &str = "/api/v1/tasks:wait";

async fn submit(fleet: &Fleet, task_id: &str) {
    let response = fleet.post("/api/v1/tasks", &json!({"kind": "echo", "task_id": task_id, "payload": task_id})).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
}

async fn wait(fleet: &Fleet, request: &Value) -> Listener {
    Listener::new(fleet.post(WAIT, request).await)
}

async fn shows(fleet: &Fleet, line: &str) {
    while !fleet.get("/metrics").await.text().await.expect("a body").lines().any(|have| have == line) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn replies_come_as_tasks_end_and_the_end_counts_them() {
    let fleet = Fleet::start().await;
    for task_id in ["one", "two", "three"] {
        submit(&fleet, task_id).await;
    }
    let mut hands = Vec::new();
    for _ in 0..3 {
        let hand = fleet.take().await;
        fleet.begin(&hand).await;
        hands.push(hand);
    }
    let mut events = wait(&fleet, &json!({"task_ids": ["one", "two", "three", "two"]})).await;
    while let Some(hand) = hands.pop() {
        let task_id = hand.task_id.clone();
        fleet.finish(hand, json!({"of": task_id})).await;
        let reply = events.expect("reply").await;
        assert_eq!((&reply["task_id"], &reply["result"]["of"]), (&json!(task_id), &json!(task_id)));
    }
    let tally = json!({"succeeded": 3, "failed": 0, "cancelled": 0, "expired": 0, "not_kept": 0, "unknown": 0});
    assert_eq!(events.expect("end").await, tally);
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_thousand_tasks_are_waited_for_over_one_request() {
    let fleet = Fleet::start().await;
    let ids: Vec<String> = (0..1_000).map(|number| format!("t{number}")).collect();
    let body: String = ids.iter().map(|id| format!("{{\"kind\":\"echo\",\"task_id\":\"{id}\"}}\n")).collect();
    let request = fleet.http.post(format!("{}/api/v1/tasks:bulk", fleet.url)).header("content-type", "application/x-ndjson");
    assert_eq!(request.body(body).send().await.expect("an answer").text().await.expect("a whole answer").lines().count(), 1_000);
    let mut events = wait(&fleet, &json!({"task_ids": ids})).await;
    fleet.work(|_| Ok(json!("done"))).await;
    let mut ended = BTreeSet::new();
    for _ in 0..1_000 {
        let reply = events.expect("reply").await;
        assert!(ended.insert(reply["task_id"].as_str().expect("an id").to_owned()), "twice: {reply}");
    }
    assert_eq!(events.expect("end").await["succeeded"], 1_000);
    assert_eq!(ended, ids.into_iter().collect());
}

#[tokio::test]
async fn what_nobody_knows_is_told_and_the_others_are_waited_for() {
    let fleet = Fleet::start().await;
    submit(&fleet, "known").await;
    let mut events = wait(&fleet, &json!({"task_ids": ["never-seen", "known"]})).await;
    let unknown = events.expect("problem").await;
    assert_eq!((&unknown["status"], &unknown["task_id"]), (&json!(404), &json!("never-seen")));
    let hand = fleet.take().await;
    fleet.begin(&hand).await;
    fleet.finish(hand, json!(1)).await;
    assert_eq!(events.expect("reply").await["task_id"], "known");
    let end = events.expect("end").await;
    assert_eq!((&end["succeeded"], &end["unknown"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn a_reply_that_is_not_kept_is_a_problem_and_a_task_cancelled_before_it_began_has_one() {
    let options = StoreOptions { reply_bytes_max: 0, ..StoreOptions::default() };
    let store = Arc::new(MemoryStore::new(environment().clock, options));
    let fleet = Setup { store, ..Setup::default() }.start().await;
    submit(&fleet, "lost").await;
    let hand = fleet.take().await;
    fleet.begin(&hand).await;
    fleet.finish(hand, json!("lost")).await;
    let mut events = wait(&fleet, &json!({"task_ids": ["lost"]})).await;
    let lost = events.expect("problem").await;
    assert_eq!((&lost["status"], &lost["code"], &lost["task_id"]), (&json!(410), &json!("reply_not_kept"), &json!("lost")));
    assert_eq!(events.expect("end").await["not_kept"], 1);

    submit(&fleet, "unwanted").await;
    let cancelled = fleet.http.delete(format!("{}/api/v1/tasks/unwanted", fleet.url)).send().await.expect("an answer");
    assert_eq!(cancelled.status(), StatusCode::ACCEPTED);
    let mut events = wait(&fleet, &json!({"task_ids": ["unwanted"]})).await;
    assert_eq!(events.expect("reply").await["outcome"], "cancelled");
    assert_eq!(events.expect("end").await["cancelled"], 1);
}

#[tokio::test]
async fn when_the_time_is_over_the_stream_says_how_many_are_left() {
    let fleet = Fleet::start().await;
    submit(&fleet, "waiting").await;
    let mut events = wait(&fleet, &json!({"task_ids": ["waiting", "never-seen"], "timeout_ms": 100})).await;
    events.expect("problem").await;
    let over = events.expect("timeout").await;
    assert_eq!((&over["left"], &over["ended"]["unknown"]), (&json!(1), &json!(1)));
    assert_eq!(events.next().await, None);
}

/// How often the store was asked for those who wait.
async fn looks(fleet: &Fleet) -> u64 {
    let text = fleet.get("/metrics").await.text().await.expect("a body");
    let value = text.lines().find_map(|line| line.strip_prefix("gateway_wait_looks_total ")?.parse().ok());
    value.expect("it is counted")
}

#[tokio::test]
async fn what_does_not_end_is_asked_about_at_a_bounded_rate() {
    let fleet = Fleet::start().await;
    submit(&fleet, "waiting").await;
    let mut events = wait(&fleet, &json!({"task_ids": ["waiting"], "timeout_ms": 1_000})).await;
    events.expect("timeout").await;
    // Pauses of 400 ms and 800 ms.
    let one = looks(&fleet).await;
    assert!((1..=3).contains(&one), "{one}");

    let ids: Vec<String> = (0..5_000).map(|number| format!("t{number}")).collect();
    let body: String = ids.iter().map(|id| format!("{{\"kind\":\"echo\",\"task_id\":\"{id}\"}}\n")).collect();
    let request = fleet.http.post(format!("{}/api/v1/tasks:bulk", fleet.url)).header("content-type", "application/x-ndjson");
    assert_eq!(request.body(body).send().await.expect("an answer").text().await.expect("a whole answer").lines().count(), 5_000);
    let mut events = wait(&fleet, &json!({"task_ids": ids, "timeout_ms": 1_000})).await;
    assert_eq!(events.expect("timeout").await["left"], 5_000);
    let many = looks(&fleet).await - one;
    assert!((16..=2_000 + 64).contains(&many), "2,000 in a second, and those of the last question: {many}");
}

#[tokio::test]
async fn a_wait_that_asks_for_too_much_or_of_a_store_that_is_away_is_refused() {
    let fleet = Fleet::start().await;
    let too_many: Vec<String> = (0..10_001).map(|number| format!("t{number}")).collect();
    for (request, field) in [
        (json!({"task_ids": []}), "task_ids"),
        (json!({"task_ids": too_many}), "task_ids"),
        (json!({"task_ids": ["a"], "timeout_ms": 0}), "timeout_ms"),
        (json!({"task_ids": ["a"], "timeout": 5}), "timeout"),
    ] {
        let document = problem(fleet.post(WAIT, &request).await, StatusCode::UNPROCESSABLE_ENTITY).await;
        let named = document["field"].as_str().expect("a field");
        assert!(named.starts_with(field), "{named}");
    }
    let fleet = Setup { store: Arc::new(DownStore::default()), ..Setup::default() }.start().await;
    problem(fleet.post(WAIT, &json!({"task_ids": ["a"]})).await, StatusCode::SERVICE_UNAVAILABLE).await;
}

#[tokio::test]
async fn a_client_that_goes_away_and_a_stop_leave_no_work_behind() {
    let fleet = Fleet::start().await;
    submit(&fleet, "waiting").await;
    let mut gone = wait(&fleet, &json!({"task_ids": ["never-seen", "waiting"]})).await;
    gone.expect("problem").await;
    shows(&fleet, "gateway_event_streams 1").await;
    drop(gone);
    shows(&fleet, "gateway_event_streams 0").await;

    let mut stopped = wait(&fleet, &json!({"task_ids": ["never-seen", "waiting"]})).await;
    stopped.expect("problem").await;
    fleet.stop.cancel();
    assert_eq!(stopped.next().await, None, "neither end nor timeout");
    fleet.serving.await.expect("no panic").expect("a clean end");
}
