//! `/api/v1/tasks`, and what every body must be.

use std::sync::Arc;

use gateway::GatewayOptions;
use reqwest::StatusCode;
use serde_json::json;
use task_queue::{Queue, TaskQueue};

use crate::{
    down::DownStore,
    fleet::{Fleet, Setup, json, pool, problem, retry_after_s},
};

const TASKS: &str = "/api/v1/tasks";

#[tokio::test]
async fn a_task_is_accepted_with_a_location_that_shows_its_reply_in_the_end() {
    let fleet = Fleet::start().await;
    let request = json!({"kind": "echo", "priority": 9, "task_id": "order-17/part:3", "payload": {"n": 1}, "needs": {"memory_mb": 100}});
    let response = fleet.post(TASKS, &request).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let location = response.headers()["location"].to_str().expect("text").to_owned();
    assert_eq!(location, "/api/v1/tasks/order-17%2Fpart%3A3");
    assert_eq!(json(response).await, json!({"task_id": "order-17/part:3", "status_url": location}));
    assert_eq!(json(fleet.get(&location).await).await["state"], "waiting");

    fleet.work(|body| Ok(body.payload.to().expect("JSON"))).await;
    let status = loop {
        let status = json(fleet.get(&location).await).await;
        if status["state"] != "waiting" {
            break status;
        }
    };
    assert_eq!((&status["state"], &status["reply"]["result"]), (&json!("succeeded"), &json!({"n": 1})));
}

#[tokio::test]
async fn a_delayed_task_waits_outside_its_pool_and_its_status_says_so() {
    let fleet = Fleet::start().await;
    let response = fleet.post(TASKS, &json!({"kind": "echo", "task_id": "later", "priority": 7, "delay_ms": 60_000})).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let status = json(fleet.get(&format!("{TASKS}/later")).await).await;
    assert_eq!(status["state"], "delayed");
    assert!(fleet.queue.take(&pool()).await.expect("a broker").is_none());
    let waits = Queue::Delayed(std::time::Duration::from_secs(60));
    let delivery = fleet.queue.take(&waits).await.expect("a broker").expect("a task");
    assert_eq!((delivery.envelope.priority, delivery.envelope.headers.not_before_ms), (Some(7), status["not_before_ms"].as_u64()));
}

