//! Metrics by Prometheus's own conventions, readiness while a worker drains, and which build it is.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::json;
use tests::{
    program::gpufleet,
    tasks::{echo, reply, result, simulate, started},
    until::until,
};

use crate::{
    http::{get_json, get_text},
    servers::Servers,
};

/// Names that promtool would have otherwise, and that stay: they are the document's.
const OF_THE_DOCUMENT: [&str; 3] = ["gpu_memory_used_mb ", "gpu_response_time_ms ", "gpu_tasks_count "];

/// What `promtool check metrics` says of an exposition, line by line, and its exit code: 0 nothing, 3 about its style, 1 that it is none.
fn checked(exposition: &str) -> (Vec<String>, i32) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be started: scripts/install-test-needs installs it");
    promtool.stdin.take().expect("a pipe").write_all(exposition.as_bytes()).expect("it reads");
    let ended = promtool.wait_with_output().expect("it ends");
    let said = [ended.stdout, ended.stderr].map(|bytes| String::from_utf8(bytes).expect("text")).concat();
    (said.lines().map(str::to_owned).collect(), ended.status.code().unwrap_or(-1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_accepts_the_metrics_of_a_fleet() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(2, &[]).await;
    let producer = servers.producer().await;
    for n in 0..4 {
        result(&reply(&producer, echo(n)).await);
    }
    let url = format!("{}/metrics", fleet.url().await);
    until("what a heartbeat says is there", async || get_text(&url).await.contains("gpufleet_store_call_seconds{")).await;
    let metrics = get_text(&url).await;
    let (said, code) = checked(&metrics);
    assert!([0, 3].contains(&code), "it is no exposition: {said:?}\n{metrics}");
    let new: Vec<&String> = said.iter().filter(|line| !OF_THE_DOCUMENT.iter().any(|name| line.starts_with(name))).collect();
    assert!(new.is_empty(), "{new:#?}\n{metrics}");
    for family in [
        "gpufleet_build_info",
        "gpufleet_slots_used",
        "gpufleet_slots_free",
        "gpufleet_worker_phase",
        "gpufleet_broker_confirm_seconds",
        "gpufleet_table_call_seconds",
    ] {
        assert!(metrics.contains(&format!("# TYPE {family} gauge")), "{family} is not among\n{metrics}");
    }
}

#[test]
fn promtool_refuses_what_is_against_its_conventions() {
    let (said, code) = checked("# HELP gpufleet_things_total Things.\n# TYPE gpufleet_things_total gauge\ngpufleet_things_total 1\n");
    assert_eq!((code, said.len()), (3, 1), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_drains_is_alive_and_not_ready() {
    let servers = Servers::fresh().await;
    let producer = servers.producer().await;
    let worker = servers.start(&["worker", "--simulated", "1", "--id-prefix", "lone", "--set", "worker.metrics_listen=127.0.0.1:0"]);
    let metrics = worker.logged("metrics are at ").await;
    let [ready, healthy] = ["/readyz", "/healthz"].map(|path| metrics.replace("/metrics", path));
    servers.eligible(1).await;
    until("it is ready", async || get_json(&ready).await.0 == 200).await;
    let running = started(&producer, simulate(6_000, "in the end")).await;
    worker.signal("TERM");
    until("it says that it drains", async || {
        let (code, said) = get_json(&ready).await;
        code == 503 && said["status"] == "draining"
    })
    .await;
    assert_eq!(reqwest::get(&healthy).await.expect("an answer").status().as_u16(), 200, "a restart would not help");
    assert_eq!(result(&running.await.expect("a reply")), json!("in the end"));
    assert_eq!(worker.exit_code().await, 0, "{}", worker.log());
}

#[tokio::test]
async fn the_version_names_the_commit() {
    let ended = gpufleet(std::path::Path::new("/"), ["--version"], &[]).await;
    let commit =
        ended.output.trim().strip_prefix(concat!("gpufleet ", env!("CARGO_PKG_VERSION"), " (")).and_then(|rest| rest.strip_suffix(')'));
    let is_commit = |text: &str| text == "unknown" || (text.len() >= 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert!(commit.is_some_and(is_commit), "{ended:?}");
}
