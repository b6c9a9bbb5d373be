//! `POST /api/v1/predict`.

use std::time::{Duration, Instant};

use gateway::GatewayOptions;
use protocol::{Outcome, TaskError};
use reqwest::StatusCode;
use serde_json::{Value, json};
use task_queue::{QueueOptions, TaskQueue};

use crate::fleet::{Fleet, Setup, json, pool, problem, retry_after_s};

const PREDICT: &str = "/api/v1/predict";

#[tokio::test]
async fn text_alone_is_enough() {
    let fleet = Fleet::start().await;
    fleet.work(|body| Ok(json!({"text": format!("{} there was", body.payload.to::<Value>().expect("JSON")["text"].as_str().expect("text")), "tokens": 2}))).await;
    let response = fleet.post(PREDICT, &json!({"text": "Once upon a time"})).await;
    assert_eq!(response.status(), StatusCode::OK);
    let answer = json(response).await;
    assert_eq!(answer["text"], "Once upon a time there was");
    assert_eq!((&answer["tokens"], &answer["gpu_id"], &answer["strategy"]["used"]), (&json!(2), &json!("sim-0"), &json!("least_loaded")));
    assert!(answer["task_id"].is_string());
}

#[tokio::test]
async fn every_option_reaches_the_task() {
    let fleet = Fleet::start().await;
    fleet.work(|body| Ok(json!({"text": "", "seen": serde_json::to_value(body).expect("JSON")}))).await;
    let options = json!({"strategy": "round_robin", "specific_gpu_id": "GPU-7", "batch_split": false});
    let request = json!({"text": "a", "max_length": 9, "temperature": 0.5, "seed": 7, "gpu_options": options});
    let answer = json(fleet.post(PREDICT, &request).await).await;
    assert_eq!(answer["seen"]["payload"], json!({"text": "a", "max_length": 9, "temperature": 0.5, "seed": 7}));
    assert_eq!(answer["seen"]["gpu_options"], options);
}

#[tokio::test]
async fn a_wrong_field_is_named_before_anything_is_submitted() {
    let fleet = Fleet::start().await;
    fleet.queue.declare(&pool()).await.expect("declare");
    let cases = [
        (json!({}), "text"),
        (json!({"text": 5}), "text"),
        (json!({"text": "a", "max_length": -1}), "max_length"),
        (json!({"text": "a", "temperature": "hot"}), "temperature"),
        (json!({"text": "a", "top_k": 1}), "top_k"),
        (json!({"text": "a", "gpu_options": {"specific_gpu_id": "a b"}}), "gpu_options.specific_gpu_id"),
        (json!({"text": "a", "gpu_options": {"speed": 1}}), "gpu_options.speed"),
        (json!({"text": "a", "gpu_options": []}), "gpu_options"),
        (json!({"text": "a", "gpu_options": {"strategy": "x".repeat(65)}}), "gpu_options.strategy"),
    ];
    for (request, field) in cases {
        let document = problem(fleet.post(PREDICT, &request).await, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(document["field"], field, "{document}");
    }
    assert_eq!(fleet.queue.depth(&pool()).await.expect("a broker").expect("a queue").ready, 0);
}

#[tokio::test]
async fn how_a_task_failed_decides_the_status_code() {
    let cases = [
        (Outcome::Failed, "invalid_payload", Some("payload.max_length"), StatusCode::UNPROCESSABLE_ENTITY, json!("max_length")),
        (Outcome::Failed, "executor_failed", None, StatusCode::BAD_GATEWAY, Value::Null),
        (Outcome::Failed, "out_of_memory", None, StatusCode::BAD_GATEWAY, Value::Null),
        (Outcome::Failed, "attempt_timeout", None, StatusCode::GATEWAY_TIMEOUT, Value::Null),
        (Outcome::Succeeded, "reply_not_kept", None, StatusCode::BAD_GATEWAY, Value::Null),
        (Outcome::Cancelled, "cancelled", None, StatusCode::CONFLICT, Value::Null),
        (Outcome::Expired, "deadline", None, StatusCode::GATEWAY_TIMEOUT, Value::Null),
    ];
    for (outcome, code, field, status, named) in cases {
        let fleet = Fleet::start().await;
        let error = TaskError { field: field.map(str::to_owned), ..TaskError::new(code, "because") };
        fleet.work(move |_| Err((outcome, error.clone()))).await;
        let document = problem(fleet.post(PREDICT, &json!({"text": "a"})).await, status).await;
        assert_eq!((&document["code"], &document["field"], &document["detail"]), (&json!(code), &named, &json!("because")));
        assert!(document["task_id"].is_string(), "{document}");
    }
}

#[tokio::test]
async fn a_time_limit_answers_504_with_where_to_look() {
    let options = GatewayOptions { predict_timeout: Duration::from_millis(50), ..GatewayOptions::default() };
    let fleet = Setup { options, ..Setup::default() }.start().await;
    let document = problem(fleet.post(PREDICT, &json!({"text": "a"})).await, StatusCode::GATEWAY_TIMEOUT).await;
    assert_eq!(document["type"], "urn:gpufleet:problem:wait-timeout");
    let status = fleet.get(document["status_url"].as_str().expect("a place")).await;
    assert_eq!(json(status).await["state"], "waiting");
}

#[tokio::test]
async fn a_full_queue_answers_429_and_a_blocked_or_closed_broker_503_at_once() {
    let queue = QueueOptions { length_max: Some(1), ..QueueOptions::default() };
    let fleet = Setup { queue, ..Setup::default() }.start().await;
    assert_eq!(fleet.post("/api/v1/tasks", &json!({"kind": "echo"})).await.status(), StatusCode::ACCEPTED);

    let started = Instant::now();
    let full = fleet.post(PREDICT, &json!({"text": "a"})).await;
    assert_eq!(retry_after_s(&full), 1);
    problem(full, StatusCode::TOO_MANY_REQUESTS).await;

    fleet.broker.block_publishers("low on memory");
    let blocked = fleet.post(PREDICT, &json!({"text": "a"})).await;
    assert_eq!(retry_after_s(&blocked), 1);
    assert!(problem(blocked, StatusCode::SERVICE_UNAVAILABLE).await["detail"].as_str().expect("text").contains("low on memory"));

    fleet.queue.close().await;
    let closed = fleet.post(PREDICT, &json!({"text": "a"})).await;
    assert_eq!(retry_after_s(&closed), 1);
    problem(closed, StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}
