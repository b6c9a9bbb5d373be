//! GPUs, health and metrics.

use std::sync::{Arc, atomic::Ordering};

use reqwest::StatusCode;
use serde_json::json;
use task_queue::TaskQueue;

use crate::{
    down::{DownStore, DownTable},
    fleet::{Fleet, Setup, heartbeat, json, problem, retry_after_s},
};

#[tokio::test]
async fn gpus_are_shown_as_the_table_has_them() {
    let fleet = Setup { kinds: &[], ..Setup::default() }.start().await;
    assert_eq!(json(fleet.get("/api/v1/gpus").await).await, json!({"pool": "default", "gpus": []}));
    for id in ["sim-1", "sim-0"] {
        fleet.table.heartbeat(&heartbeat(id, &[])).await.expect("a table");
    }
    let all = json(fleet.get("/api/v1/gpus").await).await;
    let ids: Vec<&str> = all["gpus"].as_array().expect("a list").iter().filter_map(|gpu| gpu["gpu"]["gpu_id"].as_str()).collect();
    assert_eq!(ids, ["sim-0", "sim-1"]);
    let one = json(fleet.get("/api/v1/gpus/sim-1").await).await;
    assert_eq!((&one["gpu"]["gpu_id"], &one["eligible"], &one["held"]), (&json!("sim-1"), &json!(true), &json!(0)));
    problem(fleet.get("/api/v1/gpus/sim-7").await, StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn readiness_says_what_is_down_and_liveness_asks_nobody() {
    let fleet = Fleet::start().await;
    assert_eq!(json(fleet.get("/readyz").await).await, json!({"status": "ok"}));
    fleet.broker.block_publishers("low on disk on node 7");
    let document = problem(fleet.get("/readyz").await, StatusCode::SERVICE_UNAVAILABLE).await;
    let detail = document["detail"].as_str().expect("text");
    assert!(detail.starts_with("queue: the broker blocks publishers") && !detail.contains("on node 7"), "{document}");

    let fleet = Setup { table: Arc::new(DownTable), store: Arc::new(DownStore::default()), ..Setup::default() }.start().await;
    fleet.queue.close().await;
    let document = problem(fleet.get("/readyz").await, StatusCode::SERVICE_UNAVAILABLE).await;
    let detail = document["detail"].as_str().expect("text");
    assert!(["queue:", "table: it does not answer", "store: it does not answer"].iter().all(|part| detail.contains(part)), "{detail}");
    assert!(!detail.contains("redis://"), "where the servers are is nobody's business: {detail}");
    assert_eq!(fleet.get("/healthz").await.status(), StatusCode::OK);

    let gpus = fleet.get("/api/v1/gpus").await;
    assert!(retry_after_s(&gpus) >= 1);
    problem(gpus, StatusCode::SERVICE_UNAVAILABLE).await;
}

#[tokio::test]
async fn a_kind_that_is_down_on_every_gpu_is_named_by_a_gateway_that_is_ready() {
    let setup = Setup { kinds: &["echo"], ..Setup::default() };
    let mut second = heartbeat("sim-1", &[]);
    for kind in ["echo", "embed"] {
        second.row.kinds_down.insert(kind.parse().expect("a kind"), "setup failed".to_owned());
    }
    setup.table.heartbeat(&second).await.expect("a table");
    let fleet = setup.start().await;
    let response = fleet.get("/readyz").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(json(response).await, json!({"status": "ok", "down": [{"kind": "embed", "reason": "setup failed"}]}));
}

#[tokio::test]
async fn a_store_that_answers_and_takes_no_writes_is_not_ready_and_is_not_asked_by_everybody() {
    let store = Arc::new(DownStore { answers: true, ..DownStore::default() });
    let fleet = Setup { store: store.clone(), ..Setup::default() }.start().await;
    let asking = (0..20).map(|_| fleet.get("/readyz"));
    for response in futures::future::join_all(asking).await {
        let document = problem(response, StatusCode::SERVICE_UNAVAILABLE).await;
        assert_eq!(document["detail"], "store: it answers, and refuses to write");
    }
    let probes = store.probes.load(Ordering::Relaxed);
    assert!((1..20).contains(&probes), "twenty at once are told the same answer; it was probed {probes} times");
    assert_eq!(fleet.post("/api/v1/tasks", &json!({"kind": "echo"})).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn nothing_of_the_servers_behind_shows_in_an_answer() {
    let fleet = Setup { table: Arc::new(DownTable), store: Arc::new(DownStore::default()), ..Setup::default() }.start().await;
    let task = json!({"kind": "echo", "task_id": "t"});
    let cancel = fleet.http.delete(format!("{}/api/v1/tasks/t", fleet.url)).send();
    let mut answers = vec![fleet.post("/api/v1/tasks", &task).await, fleet.post("/api/v1/predict", &json!({"text": "a"})).await];
    answers.extend([fleet.get("/api/v1/tasks/t").await, fleet.get("/api/v1/gpus").await, cancel.await.expect("an answer")]);
    for answer in answers {
        let url = answer.url().clone();
        let document = problem(answer, StatusCode::SERVICE_UNAVAILABLE).await.to_string();
        assert!(["redis://", "nowhere", "refused"].iter().all(|inner| !document.contains(inner)), "{url}: {document}");
    }
}

#[tokio::test]
async fn metrics_count_requests_by_route_and_never_by_path() {
    let fleet = Fleet::start().await;
    fleet.work(|_| Ok(json!({"text": "b"}))).await;
    for _ in 0..3 {
        assert_eq!(fleet.post("/api/v1/predict", &json!({"text": "a"})).await.status(), StatusCode::OK);
    }
    fleet.get("/api/v1/tasks/one").await;
    fleet.get("/api/v1/tasks/two").await;
    fleet.get("/nowhere/at/all").await;
    fleet.get("/metrics").await;
    let response = fleet.get("/metrics").await;
    assert!(response.headers()["content-type"].to_str().expect("text").starts_with("text/plain; version=0.0.4"));
    let text = response.text().await.expect("a body");
    for line in [
        r#"gateway_requests_total{code="200",method="POST",route="/api/v1/predict"} 3"#,
        r#"gateway_requests_total{code="404",method="GET",route="/api/v1/tasks/{task_id}"} 2"#,
        r#"gateway_requests_total{code="404",method="GET",route="none"} 1"#,
        r#"gateway_request_seconds_count{route="/api/v1/predict"} 3"#,
        r#"gateway_replies_total{how="arrived"} 3"#,
        "gateway_tasks_waited_for 0",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
    }
}
