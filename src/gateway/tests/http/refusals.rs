//! Wrong inputs, each with the answer that lets its sender mend it: the field by the sender's own name, the value, what is allowed.

use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use task_queue::TaskQueue;

use crate::fleet::{Fleet, json as read, pool, problem};

const TASKS: &str = "/api/v1/tasks";
const PREDICT: &str = "/api/v1/predict";
const NOT_VALID: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
const NO_JSON: StatusCode = StatusCode::BAD_REQUEST;

/// Words of the JSON library and of Rust, which help nobody who writes to HTTP.
const INNER_WORDS: [&str; 8] =
    ["expected u8", "expected u32", "expected f64", "invalid type", "invalid value", "struct ", "message_id", "non-zero"];

/// A body that is sent, and the answer: its status, its field, and what its detail says in full or, after `…`, at its end.
type Row = (&'static str, &'static str, StatusCode, &'static str, &'static str);

const ROWS: [Row; 45] = [
    (
        PREDICT,
        r#"{"text":""}"#,
        NOT_VALID,
        "text",
        r#"text: must be text of 1 or more characters, or a list of 1 to 10000 entries, not """#,
    ),
    (PREDICT, r#"{"text":5}"#, NOT_VALID, "text", "text: must be text of 1 or more characters, or a list of 1 to 10000 entries, not 5"),
    (PREDICT, "{}", NOT_VALID, "text", "text: is missing; it must be text of 1 or more characters, or a list of 1 to 10000 entries"),
    (
        PREDICT,
        r#"{"text":[]}"#,
        NOT_VALID,
        "text",
        "text: must be text of 1 or more characters, or a list of 1 to 10000 entries, not a list of 0",
    ),
    (PREDICT, r#"{"text":["a",5]}"#, NOT_VALID, "text[1]", "text[1]: must be text of 1 or more characters, not 5"),
    (PREDICT, r#"{"text":["a","b",""]}"#, NOT_VALID, "text[2]", r#"text[2]: must be text of 1 or more characters, not """#),
    (
        PREDICT,
        r#"{"text":"a","on_error":"fail"}"#,
        NOT_VALID,
        "on_error",
        "on_error: says what becomes of a list of texts, and text is one alone; leave it out, or make text a list",
    ),
    (PREDICT, r#"{"text":["a"],"on_error":"stop"}"#, NOT_VALID, "on_error", r#"on_error: must be "report" or "fail", not "stop""#),
    (PREDICT, r#"{"text":["a"],"on_error":1}"#, NOT_VALID, "on_error", r#"on_error: must be "report" or "fail", not 1"#),
    (PREDICT, r#"{"text":"a","temperature":9}"#, NOT_VALID, "temperature", "temperature: must be a number from 0 to 2, not 9"),
    (PREDICT, r#"{"text":"a","temperature":-0.5}"#, NOT_VALID, "temperature", "temperature: must be a number from 0 to 2, not -0.5"),
    (PREDICT, r#"{"text":"a","temperature":"hot"}"#, NOT_VALID, "temperature", r#"temperature: must be a number from 0 to 2, not "hot""#),
    (PREDICT, r#"{"text":"a","max_length":0}"#, NOT_VALID, "max_length", "max_length: must be a whole number from 1 to 4294967295, not 0"),
    (
        PREDICT,
        r#"{"text":"a","max_length":2.5}"#,
        NOT_VALID,
        "max_length",
        "max_length: must be a whole number from 1 to 4294967295, not 2.5",
    ),
    (PREDICT, r#"{"text":"a","seed":-1}"#, NOT_VALID, "seed", "seed: must be a whole number of at least 0, not -1"),
    (PREDICT, r#"{"text":"a","stream":"yes"}"#, NOT_VALID, "stream", r#"stream: must be true or false, not "yes""#),
    (TASKS, r#"{"kind":"echo","priority":-1}"#, NOT_VALID, "priority", "priority: must be a whole number from 0 to 9, not -1"),
    (TASKS, r#"{"kind":"echo","priority":1.5}"#, NOT_VALID, "priority", "priority: must be a whole number from 0 to 9, not 1.5"),
    (TASKS, r#"{"kind":"echo","priority":300}"#, NOT_VALID, "priority", "priority: must be a whole number from 0 to 9, not 300"),
    (TASKS, r#"{"kind":"echo","priority":11}"#, NOT_VALID, "priority", "priority: must be 0 to 9, not 11"),
    (
        TASKS,
        r#"{"kind":"Echo"}"#,
        NOT_VALID,
        "kind",
        r#"kind: must be a kind: 1 to 64 lower-case letters, digits, '-', '_' or '.', not "Echo""#,
    ),
    (TASKS, r#"{"kind":["echo"]}"#, NOT_VALID, "kind", "kind: must be text of at most 64 characters, not a list"),
    (TASKS, "{}", NOT_VALID, "kind", "kind: is missing; it must be text of at most 64 characters"),
    (TASKS, r#"{"kind":"a","kind":"b"}"#, NOT_VALID, "kind", "kind: is there twice; leave one of the two out"),
    (
        TASKS,
        r#"{"kind":"echo","task_id":"a b"}"#,
        NOT_VALID,
        "task_id",
        r#"task_id: must be 1 to 128 visible ASCII characters other than braces, not "a b""#,
    ),
    (
        TASKS,
        r#"{"kind":"echo","prioritiy":1}"#,
        NOT_VALID,
        "prioritiy",
        "prioritiy: is unknown; known are delay_ms, gpu_options, group, items, keep_as, kind, limits, needs, not_before_ms, on_error, on_missing, payload, priority, progress, task_id",
    ),
    (
        TASKS,
        r#"{"kind":"echo","task_id":"b{0..4}"}"#,
        NOT_VALID,
        "task_id",
        r#"task_id: must be 1 to 128 visible ASCII characters other than braces, not "b{0..4}""#,
    ),
    (TASKS, r#"{"kind":"echo","items":[]}"#, NOT_VALID, "items", "items: must be 1 to 10000 payloads, not 0"),
    (TASKS, r#"{"kind":"echo","items":{}}"#, NOT_VALID, "items", "items: must be a list of 1 to 10000 entries, not an object"),
    (
        TASKS,
        r#"{"kind":"echo","items":[1],"payload":2}"#,
        NOT_VALID,
        "items",
        "items: stands in place of payload; leave one of the two out",
    ),
    (
        TASKS,
        r#"{"kind":"echo","items":[1],"payload":null}"#,
        NOT_VALID,
        "items",
        "items: stands in place of payload; leave one of the two out",
    ),
    (
        TASKS,
        r#"{"kind":"echo","payload":1,"on_error":"report"}"#,
        NOT_VALID,
        "on_error",
        "on_error: says what becomes of items, and there are none; leave it out, or give items",
    ),
    (TASKS, r#"{"kind":"echo","items":[1],"on_error":7}"#, NOT_VALID, "on_error", r#"on_error: must be "report" or "fail", not 7"#),
    (
        TASKS,
        r#"{"kind":"echo","gpu_options":{"specific_gpu_id":9}}"#,
        NOT_VALID,
        "gpu_options.specific_gpu_id",
        "gpu_options.specific_gpu_id: must be text of at most 64 characters, not 9",
    ),
    (
        TASKS,
        r#"{"kind":"echo","needs":{"compute_capability":"nine"}}"#,
        NOT_VALID,
        "needs.compute_capability",
        r#"needs.compute_capability: a compute capability is major.minor, like "9.0", not "nine""#,
    ),
    (
        TASKS,
        r#"{"kind":"echo","limits":{"attempt_timeout_ms":-5}}"#,
        NOT_VALID,
        "limits.attempt_timeout_ms",
        "limits.attempt_timeout_ms: must be a whole number from 1 to 2592000000, not -5",
    ),
    (
        TASKS,
        r#"{"kind":"echo","delay_ms":2592000001}"#,
        NOT_VALID,
        "delay_ms",
        "delay_ms: must be at most 2592000000 ms (30 days), not 2592000001",
    ),
    (
        TASKS,
        r#"{"kind":"echo","delay_ms":1,"not_before_ms":1}"#,
        NOT_VALID,
        "delay_ms",
        "delay_ms: must be absent where not_before_ms is given: a task starts after a delay or at a time",
    ),
    (
        TASKS,
        r#"{"kind":"echo","delay_ms":"soon"}"#,
        NOT_VALID,
        "delay_ms",
        r#"delay_ms: must be a whole number from 0 to 2592000000, not "soon""#,
    ),
    (TASKS, r#"{"kind":"echo","limits":7}"#, NOT_VALID, "limits", "limits: must be an object, not 7"),
    (TASKS, r#"["echo"]"#, NOT_VALID, "body", "body: must be an object, not a list"),
    (TASKS, r#"{"kind":"echo","#, NO_JSON, "body", "body: must be one JSON object in UTF-8, and is none from line 1 column …"),
    (
        TASKS,
        r#"{"kind":"echo","payload":NaN}"#,
        NO_JSON,
        "body",
        "body: must be one JSON object in UTF-8, and is none from line 1 column …",
    ),
    (TASKS, r#"{"kind":"echo"} x"#, NO_JSON, "body", "body: must be one JSON object in UTF-8, and is none from line 1 column …"),
    (TASKS, "", NO_JSON, "body", "body: must be one JSON object in UTF-8, and is none from line 1 column …"),
];

fn post(fleet: &Fleet, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
    fleet.http.post(format!("{}{path}", fleet.url)).header("content-type", "application/json").body(body)
}

/// The problem that a request is answered with, once it was seen to have no words but for its sender.
async fn answered(request: RequestBuilder, status: StatusCode) -> (Value, String) {
    let document = problem(request.send().await.expect("an answer"), status).await;
    let detail = document["detail"].as_str().expect("text").to_owned();
    assert!(INNER_WORDS.iter().all(|inner| !detail.contains(inner)), "{detail}");
    (document, detail)
}

#[tokio::test]
async fn each_wrong_input_is_answered_with_its_field_its_value_and_what_is_allowed() {
    let fleet = Fleet::start().await;
    fleet.queue.declare(&pool()).await.expect("declare");
    for (path, body, status, field, words) in ROWS {
        let (document, detail) = answered(post(&fleet, path, body), status).await;
        assert_eq!(document["field"], field, "{body}");
        match words.strip_suffix('…') {
            Some(beginning) => assert!(detail.starts_with(beginning) && detail.len() > beginning.len(), "{body}: {detail}"),
            None => assert_eq!(detail, words, "{body}"),
        }
    }
    assert_eq!(fleet.queue.depth(&pool()).await.expect("a broker").expect("a queue").ready, 0, "nothing of it was submitted");
}

#[tokio::test]
async fn nesting_beyond_the_bound_is_told_with_the_bound() {
    let fleet = Fleet::start().await;
    for (member, field) in [("payload", "payload"), ("limits", "limits")] {
        let body = format!(r#"{{"kind":"echo","{member}":{}{}}}"#, "[".repeat(400), "]".repeat(400));
        let (document, detail) = answered(post(&fleet, TASKS, body), NOT_VALID).await;
        assert_eq!(document["field"], field);
        assert!(member != "payload" || detail == "payload: must not be nested deeper than 126 levels", "{detail}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_are_told_so() {
    let fleet = Fleet::start().await;
    let (document, detail) = answered(post(&fleet, TASKS, &b"{\"kind\":\"\xff\xfe\"}"[..]), NO_JSON).await;
    assert_eq!(document["field"], "body");
    assert!(detail.starts_with("body: must be one JSON object in UTF-8"), "{detail}");
}

#[tokio::test]
async fn a_body_in_another_coding_or_of_another_type_is_told_what_is_accepted() {
    let fleet = Fleet::start().await;
    let gzip: &[u8] = &[0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0x02, 0x03];
    for path in [TASKS, PREDICT] {
        for coding in ["gzip", "br, identity", "zstd"] {
            let response = post(&fleet, path, gzip).header("content-encoding", coding).send().await.expect("an answer");
            assert_eq!(response.headers()["accept-encoding"], "identity");
            let document = problem(response, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
            assert_eq!(
                (&document["field"], &document["type"]),
                (&json!("Content-Encoding"), &json!("urn:gpufleet:problem:unsupported-encoding"))
            );
        }
        let typed = fleet.http.post(format!("{}{path}", fleet.url)).header("content-type", "text/csv").body("a,b");
        let response = typed.send().await.expect("an answer");
        let task = "application/json, application/x-gpufleet-frame, multipart/form-data";
        let (accepted, one_of) = if path == TASKS { (task, "one of ") } else { ("application/json", "") };
        assert_eq!(response.headers()["accept"], accepted);
        let document = problem(response, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
        assert_eq!(document["detail"], format!(r#"Content-Type: is "text/csv"; it must be {one_of}{accepted}"#));
    }
    let plain = post(&fleet, TASKS, r#"{"kind":"echo"}"#).header("content-encoding", "identity").send().await.expect("an answer");
    assert_eq!(plain.status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn an_id_that_no_task_can_have_is_told_by_the_callers_name() {
    let fleet = Fleet::start().await;
    for (path, field) in [("/api/v1/tasks/%7Bbrace%7D", "task_id"), ("/api/v1/tasks/%FF", "task_id"), ("/api/v1/gpus/%FF", "gpu_id")] {
        let (document, detail) = answered(fleet.http.get(format!("{}{path}", fleet.url)), StatusCode::NOT_FOUND).await;
        assert_eq!(document["field"], field);
        assert!(detail.starts_with(&format!("{field}: ")), "{detail}");
    }
}

#[tokio::test]
async fn a_strategy_that_is_none_is_accepted_with_a_warning_that_names_those_that_are() {
    let fleet = Fleet::start().await;
    let submit = async |strategy: &str| {
        let response = fleet.post(TASKS, &json!({"kind": "echo", "gpu_options": {"strategy": strategy}})).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        read(response).await
    };
    let accepted = submit("fastest").await;
    let warnings = accepted["warnings"].as_array().expect("warnings");
    let warning = warnings.iter().filter_map(Value::as_str).find(|text| text.starts_with("gpu_options.strategy: ")).expect("a warning");
    assert!(["fastest", "round_robin", "least_loaded", "task_specific"].iter().all(|name| warning.contains(name)), "{warning}");
    assert_eq!(submit("round_robin").await["warnings"], Value::Null);
}

#[tokio::test]
async fn a_task_that_is_no_batch_and_asks_to_be_split_is_accepted_with_a_warning() {
    let fleet = Fleet::start().await;
    let submit = async |task: Value| {
        let response = fleet.post(TASKS, &task).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        read(response).await
    };
    let accepted = submit(json!({"kind": "echo", "payload": 1, "gpu_options": {"batch_split": true}})).await;
    let warning = accepted["warnings"][0].as_str().expect("a warning");
    assert!(warning.starts_with("gpu_options.batch_split: only a batch is split"), "{warning}");
    for task in [
        json!({"kind": "echo", "items": [1], "gpu_options": {"batch_split": true}}),
        json!({"kind": "echo", "payload": 1, "gpu_options": {"batch_split": false}}),
    ] {
        assert_eq!(submit(task).await["warnings"], Value::Null);
    }
}
