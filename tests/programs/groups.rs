//! `gpufleet group`, on servers and through a gateway: the same words and the same exit codes.

use std::path::Path;

use serde_json::{Value, json};
use tests::{
    program::{Ended, gpufleet},
    until::until,
};

use crate::servers::Servers;

/// One way to the fleet.
enum Way<'s> {
    Servers(&'s Servers),
    Gateway(String),
}

impl Way<'_> {
    async fn run(&self, arguments: &[&str]) -> Ended {
        match self {
            Self::Servers(servers) => servers.run(arguments).await,
            Self::Gateway(url) => gpufleet(Path::new("/"), [arguments, &["--url", url.as_str()]].concat(), &[]).await,
        }
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let ended = self.run(&[arguments, &["--json"]].concat()).await;
        serde_json::from_str(&ended.output).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
    }
}

async fn is_operated(way: &Way<'_>, name: &str) {
    let submitted = way.run(&["submit", "echo", "--count", "5", "--group", name]).await;
    assert_eq!(submitted.code, Some(0), "{submitted:?}");
    let waited = way.run(&["group", "wait", name]).await;
    assert_eq!((waited.code, waited.output), (Some(0), format!("group {name}, 5 tasks: 5 succeeded\n")), "{}", waited.errors);
    let tasks = way.run(&["group", "tasks", name, "--state", "succeeded"]).await;
    assert_eq!((tasks.code, tasks.output.lines().count()), (Some(0), 5), "{tasks:?}");
    let one = way.run(&["group", "tasks", name, "--limit", "1", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&one.output).expect("one line of JSON")["state"], "succeeded");

    let long = ["submit", "simulate", "--payload", r#"{"duration_ms": 600000}"#, "--group", name, "--task-id", &format!("{name}.long")];
    assert_eq!(way.run(&long).await.code, Some(0));
    let shown = way.json(&["group", "show", name]).await;
    assert_eq!((&shown["total"], &shown["ended"]), (&json!(6), &json!(false)), "{shown}");
    let late = way.run(&["group", "wait", name, "--timeout", "1"]).await;
    assert_eq!((late.code, late.errors.contains("1 of its tasks have not ended")), (Some(5), true), "{late:?}");
    until("it runs", async || way.json(&["group", "show", name]).await["counts"]["running"] == 1).await;
    let status = way.json(&["status", &format!("{name}.long")]).await;
    assert_eq!(status["group"], name);

    let cancelled = way.json(&["group", "cancel", name]).await;
    assert_eq!(cancelled, json!({"group": name, "waiting": 0, "running": 1, "ended": 5}));
    let watched = way.run(&["group", "watch", name]).await;
    let last = format!("group {name}, 6 tasks: 5 succeeded, 1 cancelled, the group was cancelled");
    assert_eq!((watched.code, watched.output.lines().last()), (Some(0), Some(last.as_str())), "{watched:?}");
    assert_eq!(way.run(&["group", "wait", name]).await.code, Some(1), "one did not succeed");

    let listed = way.json(&["group", "ls"]).await;
    assert!(listed.as_array().is_some_and(|groups| groups.iter().any(|group| group["group"] == name)), "{listed}");
    let table = way.run(&["group", "ls"]).await;
    assert!(table.output.contains(name) && table.output.contains("SUCCEEDED"), "{table:?}");
    for command in ["show", "watch", "wait", "tasks"] {
        let unknown = way.run(&["group", command, "never"]).await;
        assert_eq!((unknown.code, unknown.errors.contains("group never")), (Some(4), true), "{unknown:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_watched_waited_for_and_cancelled_on_servers_and_through_a_gateway() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(2, &[]).await;
    is_operated(&Way::Servers(&servers), "on-servers").await;
    is_operated(&Way::Gateway(fleet.url().await), "through:a.gateway").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_finds_no_room_in_its_group_ends_the_command_as_other_full_things_do() {
    let servers = Servers::fresh().await;
    let bound = ["--set", "store.group_members_max=1"];
    let fleet = servers.up(1, &bound).await;
    for way in [Way::Servers(&servers), Way::Gateway(fleet.url().await)] {
        // A gateway has the bound already.
        let (name, more): (&str, &[&str]) = if matches!(way, Way::Servers(_)) { ("one", &bound) } else { ("two", &[]) };
        let submit = async || way.run(&[&["submit", "echo", "--group", name][..], more].concat()).await;
        assert_eq!(submit().await.code, Some(0));
        let refused = submit().await;
        assert_eq!((refused.code, refused.errors.contains("store.group_members_max")), (Some(3), true), "{refused:?}");
    }
    let wrong = servers.run(&["submit", "echo", "--group", "a b"]).await;
    assert_eq!((wrong.code, wrong.errors.contains("must be 1 to 64 letters")), (Some(2), true), "{wrong:?}");
}
