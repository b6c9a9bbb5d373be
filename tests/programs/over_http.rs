//! Operators' commands on an embedded fleet, which only its gateway reaches.

use std::path::Path;

use protocol::{Envelope, PoolName};
use serde_json::{Value, json};
use task_queue::{Outgoing, Queue, Target, TaskQueue};
use tests::{
    pages::{blocks, commands, page},
    program::{Ended, Program, gpufleet, typed},
    until::until,
};

use crate::servers::Servers;

pub struct Embedded {
    fleet: Program,
    url: String,
}

impl Embedded {
    pub async fn up(gpus: &str) -> Self {
        let fleet = Program::start(["up", "--simulated", gpus, "--listen", "127.0.0.1:0"], &[]);
        let url = fleet.url().await;
        let embedded = Self { fleet, url };
        until("all GPUs are eligible", async || {
            let rows: Value = serde_json::from_str(&embedded.run(&["gpus", "--json"]).await.output).unwrap_or_default();
            rows.as_array().is_some_and(|rows| rows.len().to_string() == gpus && rows.iter().all(|row| row["eligible"] == true))
        })
        .await;
        embedded
    }

    /// A command that is told of the fleet by the variable.
    pub async fn run(&self, arguments: &[&str]) -> Ended {
        gpufleet(Path::new("/"), arguments, &[("GPUFLEET_URL", &self.url)]).await
    }

    /// A line as an operator types it, in a shell that finds `gpufleet`, and the fleet by the variable.
    pub async fn typed(&self, line: &str) -> Ended {
        typed(Path::new("/"), line, &[("GPUFLEET_URL", &self.url)]).await
    }

