//! `gpufleet kinds`, on servers and through a gateway; and payloads that do not fit their kind.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tests::{program::gpufleet, until::until};

use crate::{over_http::Embedded, servers::Servers};

/// A kind in the output of `gpufleet kinds --json`.
fn of(output: &str, kind: &str) -> Value {
    let kinds: Value = serde_json::from_str(output).unwrap_or_default();
    kinds.as_array().and_then(|kinds| kinds.iter().find(|view| view["kind"] == kind)).cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_and_their_gateway_show_the_same_kinds() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(2, &[]).await;
    let url = fleet.url().await;
    assert_eq!(servers.run(&["submit", "echo", "--wait"]).await.code, Some(0));
    let shown = async |kind: &str| of(&servers.run(&["kinds", "--json"]).await.output, kind);
    until("the kinds are described and a run is learnt", async || {
        shown("echo").await["run_ms"]["median"].is_number() && shown("simulate").await["schema"].is_object()
    })
    .await;
    let through = async |arguments: &[&str]| gpufleet(Path::new("/"), [arguments, &["--url", url.as_str()]].concat(), &[]).await;
    let by_gateway = through(&["kinds", "--json"]).await.output;
    for kind in ["echo", "simulate"] {
        let (direct, by_gateway) = (shown(kind).await, of(&by_gateway, kind));
        for field in ["about", "schema", "gpus", "batch_largest"] {
            assert_eq!(direct[field], by_gateway[field], "{kind}, {field}");
        }
        assert_eq!(direct["gpus"], json!(["sim-0", "sim-1"]));
    }
    let table = servers.run(&["kinds"]).await;
    let row = table.output.lines().find(|line| line.contains(" echo ")).unwrap_or_else(|| panic!("{table:?}"));
    assert!(row.contains(" 2 ") && row.contains("gives the payload back"), "{row}");
    let unknown = through(&["kinds", "ecko"]).await;
    assert_eq!((unknown.code, unknown.errors.contains("there are echo, predict, simulate")), (Some(4), true), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_of_a_kind_runs_as_it_is_shown() {
    let embedded = Embedded::up("1").await;
    until("simulate is described", async || embedded.run(&["kinds", "simulate"]).await.output.contains("for example:")).await;
    let one = embedded.run(&["kinds", "simulate"]).await;
    for part in ["kind          simulate", "served by     sim-0", "up to 64 payloads run together", "payload, as JSON Schema:"] {
        assert!(one.output.contains(part), "{part}: {one:?}");
    }
    let example = one.output.lines().last().unwrap_or_default();
    assert!(example.starts_with("gpufleet submit simulate --payload '"), "{one:?}");
    let ran = embedded.typed(example).await;
    assert_eq!(ran.code, Some(0), "{example}: {ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_does_not_fit_is_refused_before_it_travels() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(1, &[]).await;
    let url = fleet.url().await;
    until("simulate is described", async || of(&servers.run(&["kinds", "--json"]).await.output, "simulate")["schema"].is_object()).await;
    let wrong = ["submit", "simulate", "--payload", r#"{"duration_ms": "soon"}"#, "--max-attempts", "1", "--wait"];
    let told = "error: payload.duration_ms: must be ";
    let refused = servers.run(&wrong).await;
    assert_eq!((refused.code, refused.errors.starts_with(told)), (Some(2), true), "{refused:?}");
    // The gateway asks the table now and then.
    let through = async || gpufleet(Path::new("/"), [&wrong[..], &["--url", url.as_str()]].concat(), &[]).await;
    until("the gateway knows it too", async || through().await.code == Some(2)).await;
    let refused = through().await;
    assert!(refused.errors.starts_with(told), "{refused:?}");

    let unchecked = servers.run(&[&wrong[..], &["--set", "gateway.check_payloads=false"]].concat()).await;
    assert_eq!((unchecked.code, unchecked.errors.contains("invalid_payload")), (Some(1), true), "the worker refuses it: {unchecked:?}");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("items.ndjson");
    fs::write(&file, "{\"result\": 1}\n{\"duration_ms\": \"soon\"}\n{\"result\": 3}\n").expect("written");
    let file = file.to_str().expect("text");
    let lines = servers.run(&["submit", "simulate", "--items", file, "--wait"]).await;
    let outcomes: Vec<Value> =
        lines.output.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["outcome"].clone()).collect();
    assert_eq!((lines.code, outcomes), (Some(2), vec![json!("succeeded"), json!("not_submitted"), json!("succeeded")]), "{}", lines.errors);
    let batch = servers.run(&["submit", "simulate", "--items", file, "--as-batch", "--wait"]).await;
    assert_eq!((batch.code, batch.errors.contains("items[1].duration_ms")), (Some(2), true), "{batch:?}");
}
