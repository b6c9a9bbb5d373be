//! What a fleet says of itself at the terminal: `tasks`, `why`, `log`, `bottleneck`, `scaling`, `actions`, `thresholds`, the wait of `drain`, and `top`. All on servers, and through a gateway.

use serde_json::{Value, json};
use tests::{
    program::{Ended, Program, binary},
    until::until,
};
use tokio::process::Command;

use crate::{over_http::Embedded, servers::Servers};

/// A task that runs until it is cancelled.
const LONG: &str = r#"{"duration_ms": 600000}"#;

/// A fleet of two simulated GPUs, and a way to it.
enum Fleet {
    /// The second one is kept: it runs as long as this does.
    Servers(Box<Servers>, #[expect(dead_code, reason = "it runs until it is dropped")] Program),
    Gateway(Embedded),
}

impl Fleet {
    async fn on_servers() -> Self {
        let servers = Servers::fresh().await;
        let up = servers.up(2, &[]).await;
        Self::Servers(Box::new(servers), up)
    }

    async fn behind_a_gateway() -> Self {
        Self::Gateway(Embedded::up("2").await)
    }

    async fn run(&self, arguments: &[&str]) -> Ended {
        match self {
            Self::Servers(servers, _) => servers.run(arguments).await,
            Self::Gateway(embedded) => embedded.run(arguments).await,
        }
    }

    /// What a command that succeeds prints, which is JSON.
    async fn json(&self, arguments: &[&str]) -> Value {
        let ended = self.run(&[arguments, &["--json"]].concat()).await;
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        serde_json::from_str(&ended.output).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {ended:?}"))
    }

    async fn submit(&self, arguments: &[&str]) {
        let submitted = self.run(&[&["submit"], arguments].concat()).await;
        assert_eq!(submitted.code, Some(0), "{submitted:?}");
    }

    /// Waits until the index says that a task is in a state.
    async fn is(&self, task_id: &str, state: &str) {
        until(&format!("task {task_id} is {state} in the index"), async || {
            let listed = self.json(&["tasks", "ls", "--state", state, "--id-prefix", task_id]).await;
            listed["tasks"].as_array().is_some_and(|tasks| tasks.iter().any(|task| task["task_id"] == task_id))
        })
        .await;
    }