    /// Where its gateway listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    async fn gpu(&self, gpu_id: &str) -> Value {
        serde_json::from_str(&self.run(&["gpus", gpu_id, "--json"]).await.output).unwrap_or_default()
    }

    async fn state(&self, task_id: &str) -> Value {
        let status = self.run(&["status", task_id, "--json"]).await;
        serde_json::from_str::<Value>(&status.output).map(|status| status["state"].clone()).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_greets_with_where_it_listens_and_commands_that_work() {
    let embedded = Embedded::up("1").await;
    let greeting = embedded.fleet.output();
    let url = &embedded.url;
    assert!(greeting.starts_with(&format!("gpufleet listens on {url} (embedded: ")), "{greeting}");
    let shown: Vec<&str> = greeting.lines().filter_map(|line| line.strip_prefix("  gpufleet ")).collect();
    assert_eq!((shown.len(), greeting.matches("curl -s ").count()), (3, 1), "{greeting}");
    for line in shown {
        assert!(line.ends_with(&format!("--url {url}")), "{line}");
    }
    let tried = gpufleet(Path::new("/"), ["submit", "echo", "--payload", "5", "--wait", "--url", url], &[]).await;
    assert_eq!((tried.code, tried.output.as_str()), (Some(0), "5\n"), "{tried:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_submitted_waited_for_and_found_through_a_gateway() {
    let embedded = Embedded::up("2").await;
    // Its bytes come back as they went, also through the gateway.
    let exact = r#"{"n": 1.50, "m": 12345678901234567890, "n": -0}"#;
    let echoed = embedded.run(&["submit", "echo", "--payload", exact, "--wait", "--gpu", "1", "--json"]).await;
    let reply: Value = serde_json::from_str(&echoed.output).expect("JSON");
    assert_eq!((echoed.code, &reply["gpu_id"], echoed.output.contains(exact)), (Some(0), &json!("sim-1"), true), "{echoed:?}");

    let many = embedded.run(&["submit", "echo", "--payload", "5", "--count", "300", "--wait"]).await;
    assert_eq!((many.code, many.output.as_str()), (Some(0), "5\n".repeat(300).as_str()), "{}", many.errors);

    let failing = r#"{"fail": {"code": "broken", "message": "as asked"}}"#;
    let failed = embedded.run(&["submit", "simulate", "--payload", failing, "--max-attempts", "1", "--wait"]).await;
    assert_eq!((failed.code, failed.errors.contains("broken: as asked")), (Some(1), true), "{failed:?}");

    let submitted = embedded.run(&["submit", "echo", "--task-id", "order-17/part:3?"]).await;
    assert_eq!((submitted.code, submitted.output.as_str()), (Some(0), "order-17/part:3?\n"), "{submitted:?}");
    until("it succeeds", async || embedded.state("order-17/part:3?").await == "succeeded").await;
    assert_eq!(embedded.run(&["status", "nobody-knows-it"]).await.code, Some(4));

    let told = embedded
        .run(&[
            "submit",
            "simulate",
            "--payload",
            r#"{"duration_ms": 1500, "progress_every_ms": 100}"#,
            "--wait",
            "--timeout",
            "60",
            "--progress",
        ])
        .await;
    assert_eq!((told.code, told.errors.contains(" %")), (Some(0), true), "{told:?}");

    let stepwise = r#"{"duration_ms": 1000, "progress_every_ms": 300, "result": "done"}"#;
    let streamed = embedded.run(&["submit", "simulate", "--payload", stepwise, "--wait", "--stream"]).await;
    assert_eq!((streamed.code, streamed.output.as_str()), (Some(0), "1\n2\n3\n\"done\"\n"), "{streamed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_cancelled_through_a_gateway_and_a_wait_that_ends_says_why() {
    let embedded = Embedded::up("1").await;
    let long = r#"{"duration_ms": 600000}"#;
    let late = embedded.run(&["submit", "simulate", "--payload", long, "--task-id", "long", "--wait", "--timeout", "3"]).await;
    assert_eq!(late.code, Some(5), "{late:?}");
    assert!(late.errors.starts_with("error: wait for task long: no reply within 3 s: it runs on GPU sim-0, attempt 1"), "{late:?}");

    let cancelled = embedded.run(&["cancel", "long", "--json"]).await;
    assert_eq!((cancelled.code, cancelled.output.as_str()), (Some(0), "{\"task_id\":\"long\",\"was\":\"running\"}\n"), "{cancelled:?}");
    until("it is cancelled", async || embedded.state("long").await == "cancelled").await;
    let again = embedded.run(&["cancel", "long"]).await;
    assert_eq!((again.code, again.output.contains("ended already: cancelled")), (Some(1), true), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_delayed_task_that_is_cancelled_is_told_so() {
    let embedded = Embedded::up("1").await;
    let waiting = embedded.run(&["submit", "echo", "--task-id", "later", "--delay", "1d", "--wait", "--timeout", "60"]);
    let cancelling = async {
        until("it is delayed", async || embedded.state("later").await == "delayed").await;
        embedded.run(&["cancel", "later"]).await
    };
    let (waited, cancelled) = tokio::join!(waiting, cancelling);
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    let told = waited.errors.contains("task later cancelled: cancelled: the task was cancelled");
    assert_eq!((waited.code, told), (Some(1), true), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gpus_are_shown_and_a_gateway_is_examined() {
    let embedded = Embedded::up("2").await;
    let table = embedded.run(&["gpus"]).await;
    assert!(table.output.contains("sim-1") && table.output.contains("healthy"), "{table:?}");
    assert!(embedded.run(&["gpus", "1"]).await.output.contains("sim-1 (number 1)"));
    let examined = embedded.run(&["doctor"]).await;
    assert_eq!(examined.code, Some(0), "{examined:?}");
    for part in ["ready: ", "version ", "2 in the pool default, 2 eligible"] {
        assert!(examined.output.contains(part), "{part}: {examined:?}");
    }
}

/// The commands of README's section "Operate", without what they are for.
fn commands_of_the_readme() -> Vec<String> {
    let readme = page("README.md");
    let section = readme.split("### Operate\n").nth(1).expect("the section");
    commands(&blocks(section, "sh")[0]).into_iter().map(|command| command.line).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_readme_operates_an_embedded_fleet() {
    let embedded = Embedded::up("2").await;
    let long = r#"{"duration_ms": 600000}"#;
    assert_eq!(embedded.run(&["submit", "simulate", "--payload", long, "--task-id", "operated"]).await.code, Some(0));
    let commands = commands_of_the_readme();
    for word in ["submit", "gpus", "status", "cancel", "strategy set", "drain", "dead ls", "dead requeue", "doctor", "config check"] {
        assert!(commands.iter().any(|command| command.starts_with(&format!("gpufleet {word}"))), "{word}: {commands:?}");
    }
    for command in commands {
        let line = command.replace("<task-id>", "operated").replace("<gpu-id>", "sim-1").replace(" ID", " operated");
        // What is shown for ever is read once.
        let line = if line.contains("--watch") { format!("{line} | head -n 3") } else { line };
        let ended = embedded.typed(&line).await;
        // A cancelled task leaves no dead letter.
        let expected = if line.contains("dead requeue") { Some(4) } else { Some(0) };
        assert_eq!(ended.code, expected, "{line}: {ended:?}");
        let quiet = line.contains("dead requeue") || line.contains("config check");
        assert!(quiet || !ended.output.is_empty(), "{line}: {ended:?}");
    }
    until("the task is cancelled", async || embedded.state("operated").await == "cancelled").await;
    let ran = embedded.run(&["submit", "echo", "--wait", "--json"]).await;
    let reply: Value = serde_json::from_str(&ran.output).expect("JSON");
    assert_eq!((&reply["strategy"]["used"], &reply["gpu_id"]), (&json!("round_robin"), &json!("sim-0")), "the other GPU drains: {ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_and_drains_are_changed_through_a_gateway() {
    let embedded = Embedded::up("2").await;
    let url = embedded.url.as_str();
    let by_flag = async |arguments: &[&str]| gpufleet(Path::new("/"), [arguments, &["--url", url]].concat(), &[]).await;
    let before = by_flag(&["strategy", "get"]).await;
    let all = "(tasks may name round_robin, least_loaded, task_specific)";
    assert_eq!((before.code, before.output), (Some(0), format!("least_loaded {all}\n")));
    let set = by_flag(&["strategy", "set", "task_specific"]).await;
    assert_eq!((set.code, set.output), (Some(0), format!("task_specific {all}\n")));
    let settings: Value = serde_json::from_str(&by_flag(&["strategy", "get", "--json"]).await.output).expect("JSON");
    assert_eq!((&settings["default_strategy"], &settings["draining"]), (&json!("task_specific"), &json!([])), "{settings}");

    let drained = by_flag(&["drain", "1"]).await;
    let expected = "GPU sim-1 drains: no new tasks, what runs there ends\n";
    assert_eq!((drained.code, drained.output.as_str()), (Some(0), expected), "{drained:?}");
    assert_eq!(embedded.gpu("sim-1").await["draining"], true);
    let undrained = by_flag(&["undrain", "sim-1", "--json"]).await;
    let settings: Value = serde_json::from_str(&undrained.output).expect("JSON");
    assert_eq!((undrained.code, &settings["draining"]), (Some(0), &json!([])), "{undrained:?}");
    assert_eq!(embedded.gpu("sim-1").await["draining"], false);
    let nobody = by_flag(&["drain", "sim-9"]).await;
    assert_eq!((nobody.code, nobody.errors.contains("\"sim-9\"")), (Some(4), true), "{nobody:?}");

    let none = by_flag(&["dead", "ls", "--json"]).await;
    assert_eq!((none.code, none.output.as_str()), (Some(0), "[]\n"), "{none:?}");
    let purged = by_flag(&["dead", "purge"]).await;
    assert_eq!((purged.code, purged.output.as_str()), (Some(0), "0 purged\n"), "{purged:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_serves_no_operators_says_which_key_it_is() {
    let fleet = Program::start(["up", "--simulated", "1", "--listen", "127.0.0.1:0", "--set", "gateway.operate=never"], &[]);
    let embedded = Embedded { url: fleet.url().await, fleet };
    until("its GPU is there", async || embedded.gpu("sim-0").await["eligible"] == true).await;
    for command in
        [&["strategy", "get"][..], &["strategy", "set", "round_robin"], &["drain", "sim-0"], &["dead", "ls"], &["dead", "purge", "--all"]]
    {
        let refused = embedded.run(command).await;
        assert_eq!((refused.code, refused.errors.contains("gateway.operate is never")), (Some(2), true), "{command:?}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_shown_requeued_and_purged_through_a_gateway() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(1, &[]).await;
    let embedded = Embedded { url: fleet.url().await, fleet };
    let queue = servers.queue().await;
    let dead = async || queue.depth(&Queue::Dead).await.expect("an answer").map_or(0, |depth| depth.ready);
    for id in ["wrong", "worse"] {
        let envelope = Envelope { message_id: Some(id.to_owned()), kind: Some("echo".to_owned()), ..Envelope::default() };
        let body = br#"{"payload": 1, "prioritee": 9}"#[..].into();
        queue.publish(Outgoing::new(Target::Queue(Queue::Pool(PoolName::default())), envelope, body)).await.expect("published");
        until("it is a dead letter", async || embedded.run(&["dead", "show", id]).await.code == Some(0)).await;
    }
    let listed: Value = serde_json::from_str(&embedded.run(&["dead", "ls", "--json"]).await.output).expect("JSON");
    assert_eq!((&listed[0]["task_id"], &listed[1]["task_id"]), (&json!("wrong"), &json!("worse")), "{listed}");
    assert!(listed[0]["reason"].as_str().is_some_and(|reason| reason.contains("prioritee")), "{listed}");
    let table = embedded.run(&["dead", "ls", "--limit", "1"]).await;
    assert!(table.output.contains("wrong") && table.output.contains("REASON") && !table.output.contains("worse"), "{table:?}");

    let nobody = embedded.run(&["dead", "requeue", "nobody"]).await;
    assert_eq!((nobody.code, nobody.errors.contains("among the first 1000")), (Some(4), true), "{nobody:?}");
    let requeued = embedded.run(&["dead", "requeue", "wrong"]).await;
    assert_eq!((requeued.code, requeued.output.as_str()), (Some(0), "1 requeued\n"), "{requeued:?}");
    until("it is refused as before", async || dead().await == 2).await;
    let all = embedded.run(&["dead", "requeue", "--all", "--json"]).await;
    assert_eq!((all.code, all.output.as_str()), (Some(0), "{\"requeued\":2,\"kept\":[]}\n"), "{all:?}");
    until("both are refused as before", async || dead().await == 2).await;

    let purged = embedded.run(&["dead", "purge", "worse"]).await;
    assert_eq!((purged.code, purged.output.as_str()), (Some(0), "1 purged\n"), "{purged:?}");
    let unsure = embedded.run(&["dead", "purge"]).await;
    let words = format!("would delete all 1 dead letters in the fleet behind {}", embedded.url);
    assert_eq!((unsure.code, unsure.errors.contains(&words)), (Some(2), true), "{unsure:?}");
    let rest = embedded.run(&["dead", "purge", "--all", "--json"]).await;
    assert_eq!((rest.code, rest.output.as_str()), (Some(0), "{\"purged\":1}\n"), "{rest:?}");
    assert_eq!(dead().await, 0);
}
