//! What a gateway answers that has no memory for another body.

use protocol::TaskBody;
use reqwest::StatusCode;
use serde_json::{Value, json};
use task_queue::{BodyBudget, TaskQueue};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::yield_now,
};

use crate::fleet::{Fleet, Setup, json, pool};

const PREDICT: &str = "/api/v1/predict";
/// More than half of 1 MB.
const LARGE: usize = 900_000;
/// The part of it that comes first.
const MOST: usize = 600_000;

/// A gateway with memory for 1 MB of bodies.
async fn small_gateway() -> (Fleet, BodyBudget) {
    let bodies = BodyBudget::new(1);
    (Setup { bodies: bodies.clone(), ..Setup::default() }.start().await, bodies)
}

fn large_request() -> Value {
    let around = json!({"text": ""}).to_string().len();
    json!({"text": "x".repeat(LARGE - around)})
}

/// Sends the head of a predict whose body is to follow.
async fn announce(fleet: &Fleet, length: usize) -> TcpStream {
    let address = fleet.url.strip_prefix("http://").expect("a URL");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let lines = [
        format!("POST {PREDICT} HTTP/1.1"),
        "host: gateway".to_owned(),
        "connection: close".to_owned(),
        "content-type: application/json".to_owned(),
        format!("content-length: {length}"),
    ];
    stream.write_all(format!("{}\r\n\r\n", lines.join("\r\n")).as_bytes()).await.expect("sent");
    stream
}

async fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    text
}

fn echo(body: TaskBody) -> Value {
    let payload = body.payload.to::<Value>().expect("JSON");
    json!({"text": payload["text"]})
}

#[tokio::test]
async fn a_body_without_memory_is_refused_before_it_is_read_and_taken_once_there_is_room() {
    let (fleet, bodies) = small_gateway().await;
    fleet.work(|body| Ok(echo(body))).await;
    let text = large_request().to_string();
    let (most, rest) = text.as_bytes().split_at(MOST);
    let mut slow = announce(&fleet, LARGE).await;
    slow.write_all(most).await.expect("sent");
    while bodies.in_use_bytes() < MOST {
        yield_now().await;
    }

    let refused = answer(announce(&fleet, LARGE).await).await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    let (head, document) = refused.split_once("\r\n\r\n").expect("a body");
    assert!(head.lines().any(|line| line == "retry-after: 1"), "{head}");
    let document: Value = serde_json::from_str(document).expect("JSON");
    assert_eq!(document["type"], "urn:gpufleet:problem:overloaded");
    let detail = document["detail"].as_str().expect("text");
    assert!(
        ["memory.bodies_mb", &bodies.in_use_bytes().to_string(), &bodies.size_bytes().to_string()].iter().all(|part| detail.contains(part)),
        "{detail}"
    );

    slow.write_all(rest).await.expect("sent");
    assert!(answer(slow).await.starts_with("HTTP/1.1 200 "));
    let response = fleet.post(PREDICT, &large_request()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(json(response).await["text"] == large_request()["text"]);
    assert_eq!(bodies.in_use_bytes(), 0);
}

#[tokio::test]
async fn whoever_announces_bodies_and_sends_one_byte_of_each_keeps_nobody_out() {
    let (fleet, bodies) = small_gateway().await;
    fleet.work(|body| Ok(echo(body))).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = announce(&fleet, LARGE).await;
        stream.write_all(b"{").await.expect("sent");
        held.push(stream);
    }
    // The smallest share is 1 KiB.
    while bodies.in_use_bytes() < 8 << 10 {
        yield_now().await;
    }
    assert_eq!(bodies.in_use_bytes(), 8 << 10);
    assert_eq!(fleet.post(PREDICT, &large_request()).await.status(), StatusCode::OK);
    drop(held);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_told_so_whatever_else_is_in_hand() {
    let (fleet, bodies) = small_gateway().await;
    let _share = bodies.try_take(LARGE).expect("nothing is in hand");
    let refused = answer(announce(&fleet, 9_000_000).await).await;
    assert!(refused.starts_with("HTTP/1.1 413 ") && refused.contains("pass large inputs by reference"), "{refused}");
}

#[tokio::test]
async fn who_sends_a_body_that_is_too_large_to_its_end_is_told_the_bound_and_not_cut_off() {
    let (fleet, bodies) = small_gateway().await;
    let mut sending = announce(&fleet, 9_000_000).await;
    sending.write_all(&vec![b' '; 9_000_000]).await.expect("all of it is taken");
    let refused = answer(sending).await;
    assert!(refused.starts_with("HTTP/1.1 413 ") && refused.contains("worker.body_bytes_max"), "{refused}");
    assert_eq!(bodies.in_use_bytes(), 0);
}

#[tokio::test]
async fn a_body_that_breaks_off_gives_its_memory_back() {
    let (fleet, bodies) = small_gateway().await;
    let mut slow = announce(&fleet, LARGE).await;
    slow.write_all(&large_request().to_string().as_bytes()[..MOST]).await.expect("sent");
    while bodies.in_use_bytes() < MOST {
        yield_now().await;
    }
    drop(slow);
    while bodies.in_use_bytes() > 0 {
        yield_now().await;
    }
}

#[tokio::test]
async fn who_only_waits_for_a_result_has_no_memory_of_a_body() {
    let (fleet, bodies) = small_gateway().await;
    let send = || tokio::spawn(fleet.http.post(format!("{}{PREDICT}", fleet.url)).json(&large_request()).send());
    let mut waiting = Vec::new();
    for ready in 1..=2 {
        waiting.push(send());
        while fleet.queue.depth(&pool()).await.expect("a broker").is_none_or(|depth| depth.ready < ready) || bodies.in_use_bytes() > 0 {
            yield_now().await;
        }
    }
    fleet.work(|body| Ok(echo(body))).await;
    for request in waiting {
        assert_eq!(request.await.expect("no panic").expect("an answer").status(), StatusCode::OK);
    }
}
