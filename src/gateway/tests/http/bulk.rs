//! `POST /api/v1/tasks:bulk`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use gateway::GatewayOptions;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use task_queue::{BodyBudget, QueueOptions, TaskQueue};
use tokio::task::yield_now;

use crate::{
    down::DownStore,
    duplex::Duplex,
    fleet::{Fleet, Setup, pool, problem},
};

const BULK: &str = "/api/v1/tasks:bulk";
const NDJSON: &str = "application/x-ndjson";

async fn post(fleet: &Fleet, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Response {
    let request = fleet.http.post(format!("{}{BULK}", fleet.url)).body(body);
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.expect("an answer")
}

/// The answers to a whole body.
async fn answers(fleet: &Fleet, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Vec<Value> {
    let response = post(fleet, &[&[("content-type", NDJSON)][..], headers].concat(), body).await;
    assert_eq!((response.status(), response.headers()["content-type"].to_str().expect("text")), (StatusCode::OK, NDJSON));
    let text = response.text().await.expect("a whole answer");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// So many tasks, each with a payload of its own.
fn tasks(count: usize) -> String {
    (1..=count).map(|number| format!("{{\"kind\":\"echo\",\"payload\":{number}}}\n")).collect()
}

/// A task of about so many bytes.
fn large(bytes: usize) -> String {
    format!("{{\"kind\":\"echo\",\"payload\":\"{}\"}}\n", "x".repeat(bytes))
}

fn problem_of(answer: &Value) -> (u64, &str) {
    let problem = &answer["problem"];
    let name = problem["type"].as_str().unwrap_or_else(|| panic!("no problem: {answer}"));
    (problem["status"].as_u64().expect("a status"), name.strip_prefix("urn:gpufleet:problem:").expect("our own"))
}

/// The places of the answers, and that each has an id of its own.
fn all_accepted(answers: &[Value]) -> Vec<u64> {
    let ids: BTreeSet<&str> =
        answers.iter().map(|answer| answer["task_id"].as_str().unwrap_or_else(|| panic!("refused: {answer}"))).collect();
    assert_eq!(ids.len(), answers.len());
    answers.iter().map(|answer| answer["line"].as_u64().expect("a number")).collect()
}

async fn published(fleet: &Fleet) -> u32 {
    fleet.queue.depth(&pool()).await.expect("a broker").map_or(0, |depth| depth.ready)
}

async fn metric(fleet: &Fleet, line: &str) -> bool {
    fleet.get("/metrics").await.text().await.expect("a body").lines().any(|have| have == line)
}

#[tokio::test]
async fn each_line_is_answered_in_its_place_and_a_wrong_one_is_refused_alone() {
    let fleet = Fleet::start().await;
    assert_eq!(fleet.post("/api/v1/tasks", &json!({"kind": "echo", "task_id": "taken"})).await.status(), StatusCode::ACCEPTED);
    let body = [
        r#"{"kind":"echo","payload":1,"task_id":"first"}"#,
        "",
        r#"{"kind":"echo","#,
        r#"{"kind":"echo","priority":"high"}"#,
        " \t ",
        r#"["echo"]"#,
        r#"{"kind":"nobody-serves-it"}"#,
        r#"{"kind":"echo","payload":2,"task_id":"taken"}"#,
        r#"{"kind":"echo","payload":3,"task_id":"last"}"#,
    ]
    .join("\n");
    let answers = answers(&fleet, &[], body).await;
    let lines: Vec<u64> = answers.iter().map(|answer| answer["line"].as_u64().expect("a number")).collect();
    assert_eq!(lines, [1, 3, 4, 6, 7, 8, 9]);
    assert_eq!((&answers[0], &answers[6]), (&json!({"line": 1, "task_id": "first"}), &json!({"line": 9, "task_id": "last"})));
    assert_eq!(problem_of(&answers[1]), (400, "invalid-json"));
    assert_eq!((problem_of(&answers[2]), &answers[2]["problem"]["field"]), ((422, "invalid-field"), &json!("priority")));
    assert_eq!((problem_of(&answers[3]), &answers[3]["problem"]["field"]), ((422, "invalid-field"), &json!("body")));
    assert!(answers[4]["warnings"][0].as_str().is_some_and(|warning| warning.contains("nobody-serves-it")), "{}", answers[4]);
    assert_eq!((problem_of(&answers[5]), &answers[5]["problem"]["task_id"]), ((409, "task-id-in-use"), &json!("taken")));
    assert_eq!(published(&fleet).await, 4);
    for line in [r#"gpufleet_bulk_lines_total{result="accepted"} 3"#, r#"gpufleet_bulk_lines_total{result="refused"} 4"#] {
        assert!(metric(&fleet, line).await, "{line}");
    }
}

#[tokio::test]
async fn ten_thousand_tasks_go_over_one_request() {
    let fleet = Fleet::start().await;
    let answers = answers(&fleet, &[], tasks(10_000)).await;
    assert_eq!(all_accepted(&answers), (1..=10_000).collect::<Vec<u64>>());
    assert_eq!(published(&fleet).await, 10_000);
    assert!(metric(&fleet, r#"gpufleet_bulk_lines_total{result="accepted"} 10000"#).await);
    assert!(metric(&fleet, r#"gateway_requests_total{code="200",method="POST",route="/api/v1/tasks:bulk"} 1"#).await);
}

#[tokio::test]
async fn answers_come_before_the_request_ends() {
    let fleet = Fleet::start().await;
    let mut duplex = Duplex::open(&fleet, &[]).await;
    duplex.send("{\"kind\":\"echo\",\"task_id\":\"t0\"}\n{\"kind\":").await;
    assert!(duplex.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(duplex.line().await, Some(json!({"line": 1, "task_id": "t0"})));
    for number in 1..20 {
        duplex.send(&format!("\"echo\",\"task_id\":\"t{number}\"}}\n{{\"kind\":")).await;
        assert_eq!(duplex.line().await, Some(json!({"line": number + 1, "task_id": format!("t{number}")})));
    }
    duplex.send("\"echo\",\"task_id\":\"last\"}").await;
    duplex.end().await;
    assert_eq!(duplex.rest().await, [json!({"line": 21, "task_id": "last"})]);
    assert_eq!(published(&fleet).await, 21);
}

#[tokio::test]
async fn a_line_that_is_too_long_is_refused_alone_and_not_held() {
    let bodies = BodyBudget::new(1);
    let options = GatewayOptions { body_bytes_max: 100_000, ..GatewayOptions::default() };
    let fleet = Setup { options, bodies: bodies.clone(), ..Setup::default() }.start().await;
    // Five times the memory for bodies.
    let body = [large(10), large(5_000_000), large(90_000)].concat();
    let answers = answers(&fleet, &[], body).await;
    assert_eq!((answers.len(), problem_of(&answers[1])), (3, (413, "body-too-large")), "{answers:?}");
    assert!(answers[0]["task_id"].is_string() && answers[2]["task_id"].is_string(), "{answers:?}");
    assert_eq!((published(&fleet).await, bodies.in_use_bytes()), (2, 0));
}

#[tokio::test]
async fn lines_wait_for_the_memory_of_those_before_them() {
    let bodies = BodyBudget::new(1);
    let fleet = Setup { bodies: bodies.clone(), ..Setup::default() }.start().await;
    let answers = answers(&fleet, &[], large(400_000).repeat(20)).await;
    assert_eq!(all_accepted(&answers), (1..=20).collect::<Vec<u64>>());
    assert_eq!(bodies.in_use_bytes(), 0);
}

#[tokio::test]
async fn a_line_that_finds_the_memory_taken_by_others_is_refused_and_the_next_is_not() {
    let bodies = BodyBudget::new(1);
    let fleet = Setup { bodies: bodies.clone(), ..Setup::default() }.start().await;
    let others = bodies.try_take(900_000).expect("nothing is taken");
    let mut duplex = Duplex::open(&fleet, &[]).await;
    duplex.send(&large(200_000)).await;
    let refused = duplex.line().await.expect("an answer");
    assert_eq!((problem_of(&refused), &refused["problem"]["retry_after_s"]), ((503, "overloaded"), &json!(1)), "{refused}");
    drop(others);
    duplex.send(&large(200_000)).await;
    duplex.end().await;
    assert_eq!(all_accepted(&duplex.rest().await), [2]);
}

#[tokio::test]
async fn a_client_that_reads_no_answers_keeps_no_memory_from_others() {
    let bodies = BodyBudget::new(1);
    let fleet = Setup { bodies: bodies.clone(), ..Setup::default() }.start().await;
    let mut duplex = Duplex::open(&fleet, &[]).await;
    for _ in 0..60 {
        duplex.send(&large(50_000)).await;
    }
    while published(&fleet).await < 60 || bodies.in_use_bytes() > 0 {
        yield_now().await;
    }
    assert_eq!(all_accepted(&answers(&fleet, &[], large(900_000)).await), [1]);
    duplex.end().await;
    assert_eq!(all_accepted(&duplex.rest().await), (1..=60).collect::<Vec<u64>>());
}

#[tokio::test]
async fn what_was_accepted_stays_accepted_where_the_client_goes_away() {
    let fleet = Fleet::start().await;
    let mut duplex = Duplex::open(&fleet, &[]).await;
    duplex.send(&tasks(50)).await;
    assert_eq!(duplex.line().await.expect("an answer")["line"], 1);
    drop(duplex);
    while published(&fleet).await < 50 {
        yield_now().await;
    }
}

#[tokio::test]
async fn the_same_request_under_the_same_key_makes_the_same_tasks() {
    let fleet = Fleet::start().await;
    let key = [("idempotency-key", "order-17")];
    let body = tasks(3) + "{\"kind\":\"echo\",\"task_id\":\"mine\"}\n";
    let first = answers(&fleet, &key, body.clone()).await;
    assert_eq!((all_accepted(&first).len(), &first[3]["task_id"]), (4, &json!("mine")));
    assert_eq!(answers(&fleet, &key, body.clone()).await, first);

    let changed = body.replacen("\"payload\":2", "\"payload\":22", 1);
    let again = answers(&fleet, &key, changed).await;
    assert_eq!((&again[0], problem_of(&again[1]), &again[2..]), (&first[0], (422, "idempotency-key-in-use"), &first[2..]));
    let other = answers(&fleet, &[("idempotency-key", "order-18")], tasks(3)).await;
    assert!(other.iter().zip(&first).all(|(other, first)| other["task_id"] != first["task_id"]), "{other:?}");

    let wrong = post(&fleet, &[("content-type", NDJSON), ("idempotency-key", "two words")], tasks(1)).await;
    assert_eq!(problem(wrong, StatusCode::BAD_REQUEST).await["field"], "Idempotency-Key");
}

#[tokio::test]
async fn a_full_queue_is_told_line_by_line_and_the_stream_goes_on() {
    let queue = QueueOptions { length_max: Some(3), ..QueueOptions::default() };
    let fleet = Setup { queue, ..Setup::default() }.start().await;
    let answers = answers(&fleet, &[], tasks(10) + "{\n").await;
    let full: Vec<&Value> = answers.iter().filter(|answer| answer["problem"]["status"] == 429).collect();
    assert_eq!((answers.len(), full.len(), published(&fleet).await), (11, 7, 3), "{answers:?}");
    assert!(full.iter().all(|answer| answer["problem"]["retry_after_s"].as_u64() >= Some(1)), "{full:?}");
    assert_eq!(problem_of(&answers[10]), (400, "invalid-json"));
}

#[tokio::test]
async fn a_broker_that_comes_back_takes_the_next_lines() {
    let fleet = Fleet::start().await;
    let mut duplex = Duplex::open(&fleet, &[]).await;
    fleet.broker.block_publishers("low on disk");
    duplex.send(&tasks(3)).await;
    for line in 1..=3 {
        let answer = duplex.line().await.expect("an answer");
        assert_eq!((&answer["line"], problem_of(&answer)), (&json!(line), (503, "unavailable")));
        assert!(answer["problem"]["retry_after_s"].as_u64() >= Some(1), "{answer}");
    }
    fleet.broker.unblock_publishers();
    duplex.send(&tasks(2)).await;
    duplex.end().await;
    assert_eq!(all_accepted(&duplex.rest().await), [4, 5]);
}

#[tokio::test]
async fn where_everything_is_away_the_rest_is_not_read() {
    let fleet = Setup { store: Arc::new(DownStore::default()), ..Setup::default() }.start().await;
    let answers = answers(&fleet, &[], tasks(5_000)).await;
    let (last, refused) = answers.split_last().expect("answers");
    assert!((512..=1_024).contains(&refused.len()), "{}", refused.len());
    assert!(refused.iter().all(|answer| problem_of(answer) == (503, "unavailable")));
    assert_eq!((&last["line"], problem_of(last)), (&json!(refused.len() + 1), (503, "bulk-stopped")));
}

#[tokio::test]
async fn a_silent_client_is_told_so_with_its_last_answer() {
    let options = GatewayOptions { body_timeout: Duration::from_secs(1), ..GatewayOptions::default() };
    let fleet = Setup { options, ..Setup::default() }.start().await;
    let mut duplex = Duplex::open(&fleet, &[]).await;
    duplex.send(&tasks(1)).await;
    let answers = duplex.rest().await;
    assert_eq!((answers.len(), &answers[1]["line"], problem_of(&answers[1])), (2, &json!(2), (408, "body-timeout")), "{answers:?}");

    let mute = Duplex::open(&fleet, &[]).await.head().await;
    assert!(mute.starts_with("HTTP/1.1 408 "), "{mute}");
}

#[tokio::test]
async fn a_stop_ends_a_bulk_request_with_the_line_that_was_not_read() {
    let fleet = Fleet::start().await;
    let mut duplex = Duplex::open(&fleet, &[]).await;
    duplex.send(&tasks(2)).await;
    assert!(duplex.line().await.is_some() && duplex.line().await.is_some());
    fleet.stop.cancel();
    let last = duplex.line().await.expect("a last answer");
    assert_eq!((&last["line"], problem_of(&last)), (&json!(3), (503, "bulk-stopped")));
    drop(duplex);
    assert_eq!(published(&fleet).await, 2);
    fleet.serving.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn bulk_requests_at_once_have_a_bound() {
    let fleet = Fleet::start().await;
    let mut open = Vec::new();
    for _ in 0..64 {
        let mut duplex = Duplex::open(&fleet, &[]).await;
        duplex.send(&tasks(1)).await;
        assert!(duplex.line().await.is_some());
        open.push(duplex);
    }
    let refused = post(&fleet, &[("content-type", NDJSON)], tasks(1)).await;
    assert_eq!(problem(refused, StatusCode::SERVICE_UNAVAILABLE).await["type"], "urn:gpufleet:problem:overloaded");
    let mut one = open.pop().expect("one of them");
    one.end().await;
    assert_eq!(one.line().await, None);
    while post(&fleet, &[("content-type", NDJSON)], tasks(1)).await.status() != StatusCode::OK {
        yield_now().await;
    }
}

#[tokio::test]
async fn a_body_that_is_not_declared_as_lines_is_refused() {
    let fleet = Fleet::start().await;
    for headers in [&[][..], &[("content-type", "application/json")], &[("content-type", NDJSON), ("content-encoding", "gzip")]] {
        let refused = post(&fleet, headers, tasks(1)).await;
        if headers.len() < 2 {
            assert_eq!(refused.headers()["accept"], NDJSON);
        }
        problem(refused, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
    }
    assert_eq!(answers(&fleet, &[], "").await, Vec::<Value>::new());
    assert_eq!(published(&fleet).await, 0);
}
