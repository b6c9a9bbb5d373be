//! The kinds that the fleet serves, and payloads that do not fit theirs.

use std::sync::Arc;

use bytes::Bytes;
use gateway::GatewayOptions;
use gpu_table::GpuTable;
use protocol::{Json, KindDescription, PoolName, Segments, frame};
use reqwest::StatusCode;
use serde_json::{Value, json};
use task_queue::TaskQueue;

use crate::{
    down::DownTable,
    fleet::{Fleet, Setup, heartbeat, json as body_of, pool, problem},
};

const TASKS: &str = "/api/v1/tasks";

fn embed() -> KindDescription {
    let schema = r#"{"type": "object", "properties": {"text": {"type": "string", "minLength": 1}}, "required": ["text"], "additionalProperties": false}"#;
    KindDescription {
        kind: "embed".parse().expect("a kind"),
        about: "vectors of texts".to_owned(),
        schema: Some(Json::parse(schema).expect("JSON")),
        batch_largest: Some(32),
    }
}

async fn describe(table: &dyn GpuTable, kinds: &[KindDescription]) {
    table.describe_kinds(&PoolName::default(), kinds).await.expect("told");
}

/// A gateway that knows what `embed` does.
async fn fleet(options: GatewayOptions) -> Fleet {
    let setup = Setup { options, kinds: &["echo", "embed"], ..Setup::default() };
    describe(&*setup.table, &[embed()]).await;
    let fleet = setup.start().await;
    assert_eq!(fleet.get("/api/v1/kinds").await.status(), StatusCode::OK);
    fleet
}

/// How many tasks were submitted.
async fn submitted(fleet: &Fleet) -> u32 {
    fleet.queue.depth(&pool()).await.expect("a broker").map_or(0, |depth| depth.ready)
}

#[tokio::test]
async fn the_kinds_are_shown_with_their_gpus_schemas_and_run_times() {
    let setup = Setup { kinds: &["echo", "embed"], ..Setup::default() };
    let mut second = heartbeat("sim-1", &["echo"]);
    second.row.kinds_down.insert("embed".parse().expect("a kind"), "its handler starts".to_owned());
    second.row.run_ms.insert("echo".parse().expect("a kind"), 0.25);
    setup.table.heartbeat(&second).await.expect("a table");
    describe(&*setup.table, &[embed()]).await;
    let fleet = setup.start().await;
    let shown = body_of(fleet.get("/api/v1/kinds").await).await;
    let expected = json!({"pool": "default", "kinds": [
        {"kind": "echo", "gpus": ["sim-0", "sim-1"], "run_ms": {"smallest": 0.25, "median": 0.25}},
        {
            "kind": "embed", "about": "vectors of texts", "schema": embed().schema.expect("a schema").to::<Value>().expect("JSON"),
            "gpus": ["sim-0"], "gpus_down": {"sim-1": "its handler starts"}, "batch_largest": 32
        }
    ]});
    assert_eq!(shown, expected);
    assert_eq!(body_of(fleet.get("/api/v1/kinds/embed").await).await, expected["kinds"][1]);
    let unknown = problem(fleet.get("/api/v1/kinds/ecko").await, StatusCode::NOT_FOUND).await;
    assert_eq!(unknown["field"], "kind");
}

#[tokio::test]
async fn the_document_has_the_payload_of_each_served_kind() {
    let fleet = fleet(GatewayOptions::default()).await;
    let document = body_of(fleet.get("/openapi.json").await).await;
    assert_eq!(document["components"]["schemas"]["payload.embed"]["required"], json!(["text"]));
    let reference = &document["paths"][TASKS]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"];
    let pointer = reference.as_str().and_then(|reference| reference.strip_prefix('#')).expect("a reference");
    let forms = document.pointer(pointer).expect("the task")["allOf"][1]["oneOf"].clone();
    let kinds: Vec<&Value> = forms.as_array().expect("forms").iter().map(|form| &form["properties"]["kind"]["const"]).collect();
    assert_eq!(kinds, [&json!("echo"), &json!("embed"), &Value::Null]);
}

