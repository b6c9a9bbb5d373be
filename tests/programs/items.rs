//! `gpufleet submit --items`: a task for each line of a file, on servers and through a gateway.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{program::Ended, until::until};

use crate::{over_http::Embedded, servers::Servers};

/// A file in a folder of its own.
struct Items {
    _folder: TempDir,
    path: PathBuf,
}

impl Items {
    fn of(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("items.ndjson");
        fs::write(&path, text).expect("written");
        Self { _folder: folder, path }
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("text")
    }
}

/// What was printed, line by line.
fn lines(ended: &Ended) -> Vec<Value> {
    ended.output.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?} in {ended:?}"))).collect()
}

fn numbers(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["line"].as_u64().expect("a number")).collect()
}

/// What each fleet must do with a thousand lines, one of them empty.
fn all_in_order(ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
    let lines = lines(ended);
    assert_eq!(numbers(&lines), (1..=1_000).filter(|number| *number != 500).collect::<Vec<u64>>());
    for line in &lines {
        assert_eq!((&line["outcome"], &line["result"]["n"]), (&json!("succeeded"), &line["line"]), "{line}");
        assert!(line["task_id"].is_string(), "{line}");
    }
}

fn thousand() -> Items {
    let text: String = (1..=1_000).map(|number| if number == 500 { "\n".to_owned() } else { format!("{{\"n\": {number}}}\n") }).collect();
    Items::of(&text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_line_is_a_task_and_results_come_in_order_on_servers_and_through_a_gateway() {
    let items = thousand();
    let servers = Servers::fresh().await;
    let fleet = servers.up(2, &[]).await;
    let command = ["submit", "echo", "--items", items.path(), "--wait", "--timeout", "60"];
    all_in_order(&servers.run(&command).await);
    let url = fleet.url().await;
    all_in_order(&tests::program::gpufleet(std::path::Path::new("/"), [&command[..], &["--url", &url]].concat(), &[]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_line_is_told_with_its_number_and_the_others_go_on() {
    let items = Items::of("1\n{\n3\n");
    let servers = Servers::fresh().await;
    let fleet = servers.up(1, &[]).await;
    let (url, place) = (fleet.url().await, format!("{}:2: is not JSON", items.path()));
    let command = ["submit", "echo", "--items", items.path(), "--wait", "--timeout", "60"];
    let through = tests::program::gpufleet(std::path::Path::new("/"), [&command[..], &["--url", &url]].concat(), &[]).await;
    for ended in [servers.run(&command).await, through] {
        assert_eq!((ended.code, ended.errors.contains(&place)), (Some(2), true), "{ended:?}");
        let lines = lines(&ended);
        assert_eq!(numbers(&lines), [1, 2, 3]);
        assert_eq!((&lines[0]["result"], &lines[1]["outcome"], &lines[2]["result"]), (&json!(1), &json!("not_submitted"), &json!(3)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_code_is_that_of_the_worst_and_unordered_lines_come_as_tasks_end() {
    let embedded = Embedded::up("2").await;
    let slow = Items::of("{\"duration_ms\": 3000}\n{\"duration_ms\": 0}\n{\"fail\": {\"code\": \"broken\", \"message\": \"as asked\"}}\n");
    let command = ["submit", "simulate", "--items", slow.path(), "--wait", "--timeout", "60", "--max-attempts", "1", "--unordered"];
    let ended = embedded.run(&command).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let lines = lines(&ended);
    assert_eq!(numbers(&lines).last(), Some(&1), "{ended:?}");
    let failed = lines.iter().find(|line| line["line"] == 3).expect("a line");
    assert_eq!((&failed["outcome"], &failed["error"]["code"]), (&json!("failed"), &json!("broken")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_waiting_each_line_gives_an_id_and_standard_input_is_a_file() {
    let embedded = Embedded::up("1").await;
    let ended = embedded.typed("printf '1\\n2\\n3' | gpufleet submit echo --items -").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines = lines(&ended);
    assert_eq!(numbers(&lines), [1, 2, 3]);
    for line in &lines {
        let id = line["task_id"].as_str().expect("an id");
        until("it succeeds", async || {
            let status = embedded.run(&["status", id, "--json"]).await;
            serde_json::from_str::<Value>(&status.output).is_ok_and(|status| status["reply"]["result"] == line["line"])
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_does_not_come_in_time_is_told_and_its_task_goes_on() {
    let embedded = Embedded::up("1").await;
    let items = Items::of("{\"duration_ms\": 600000}\n{\"duration_ms\": 0}\n");
    let ended = embedded.run(&["submit", "simulate", "--items", items.path(), "--wait", "--timeout", "3"]).await;
    assert_eq!(ended.code, Some(5), "{ended:?}");
    let lines = lines(&ended);
    assert_eq!((&lines[0]["outcome"], &lines[0]["error"]["code"]), (&json!("unfinished"), &json!("no_reply")));
    assert_eq!(lines[1]["outcome"], "succeeded");
    let cancelled = embedded.run(&["cancel", lines[0]["task_id"].as_str().expect("an id")]).await;
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_tells_what_is_known_and_leaves_the_tasks() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(1, &[]).await;
    let items = Items::of("{\"duration_ms\": 0}\n{\"duration_ms\": 600000}\n{\"duration_ms\": 0}\n");
    let waiting = servers.start(&["submit", "simulate", "--items", items.path(), "--wait", "--unordered"]);
    until("two are done with", async || waiting.output().lines().count() == 2).await;
    waiting.signal("INT");
    assert_eq!(waiting.exit_code().await, 130, "{}", waiting.log());
    assert!(waiting.log().contains("interrupted: 1 tasks") && waiting.log().contains("gpufleet cancel"), "{}", waiting.log());
    let last: Value = serde_json::from_str(waiting.output().lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["line"], &last["outcome"]), (&json!(2), &json!("unfinished")));
    let cancelled = servers.run(&["cancel", last["task_id"].as_str().expect("an id"), "--json"]).await;
    assert!(cancelled.code == Some(0) && cancelled.output.contains("running"), "{cancelled:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_not_there_and_a_flag_that_does_not_go_with_it_are_wrong_usage() {
    let embedded = Embedded::up("1").await;
    for arguments in [
        &["--items", "/nowhere/at/all"][..],
        &["--items", "-", "--payload", "1"],
        &["--items", "-", "--count", "2"],
        &["--items", "-", "--task-id", "mine"],
        &["--unordered"],
    ] {
        let ended = embedded.run(&[&["submit", "echo"][..], arguments].concat()).await;
        assert_eq!((ended.code, ended.output.as_str()), (Some(2), ""), "{arguments:?}: {ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_bounded_by_what_the_fleet_takes_as_a_body() {
    let items = Items::of(&format!("1\n\"{}\"\n", "x".repeat(2_000)));
    // Nobody listens there: what is wrong with the file is seen before anybody is asked.
    let servers = [("GPUFLEET_AMQP_URL", "amqp://127.0.0.1:1"), ("GPUFLEET_REDIS_URL", "redis://127.0.0.1:1")];
    for (bound, told) in
        [("1024", ", line 2: is longer than 1024 bytes"), ("2002", ", line 2: the items up to here are longer than 2002 bytes")]
    {
        let variables = [&servers[..], &[("GPUFLEET__WORKER__BODY_BYTES_MAX", bound)]].concat();
        let command = ["submit", "echo", "--items", items.path(), "--as-batch"];
        let ended = tests::program::gpufleet(std::path::Path::new("/"), command, &variables).await;
        assert_eq!((ended.code, ended.errors.contains(told)), (Some(2), true), "{ended:?}");
    }
}
