//! One's own work: a Python function, or any program, is a kind of the fleet by one flag; and what becomes of its tasks when its process dies, and of its process when the worker does.

#![expect(clippy::unwrap_used, reason = "helpers of tests; their unwraps are a test's")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use producer::{NewTask, Producer};
use protocol::TaskState;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    program::{Program, is_running, kill},
    tasks::{PATIENCE, reply, result, task},
    until::until,
};

use crate::{
    clients::{Client, Plan, Publish},
    python_package::package,
    servers::Servers,
};

/// The five lines.
const SHOUT: &str = r#"
from gpufleet import task

@task
def shout(text: str) -> str:
    return text.upper()
"#;

/// What waits in its process, and says which one that is.
const SLOW: &str = r#"
import os
import time
from gpufleet import task

@task(concurrency=8)
def slow(ms: int, n: int) -> int:
    time.sleep(ms / 1000)
    return n

@task
def whose() -> int:
    return os.getpid()
"#;

/// A folder with a Python file of this name and text.
pub fn python_file(name: &str, text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::write(&file, text).unwrap();
    (folder, file)
}

/// Starts a program that runs workers, whose handlers find the package.
fn start(servers: &Servers, arguments: &[&str]) -> Program {
    Program::start(servers.command_line(arguments), &[("PYTHONPATH", &package().display().to_string())])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_lines_of_python_are_a_kind_of_the_fleet_for_pika_and_for_submit() {
    let servers = Servers::fresh().await;
    let (_folder, file) = python_file("shout.py", SHOUT);
    let arguments = ["up", "--simulated", "2", "--listen", "127.0.0.1:0", "--handler", file.to_str().unwrap()];
    let fleet = start(&servers, &arguments);
    fleet.url().await;
    servers.eligible(2).await;
    let shout = |rows: Vec<protocol::gpu::GpuView>| rows.iter().all(|view| view.row.kinds.iter().any(|kind| kind.as_str() == "shout"));
    until("the kind is up on both GPUs", async || shout(servers.rows().await)).await;

    let submitted = servers.run(&["submit", "shout", "--payload", r#"{"text": "aloud"}"#, "--wait"]).await;
    assert_eq!((submitted.code, submitted.output.trim()), (Some(0), r#""ALOUD""#), "{submitted:?}");

    let queue = servers.pool_queue();
    let plan = (0..4).fold(Plan::at(servers.amqp()), |plan, n| {
        let properties = json!({"type": "shout", "correlation_id": format!("c-{n}")});
        plan.publish(Publish {
            exchange: "",
            routing_key: &queue,
            properties,
            body: json!({"payload": {"text": format!("by pika {n}")}}).to_string(),
        })
    });
    let mut results: Vec<Value> = Client::Pika.talk(plan).await.into_iter().map(|reply| reply["body"]["result"].clone()).collect();
    results.sort_by_key(Value::to_string);
    assert_eq!(results, ["BY PIKA 0", "BY PIKA 1", "BY PIKA 2", "BY PIKA 3"]);

    // What does not fit the function is refused before it sees it, with the field.
    let producer = servers.producer().await;
    let error = reply(&producer, task("shout", json!({"text": 7}))).await.error.unwrap();
    assert_eq!((error.code.as_str(), error.field.as_deref()), ("invalid_payload", Some("payload.text")), "{error:?}");
}

/// A worker of one GPU with the slow handler, and the process in which it runs.
async fn slow_worker(servers: &Servers, file: &Path, producer: &Producer) -> (Program, u32) {
    let worker = start(servers, &["worker", "--simulated", "1", "--id-prefix", "own", "--handler", file.to_str().unwrap()]);
    servers.eligible(1).await;
    let pid = whose(producer).await;
    (worker, pid)
}

/// The process in which the handler's functions run now.
async fn whose(producer: &Producer) -> u32 {
    serde_json::from_value(result(&reply(producer, task("whose", json!({}))).await)).unwrap()
}

fn slow(ms: u64, n: u64) -> NewTask {
    task("slow", json!({"ms": ms, "n": n}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_tasks_survive_the_kill_of_the_process_that_runs_them() {
    let servers = Servers::fresh().await;
    let producer = servers.producer().await;
    let (_folder, file) = python_file("slow.py", SLOW);
    let (worker, pid) = slow_worker(&servers, &file, &producer).await;
    let mut pending = Vec::new();
    for n in 0..20 {
        pending.push(producer.pending(slow(400, n), PATIENCE).await.unwrap());
    }
    until("some of them run", async || {
        let mut running = 0;
        for task in &pending {
            let status = producer.status(task.task_id()).await.unwrap();
            running += u32::from(status.is_some_and(|status| status.state == TaskState::Running));
        }
        running >= 4
    })
    .await;
    kill(pid);
    let mut crashes = 0;
    for (n, pending) in pending.into_iter().enumerate() {
        let task_id = pending.task_id().clone();
        let reply = pending.await.unwrap();
        assert_eq!((result(&reply), reply.attempt), (json!(n), 1), "a crash costs no attempt");
        crashes += producer.status(&task_id).await.unwrap().unwrap().crashes;
    }
    assert!(crashes >= 1, "what ran in the process is known to have crashed");
    assert!(worker.log().contains("the process that it ran in crashed"), "{}", worker.log());
    assert_ne!(whose(&producer).await, pid, "another process runs them now");
    assert!(servers.rows().await.iter().all(|view| view.row.health == protocol::Health::Healthy));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_ends_with_its_worker_however_that_one_ends() {
    let servers = Servers::fresh().await;
    let producer = servers.producer().await;
    let (_folder, file) = python_file("slow.py", SLOW);
    for signal in ["KILL", "TERM"] {
        let (worker, pid) = slow_worker(&servers, &file, &producer).await;
        assert!(is_running(pid));
        worker.signal(signal);
        worker.exit_code().await;
        until("the handler is gone", async || !is_running(pid)).await;
        until("its worker's row is gone", async || servers.rows().await.is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_whose_handler_never_starts_is_told_of_by_gpus_doctor_and_submit_and_its_tasks_wait() {
    let servers = Servers::fresh().await;
    let handlers = r#"handlers=[{"name": "mine", "command": ["false"], "kinds": ["embed"]}]"#;
    let _fleet = servers.up(1, &["--set", handlers]).await;
    until("the row says that it is down", async || servers.rows().await.iter().all(|view| view.row.kinds_down.len() == 1)).await;
    let gpus = servers.run(&["gpus"]).await;
    assert!(gpus.output.contains("kind down: embed (") && gpus.output.contains("on 1 GPU: sim-0"), "{gpus:?}");
    assert!(servers.run(&["gpus", "sim-0"]).await.output.contains("kind down"));
    let rows: Value = serde_json::from_str(&servers.run(&["gpus", "--json"]).await.output).unwrap();
    assert!(rows[0]["kinds_down"]["embed"].as_str().is_some_and(|why| why.contains("mine")), "{rows}");
    let examined = servers.run(&["doctor"]).await;
    assert!(examined.code == Some(0) && examined.output.contains("kind embed: down on 1 GPU: sim-0 of 1: "), "{examined:?}");
    let submitted = servers.run(&["submit", "embed", "--payload", "{}", "--wait", "--timeout", "1"]).await;
    assert!(submitted.code == Some(5) && submitted.errors.contains("the kind embed is down on 1 GPU that could run it: "), "{submitted:?}");
    assert!(servers.run(&["unserved"]).await.output.contains("no worker of pool default found a task"), "it is down, and not unserved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_cannot_be_one_is_refused_at_the_start_with_what_is_wrong() {
    let servers = Servers::fresh().await;
    let worker = |more: &[&str]| start(&servers, &[&["worker", "--simulated", "1", "--id-prefix", "none"], more].concat());
    let (_folder, broken) = python_file("broken.py", "import no_such_module_of_ours\n");
    let broken = broken.to_str().unwrap();
    let both = r#"handlers=[{"command": ["false"], "kinds": ["echo"]}]"#;
    let cases: [(&[&str], i32, &str); 3] = [
        (&["--handler", "/nonexistent/mine.py"], 2, "--handler /nonexistent/mine.py: there is no such file"),
        (&["--set", both], 2, "kind echo: gpufleet itself and handler false both run it"),
        (&["--handler", broken], 3, "no_such_module_of_ours"),
    ];
    for (more, code, words) in cases {
        let refused = worker(more);
        assert_eq!(refused.exit_code().await, code, "{}", refused.log());
        assert!(refused.log().contains(words), "{words}: {}", refused.log());
    }
    assert!(servers.rows().await.is_empty());
}
