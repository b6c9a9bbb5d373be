//! Connections that say nothing, half of something, or too much.

use std::time::Duration;

use gateway::{ConnectionLimits, GatewayOptions};
use reqwest::StatusCode;
use serde_json::json;
use task_queue::TaskQueue;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::yield_now,
    time::timeout,
};

use crate::fleet::{Fleet, Setup, pool, problem, retry_after_s};

/// Longest wait for anything. Generous: it bounds a hang.
const PATIENCE: Duration = Duration::from_secs(60);
/// A limit that is to be reached. What is to come before it is done in much less.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(600);
const HALF_A_HEAD: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ";
const WHOLE_HEAD: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

async fn gateway(connections: ConnectionLimits) -> Fleet {
    let options = GatewayOptions { connections, ..GatewayOptions::default() };
    Setup { options, ..Setup::default() }.start().await
}

async fn connect(fleet: &Fleet) -> TcpStream {
    TcpStream::connect(fleet.url.strip_prefix("http://").expect("a URL")).await.expect("a connection")
}

async fn say(fleet: &Fleet, bytes: &[u8]) -> TcpStream {
    let mut stream = connect(fleet).await;
    stream.write_all(bytes).await.expect("sent");
    stream
}

/// What comes up to the end of the connection.
async fn to_the_end(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A connection may end by a reset, if the gateway had not read all.
    let _ended = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the gateway ends the connection");
    String::from_utf8(bytes).expect("UTF-8")
}

/// One answer of `/healthz`, on a connection that goes on.
async fn hear_health(stream: &mut TcpStream) {
    let mut text = String::new();
    while !text.ends_with(r#"{"status":"ok"}"#) {
        let mut bytes = [0; 512];
        let count = timeout(PATIENCE, stream.read(&mut bytes)).await.expect("an answer").expect("bytes");
        assert!(count > 0, "the connection ended after {text:?}");
        text.push_str(std::str::from_utf8(&bytes[..count]).expect("UTF-8"));
    }
}

/// The metric is in the end so high, or higher: where the machine stands still, the connections of the test's own client may end too.
async fn shows_at_least(fleet: &Fleet, metric: &str, count: u64) {
    let value = async || {
        let text = fleet.get("/metrics").await.text().await.expect("text");
        text.lines().find_map(|line| line.strip_prefix(metric)?.trim().parse::<u64>().ok())
    };
    let shown = async {
        while value().await.is_none_or(|value| value < count) {
            yield_now().await;
        }
    };
    timeout(PATIENCE, shown).await.unwrap_or_else(|_| panic!("never shown: {metric} {count}"));
}

