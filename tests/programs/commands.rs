//! Every command's output and exit code.

use std::{collections::BTreeSet, num::NonZeroU16, path::Path, process::Stdio};

use serde_json::{Value, json};
use task_queue::{Queue, TaskQueue};
use tests::{
    ports::NOBODY,
    program::{Ended, binary, gpufleet},
    tasks::PATIENCE,
    until::until,
};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::servers::Servers;

/// A command that needs no server, in an empty folder.
async fn alone(arguments: &[&str]) -> Ended {
    gpufleet(Path::new("/"), arguments, &[]).await
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_reports_what_each_gpu_did_as_one_json_object() {
    let demo = alone(&["demo", "--gpus", "3", "--tasks", "200", "--json"]).await;
    assert_eq!(demo.code, Some(0), "{demo:?}");
    let report: Value = serde_json::from_str(&demo.output).expect("one JSON object and nothing else");
    let expected = ["tasks", "succeeded", "failed", "seconds", "throughput_per_s", "gpus", "balance"];
    assert_eq!(keys(&report), BTreeSet::from(expected));
    assert_eq!((&report["tasks"], &report["succeeded"], &report["failed"]), (&json!(200), &json!(200), &json!(0)));
    let gpus = report["gpus"].as_array().unwrap();
    assert_eq!(gpus.iter().map(|gpu| gpu["tasks"].as_u64().unwrap()).sum::<u64>(), 200);
    assert_eq!(gpus.len(), 3);
    for gpu in gpus {
        assert_eq!(keys(gpu), BTreeSet::from(["gpu_id", "tasks", "p50_ms", "p95_ms", "p99_ms"]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_ends_with_its_table_and_what_came_of_it() {
    let demo = alone(&["demo", "--gpus", "2", "--tasks", "40"]).await;
    assert_eq!(demo.code, Some(0), "{demo:?}");
    let lines: Vec<&str> = demo.output.lines().collect();
    let (table, last) = (&lines[lines.len() - 7..lines.len() - 1], lines[lines.len() - 1]);
    assert!(last.starts_with("40 of 40 tasks got their own right reply"), "{demo:?}");
    assert!(table[0].starts_with('┌') && table[3].contains("sim-0") && table[4].contains("sim-1"), "{demo:?}");
    assert!(demo.output.contains("\"kind\": \"predict\"") && demo.output.contains("\"model\":\"tiny\""), "{demo:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submit_says_all_that_a_task_may_say() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(2, &[]).await;
    let queue = servers.queue().await;
    let own = Queue::Reply("submit-says-all".to_owned());
    queue.declare(&own).await.expect("declared");
    let mut replies = queue.consume(&own, NonZeroU16::MIN).await.expect("consumed");
    let reply_to = queue.names().queue(&own);
    let tries = ["--max-attempts", "2", "--attempt-timeout-ms", "60000", "--queue-deadline-ms", "60000", "--total-deadline-ms", "60000"];
    let needs = ["--memory-mb", "100", "--compute-capability", "8.0", "--model", "any", "--strategy", "round_robin", "--gpu", "1"];
    let more = ["--batch-split", "false", "--reply-to", &reply_to, "--correlation-id", "c-1", "--priority", "9"];
    let submitted = servers.run(&[&["submit", "echo", "--payload", "7"][..], &tries[..], &needs[..], &more[..]].concat()).await;
    assert_eq!(submitted.code, Some(0), "{submitted:?}");
    let reply = tokio::time::timeout(PATIENCE, replies.next()).await.expect("in time").expect("a reply");
    let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!((reply.envelope.correlation_id.as_deref(), &body["result"], &body["gpu_id"]), (Some("c-1"), &json!(7), &json!("sim-1")));
    assert_eq!(body["task_id"], submitted.output.trim());

    // A need that no GPU has: it waits, and says for what once the time is over.
    let large = ["submit", "echo", "--memory-mb", "99000000", "--wait", "--timeout", "5", "--total-deadline-ms", "600000"];
    let waited = servers.run(&large).await;
    assert_eq!(waited.code, Some(5), "{waited:?}");
    assert!(waited.errors.contains(" s: it waits: ") && waited.errors.contains("99000000"), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submit_tells_by_its_exit_code_what_became_of_the_task() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(2, &[]).await;
    let echoed = servers.run(&["submit", "echo", "--payload", r#"{"hello":"world"}"#, "--wait"]).await;
    assert_eq!((echoed.code, echoed.output.as_str()), (Some(0), "{\"hello\":\"world\"}\n"), "{echoed:?}");

    let failing = r#"{"fail": {"code": "broken", "message": "as asked"}}"#;
    let failed = servers.run(&["submit", "simulate", "--payload", failing, "--wait"]).await;
    assert_eq!((failed.code, failed.errors.contains("broken: as asked")), (Some(1), true), "{failed:?}");

    let no_json = servers.run(&["submit", "echo", "--payload", "{"]).await;
    assert_eq!((no_json.code, no_json.errors.contains("--payload is not JSON")), (Some(2), true), "{no_json:?}");

    let stepwise = r#"{"duration_ms": 1000, "progress_every_ms": 300, "result": "done"}"#;
    let streamed = servers.run(&["submit", "simulate", "--payload", stepwise, "--wait", "--stream"]).await;
    assert_eq!((streamed.code, streamed.output.as_str()), (Some(0), "1\n2\n3\n\"done\"\n"), "{streamed:?}");
    let unanswered = servers.run(&["submit", "simulate", "--payload", r#"{"duration_ms": 60000}"#, "--wait", "--timeout", "1"]).await;
    assert_eq!(unanswered.code, Some(5), "{unanswered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submit_says_at_once_which_server_is_away() {
    let away = format!("amqp.url=amqp://guest:hunter2@127.0.0.1:{NOBODY}/%2f");
    let submitted = alone(&["submit", "echo", "--set", &away, "--set", "redis.url=redis://127.0.0.1:1/0"]).await;
    assert_eq!(submitted.code, Some(3), "{submitted:?}");
    assert!(submitted.errors.contains(&format!("127.0.0.1:{NOBODY}")) && !submitted.errors.contains("hunter2"), "{submitted:?}");

    let nowhere = alone(&["submit", "echo"]).await;
    assert_eq!((nowhere.code, nowhere.errors.contains("--amqp-url")), (Some(2), true), "{nowhere:?}");
    let lost = alone(&["gpus", "--redis-url", &format!("redis://127.0.0.1:{NOBODY}/0")]).await;
    assert_eq!(lost.code, Some(3), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_are_submitted_under_ids_of_their_own_and_status_finds_them() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(2, &[]).await;
    let submitted = servers.run(&["submit", "echo", "--count", "50"]).await;
    assert_eq!(submitted.code, Some(0), "{submitted:?}");
    let ids: BTreeSet<&str> = submitted.output.lines().collect();
    assert_eq!(ids.len(), 50);
    let waited = servers.run(&["submit", "echo", "--payload", "5", "--count", "50", "--wait"]).await;
    assert_eq!((waited.code, waited.output.as_str()), (Some(0), "5\n".repeat(50).as_str()), "{waited:?}");

    let known = servers.run(&["status", ids.first().unwrap(), "--json"]).await;
    let status: Value = serde_json::from_str(&known.output).unwrap();
    assert_eq!((known.code, &status["kind"]), (Some(0), &json!("echo")));
    let unknown = servers.run(&["status", "nobody-knows-it"]).await;
    assert_eq!((unknown.code, unknown.errors.contains("nobody-knows-it")), (Some(4), true), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gpus_and_the_strategy_are_shown_and_changed_while_the_fleet_runs() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(2, &[]).await;
    let gpus = servers.run(&["gpus", "--json"]).await;
    let rows: Value = serde_json::from_str(&gpus.output).unwrap();
    let ids: Vec<&Value> = rows.as_array().unwrap().iter().map(|view| &view["gpu"]["gpu_id"]).collect();
    assert_eq!((gpus.code, ids), (Some(0), vec![&json!("sim-0"), &json!("sim-1")]));
    let keys: Vec<&Value> = rows.as_array().unwrap().iter().map(|view| &view["data_port"]["key"]).collect();
    assert_eq!(keys, [&json!("***"), &json!("***")], "who is shown a GPU cannot read its tensors by that");
    let table = servers.run(&["gpus"]).await;
    assert!(table.output.contains("sim-0") && table.output.contains("healthy"), "{table:?}");
    assert!(table.output.lines().all(|line| line.chars().count() <= 80), "{table:?}");
    let wide = servers.run(&["gpus", "--wide"]).await;
    assert!(wide.output.contains("CLOCK MHZ") && wide.output.contains("AGE MS"), "{wide:?}");
    let one = servers.run(&["gpus", "1"]).await;
    assert_eq!(one.code, Some(0), "{one:?}");
    for shown in ["sim-1 (number 1)", "0 of 8 held", "echo, predict, simulate", "eligible: yes", "ECC"] {
        assert!(one.output.contains(shown), "{shown}: {}", one.output);
    }
    let none = servers.run(&["gpus", "7"]).await;
    assert_eq!((none.code, none.errors.contains("\"7\"")), (Some(4), true), "{none:?}");

    let shown = async || servers.run(&["strategy", "get"]).await.output.split(' ').next().unwrap_or_default().to_owned();
    assert_eq!(shown().await, "least_loaded");
    assert_eq!(servers.run(&["strategy", "set", "round_robin"]).await.code, Some(0));
    assert_eq!(shown().await, "round_robin");
    let ran = servers.run(&["submit", "echo", "--wait", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&ran.output).unwrap()["strategy"]["used"], "round_robin", "{ran:?}");
    assert_eq!(servers.run(&["strategy", "set", "fastest"]).await.code, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_task_is_cancelled_from_the_command_line_and_over_http_and_an_ended_one_says_so() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(1, &[]).await;
    let url = fleet.url().await;
    for id in ["by-command", "by-http"] {
        let submitted = servers.run(&["submit", "simulate", "--payload", "{\"duration_ms\": 600000}", "--task-id", id]).await;
        assert_eq!(submitted.code, Some(0), "{submitted:?}");
    }
    let state = async |id: &str| {
        let status = servers.run(&["status", id, "--json"]).await;
        serde_json::from_str::<Value>(&status.output).ok().map(|status| status["state"].clone())
    };
    until("both run", async || state("by-command").await == Some(json!("running")) && state("by-http").await == Some(json!("running")))
        .await;
    let cancelled = servers.run(&["cancel", "by-command"]).await;
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    let deleted = reqwest::Client::new().delete(format!("{url}/api/v1/tasks/by-http")).send().await.unwrap();
    assert_eq!(deleted.status(), 202);
    until("both are cancelled", async || {
        state("by-command").await == Some(json!("cancelled")) && state("by-http").await == Some(json!("cancelled"))
    })
    .await;
    let again = servers.run(&["cancel", "by-command"]).await;
    assert_eq!((again.code, again.output.contains("ended already: cancelled")), (Some(1), true), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_of_an_id_that_no_task_has_says_what_it_counts_for_and_an_id_serves_one_task() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(1, &[]).await;
    let cancelled = servers.run(&["cancel", "not-yet"]).await;
    assert_eq!((cancelled.code, cancelled.errors.contains("submitted from now on is not")), (Some(0), true), "{cancelled:?}");
    let ran = servers.run(&["submit", "echo", "--payload", "1", "--task-id", "not-yet", "--wait"]).await;
    assert_eq!((ran.code, ran.output.as_str()), (Some(0), "1\n"), "{ran:?}");
    let other = servers.run(&["submit", "echo", "--payload", "2", "--task-id", "not-yet"]).await;
    assert_eq!((other.code, other.errors.contains("--task-id")), (Some(2), true), "{other:?}");

    let cancelled = servers.run(&["cancel", "not-ever", "--ahead", "--json"]).await;
    assert_eq!((cancelled.code, cancelled.errors.contains("or is submitted later")), (Some(0), true), "{cancelled:?}");
    let never = servers.run(&["submit", "echo", "--task-id", "not-ever", "--wait"]).await;
    assert_eq!((never.code, never.errors.contains("cancelled")), (Some(1), true), "{never:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_that_nobody_serves_is_warned_of_listed_and_found_by_doctor() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(1, &[]).await;
    let submitted = servers.run(&["submit", "ecko"]).await;
    assert_eq!(submitted.code, Some(0), "{submitted:?}");
    for part in ["warning: no living GPU of pool default serves kind ecko", "served now: echo, predict, simulate"] {
        assert!(submitted.errors.contains(part), "{part}: {submitted:?}");
    }
    let quiet = servers.run(&["submit", "echo"]).await;
    assert_eq!((quiet.code, quiet.errors.contains("warning")), (Some(0), false), "{quiet:?}");

    until("the workers have told of it", async || {
        let listed = servers.run(&["unserved", "--json"]).await;
        let entries: Value = serde_json::from_str(&listed.output).unwrap();
        entries[0]["kind"] == "ecko"
    })
    .await;
    let table = servers.run(&["unserved"]).await;
    assert_eq!((table.code, table.output.contains("kind ecko")), (Some(0), true), "{table:?}");
    let examined = servers.run(&["doctor"]).await;
    let found = examined.output.lines().any(|line| line.starts_with("warn") && line.contains("kind ecko"));
    assert_eq!((examined.code, found), (Some(0), true), "{examined:?}");

    let waited = servers.run(&["submit", "ecko", "--wait", "--timeout", "5"]).await;
    assert_eq!((waited.code, waited.errors.contains("it waits: no living GPU")), (Some(5), true), "{waited:?}");
    let refused = servers.run(&["submit", "ecko", "--set", "gateway.unserved=refuse"]).await;
    assert_eq!((refused.code, refused.errors.contains("nothing was submitted")), (Some(3), true), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gpus_are_watched_until_nobody_reads_any_more() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(1, &[]).await;
    let mut command = tokio::process::Command::new(binary());
    let mut watching = command.args(servers.command_line(&["gpus", "--watch"])).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut shown = 0;
    while shown < 2 {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        shown += usize::from(line.contains("sim-0"));
    }
    drop(lines);
    let ended = tokio::time::timeout(PATIENCE, watching.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_check_names_every_mistake_of_file_environment_and_flags_at_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gpufleet.yaml"), "worker:\n  leese_ms: 3000\n").unwrap();
    let variables = [("GPUFLEET__WORKER__OFFER_MS", "soon")];
    let checked = gpufleet(folder.path(), ["config", "check", "--set", "gpu.multi_gpu.memory_threshold=7"], &variables).await;
    assert_eq!(checked.code, Some(2), "{checked:?}");
    for part in ["worker.leese_ms", "worker.lease_ms", "worker.offer_ms", "GPUFLEET__WORKER__OFFER_MS", "gpu.multi_gpu.memory_threshold"] {
        assert!(checked.errors.contains(part), "{part} is not in\n{}", checked.errors);
    }
    let right = gpufleet(folder.path(), ["config", "check", "--config", "/dev/null"], &[]).await;
    assert_eq!(right.code, Some(0), "{right:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_print_hides_passwords_and_shows_the_rest() {
    let urls = ["--amqp-url", "amqp://ann:hunter2@broker:5672/%2f", "--redis-url", "redis://:hunter2@table:6379/0"];
    for form in [&["config", "print"][..], &["config", "print", "--json"]] {
        let printed = alone(&[form, &urls[..], &["--set", "redis.store_url=redis://:hunter2@store:6379/0"]].concat()).await;
        assert_eq!(printed.code, Some(0), "{printed:?}");
        assert!(["broker:5672", "table:6379", "store:6379", "lease_ms"].iter().all(|part| printed.output.contains(part)), "{printed:?}");
        assert!(!printed.output.contains("hunter2") && !printed.errors.contains("hunter2"), "{printed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shell_has_a_completion() {
    for shell in ["bash", "zsh", "fish"] {
        let completion = alone(&["completions", shell]).await;
        assert_eq!((completion.code, completion.output.contains("gpufleet")), (Some(0), true), "{shell}");
    }
}
