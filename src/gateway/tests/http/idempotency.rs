//! Requests that come again: under a `task_id`, and under an `Idempotency-Key`.

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use task_queue::TaskQueue;

use crate::{
    fleet::{Fleet, json, pool, problem},
    streaming::Listener,
};

const TASKS: &str = "/api/v1/tasks";
const PREDICT: &str = "/api/v1/predict";
const KEY: &str = "Idempotency-Key";

/// Sends a request under these keys.
async fn post(fleet: &Fleet, path: &str, keys: &[&str], body: &Value) -> Response {
    let request = fleet.http.post(format!("{}{path}", fleet.url)).json(body);
    keys.iter().fold(request, |request, key| request.header(KEY, *key)).send().await.expect("an answer")
}

/// The id of a task that was accepted.
async fn accepted(response: Response) -> String {
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    json(response).await["task_id"].as_str().expect("an id").to_owned()
}

/// How many tasks wait in the queue.
async fn published(fleet: &Fleet) -> u32 {
    fleet.queue.depth(&pool()).await.expect("a broker").map_or(0, |depth| depth.ready)
}

#[tokio::test]
async fn the_same_task_id_for_another_task_is_a_conflict() {
    let fleet = Fleet::start().await;
    let given = accepted(fleet.post(TASKS, &json!({"kind": "echo", "payload": 1})).await).await;
    assert_eq!(accepted(fleet.post(TASKS, &json!({"kind": "echo", "task_id": "mine", "payload": 1})).await).await, "mine");
    // The first request may have died before its task was published; and how urgent it is makes no other task of it.
    assert_eq!(accepted(fleet.post(TASKS, &json!({"kind": "echo", "task_id": "mine", "payload": 1, "priority": 9})).await).await, "mine");
    assert_eq!(published(&fleet).await, 3);

    let others = [
        json!({"kind": "echo", "task_id": "mine", "payload": 2}),
        json!({"kind": "echo", "task_id": "mine", "payload": 1, "limits": {"max_attempts": 1}}),
        json!({"kind": "simulate", "task_id": "mine", "payload": 1}),
        json!({"kind": "echo", "task_id": "mine", "payload": 2, "progress": true}),
        json!({"kind": "echo", "task_id": given, "payload": 2}),
    ];
    for other in others {
        let document = problem(fleet.post(TASKS, &other).await, StatusCode::CONFLICT).await;
        assert_eq!((&document["type"], &document["field"]), (&json!("urn:gpufleet:problem:task-id-in-use"), &json!("task_id")), "{other}");
        assert_eq!(document["task_id"], other["task_id"]);
        assert!(document["detail"].as_str().expect("text").contains("id of its own"), "{document}");
    }
    assert_eq!(published(&fleet).await, 3, "nothing of them was submitted");
}

#[tokio::test]
async fn an_idempotency_key_names_one_request() {
    let fleet = Fleet::start().await;
    let request = json!({"kind": "echo", "payload": {"n": 1}});
    let first = accepted(post(&fleet, TASKS, &["order-17"], &request).await).await;
    assert_eq!(accepted(post(&fleet, TASKS, &["order-17"], &request).await).await, first);
    assert_ne!(accepted(post(&fleet, TASKS, &["order-18"], &request).await).await, first);
    assert_eq!(json(fleet.get(&format!("{TASKS}/{first}")).await).await["state"], "waiting");

    for other in [json!({"kind": "echo", "payload": {"n": 2}}), json!({"kind": "simulate", "payload": {"n": 1}})] {
        let document = problem(post(&fleet, TASKS, &["order-17"], &other).await, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!((&document["type"], &document["field"]), (&json!("urn:gpufleet:problem:idempotency-key-in-use"), &json!(KEY)));
        assert_eq!(document["task_id"], first.as_str(), "where to look for what the first one gave");
    }
    assert_eq!(published(&fleet).await, 3);
}

#[tokio::test]
async fn a_key_that_is_none_or_stands_beside_a_task_id_is_refused() {
    let fleet = Fleet::start().await;
    let request = json!({"kind": "echo"});
    let long = "x".repeat(256);
    for keys in [&[""][..], &["two words"], &[long.as_str()], &["one", "other"]] {
        for (path, body) in [(TASKS, &request), (PREDICT, &json!({"text": "a"}))] {
            let document = problem(post(&fleet, path, keys, body).await, StatusCode::BAD_REQUEST).await;
            assert_eq!(document["field"], KEY, "{keys:?} {path}");
        }
    }
    let both = post(&fleet, TASKS, &["order-17"], &json!({"kind": "echo", "task_id": "mine"})).await;
    let document = problem(both, StatusCode::BAD_REQUEST).await;
    assert!(document["detail"].as_str().expect("text").contains("task_id"), "{document}");
    assert_eq!(published(&fleet).await, 0);
}

#[tokio::test]
async fn a_prediction_that_is_asked_for_again_under_its_key_is_the_same_one() {
    let fleet = Fleet::start().await;
    fleet.work(|_| Ok(json!({"text": "there was"}))).await;
    let request = json!({"text": "Once upon a time"});
    let first = json(post(&fleet, PREDICT, &["story"], &request).await).await;
    assert_eq!(first["text"], "there was");
    assert_eq!(json(post(&fleet, PREDICT, &["story"], &request).await).await, first);
    let other = post(&fleet, PREDICT, &["story"], &json!({"text": "Call me"})).await;
    assert_eq!(problem(other, StatusCode::UNPROCESSABLE_ENTITY).await["field"], KEY);
}

#[tokio::test]
async fn a_streamed_prediction_with_a_key_outlives_its_client() {
    let fleet = Fleet::start().await;
    let request = json!({"text": "Once upon a time", "stream": true});
    let mut keyed = Listener::new(post(&fleet, PREDICT, &["story"], &request).await);
    let keyed_url = keyed.expect("accepted").await["status_url"].as_str().expect("a place").to_owned();
    let mut other = Listener::new(fleet.post(PREDICT, &request).await);
    let other_url = other.expect("accepted").await["status_url"].as_str().expect("a place").to_owned();
    drop(keyed);
    drop(other);
    while json(fleet.get(&other_url).await).await["state"] != "cancelled" {
        tokio::task::yield_now().await;
    }
    assert_eq!(json(fleet.get(&keyed_url).await).await["state"], "waiting");

    let mut again = Listener::new(post(&fleet, PREDICT, &["story"], &request).await);
    assert_eq!(again.expect("accepted").await["status_url"], keyed_url.as_str());
    fleet.work(|_| Ok(json!({"text": "there was"}))).await;
    assert_eq!(again.expect("reply").await["text"], "there was");
}
