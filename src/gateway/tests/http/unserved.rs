//! Tasks that no living GPU can run.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gateway::GatewayOptions;
use gpu_table::{GpuTable, Leases, MemoryTable, Sighting};
use protocol::{Kind, PoolName, config::WhenUnserved, environment::Clock};
use reqwest::StatusCode;
use serde_json::{Value, json};
use task_queue::TaskQueue;

use crate::{
    down::DownTable,
    fleet::{Fleet, Setup, heartbeat, json, pool, problem, retry_after_s},
};

const TASKS: &str = "/api/v1/tasks";
const PREDICT: &str = "/api/v1/predict";

/// A clock that only the test moves.
struct MovedClock(AtomicU64);

impl Clock for MovedClock {
    fn now_us(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl MovedClock {
    fn forward(&self, seconds: u64) {
        self.0.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
}

/// A table that has just heard of a GPU that serves these kinds, and its clock.
async fn fresh_table_of(kinds: &[&str]) -> (Arc<dyn GpuTable>, Arc<MovedClock>) {
    let clock = Arc::new(MovedClock(AtomicU64::new(1_700_000_000_000_000)));
    let table = MemoryTable::new(clock.clone(), Leases { held: Duration::from_secs(60), offered: Duration::from_secs(3) });
    table.heartbeat(&heartbeat("sim-0", kinds)).await.expect("a table");
    (Arc::new(table), clock)
}

/// A table that has heard of a GPU that serves these kinds for so many seconds.
async fn table_of(kinds: &[&str], seconds: u64) -> Arc<dyn GpuTable> {
    let (table, clock) = fresh_table_of(kinds).await;
    clock.forward(seconds);
    table
}

/// A gateway before a GPU that serves echo, which the table has known for longer than a lease.
async fn fleet_with(unserved: WhenUnserved) -> Fleet {
    let options = GatewayOptions { unserved, predict_timeout: Duration::from_millis(50), ..GatewayOptions::default() };
    Setup { options, table: table_of(&["echo"], 30).await, kinds: &[], ..Setup::default() }.start().await
}

/// How many tasks were submitted.
async fn submitted(fleet: &Fleet) -> u32 {
    fleet.queue.depth(&pool()).await.expect("a broker").map_or(0, |depth| depth.ready)
}

#[tokio::test]
async fn a_task_that_no_living_gpu_can_run_is_taken_with_a_warning_that_says_what_is_served() {
    let fleet = fleet_with(WhenUnserved::Wait).await;
    let warned = async |request: Value| {
        let response = fleet.post(TASKS, &request).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        json(response).await["warnings"].clone()
    };
    assert_eq!(warned(json!({"kind": "ecko"})).await, json!(["no living GPU of pool default serves kind ecko; served now: echo"]));
    let memory = warned(json!({"kind": "echo", "needs": {"memory_mb": 90_000}})).await;
    assert!(memory[0].as_str().is_some_and(|text| text.contains("90000 MB") && text.contains("80000 MB")), "{memory}");
    assert_eq!(warned(json!({"kind": "echo", "needs": {"memory_mb": 80_000}})).await, Value::Null);
    assert_eq!(warned(json!({"kind": "ecko", "gpu_options": {"specific_gpu_id": "sim-7"}})).await, Value::Null, "it may come back");
    assert_eq!(submitted(&fleet).await, 4);
}

#[tokio::test]
async fn a_gateway_that_is_told_to_refuses_what_no_living_gpu_can_run_and_submits_nothing() {
    let fleet = fleet_with(WhenUnserved::Refuse).await;
    let refused = problem(fleet.post(TASKS, &json!({"kind": "ecko"})).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!((&refused["type"], &refused["field"]), (&json!("urn:gpufleet:problem:unserved"), &json!("kind")));
    let detail = refused["detail"].as_str().expect("text");
    assert!(["kind ecko", "served now: echo", "gateway.unserved"].iter().all(|part| detail.contains(part)), "{detail}");
    let needs = json!({"kind": "echo", "needs": {"compute_capability": "10.0"}});
    let refused = problem(fleet.post(TASKS, &needs).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(refused["field"], "needs.compute_capability");
    assert_eq!(submitted(&fleet).await, 0);
    assert_eq!(fleet.post(TASKS, &json!({"kind": "echo"})).await.status(), StatusCode::ACCEPTED);
}

/// A kind whose handler is down on the only GPU that runs it.
#[tokio::test]
async fn a_task_of_a_kind_that_is_down_is_taken_with_the_reason_whatever_is_done_with_what_nobody_serves() {
    let (table, clock) = fresh_table_of(&["echo"]).await;
    let mut beat = heartbeat("sim-0", &["echo"]);
    beat.row.kinds_down.insert(Kind::new("embed").expect("valid"), "handler mine: setup failed".to_owned());
    table.heartbeat(&beat).await.expect("a table");
    clock.forward(30);
    let options = GatewayOptions { unserved: WhenUnserved::Refuse, ..GatewayOptions::default() };
    let fleet = Setup { options, table, kinds: &[], ..Setup::default() }.start().await;
    let response = fleet.post(TASKS, &json!({"kind": "embed"})).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let down = "the kind embed is down on 1 GPU that could run it: handler mine: setup failed (sim-0)";
    assert_eq!(json(response).await["warnings"], json!([down]));
    assert_eq!(submitted(&fleet).await, 1);
}

#[tokio::test]
async fn nobody_is_refused_by_a_table_that_was_lost_a_moment_ago() {
    let options =
        GatewayOptions { unserved: WhenUnserved::Refuse, predict_timeout: Duration::from_millis(500), ..GatewayOptions::default() };
    let fleet = Setup { options, table: table_of(&["echo"], 1).await, kinds: &[], ..Setup::default() }.start().await;
    let response = fleet.post(TASKS, &json!({"kind": "ecko"})).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert!(json(response).await["warnings"][0].is_string());
    let waited = problem(fleet.post(PREDICT, &json!({"text": "a"})).await, StatusCode::GATEWAY_TIMEOUT).await;
    assert_eq!(waited["type"], "urn:gpufleet:problem:wait-timeout");
}

#[tokio::test]
async fn a_gateway_whose_workers_are_about_to_start_waits_for_them() {
    let options = GatewayOptions { predict_timeout: Duration::from_millis(500), ..GatewayOptions::default() };
    let fleet = Setup { options, kinds: &[], ..Setup::default() }.start().await;
    problem(fleet.post(PREDICT, &json!({"text": "a"})).await, StatusCode::GATEWAY_TIMEOUT).await;
    assert_eq!(submitted(&fleet).await, 1);
}

#[tokio::test]
async fn a_prediction_that_no_living_gpu_can_make_is_refused_at_once() {
    let options = GatewayOptions { lease: Duration::from_nanos(1), ..GatewayOptions::default() };
    let nobody = Setup { options, kinds: &[], ..Setup::default() }.start().await;
    for fleet in [fleet_with(WhenUnserved::Wait).await, nobody] {
        for stream in [false, true] {
            let response = fleet.post(PREDICT, &json!({"text": "a", "stream": stream})).await;
            assert!(retry_after_s(&response) >= 1);
            let refused = problem(response, StatusCode::SERVICE_UNAVAILABLE).await;
            assert_eq!(refused["type"], "urn:gpufleet:problem:no-gpu");
            assert!(refused["detail"].as_str().is_some_and(|text| text.contains("serves kind predict")), "{refused}");
        }
        assert_eq!(submitted(&fleet).await, 0);
    }
}

#[tokio::test]
async fn a_prediction_for_a_fleet_that_has_just_started_waits_until_it_is_sure_that_nobody_makes_it() {
    let (table, clock) = fresh_table_of(&["echo"]).await;
    let fleet = Setup { options: GatewayOptions::default(), table, kinds: &[], ..Setup::default() }.start().await;
    let (body, mut wait) = (json!({"text": "a"}), pin!(tokio::time::sleep(Duration::from_millis(100))));
    let mut asking = pin!(fleet.post(PREDICT, &body));
    tokio::select! {
        biased;
        answer = &mut asking => panic!("nothing is sure yet: {answer:?}"),
        () = &mut wait => clock.forward(30),
    }
    let refused = problem(asking.await, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(refused["type"], "urn:gpufleet:problem:no-gpu");
    assert_eq!(submitted(&fleet).await, 0);
}

#[tokio::test]
async fn where_the_table_does_not_answer_nobody_is_warned_or_refused() {
    let options =
        GatewayOptions { unserved: WhenUnserved::Refuse, predict_timeout: Duration::from_millis(50), ..GatewayOptions::default() };
    let fleet = Setup { options, table: Arc::new(DownTable), ..Setup::default() }.start().await;
    let response = fleet.post(TASKS, &json!({"kind": "ecko"})).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(json(response).await["warnings"], Value::Null);
    problem(fleet.post(PREDICT, &json!({"text": "a"})).await, StatusCode::GATEWAY_TIMEOUT).await;
    problem(fleet.get("/api/v1/unserved").await, StatusCode::SERVICE_UNAVAILABLE).await;
}

#[tokio::test]
async fn what_workers_found_unserved_is_listed() {
    let fleet = fleet_with(WhenUnserved::Wait).await;
    assert_eq!(json(fleet.get("/api/v1/unserved").await).await, json!({"pool": "default", "unserved": []}));
    let kind = |name: &str| Kind::new(name).expect("valid");
    let sighting =
        Sighting { wanted: "kind ecko".to_owned(), kind: kind("ecko"), reason: "because".to_owned(), served: vec![kind("echo")], times: 3 };
    fleet.table.note_unserved(&PoolName::default(), &sighting).await.expect("a table");
    let listed = json(fleet.get("/api/v1/unserved").await).await;
    let entry = &listed["unserved"][0];
    assert_eq!((&entry["wanted"], &entry["kind"], &entry["reason"]), (&json!("kind ecko"), &json!("ecko"), &json!("because")));
    assert_eq!((&entry["served"], &entry["sightings"]), (&json!(["echo"]), &json!(3)));
    assert!(entry["first_ms"].is_u64() && entry["last_ms"].is_u64(), "{entry}");
}
