//! `GET /api/v1/tasks/{task_id}/events`, and `predict` as a stream.

use std::time::Duration;

use gateway::GatewayOptions;
use protocol::{Outcome, TaskError};
use reqwest::StatusCode;
use serde_json::{Value, json};
use task_store::{MemoryStore, StoreOptions};

use crate::{
    fleet::{Fleet, Setup, environment, json, problem},
    streaming::Listener,
};

const TASKS: &str = "/api/v1/tasks";

async fn submit(fleet: &Fleet, task_id: &str, progress: bool) -> String {
    let response = fleet.post(TASKS, &json!({"kind": "echo", "task_id": task_id, "payload": 1, "progress": progress})).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    format!("{TASKS}/{task_id}/events")
}

async fn metric(fleet: &Fleet, line: &str) -> bool {
    fleet.get("/metrics").await.text().await.expect("a body").lines().any(|have| have == line)
}

#[tokio::test]
async fn a_task_submitted_with_progress_is_followed_from_waiting_to_its_reply() {
    let fleet = Fleet::start().await;
    let mut events = fleet.listen(&submit(&fleet, "t", true).await).await;
    let waiting = events.expect("status").await;
    assert_eq!((&waiting["state"], &waiting["task_id"]), (&json!("waiting"), &json!("t")));

    let mut hand = fleet.take().await;
    fleet.begin(&hand).await;
    let running = events.expect("status").await;
    assert_eq!((&running["state"], &running["gpu_id"], &running["attempt"]), (&json!("running"), &json!("sim-0"), &json!(1)));
    hand.say(0.25, &[(1, json!("one")), (2, json!({"two": 2}))]).await;
    assert_eq!(events.expect("progress").await["fraction"], 0.25);
    assert_eq!(events.expect("partial").await, json!({"number": 1, "value": "one"}));
    assert_eq!(events.expect("partial").await, json!({"number": 2, "value": {"two": 2}}));
    hand.say(0.75, &[(9, json!(null))]).await;
    fleet.finish(hand, json!("done")).await;
    assert_eq!(events.expect("progress").await["fraction"], 0.75);
    assert_eq!(events.expect("partial").await, json!({"number": 9, "value": null}));
    let ended = events.expect("status").await;
    assert_eq!((&ended["state"], &ended["reply"]), (&json!("succeeded"), &Value::Null));
    assert_eq!(events.expect("reply").await["result"], "done");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_task_of_another_gateway_is_followed_through_the_store() {
    let fleet = Fleet::start().await;
    let path = submit(&fleet, "t", false).await;
    let hand = fleet.take().await;
    assert!(!hand.envelope().headers.progress && hand.envelope().reply_to.is_none(), "as if submitted elsewhere");
    let mut events = fleet.listen(&path).await;
    assert_eq!(events.expect("status").await["state"], "waiting");
    fleet.begin(&hand).await;
    assert_eq!(events.expect("status").await["state"], "running");
    for fraction in [0.25, 0.5] {
        fleet.note(&hand, fraction).await;
        assert_eq!(events.expect("progress").await["fraction"], fraction);
    }
    fleet.finish(hand, json!("done")).await;
    assert_eq!(events.expect("status").await["state"], "succeeded");
    assert_eq!(events.expect("reply").await["result"], "done");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn an_ended_task_gives_its_reply_at_once_and_an_unknown_one_is_not_found() {
    let fleet = Fleet::start().await;
    let path = submit(&fleet, "t", false).await;
    let hand = fleet.take().await;
    fleet.begin(&hand).await;
    fleet.finish(hand, json!("done")).await;
    let mut events = fleet.listen(&path).await;
    assert_eq!(events.expect("status").await["state"], "succeeded");
    assert_eq!(events.expect("reply").await["result"], "done");
    assert_eq!(events.next().await, None);
    for id in ["never-seen", "%7Bbrace%7D", "%FF"] {
        problem(fleet.get(&format!("{TASKS}/{id}/events")).await, StatusCode::NOT_FOUND).await;
    }
}

#[tokio::test]
async fn a_reply_that_is_not_kept_still_ends_the_stream_with_how_the_task_ended() {
    let options = StoreOptions { reply_bytes_max: 0, ..StoreOptions::default() };
    let store = std::sync::Arc::new(MemoryStore::new(environment().clock, options));
    let fleet = Setup { store, ..Setup::default() }.start().await;
    let path = submit(&fleet, "t", false).await;
    let hand = fleet.take().await;
    fleet.begin(&hand).await;
    fleet.finish(hand, json!("lost")).await;
    let mut events = fleet.listen(&path).await;
    assert_eq!(events.expect("status").await["state"], "succeeded");
    let reply = events.expect("reply").await;
    assert_eq!((&reply["outcome"], &reply["error"]["code"]), (&json!("succeeded"), &json!("reply_not_kept")));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_client_that_comes_back_goes_on_after_the_last_event_it_had() {
    let fleet = Fleet::start().await;
    let path = submit(&fleet, "t", true).await;
    let mut hand = fleet.take().await;
    fleet.begin(&hand).await;
    hand.say(0.5, &[(1, json!("a")), (2, json!("b")), (3, json!("c"))]).await;
    let mut first = fleet.listen(&path).await;
    first.expect("status").await;
    first.expect("progress").await;
    let last = first.next().await.expect("a part");
    assert_eq!(last.data, json!({"number": 1, "value": "a"}));
    drop(first);

    let id = last.id.expect("an id").to_string();
    let again = fleet.http.get(format!("{}{path}", fleet.url)).header("Last-Event-ID", id).send().await.expect("an answer");
    let mut again = Listener::new(again);
    again.expect("status").await;
    assert_eq!(again.expect("partial").await["value"], "b");
    assert_eq!(again.expect("partial").await["value"], "c");
    fleet.finish(hand, json!("done")).await;
    again.expect("status").await;
    again.expect("reply").await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_work_behind() {
    let fleet = Fleet::start().await;
    let path = submit(&fleet, "t", false).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut events = fleet.listen(&path).await;
        events.expect("status").await;
        streams.push(events);
    }
    assert!(metric(&fleet, "gateway_event_streams 3").await);
    drop(streams);
    while !metric(&fleet, "gateway_event_streams 0").await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stop_ends_the_streams_and_is_clean() {
    let fleet = Fleet::start().await;
    let (watched, other) = (submit(&fleet, "one", true).await, submit(&fleet, "two", false).await);
    let mut streams = [fleet.listen(&watched).await, fleet.listen(&other).await];
    for events in &mut streams {
        events.expect("status").await;
    }
    fleet.stop.cancel();
    for events in &mut streams {
        assert_eq!(events.next().await, None);
    }
    fleet.serving.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_streamed_prediction_gives_its_pieces_and_then_the_whole() {
    let fleet = Fleet::start().await;
    let request = json!({"text": "Once upon a time", "max_length": 4, "stream": true});
    let mut events = Listener::new(fleet.post("/api/v1/predict", &request).await);
    let accepted = events.expect("accepted").await;
    let mut hand = fleet.take().await;
    fleet.begin(&hand).await;
    assert_eq!(accepted["task_id"], hand.task_id.as_str());
    let mut text = String::new();
    for (number, piece) in [(1, " there"), (2, " was")] {
        hand.say(0.5, &[(number, json!(piece))]).await;
        events.expect("progress").await;
        text.push_str(events.expect("partial").await["value"].as_str().expect("text"));
    }
    fleet.finish(hand, json!({"text": " there was", "tokens": 2})).await;
    let reply = events.expect("reply").await;
    assert_eq!((&reply["text"], &reply["tokens"], &reply["task_id"]), (&json!(text), &json!(2), &accepted["task_id"]));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn what_is_wrong_before_a_prediction_begins_is_a_problem_and_after_that_the_last_event() {
    let fleet = Fleet::start().await;
    let wrong = fleet.post("/api/v1/predict", &json!({"text": "a", "stream": "yes"})).await;
    assert_eq!(problem(wrong, StatusCode::UNPROCESSABLE_ENTITY).await["field"], "stream");

    fleet.work(|_| Err((Outcome::Failed, TaskError::new("executor_failed", "because")))).await;
    let mut events = Listener::new(fleet.post("/api/v1/predict", &json!({"text": "a", "stream": true})).await);
    events.expect("accepted").await;
    let failed = events.expect("problem").await;
    assert_eq!((&failed["status"], &failed["code"], &failed["detail"]), (&json!(502), &json!("executor_failed"), &json!("because")));
    assert_eq!(events.next().await, None);

    let options = GatewayOptions { predict_timeout: Duration::from_millis(50), ..GatewayOptions::default() };
    let slow = Setup { options, ..Setup::default() }.start().await;
    let mut events = Listener::new(slow.post("/api/v1/predict", &json!({"text": "a", "stream": true})).await);
    events.expect("accepted").await;
    assert_eq!(events.expect("problem").await["type"], "urn:gpufleet:problem:wait-timeout");
}

#[tokio::test]
async fn a_prediction_whose_client_goes_away_is_cancelled_and_one_that_ended_is_not() {
    let fleet = Fleet::start().await;
    let mut events = Listener::new(fleet.post("/api/v1/predict", &json!({"text": "a", "stream": true})).await);
    let url = events.expect("accepted").await["status_url"].as_str().expect("a place").to_owned();
    drop(events);
    while json(fleet.get(&url).await).await["state"] != "cancelled" {
        tokio::task::yield_now().await;
    }

    let fleet = Fleet::start().await;
    fleet.work(|_| Ok(json!({"text": "b"}))).await;
    let mut events = Listener::new(fleet.post("/api/v1/predict", &json!({"text": "a", "stream": true})).await);
    let url = events.expect("accepted").await["status_url"].as_str().expect("a place").to_owned();
    events.expect("reply").await;
    assert_eq!(events.next().await, None);
    assert_eq!(json(fleet.get(&url).await).await["state"], "succeeded");
}

#[tokio::test]
async fn a_second_submit_of_a_watched_task_is_accepted_and_changes_nothing() {
    let fleet = Fleet::start().await;
    let path = submit(&fleet, "t", true).await;
    let mut hand = fleet.take().await;
    fleet.begin(&hand).await;
    hand.say(0.5, &[(1, json!("a"))]).await;
    assert_eq!(submit(&fleet, "t", true).await, path);
    let copy = fleet.take().await;
    assert!(!copy.envelope().headers.progress);
    let mut events = fleet.listen(&path).await;
    events.expect("status").await;
    events.expect("progress").await;
    assert_eq!(events.expect("partial").await["value"], "a");
    fleet.finish(hand, json!("done")).await;
    assert_eq!(events.expect("status").await["state"], "succeeded");
    assert_eq!(events.expect("reply").await["result"], "done");
}