    /// A task that runs on `sim-1`, and one that no GPU can ever run.
    async fn with_a_running_and_a_waiting_task(self) -> Self {
        self.submit(&["simulate", "--payload", LONG, "--task-id", "long", "--gpu", "1"]).await;
        self.submit(&["echo", "--memory-mb", "99000000", "--task-id", "large"]).await;
        self.is("long", "running").await;
        self.is("large", "waiting").await;
        self
    }
}

fn is_narrow(ended: &Ended) -> bool {
    ended.output.lines().all(|line| line.chars().count() <= 80)
}

async fn tasks_are_listed_and_explained(fleet: Fleet) {
    let fleet = fleet.with_a_running_and_a_waiting_task().await;
    let listed = fleet.run(&["tasks", "ls", "--state", "running", "--state", "waiting"]).await;
    assert!(listed.code == Some(0) && is_narrow(&listed), "{listed:?}");
    for part in ["TASK", "long", "running", "sim-1", "large", "waiting"] {
        assert!(listed.output.contains(part), "{part}: {listed:?}");
    }
    let on_gpu = fleet.json(&["tasks", "ls", "--gpu", "1", "--kind", "simulate"]).await;
    assert_eq!((&on_gpu["matching"], &on_gpu["tasks"][0]["task_id"]), (&json!(1), &json!("long")), "{on_gpu}");
    let none = fleet.run(&["tasks", "ls", "--kind", "nobodys"]).await;
    assert!(none.code == Some(0) && none.output.starts_with("no task passes the filter; "), "{none:?}");
    let wrong = fleet.run(&["tasks", "ls", "--state", "sleeping"]).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");

    let why = fleet.json(&["why", "large"]).await;
    assert_eq!(
        (&why["task_id"], &why["state"], why["gpus"].as_array().map(Vec::len)),
        (&json!("large"), &json!("waiting"), Some(2)),
        "{why}"
    );
    assert!(why["gpus"].as_array().is_some_and(|gpus| gpus.iter().all(|gpu| gpu["fits"] == false)), "{why}");
    let told = fleet.run(&["why", "large"]).await;
    assert!(told.code == Some(0) && told.output.starts_with("task large is waiting: "), "{told:?}");
    assert!(told.output.contains("WHAT KEEPS IT FROM TAKING IT NOW") && told.output.contains("sim-0"), "{told:?}");
    assert!(fleet.run(&["why", "long"]).await.output.starts_with("task long is running: "));

    let log = fleet.run(&["log", "long"]).await;
    assert!(log.code == Some(0) && log.output.contains("began on sim-1 (attempt 1"), "{log:?}");
    let steps = fleet.json(&["log", "long"]).await;
    assert!(steps["steps"].as_array().is_some_and(|steps| steps.iter().any(|step| step["step"] == "began")), "{steps}");
    for command in ["why", "log"] {
        let unknown = fleet.run(&[command, "nobody-knows-it"]).await;
        assert_eq!((unknown.code, unknown.errors.contains("nobody-knows-it")), (Some(4), true), "{unknown:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_listed_and_explained_on_servers() {
    tasks_are_listed_and_explained(Fleet::on_servers().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_listed_and_explained_through_a_gateway() {
    tasks_are_listed_and_explained(Fleet::behind_a_gateway().await).await;
}

async fn the_fleet_is_judged(fleet: Fleet) {
    let fleet = fleet.with_a_running_and_a_waiting_task().await;
    let verdict = fleet.json(&["bottleneck"]).await;
    let (holdup, sentence) = (verdict["holdup"].as_str().unwrap_or_default(), verdict["sentence"].as_str().unwrap_or_default());
    assert!(!holdup.is_empty() && !sentence.is_empty(), "{verdict}");
    let told = fleet.run(&["bottleneck"]).await;
    assert!(told.code == Some(0) && told.output.contains(": "), "{told:?}");
    let scaling = fleet.json(&["scaling"]).await;
    assert!(scaling["desired_workers"].is_u64() && scaling["wait_objective_ms"] == 30_000, "{scaling}");
    let told = fleet.run(&["scaling"]).await;
    assert!(told.code == Some(0) && told.output.contains("desired         "), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fleet_is_judged_on_servers() {
    the_fleet_is_judged(Fleet::on_servers().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fleet_is_judged_through_a_gateway() {
    the_fleet_is_judged(Fleet::behind_a_gateway().await).await;
}

async fn many_tasks_are_cancelled_by_a_filter(fleet: Fleet) {
    let fleet = fleet.with_a_running_and_a_waiting_task().await;
    let unsure = fleet.run(&["tasks", "cancel", "--kind", "simulate"]).await;
    let words = "this would cancel 1 task: state delayed or waiting or running or retrying, kind simulate: give --yes";
    assert_eq!((unsure.code, unsure.errors.contains(words)), (Some(2), true), "{unsure:?}");
    let boundless = fleet.run(&["tasks", "cancel", "--yes"]).await;
    assert_eq!((boundless.code, boundless.errors.contains("no filter is given")), (Some(2), true), "{boundless:?}");
    let done = fleet.json(&["tasks", "cancel", "--kind", "simulate", "--yes"]).await;
    assert_eq!(done, json!({"matching": 1, "cancelled": 1, "ended": 0, "more": false}));
    fleet.is("long", "cancelled").await;
    let requeued = fleet.json(&["tasks", "requeue", "--kind", "simulate", "--yes"]).await;
    assert_eq!(requeued, json!({"matching": 0, "requeued": 0, "refused": 0, "more": false}));
    fleet.is("large", "waiting").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_are_cancelled_by_a_filter_on_servers() {
    many_tasks_are_cancelled_by_a_filter(Fleet::on_servers().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_are_cancelled_by_a_filter_through_a_gateway() {
    many_tasks_are_cancelled_by_a_filter(Fleet::behind_a_gateway().await).await;
}

async fn thresholds_are_changed_and_what_operators_did_is_listed(fleet: Fleet) {
    let set = fleet.json(&["thresholds", "set", "--memory", "0.8"]).await;
    assert_eq!((&set["memory_threshold"], &set["utilization_threshold"]), (&json!(0.8), &json!(0.95)), "{set}");
    let shown = fleet.run(&["thresholds", "get"]).await;
    let expected = "a GPU takes tasks below memory 0.8 and below utilization 0.95 by others\n";
    assert_eq!((shown.code, shown.output.as_str()), (Some(0), expected), "{shown:?}");
    for wrong in [&["thresholds", "set"][..], &["thresholds", "set", "--memory", "0"]] {
        assert_eq!(fleet.run(wrong).await.code, Some(2), "{wrong:?}");
    }
    assert_eq!(fleet.run(&["strategy", "set", "round_robin"]).await.code, Some(0));
    let actions = fleet.json(&["actions"]).await;
    let names: Vec<&str> = actions.as_array().into_iter().flatten().filter_map(|action| action["action"].as_str()).collect();
    assert_eq!(names, ["set_strategy", "set_thresholds"], "{actions}");
    let latest = fleet.json(&["actions", "--limit", "1"]).await;
    assert_eq!(latest.as_array().map(Vec::len), Some(1), "{latest}");
    let table = fleet.run(&["actions"]).await;
    assert!(table.code == Some(0) && table.output.contains("set_thresholds") && table.output.contains("WHO"), "{table:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thresholds_are_changed_and_what_operators_did_is_listed_on_servers() {
    let fleet = Fleet::on_servers().await;
    thresholds_are_changed_and_what_operators_did_is_listed(fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thresholds_are_changed_and_what_operators_did_is_listed_through_a_gateway() {
    let fleet = Fleet::behind_a_gateway().await;
    thresholds_are_changed_and_what_operators_did_is_listed(fleet).await;
}

async fn drain_waits_until_a_gpu_is_drained(fleet: Fleet) {
    fleet.submit(&["simulate", "--payload", LONG, "--task-id", "long", "--gpu", "1"]).await;
    fleet.is("long", "running").await;
    let drained = fleet.json(&["drain", "--gpu", "sim-0", "--wait", "--timeout", "2m"]).await;
    assert_eq!(drained, json!({"drained": ["sim-0"]}));
    let gpus = fleet.run(&["gpus"]).await;
    assert!(gpus.output.contains("drained"), "{gpus:?}");

    let late = fleet.run(&["drain", "sim-1", "--wait", "--timeout", "1s"]).await;
    assert_eq!((late.code, late.errors.contains("GPU sim-1 (draining, 1 of 8 slots held")), (Some(5), true), "{late:?}");
    let cancelling = async {
        until("it is known that it drains", async || fleet.run(&["gpus", "1"]).await.output.contains("phase: draining")).await;
        fleet.run(&["cancel", "long"]).await
    };
    let (waited, cancelled) = tokio::join!(fleet.run(&["drain", "--this-host", "--wait", "--timeout", "2m"]), cancelling);
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    let expected = "2 GPUs drained: they hold nothing, and can be stopped\n";
    assert_eq!((waited.code, waited.output.ends_with(expected)), (Some(0), true), "{waited:?}");
    assert!(waited.errors.contains("GPU sim-1: drained"), "{waited:?}");

    let undrained = fleet.run(&["undrain", "--this-host"]).await;
    assert_eq!((undrained.code, undrained.output.lines().count()), (Some(0), 2), "{undrained:?}");
    for wrong in [&["drain"][..], &["drain", "0", "--this-host"], &["drain", "0", "--timeout", "1m"], &["undrain"]] {
        assert_eq!(fleet.run(wrong).await.code, Some(2), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_waits_until_a_gpu_is_drained_on_servers() {
    drain_waits_until_a_gpu_is_drained(Fleet::on_servers().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_waits_until_a_gpu_is_drained_through_a_gateway() {
    drain_waits_until_a_gpu_is_drained(Fleet::behind_a_gateway().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_holds_escape_sequences_commands_no_terminal() {
    let fleet = Fleet::on_servers().await;
    let failing = r#"{"fail": {"code": "broken", "message": "\u001b[2Jowned\u009b31m"}}"#;
    let waited = fleet.run(&["submit", "simulate", "--payload", failing, "--max-attempts", "1", "--task-id", "hostile", "--wait"]).await;
    assert_eq!(waited.code, Some(1), "{waited:?}");
    fleet.is("hostile", "failed").await;
    let commands: [&[&str]; 5] =
        [&["tasks", "ls", "--error", "OWNED"], &["log", "hostile"], &["why", "hostile"], &["status", "hostile"], &["dead", "ls"]];
    let mut told = vec![waited.errors];
    for command in commands {
        let ended = fleet.run(command).await;
        assert_eq!(ended.code, Some(0), "{command:?}: {ended:?}");
        told.extend([ended.output, ended.errors]);
    }
    assert!(told.iter().all(|text| !text.contains(['\u{1b}', '\u{9b}'])), "{told:?}");
    assert!(told[1].contains("owned") && told[3].contains("owned"), "{told:?}");
    let hostile = fleet.run(&["why", "\u{1b}[2J"]).await;
    assert_eq!(hostile.code, Some(2), "{hostile:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_tasks_are_told_until_nobody_reads_any_more() {
    let embedded = Embedded::up("1").await;
    let submitted = embedded.run(&["submit", "echo", "--task-id", "watched", "--wait"]).await;
    assert_eq!(submitted.code, Some(0), "{submitted:?}");
    // It hears that nobody reads any more when it has something to tell.
    let news = |id: &str| format!("(sleep 3; gpufleet submit echo --task-id {id} > /dev/null) &");
    let as_json = embedded.typed(&format!("{} gpufleet tasks watch --id-prefix watched --json | head -n 1", news("watched-b"))).await;
    let told: Value = serde_json::from_str(&as_json.output).expect("a line of JSON");
    assert_eq!(told["task_id"], "watched", "{as_json:?}");
    let as_text = embedded.typed(&format!("{} gpufleet tasks watch --id-prefix watched | head -n 1", news("watched-c"))).await;
    assert!(as_text.output.contains(" watched ") && as_text.output.contains(" echo"), "{as_text:?}");
}

/// Does these steps at a terminal on which `gpufleet top` runs; see `terminal.py`.
async fn at_a_terminal(steps: Value, more: &[String]) {
    let mut command = Command::new("python3");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/terminal.py");
    command.arg(script).arg(steps.to_string()).arg(binary()).arg("top").args(more).kill_on_drop(true);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GPUFLEET")) {
        command.env_remove(name);
    }
    let ended = command.env("TERM", "xterm-256color").env_remove("NO_COLOR").output().await.expect("python3 can be started");
    assert!(ended.status.success(), "{steps}: {}", String::from_utf8_lossy(&ended.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_draws_resizes_drains_explains_and_gives_the_terminal_back() {
    let embedded = Fleet::Gateway(Embedded::up("2").await).with_a_running_and_a_waiting_task().await;
    let Fleet::Gateway(gateway) = &embedded else { panic!("it is a gateway") };
    let url = ["--url".to_owned(), gateway.url().to_owned()];
    let steps = json!([
        ["sees", "gpufleet top  pool default"],
        ["sees", "GPUs 1 of 2, by number"],
        ["sees", "sim-1"],
        ["types", "\u{1b}[B"],
        ["types", "d"],
        ["sees", "Drain sim-1: it takes no new tasks"],
        ["types", "y"],
        ["sees", "GPU sim-1 drains"],
        ["sees", "draining"],
        ["types", "\t"],
        ["sees", "Kinds, last 15 minutes"],
        ["types", "\t"],
        ["sees", "Running tasks 1 of 1"],
        ["types", "\r"],
        ["sees", "task long is running"],
        ["types", " "],
        ["sees not", "any other key closes"],
        ["resizes", 50, 120],
        ["sees", "GPUs 2 of 2"],
        ["sees", "Running tasks 1 of 1"],
        ["resizes", 8, 30],
        ["sees", "too small"],
        ["resizes", 24, 80],
        ["sees", "Running tasks 1 of 1"],
        ["types", "q"],
        ["ends", 0]
    ]);
    at_a_terminal(steps, &url).await;
    let terminated = json!([["sees", "sim-1"], ["signals", "TERM"], ["ends", 143]]);
    at_a_terminal(terminated, &url).await;
    let interrupted = json!([["sees", "sim-1"], ["types", "\u{3}"], ["ends", 0]]);
    at_a_terminal(interrupted, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_shows_a_fleet_on_its_servers() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(2, &[]).await;
    // What follows the command's own arguments names the servers.
    let more = servers.command_line(&[]);
    at_a_terminal(json!([["sees", "GPUs: 2 living"], ["sees", "sim-1"], ["types", "q"], ["ends", 0]]), &more).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_without_a_terminal_names_the_commands_that_print_the_same() {
    let fleet = Fleet::behind_a_gateway().await;
    for command in [&["top"][..], &["top", "--json"]] {
        let refused = fleet.run(command).await;
        let named = refused.errors.contains("`gpufleet gpus`") && refused.errors.contains("`gpufleet tasks ls`");
        assert_eq!((refused.code, named), (Some(2), true), "{refused:?}");
    }
}
