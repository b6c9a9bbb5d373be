//! HTTP, as curl would ask it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{
    program::Program,
    redis::{Persistence, PrivateRedis},
    until::until,
};

use crate::{model, servers::Servers};

/// The status code and the JSON of a GET.
pub async fn get_json(url: &str) -> (u16, Value) {
    read(reqwest::get(url).await.expect("an answer")).await
}

/// The text of a GET.
pub async fn get_text(url: &str) -> String {
    reqwest::get(url).await.expect("an answer").text().await.expect("text")
}

/// The status code and the JSON of the answer to a POST of JSON.
pub async fn post(url: &str, body: &Value) -> (u16, Value) {
    read(reqwest::Client::new().post(url).json(body).send().await.expect("an answer")).await
}

async fn read(answer: reqwest::Response) -> (u16, Value) {
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_accepted_and_its_location_tells_of_its_end() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(2, &[]).await;
    let url = fleet.url().await;
    let task = json!({"kind": "echo", "payload": {"n": 7}, "gpu_options": {"specific_gpu_id": "sim-1"}});
    let answer = reqwest::Client::new().post(format!("{url}/api/v1/tasks")).json(&task).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let accepted: Value = answer.json().await.unwrap();
    assert_eq!(accepted["status_url"], location);
    assert!(location.ends_with(accepted["task_id"].as_str().unwrap()), "{location}");

    let mut status = Value::Null;
    until("the task ended", async || {
        status = get_json(&format!("{url}{location}")).await.1;
        status["state"] == "succeeded"
    })
    .await;
    assert_eq!((&status["reply"]["result"], &status["gpu_id"]), (&json!({"n": 7}), &json!("sim-1")));

    let (code, problem) = post(&format!("{url}/api/v1/tasks"), &json!({"kind": "echo", "needs": {"hurry": true}})).await;
    assert_eq!((code, &problem["field"]), (422, &json!("needs.hurry")));
    assert_eq!(get_json(&format!("{url}/api/v1/tasks/nobody-knows-it")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_gpus_readiness_metrics_and_the_routes() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(2, &[]).await;
    let url = fleet.url().await;
    let (code, listed) = get_json(&format!("{url}/api/v1/gpus")).await;
    let ids: Vec<&str> = listed["gpus"].as_array().unwrap().iter().map(|view| view["gpu"]["gpu_id"].as_str().unwrap()).collect();
    assert_eq!((code, ids), (200, vec!["sim-0", "sim-1"]), "{listed}");
    assert_eq!(get_json(&format!("{url}/readyz")).await, (200, json!({"status": "ok"})));
    assert_eq!(get_json(&format!("{url}/healthz")).await.0, 200);
    let routes = get_json(&format!("{url}/openapi.json")).await.1;
    for route in ["/api/v1/predict", "/api/v1/tasks", "/api/v1/tasks/{task_id}", "/api/v1/gpus", "/metrics"] {
        assert!(routes["paths"][route].is_object(), "{route} is not documented");
    }
    has_the_gpu_metrics(&get_text(&format!("{url}/metrics")).await, ["sim-0", "sim-1"]);
}

/// The names that the requirements give, for each GPU.
fn has_the_gpu_metrics<const N: usize>(metrics: &str, gpus: [&str; N]) {
    let series: BTreeSet<&str> = metrics.lines().filter_map(|line| line.split(' ').next()).collect();
    for name in
        ["gpu_utilization_percent", "gpu_memory_used_mb", "gpu_temperature_celsius", "gpu_tasks_count", "gpu_response_time_ms_count"]
    {
        for gpu_id in gpus {
            let wanted = format!("{name}{{gpu_id=\"{gpu_id}\"}}");
            assert!(series.contains(wanted.as_str()), "{wanted} is not among\n{metrics}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_not_ready_while_redis_answers_and_refuses_writes() {
    let redis = PrivateRedis::start(Persistence::Nothing).await;
    let program = Servers::with_redis(redis.url()).await.up(1, &[]).await;
    let url = program.url().await;
    let ready = format!("{url}/readyz");
    let memory = async |bytes: &str| {
        let setting = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).to_owned();
        setting.exec_async(&mut redis.connection().await).await.expect("the private Redis takes its settings");
    };
    until("the gateway is ready", async || get_json(&ready).await.0 == 200).await;
    memory("1").await;
    until("the gateway is not ready", async || get_json(&ready).await.0 == 503).await;
    let detail = get_json(&ready).await.1["detail"].as_str().expect("text").to_owned();
    assert!(detail.contains("store: it answers, and refuses to write") && detail.contains("table: "), "{detail}");
    let (code, problem) = post(&format!("{url}/api/v1/tasks"), &json!({"kind": "echo"})).await;
    assert_eq!(code, 503, "a submit fares no better: {problem}");
    for words in [&detail, &problem.to_string()] {
        assert!(!words.contains("maxmemory") && !words.contains("127.0.0.1"), "what the server said is for the log: {words}");
    }
    memory("0").await;
    until("the gateway is ready again", async || get_json(&ready).await.0 == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_a_gateway_shows_its_metrics() {
    let servers = Servers::fresh().await;
    let worker = servers.start(&["worker", "--simulated", "1", "--id-prefix", "lone", "--set", "worker.metrics_listen=127.0.0.1:0"]);
    let url = worker.logged("metrics are at ").await;
    servers.eligible(1).await;
    has_the_gpu_metrics(&get_text(&url).await, ["lone-0"]);
    let (code, ready) = get_json(&url.replace("/metrics", "/readyz")).await;
    assert_eq!((code, ready["status"].as_str(), ready["down"].as_array().map(Vec::len)), (200, Some("ok"), Some(0)), "{ready}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn predict_answers_with_the_text_and_who_ran_it() {
    let folder = tempfile::tempdir().unwrap();
    model::write(folder.path());
    let model = folder.path().to_str().unwrap();
    let fleet = Program::start(["up", "--simulated", "2", "--listen", "127.0.0.1:0", "--model", model], &[]);
    let url = format!("{}/api/v1/predict", fleet.url().await);
    let request = json!({"text": "the way of a task", "max_length": 6, "gpu_options": {"specific_gpu_id": "sim-1"}});
    let (code, first) = post(&url, &request).await;
    assert_eq!(code, 200, "{first}");
    assert_eq!((&first["gpu_id"], &first["tokens"], first["text"].is_string()), (&json!("sim-1"), &json!(6), true), "{first}");
    let (_, second) = post(&url, &request).await;
    assert_eq!(second["text"], first["text"], "the likeliest text is always the same");
    let (code, problem) = post(&url, &json!({"text": "the way of a task", "max_length": 0})).await;
    assert_eq!((code, &problem["field"]), (422, &json!("max_length")), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_predict_that_takes_too_long_is_answered_with_the_tasks_id() {
    let servers = Servers::fresh().await;
    let gateway = servers.start(&["gateway", "--listen", "127.0.0.1:0", "--set", "gateway.predict_timeout_ms=3000"]);
    let url = gateway.url().await;
    // The limit is for submit and wait together, and the first submit declares queues: time enough for it on a busy machine.
    // A GPU that is away may come back, so that it is waited for.
    let request = json!({"text": "no worker is there", "gpu_options": {"specific_gpu_id": "away"}});
    let (code, problem) = post(&format!("{url}/api/v1/predict"), &request).await;
    assert_eq!(code, 504, "{problem}");
    let (code, status) = get_json(&format!("{url}{}", problem["status_url"].as_str().unwrap())).await;
    assert_eq!((code, &status["task_id"], &status["state"]), (200, &problem["task_id"], &json!("waiting")));
}
