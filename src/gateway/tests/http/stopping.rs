//! How the gateway ends.

use std::time::Duration;

use gateway::{ConnectionLimits, GatewayOptions, ServeError};
use reqwest::StatusCode;
use serde_json::json;
use task_queue::TaskQueue;
use tokio::io::AsyncWriteExt;

use crate::fleet::{Fleet, Setup, pool};

/// A predict that is waiting for its reply.
async fn waiting(fleet: &Fleet) -> tokio::task::JoinHandle<reqwest::Result<reqwest::Response>> {
    let request = fleet.http.post(format!("{}/api/v1/predict", fleet.url)).json(&json!({"text": "a"})).send();
    let request = tokio::spawn(request);
    while fleet.queue.depth(&pool()).await.expect("a broker").is_none_or(|depth| depth.ready == 0) {
        tokio::task::yield_now().await;
    }
    request
}

#[tokio::test]
async fn a_stop_lets_open_requests_end() {
    let fleet = Fleet::start().await;
    let request = waiting(&fleet).await;
    fleet.stop.cancel();
    fleet.work(|_| Ok(json!({"text": "b"}))).await;
    assert_eq!(request.await.expect("no panic").expect("an answer").status(), StatusCode::OK);
    fleet.serving.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_stop_cuts_off_what_outlasts_the_grace() {
    let options = GatewayOptions { drain_grace: Duration::from_millis(50), ..GatewayOptions::default() };
    let fleet = Setup { options, ..Setup::default() }.start().await;
    let request = waiting(&fleet).await;
    fleet.stop.cancel();
    assert!(matches!(fleet.serving.await.expect("no panic"), Err(ServeError::CutOff { after_ms: 50 })));
    request.abort();
}

#[tokio::test]
async fn a_connection_without_a_whole_head_does_not_hold_up_a_stop() {
    let hour = Duration::from_secs(3_600);
    let connections = ConnectionLimits { head_timeout: hour, idle_timeout: hour, ..ConnectionLimits::default() };
    let fleet = Setup { options: GatewayOptions { connections, ..GatewayOptions::default() }, ..Setup::default() }.start().await;
    let address = fleet.url.strip_prefix("http://").expect("a URL");
    let _silent = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let mut begun = tokio::net::TcpStream::connect(address).await.expect("a connection");
    begun.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ").await.expect("sent");
    assert_eq!(fleet.get("/healthz").await.status(), StatusCode::OK);
    fleet.stop.cancel();
    fleet.serving.await.expect("no panic").expect("a clean end");
}
