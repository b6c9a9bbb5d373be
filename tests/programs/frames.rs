//! The examples of `schemas/frame.md`: raw bytes there and back, by other people's clients in their languages.

use std::{fs, path::Path, process::Stdio, time::Duration};

use tests::{
    pages::{blocks, page},
    program::gpufleet,
};
use tokio::process::Command;

use crate::{clients::Client, servers::Servers};

/// Longest run of an example. Generous: it bounds a hang.
const LONGEST: Duration = Duration::from_secs(120);

/// The one example in this language.
fn example(language: &str) -> String {
    blocks(&page("schemas/frame.md"), language).pop().expect("an example")
}

/// What a program prints.
async fn printed(mut program: Command) -> String {
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let ended = tokio::time::timeout(LONGEST, program.output()).await.expect("it ends").expect("it starts");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).expect("text")
}

async fn talk(client: Client, language: &str) -> String {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(1, &[]).await;
    let mut program = Command::from(client.runs(&example(language)));
    program.env("AMQP_URL", servers.amqp().reveal()).env("QUEUE", servers.pool_queue());
    printed(program).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_in_python_gets_its_numbers_back() {
    assert_eq!(talk(Client::Pika, "python").await.trim(), "succeeded [2, 2] 1.0 2.0 3.0 4.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_in_javascript_gets_its_numbers_back() {
    assert_eq!(talk(Client::Amqplib, "js").await.trim(), "succeeded [2,2] 1 2 3 4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_for_a_shell_gets_its_numbers_back_over_http() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(1, &[]).await;
    let mut program = Command::new("sh");
    program.arg("-c").arg(example("sh")).env("GATEWAY", fleet.url().await);
    assert_eq!(printed(program).await.trim().to_ascii_lowercase(), "x-gpufleet-shape: 2,2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_go_as_raw_bytes_and_come_back_as_files_over_the_broker_and_over_http() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(1, &[]).await;
    let url = fleet.url().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    fs::write(path("one"), [0, 255, 10, 13]).expect("written");
    fs::write(path("two"), vec![7; 100_000]).expect("written");
    let payload = r#"[{"$segment": 1}, {"$segment": 0, "dtype": "i16", "shape": [2]}]"#;
    for saved in ["over-amqp", "over-http"].map(path) {
        let (one, two) = (path("one"), path("two"));
        let submit = ["submit", "echo", "--payload", payload, "--segment", &one, "--segment", &two, "--wait", "--save-segments", &saved];
        let ended = if saved.ends_with("over-amqp") {
            servers.run(&submit).await
        } else {
            gpufleet(Path::new("/"), submit, &[("GPUFLEET_URL", &url)]).await
        };
        assert_eq!((ended.code, ended.output.trim()), (Some(0), payload), "{ended:?}");
        assert_eq!(fs::read(format!("{saved}/segment0")).expect("a file"), [0, 255, 10, 13]);
        assert_eq!(fs::read(format!("{saved}/segment1")).expect("a file"), [7; 100_000]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_bytes_over_the_bound_are_refused_by_a_gateway_with_the_bound() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(1, &[]).await;
    let url = fleet.url().await;
    let folder = tempfile::tempdir().expect("a folder");
    let large = folder.path().join("large").to_str().expect("text").to_owned();
    // The first is taken in to its end before the answer; of the second most is never read.
    for megabytes in [9, 64] {
        fs::write(&large, vec![7; megabytes << 20]).expect("written");
        let submit = ["submit", "echo", "--payload", r#"{"$segment": 0}"#, "--segment", &large];
        let ended = gpufleet(Path::new("/"), submit, &[("GPUFLEET_URL", &url)]).await;
        assert_eq!((ended.code, ended.errors.contains("worker.body_bytes_max")), (Some(2), true), "{ended:?}");
    }
}