#[tokio::test]
async fn a_task_carries_its_properties_and_trace() {
    let fleet = Fleet::start().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = fleet.http.post(format!("{}{TASKS}", fleet.url)).header("traceparent", trace);
    let response = request.json(&json!({"kind": "echo", "priority": 3, "limits": {"max_attempts": 2}})).send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let delivery = fleet.queue.take(&pool()).await.expect("a broker").expect("a task");
    assert_eq!((delivery.envelope.kind.as_deref(), delivery.envelope.priority), (Some("echo"), Some(3)));
    assert_eq!(delivery.envelope.headers.traceparent.as_deref(), Some(trace));
    assert_eq!(delivery.body, &br#"{"limits":{"max_attempts":2},"payload":null}"#[..]);
}

#[tokio::test]
async fn what_a_task_keeps_and_whether_it_waits_for_tensors_goes_with_its_body() {
    let fleet = Fleet::start().await;
    for (keep_as, written) in [
        (json!("y"), r#""y""#),
        (json!(["y", "z"]), r#"["y","z"]"#),
        (json!({"names": ["y"], "ttl_ms": 5_000}), r#"{"names":["y"],"ttl_ms":5000,"if_exists":"replace"}"#),
    ] {
        let response = fleet.post(TASKS, &json!({"kind": "echo", "payload": 1, "keep_as": keep_as, "on_missing": "wait"})).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED, "{keep_as}");
        let delivery = fleet.queue.take(&pool()).await.expect("a broker").expect("a task");
        let expected = format!(r#"{{"keep_as":{written},"on_missing":"wait","payload":1}}"#);
        assert_eq!(delivery.body, expected.as_bytes(), "{keep_as}");
    }
}

#[tokio::test]
async fn an_unknown_or_impossible_task_is_not_found() {
    let fleet = Fleet::start().await;
    for id in ["never-seen", "%7Bbrace%7D", "%FF"] {
        problem(fleet.get(&format!("{TASKS}/{id}")).await, StatusCode::NOT_FOUND).await;
    }
}

#[tokio::test]
async fn a_wrong_field_is_named() {
    let fleet = Fleet::start().await;
    let cases = [
        (json!({}), "kind"),
        (json!({"kind": "Echo"}), "kind"),
        (json!({"kind": "echo", "priority": 10}), "priority"),
        (json!({"kind": "echo", "task_id": "a b"}), "task_id"),
        (json!({"kind": "echo", "limits": {"max_attempts": 0}}), "limits.max_attempts"),
        (json!({"kind": "echo", "needs": {"compute_capability": "nine"}}), "needs.compute_capability"),
    ];
    for (request, field) in cases {
        let document = problem(fleet.post(TASKS, &request).await, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(document["field"], field, "{document}");
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_or_too_deep_is_refused_in_every_way() {
    let options = GatewayOptions { body_bytes_max: 1_000, ..GatewayOptions::default() };
    let fleet = Setup { options, ..Setup::default() }.start().await;
    let send = |content_type: &'static str, body: Vec<u8>| {
        fleet.http.post(format!("{}{TASKS}", fleet.url)).header("content-type", content_type).body(body).send()
    };
    let too_large = format!("{{\"kind\":\"echo\",\"payload\":\"{}\"}}", "x".repeat(2_000));
    let deep = format!("{{\"kind\":\"echo\",\"payload\":{}{}}}", "[".repeat(400), "]".repeat(400));
    let cases = [
        ("application/json", b"{".to_vec(), StatusCode::BAD_REQUEST),
        ("application/json", vec![0xff, 0xfe], StatusCode::BAD_REQUEST),
        ("application/json", deep.into_bytes(), StatusCode::UNPROCESSABLE_ENTITY),
        ("application/json", too_large.into_bytes(), StatusCode::PAYLOAD_TOO_LARGE),
        ("application/x-www-form-urlencoded", b"{}".to_vec(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ];
    for (content_type, body, status) in cases {
        problem(send(content_type, body).await.expect("an answer"), status).await;
    }
}

#[tokio::test]
async fn without_the_store_nothing_is_submitted_and_the_answer_is_503() {
    let fleet = Setup { store: Arc::new(DownStore::default()), ..Setup::default() }.start().await;
    let response = fleet.post(TASKS, &json!({"kind": "echo"})).await;
    assert!(retry_after_s(&response) >= 1);
    problem(response, StatusCode::SERVICE_UNAVAILABLE).await;
    problem(fleet.get(&format!("{TASKS}/some")).await, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(fleet.queue.depth(&pool()).await.expect("a broker").expect("a queue").ready, 0);
}

#[tokio::test]
async fn a_waiting_task_can_be_cancelled_and_an_ended_one_is_a_conflict() {
    let fleet = Fleet::start().await;
    let cancel = async |task_id: &str| fleet.http.delete(format!("{}{TASKS}/{task_id}", fleet.url)).send().await.expect("an answer");
    fleet.post(TASKS, &json!({"kind": "echo", "task_id": "unwanted", "payload": 1})).await;
    for _ in 0..2 {
        let response = cancel("unwanted").await;
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        assert_eq!(json(response).await, json!({"task_id": "unwanted", "was": "waiting"}));
    }
    assert_eq!(json(fleet.get("/api/v1/tasks/unwanted").await).await["state"], "cancelled");
    let fleet = Fleet::start().await;
    fleet.post(TASKS, &json!({"kind": "echo", "task_id": "done", "payload": 1})).await;
    fleet.work(|body| Ok(body.payload.to().expect("JSON"))).await;
    while json(fleet.get("/api/v1/tasks/done").await).await["state"] == "waiting" {
        tokio::task::yield_now().await;
    }
    let response = fleet.http.delete(format!("{}{TASKS}/done", fleet.url)).send().await.expect("an answer");
    let ended = problem(response, StatusCode::CONFLICT).await;
    assert_eq!((&ended["detail"], &ended["task_id"]), (&json!("it succeeded"), &json!("done")));
}

#[tokio::test]
async fn a_cancel_of_an_id_that_no_task_has_says_what_it_counts_for() {
    let fleet = Fleet::start().await;
    let cancel = async |task: &str| fleet.http.delete(format!("{}{TASKS}/{task}", fleet.url)).send().await.expect("an answer");
    for _ in 0..2 {
        let response = cancel("never-seen").await;
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        let answer = json(response).await;
        assert_eq!((&answer["was"], &answer["task_id"]), (&json!("unseen"), &json!("never-seen")));
        assert!(answer["note"].as_str().expect("a note").contains("submitted from now on is not"), "{answer}");
        problem(fleet.get(&format!("{TASKS}/never-seen")).await, StatusCode::NOT_FOUND).await;
    }
    fleet.post(TASKS, &json!({"kind": "echo", "task_id": "never-seen"})).await;
    assert_eq!(json(fleet.get(&format!("{TASKS}/never-seen")).await).await["state"], "waiting");

    let answer = json(cancel("never?ahead=true").await).await;
    assert_eq!(answer["was"], "unseen");
    assert!(answer["note"].as_str().expect("a note").contains("or is submitted later"), "{answer}");
    fleet.post(TASKS, &json!({"kind": "echo", "task_id": "never"})).await;
    assert_eq!(json(fleet.get(&format!("{TASKS}/never")).await).await["state"], "cancelled");

    for query in ["ahead", "ahead=perhaps", "ahed=true"] {
        let document = problem(cancel(&format!("some?{query}")).await, StatusCode::BAD_REQUEST).await;
        assert_eq!(document["field"], "ahead", "{query}");
    }
    problem(fleet.get(&format!("{TASKS}/some")).await, StatusCode::NOT_FOUND).await;
}