#[tokio::test]
async fn half_of_a_head_and_silence_end_in_time() {
    let fleet = gateway(ConnectionLimits { head_timeout: SHORT, idle_timeout: LONG, ..ConnectionLimits::default() }).await;
    let mut open = vec![connect(&fleet).await];
    for _ in 0..20 {
        open.push(say(&fleet, HALF_A_HEAD).await);
    }
    for stream in open {
        assert_eq!(to_the_end(stream).await, "");
    }
    shows_at_least(&fleet, r#"gateway_connections_ended_total{why="head_timeout"}"#, 21).await;
}

#[tokio::test]
async fn half_of_a_second_head_has_the_limit_of_a_head() {
    let fleet = gateway(ConnectionLimits { head_timeout: SHORT, idle_timeout: LONG, ..ConnectionLimits::default() }).await;
    let mut stream = say(&fleet, WHOLE_HEAD).await;
    hear_health(&mut stream).await;
    stream.write_all(HALF_A_HEAD).await.expect("sent");
    assert_eq!(to_the_end(stream).await, "");
    shows_at_least(&fleet, r#"gateway_connections_ended_total{why="head_timeout"}"#, 1).await;
}

#[tokio::test]
async fn a_connection_takes_one_request_after_the_other_and_then_rests_for_so_long() {
    let fleet = gateway(ConnectionLimits { head_timeout: LONG, idle_timeout: SHORT, ..ConnectionLimits::default() }).await;
    let mut stream = say(&fleet, WHOLE_HEAD).await;
    for _ in 0..3 {
        hear_health(&mut stream).await;
        stream.write_all(WHOLE_HEAD).await.expect("sent");
    }
    hear_health(&mut stream).await;
    assert_eq!(to_the_end(stream).await, "");
    shows_at_least(&fleet, r#"gateway_connections_ended_total{why="idle_timeout"}"#, 1).await;
}

#[tokio::test]
async fn whoever_holds_all_connections_and_says_nothing_keeps_nobody_out() {
    let fleet = gateway(ConnectionLimits { connections_max: 4, head_timeout: LONG, idle_timeout: LONG }).await;
    let mut held = Vec::new();
    for number in 0..40 {
        held.push(if number % 2 == 0 { connect(&fleet).await } else { say(&fleet, HALF_A_HEAD).await });
    }
    assert_eq!(fleet.get("/healthz").await.status(), StatusCode::OK, "at once");
    let served = async {
        while fleet.get("/api/v1/gpus").await.status() != StatusCode::OK {
            yield_now().await;
        }
    };
    timeout(PATIENCE, served).await.expect("room is made");
    let metrics = fleet.get("/metrics").await.text().await.expect("text");
    assert!(metrics.contains(r#"gateway_connections_ended_total{why="made_room"}"#), "{metrics}");
    drop(held);
}

#[tokio::test]
async fn whoever_holds_all_connections_and_sends_no_bodies_keeps_nobody_out() {
    let connections = ConnectionLimits { connections_max: 4, head_timeout: LONG, idle_timeout: LONG };
    let options = GatewayOptions { connections, body_timeout: LONG, ..GatewayOptions::default() };
    let fleet = Setup { options, ..Setup::default() }.start().await;
    let head = "POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let mut held = Vec::new();
    for length in ["Content-Length: 16", "Transfer-Encoding: chunked"].repeat(4) {
        held.push(say(&fleet, format!("{head}{length}\r\n\r\n").as_bytes()).await);
    }
    let served = async {
        while fleet.post("/api/v1/tasks", &json!({"kind": "echo"})).await.status() != StatusCode::ACCEPTED {
            yield_now().await;
        }
    };
    timeout(PATIENCE, served).await.expect("room is made");
    shows_at_least(&fleet, r#"gateway_connections_ended_total{why="made_room"}"#, 1).await;
    drop(held);
}

#[tokio::test]
async fn while_every_connection_is_busy_one_more_hears_so_and_health_is_told() {
    let fleet = gateway(ConnectionLimits { connections_max: 1, ..ConnectionLimits::default() }).await;
    let waiting = tokio::spawn(fleet.http.post(format!("{}/api/v1/predict", fleet.url)).json(&json!({"text": "a"})).send());
    while fleet.queue.depth(&pool()).await.expect("a broker").is_none_or(|depth| depth.ready == 0) {
        yield_now().await;
    }
    let refused = fleet.post("/api/v1/tasks", &json!({"kind": "echo"})).await;
    assert_eq!((retry_after_s(&refused), &refused.headers()["connection"]), (1, &"close".parse().expect("a value")));
    let document = problem(refused, StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(document["detail"].as_str().is_some_and(|detail| detail.contains("gateway.connections_max")), "{document}");
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(fleet.get(path).await.status(), StatusCode::OK, "{path}");
    }

    fleet.work(|_| Ok(json!({"text": "b"}))).await;
    assert_eq!(waiting.await.expect("no panic").expect("an answer").status(), StatusCode::OK);
    assert_eq!(fleet.post("/api/v1/tasks", &json!({"kind": "echo"})).await.status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_431() {
    let fleet = Fleet::start().await;
    let long = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: {}\r\n\r\n", "a".repeat(64 << 10));
    let many = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-A: a\r\n".repeat(200));
    for head in [long, many] {
        let mut stream = connect(&fleet).await;
        // The gateway may have heard enough before all of it was sent.
        let _sent = stream.write_all(head.as_bytes()).await;
        let mut start = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut start)).await.expect("an answer").expect("its first bytes");
        assert_eq!(std::str::from_utf8(&start), Ok("HTTP/1.1 431"));
    }
}

#[tokio::test]
async fn a_body_that_trickles_is_answered_408() {
    let options = GatewayOptions { body_timeout: SHORT, ..GatewayOptions::default() };
    let fleet = Setup { options, ..Setup::default() }.start().await;
    let head =
        "POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{";
    let answer = to_the_end(say(&fleet, head.as_bytes()).await).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("gateway.body_timeout_ms"), "{answer}");
}
