//! What operators change, and the action log of it.

use protocol::PoolName;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    down::DownStore,
    fleet::{Fleet, Setup, json as read, problem},
};

const THRESHOLDS: &str = "/api/v1/settings/thresholds";

#[tokio::test]
async fn thresholds_are_changed_one_by_one() {
    let fleet = Fleet::start().await;
    let changed = read(fleet.put(THRESHOLDS, &json!({"memory_threshold": 0.5})).await).await;
    assert_eq!((&changed["memory_threshold"], &changed["utilization_threshold"]), (&json!(0.5), &json!(0.95)), "{changed}");
    let both = read(fleet.put(THRESHOLDS, &json!({"memory_threshold": 0.8, "utilization_threshold": 1.01})).await).await;
    assert_eq!((&both["memory_threshold"], &both["utilization_threshold"]), (&json!(0.8), &json!(1.01)), "{both}");
    let in_force = fleet.table.current_settings(&PoolName::default()).await.expect("settings").expect("some");
    assert_eq!((in_force.memory_threshold, in_force.version), (0.8, 2));
    for (body, field) in [
        (json!({}), "memory_threshold"),
        (json!({"memory_threshold": 1.5}), "memory_threshold"),
        (json!({"memory_threshold": -0.1}), "memory_threshold"),
        (json!({"utilization_threshold": 2}), "utilization_threshold"),
        (json!({"utilization_threshold": "high"}), "utilization_threshold"),
        (json!({"memory": 0.5}), "memory"),
    ] {
        let document = problem(fleet.put(THRESHOLDS, &body).await, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(document["field"], field, "{document}");
    }
}

#[tokio::test]
async fn whatever_an_operator_changes_is_in_the_action_log_the_latest_first() {
    let fleet = Fleet::start().await;
    for _ in 0..2 {
        fleet.put("/api/v1/settings/strategy", &json!({"strategy": "round_robin"})).await;
        fleet.ask(Method::PUT, "/api/v1/gpus/sim-0/drain").await;
    }
    fleet.ask(Method::DELETE, "/api/v1/gpus/sim-0/drain").await;
    fleet.put(THRESHOLDS, &json!({"memory_threshold": 0.5})).await;
    fleet.post("/api/v1/models/m/pin", &json!({"gpus": ["sim-0"]})).await;
    fleet.bury("a", "{}").await;
    fleet.ask(Method::POST, "/api/v1/dead/a/requeue").await;
    fleet.ask(Method::DELETE, "/api/v1/dead/a").await;
    // What changes nothing, or is refused, is none.
    fleet.ask(Method::DELETE, "/api/v1/dead/a").await;
    fleet.put(THRESHOLDS, &json!({"memory_threshold": 5})).await;

    let log = read(fleet.get("/api/v1/actions").await).await;
    let actions = log["actions"].as_array().expect("a list");
    let noted: Vec<(&str, &str, &str)> = actions
        .iter()
        .map(|action| {
            let text = |name: &str| action.get(name).map_or("", |value| value.as_str().expect("text"));
            (text("action"), text("target"), text("detail"))
        })
        .collect();
    let wanted = [
        ("purge", "task a", "1 purged"),
        ("requeue", "task a", "0 requeued, 1 stay"),
        ("pin_model", "m", "sim-0"),
        ("set_thresholds", "", "memory 0.9, utilization 0.95 → memory 0.5, utilization 0.95"),
        ("undrain", "sim-0", ""),
        ("drain", "sim-0", ""),
        ("set_strategy", "", "least_loaded → round_robin"),
    ];
    assert_eq!(noted, wanted, "{log}");
    assert!(actions.iter().all(|action| action["who"] == "127.0.0.1" && action["via"] == "gateway"), "{log}");
    let few = read(fleet.get("/api/v1/actions?limit=2").await).await;
    assert_eq!(few["actions"].as_array().map(Vec::len), Some(2));
    problem(fleet.get("/api/v1/actions?limit=0").await, StatusCode::BAD_REQUEST).await;
}

#[tokio::test]
async fn a_change_is_made_although_it_cannot_be_noted() {
    let fleet = Setup { store: std::sync::Arc::new(DownStore::default()), ..Setup::default() }.start().await;
    let changed: Value = read(fleet.put(THRESHOLDS, &json!({"memory_threshold": 0.5})).await).await;
    assert_eq!(changed["memory_threshold"], 0.5, "{changed}");
}
