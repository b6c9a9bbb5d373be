//! What a service manager hears (`Type=notify`, `WatchdogSec=`): that a program serves, lives, stops and needs time for that.

use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tests::{
    program::Program,
    tasks::{result, simulate, started},
};
use tokio::net::UnixDatagram;

use crate::servers::Servers;

/// Longest wait for a message. Generous: it bounds a hang.
const PATIENCE: Duration = Duration::from_secs(120);

/// A socket in systemd's place.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn listen() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { socket: UnixDatagram::bind(folder.path().join("notify")).expect("a socket"), folder }
    }

    /// Starts a program that it manages.
    fn start(&self, servers: &Servers, arguments: &[&str]) -> Program {
        let path = self.folder.path().join("notify");
        let socket = path.to_str().expect("text");
        Program::start(servers.command_line(arguments), &[("NOTIFY_SOCKET", socket), ("WATCHDOG_USEC", "1000000")])
    }

    /// Waits for a message with this line, and gives all lines that came until then, this message's included.
    async fn hears(&self, line: &str) -> Vec<String> {
        let mut heard = Vec::new();
        let mut buffer = [0; 4_096];
        loop {
            let received = tokio::time::timeout(PATIENCE, self.socket.recv(&mut buffer)).await;
            let length = received.unwrap_or_else(|_| panic!("never heard {line}, but {heard:?}")).expect("a message");
            let lines: Vec<String> = String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned).collect();
            let is_it = lines.iter().any(|heard| heard == line);
            heard.extend(lines);
            if is_it {
                return heard;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_tells_when_it_serves_that_it_lives_and_that_it_drains() {
    let (servers, manager) = (Servers::fresh().await, Manager::listen());
    let producer = servers.producer().await;
    let worker = manager.start(&servers, &["worker", "--simulated", "2", "--id-prefix", "managed"]);
    let before = manager.hears("READY=1").await;
    let rows = servers.rows().await;
    assert_eq!((rows.len(), rows.iter().all(|view| view.row.consuming)), (2, true), "it takes tasks by then");
    assert!(before.iter().any(|line| line.starts_with("STATUS=serves 2 simulated GPUs")), "{before:?}");
    manager.hears("WATCHDOG=1").await;
    let running = started(&producer, simulate(4_000, "in the end")).await;
    worker.signal("TERM");
    let until_it_stops = manager.hears("STOPPING=1").await;
    assert!(!until_it_stops.iter().any(|line| line == "READY=1"), "once: {until_it_stops:?}");
    manager.hears("EXTEND_TIMEOUT_USEC=30000000").await;
    manager.hears("WATCHDOG=1").await;
    assert_eq!(result(&running.await.expect("a reply")), json!("in the end"));
    assert_eq!(worker.exit_code().await, 0, "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_serves_tells_that_it_does_and_that_it_stops() {
    let servers = Servers::fresh().await;
    for role in [&["up", "--simulated", "1", "--listen", "127.0.0.1:0"][..], &["gateway", "--listen", "127.0.0.1:0"]] {
        let manager = Manager::listen();
        let program = manager.start(&servers, role);
        manager.hears("READY=1").await;
        program.signal("TERM");
        manager.hears("STOPPING=1").await;
        assert_eq!(program.exit_code().await, 0, "{role:?}: {}", program.log());
    }
}