#[tokio::test]
async fn a_payload_that_does_not_fit_is_refused_with_its_field_and_nothing_is_submitted() {
    let fleet = fleet(GatewayOptions::default()).await;
    for (request, field, detail) in [
        (json!({"kind": "embed", "payload": {"text": 5}}), "payload.text", "payload.text: must be text, not 5"),
        (json!({"kind": "embed"}), "payload", "payload: must be an object, not null"),
        (json!({"kind": "embed", "payload": {"text": "a", "tezt": 1}}), "payload.tezt", "payload.tezt: is unknown; known are text"),
        (
            json!({"kind": "embed", "items": [{"text": "a"}, {"text": ""}]}),
            "items[1].text",
            "items[1].text: must have at least 1 characters",
        ),
    ] {
        let refused = problem(fleet.post(TASKS, &request).await, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!((&refused["field"], &refused["detail"]), (&json!(field), &json!(detail)), "{request}");
        assert_eq!(refused["type"], "urn:gpufleet:problem:invalid-field");
    }
    assert_eq!(submitted(&fleet).await, 0);
    for fits in [
        json!({"kind": "embed", "payload": {"text": "a"}}),
        json!({"kind": "echo", "payload": 5}),
        json!({"kind": "unheard-of", "payload": 5}),
    ] {
        assert_eq!(fleet.post(TASKS, &fits).await.status(), StatusCode::ACCEPTED, "{fits}");
    }
    assert_eq!(submitted(&fleet).await, 3);
}

#[tokio::test]
async fn a_line_of_a_bulk_request_that_does_not_fit_is_refused_alone() {
    let fleet = fleet(GatewayOptions::default()).await;
    let lines = "{\"kind\": \"embed\", \"payload\": {\"text\": \"a\"}}\n{\"kind\": \"embed\", \"payload\": 5}\n{\"kind\": \"echo\"}\n";
    let url = format!("{}/api/v1/tasks:bulk", fleet.url);
    let response = fleet.http.post(url).header("content-type", "application/x-ndjson").body(lines).send().await.expect("an answer");
    let text = response.text().await.expect("a body");
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let fields: Vec<&Value> = answers.iter().map(|answer| &answer["problem"]["field"]).collect();
    assert_eq!(fields, [&Value::Null, &json!("payload"), &Value::Null], "{answers:?}");
    assert_eq!(submitted(&fleet).await, 2);
}

#[tokio::test]
async fn a_payload_with_raw_bytes_in_place_of_a_value_is_left_to_the_worker() {
    let fleet = fleet(GatewayOptions::default()).await;
    let request = json!({"kind": "embed", "payload": {"text": {"$segment": 0}}}).to_string().into_bytes();
    let frame = frame::of(request, &Segments::of(vec![Bytes::from_static(b"a text")])).expect("a short one");
    let request = fleet.http.post(format!("{}{TASKS}", fleet.url)).header("content-type", frame::FRAME).body(frame);
    assert_eq!(request.send().await.expect("an answer").status(), StatusCode::ACCEPTED);
    assert_eq!(submitted(&fleet).await, 1);
}

#[tokio::test]
async fn a_gateway_that_is_told_so_checks_no_payloads() {
    let fleet = fleet(GatewayOptions { check_payloads: false, ..GatewayOptions::default() }).await;
    assert_eq!(fleet.post(TASKS, &json!({"kind": "embed", "payload": {"text": 5}})).await.status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn where_the_table_does_not_answer_the_kinds_are_not_shown_and_nobody_is_refused() {
    let fleet = Setup { table: Arc::new(DownTable), ..Setup::default() }.start().await;
    problem(fleet.get("/api/v1/kinds").await, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(body_of(fleet.get("/openapi.json").await).await, gateway::openapi());
    assert_eq!(fleet.post(TASKS, &json!({"kind": "embed", "payload": {"text": 5}})).await.status(), StatusCode::ACCEPTED);
}
