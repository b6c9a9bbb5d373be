//! The fleet at a glance: overview, verdict, scaling, histories, the live stream, metrics.

use std::sync::Arc;

use protocol::{HistoryPoint, HistorySpan, PoolName, StepName, TaskStep, claim::Settings};
use reqwest::StatusCode;
use serde_json::{Value, json};
use task_queue::QueueOptions;

use crate::{
    down::DownTable,
    fleet::{Fleet, Setup, environment, json as read, problem, retry_after_s, until},
    task_list::{step, submitted},
};

#[tokio::test]
async fn the_overview_has_what_journal_table_and_broker_say() {
    let fleet = Fleet::start().await;
    fleet.tell([submitted("a", "echo", 9), submitted("b", "echo", 0), submitted("c", "echo", 0)]);
    let gpu_id = Some("sim-0".parse().expect("valid"));
    fleet.tell([TaskStep { gpu_id, attempt: Some(1), ..step("c", StepName::Began) }]);
    fleet.bury("dead", "{}").await;
    let overview = until(
        "the steps are indexed",
        async || read(fleet.get("/api/v1/overview").await).await,
        |overview| overview["tasks"]["waiting"] == 2 && overview["dead"] == 1,
    )
    .await;
    assert_eq!(
        (&overview["pool"], &overview["ready"], &overview["tasks"]["running"]),
        (&json!("default"), &json!(0), &json!(1)),
        "{overview}"
    );
    assert_eq!((&overview["gpus"]["living"], &overview["gpus"]["slots"]), (&json!(1), &json!(8)), "{overview}");
    let priorities: Vec<&Value> = overview["oldest_waiting"].as_array().expect("a list").iter().map(|wait| &wait["priority"]).collect();
    assert_eq!(priorities, [9, 0], "{overview}");
    assert!(overview["arrived_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{overview}");
    assert!(overview["verdict"]["sentence"].as_str().is_some_and(|sentence| !sentence.is_empty()), "{overview}");
    assert!(overview.get("servers_away").is_none(), "{overview}");

    let verdict = read(fleet.get("/api/v1/bottleneck").await).await;
    assert_eq!(verdict["holdup"], overview["verdict"]["holdup"], "{verdict}");
    let scaling = read(fleet.get("/api/v1/scaling").await).await;
    assert_eq!((&scaling["pool"], &scaling["wait_objective_ms"]), (&json!("default"), &json!(30_000)), "{scaling}");
    assert!(scaling["desired_workers"].is_u64() && scaling["workers"].is_u64(), "{scaling}");
}

#[tokio::test]
async fn a_blocked_broker_is_told_of() {
    let fleet = Fleet::start().await;
    fleet.broker.block_publishers("low on disk on node 7");
    let overview = until(
        "the alarm is seen",
        async || read(fleet.get("/api/v1/overview").await).await,
        |overview| overview["servers_away"][0].as_str().is_some_and(|words| words.starts_with("broker: it blocks publishers")),
    )
    .await;
    assert!(!overview.to_string().contains("node 7"), "{overview}");
}

#[tokio::test]
async fn histories_have_the_points_that_the_gateway_wrote_and_those_of_others() {
    let fleet = Fleet::start().await;
    let own = until(
        "the gateway has written a point",
        async || read(fleet.get("/api/v1/history").await).await,
        |history| history["points"].as_array().is_some_and(|points| !points.is_empty()),
    )
    .await;
    assert_eq!((&own["span"], &own["step_ms"], &own["points"][0]["gpus"]), (&json!("15m"), &json!(5_000), &json!(1)), "{own}");
    assert_eq!(own["points"][0]["at_ms"].as_u64().map(|at_ms| at_ms % 5_000), Some(0), "{own}");

    let span = HistorySpan::Hours6;
    let now_ms = environment().clock.now_ms();
    let at_ms = now_ms - now_ms % span.step_ms() - 2 * span.step_ms();
    let point = HistoryPoint { at_ms, began: 7, ..HistoryPoint::default() };
    assert!(fleet.store.journal().note_point(span, &point).await.expect("a store"));
    let long = read(fleet.get("/api/v1/history?span=6h").await).await;
    let began: Vec<&Value> =
        long["points"].as_array().expect("points").iter().filter(|point| point["at_ms"] == at_ms).map(|point| &point["began"]).collect();
    assert_eq!(began, [7], "{long}");
    let document = problem(fleet.get("/api/v1/history?span=1y").await, StatusCode::BAD_REQUEST).await;
    assert!(document["detail"].as_str().expect("text").contains("15m, 6h, 48h"), "{document}");
}

#[tokio::test]
async fn all_who_look_live_are_shown_the_same_until_the_gateway_stops() {
    let fleet = Fleet::start().await;
    let mut viewers = Vec::new();
    for _ in 0..10 {
        viewers.push(fleet.listen("/api/v1/live").await);
    }
    let mut shown = Vec::new();
    for viewer in &mut viewers {
        let overview = viewer.expect("overview").await;
        assert_eq!(overview["pool"], "default");
        let gpus = viewer.expect("gpus").await;
        assert_eq!(gpus["gpus"][0]["gpu"]["gpu_id"], "sim-0", "{gpus}");
        shown.push(overview["at_ms"].as_u64().expect("a time"));
    }
    // Ten viewers come within a moment: what they are shown was made once, or twice where they came between.
    shown.dedup();
    assert!(shown.len() < 10, "made for each of them: {shown:?}");
    let later = viewers[0].expect("overview").await;
    assert!(later["at_ms"].as_u64() > shown.first().copied(), "it goes on: {later}");
    fleet.stop.cancel();
    for viewer in &mut viewers {
        while viewer.next().await.is_some() {}
    }
}

#[tokio::test]
async fn metrics_tell_of_the_fleet_what_was_last_made_out() {
    let fleet = Fleet::start().await;
    fleet.tell([submitted("a", "echo", 3)]);
    let lines = [
        r#"gpufleet_queue_depth{pool="default",state="waiting"} 1"#,
        r#"gpufleet_queue_depth{pool="default",state="ready"} 0"#,
        r#"gpufleet_queue_depth{pool="default",state="dead"} 0"#,
        r#"gpufleet_oldest_waiting_seconds{priority="9"} 0"#,
        r#"gpufleet_gpus{state="serving"} 1"#,
        r#"gpufleet_gpus{state="drained"} 0"#,
        r#"gpufleet_slots{state="free"} 8"#,
        "gpufleet_workers_up 1",
        r#"gpufleet_server_up{server="broker"} 1"#,
        r#"gpufleet_server_up{server="store"} 1"#,
        r#"gpufleet_server_up{server="table"} 1"#,
        r#"gpufleet_holdup{cause="no_gpus"} 0"#,
        "gpufleet_task_steps_lost_total 0",
    ];
    let metrics = async || Value::from(fleet.get("/metrics").await.text().await.expect("text"));
    let has_all = |text: &Value| lines.iter().all(|line| text.as_str().is_some_and(|text| text.lines().any(|have| have == *line)));
    let text = until("all of it shows", metrics, has_all).await;
    let text = text.as_str().expect("text");
    assert!(text.lines().any(|line| line.starts_with("gpufleet_desired_workers ")), "{text}");
    assert!(text.lines().any(|line| line.starts_with(r#"gpufleet_server_seconds{server="table"} "#)), "{text}");
}

#[tokio::test]
async fn no_number_of_workers_shows_while_the_table_is_away() {
    let fleet = Setup { table: Arc::new(DownTable), ..Setup::default() }.start().await;
    let metrics = async || Value::from(fleet.get("/metrics").await.text().await.expect("text"));
    let is_seen = |text: &Value| text.as_str().is_some_and(|text| text.contains(r#"gpufleet_server_up{server="table"} 0"#));
    let text = until("the table is seen to be away", metrics, is_seen).await;
    assert!(!text.as_str().expect("text").contains("gpufleet_desired_workers "), "whoever scales by zero stops the fleet");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back_by_what_is_learnt() {
    let queue = QueueOptions { length_max: Some(1), ..QueueOptions::default() };
    let fleet = Setup { queue, ..Setup::default() }.start().await;
    let ended = |number: u32| {
        let id = format!("e-{number}");
        let began = TaskStep { gpu_id: Some("sim-0".parse().expect("valid")), attempt: Some(1), ..step(&id, StepName::Began) };
        let outcome = Some(protocol::Outcome::Succeeded);
        let ended =
            TaskStep { outcome, run_ms: Some(8_000.0), gpu_id: began.gpu_id.clone(), attempt: Some(1), ..step(&id, StepName::Ended) };
        [submitted(&id, "echo", 0), began, ended]
    };
    fleet.tell((0..20).flat_map(ended));
    fleet.tell((0..100_u32).map(|number| submitted(&format!("w-{number}"), "echo", 0)));
    until(
        "the wait is known",
        async || read(fleet.get("/api/v1/overview").await).await,
        |overview| overview["oldest_waiting"][0]["expected_wait_ms"].as_f64().is_some_and(|wait_ms| wait_ms > 2_000.0),
    )
    .await;
    assert_eq!(fleet.post("/api/v1/tasks", &json!({"kind": "echo"})).await.status(), StatusCode::ACCEPTED);
    let full = fleet.post("/api/v1/tasks", &json!({"kind": "echo"})).await;
    assert!((2..=60).contains(&retry_after_s(&full)), "{full:?}");
    problem(full, StatusCode::TOO_MANY_REQUESTS).await;
    let settings = fleet.table.current_settings(&PoolName::default()).await.expect("settings").unwrap_or_else(Settings::default);
    assert_eq!(settings.version, 0, "who only looks changes nothing");
}
