//! Operators' commands on an embedded fleet, which only its gateway reaches.

use std::path::Path;

use serde_json::{Value, json};
use tests::{
    program::{Ended, Program, gpufleet},
    until::until,
};

struct Embedded {
    fleet: Program,
    url: String,
}

impl Embedded {
    async fn up(gpus: &str) -> Self {
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
    async fn run(&self, arguments: &[&str]) -> Ended {
        gpufleet(Path::new("/"), arguments, &[("GPUFLEET_URL", &self.url)]).await
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
    assert_eq!((shown.len(), greeting.matches("curl -s ").count()), (2, 1), "{greeting}");
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
