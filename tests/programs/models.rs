//! `gpufleet models`, on a fleet's servers and through its gateway.

use serde_json::{Value, json};
use tests::program::{Ended, gpufleet};

use crate::servers::Servers;

const KNOWN: &str = "models.simulated=[{name: small, memory_mb: 2000, load_ms: 5}, {name: huge, memory_mb: 99000}]";

fn lines(ended: &Ended) -> Vec<&str> {
    ended.output.lines().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_loaded_pinned_listed_and_unloaded() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(2, &["--set", KNOWN]).await;
    let nothing = servers.run(&["models", "ls"]).await;
    let small = nothing.output.lines().find(|line| line.contains("small")).expect("it could be loaded");
    assert!(nothing.code == Some(0) && small.contains("2 GPUs") && small.contains("not loaded"), "{nothing:?}");

    let loaded = servers.run(&["models", "load", "small", "--gpu", "1"]).await;
    assert_eq!((loaded.code, lines(&loaded)), (Some(0), vec!["sim-1: loaded, 2000 MB"]), "{loaded:?}");
    let pinned = servers.run(&["models", "pin", "small"]).await;
    let on_both = vec!["sim-0: loaded and pinned, 2000 MB", "sim-1: loaded and pinned, 2000 MB"];
    assert_eq!((pinned.code, lines(&pinned)), (Some(0), on_both), "{pinned:?}");
    let listed = servers.run(&["models", "ls"]).await;
    assert_eq!(listed.output.lines().filter(|line| line.contains("small") && line.contains("pinned")).count(), 2, "{listed:?}");

    let kept = servers.run(&["models", "unload", "small", "--gpu", "sim-0"]).await;
    assert_eq!((kept.code, lines(&kept)), (Some(1), vec!["sim-0: failed: it is pinned; unpin it first"]), "{kept:?}");
    assert_eq!(servers.run(&["models", "unpin", "small"]).await.code, Some(0));
    let unloaded = servers.run(&["models", "unload", "small"]).await;
    assert_eq!((unloaded.code, lines(&unloaded)), (Some(0), vec!["sim-0: unloaded", "sim-1: unloaded"]), "{unloaded:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_cannot_be_loaded_is_told_with_the_reason() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(1, &["--set", KNOWN]).await;
    let huge = servers.run(&["models", "load", "huge"]).await;
    assert_eq!((huge.code, huge.output.contains("sim-0: failed: model huge needs 99000 MB")), (Some(1), true), "{huge:?}");
    let listed = servers.run(&["models", "ls"]).await;
    assert!(listed.output.contains("huge on sim-0: model huge needs 99000 MB"), "{listed:?}");
    let unknown = servers.run(&["models", "load", "nobody's"]).await;
    assert_eq!((unknown.code, unknown.output.contains("no kind of this GPU has a model")), (Some(1), true), "{unknown:?}");
    let pinned = servers.run(&["models", "pin", "nobody's"]).await;
    assert_eq!((pinned.code, pinned.errors.contains("`gpufleet models unpin nobody's` takes the pin back")), (Some(1), true), "{pinned:?}");
    let listed = servers.run(&["models", "ls"]).await;
    assert!(listed.output.contains("nobody's: pinned, and no GPU of the pool has it"), "{listed:?}");
    let unpinned = servers.run(&["models", "unpin", "nobody's"]).await;
    assert_eq!((unpinned.code, lines(&unpinned)), (Some(0), vec!["sim-0: unpinned"]), "{unpinned:?}");
    assert!(!servers.run(&["models", "ls"]).await.output.contains("nobody's"), "that is over");
    let tiny = servers.run(&["models", "load", "tiny"]).await;
    assert_eq!((tiny.code, lines(&tiny)), (Some(0), vec!["sim-0: is kept by its kind predict"]), "{tiny:?}");
    let nowhere = servers.run(&["models", "load", "small", "--gpu", "sim-7"]).await;
    assert_eq!((nowhere.code, nowhere.errors.contains("sim-7")), (Some(4), true), "{nowhere:?}");
    let nameless = servers.run(&["models", "load", ""]).await;
    assert_eq!((nameless.code, nameless.errors.contains("1 to 128 characters")), (Some(2), true), "{nameless:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_handled_through_a_gateway_too() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(2, &["--set", KNOWN]).await;
    let url = fleet.url().await;
    let run = async |arguments: &[&str]| gpufleet(std::path::Path::new("/"), arguments, &[("GPUFLEET_URL", url.as_str())]).await;
    let loaded = run(&["models", "load", "small", "--gpu", "0", "--json"]).await;
    let told: Value = serde_json::from_str(&loaded.output).expect("one JSON object and nothing else");
    assert_eq!(told["gpus"], json!([{"gpu_id": "sim-0", "done": true, "said": "loaded, 2000 MB"}]), "{loaded:?}");
    let listed: Value = serde_json::from_str(&run(&["models", "ls", "--json"]).await.output).expect("one JSON object and nothing else");
    assert_eq!((&listed["gpus"][0]["loaded"][0]["name"], &listed["gpus"][1]["loaded"]), (&json!("small"), &json!([])), "{listed}");
    let taken = run(&["models", "unload", "small", "--wait", "0"]).await;
    assert_eq!((taken.code, taken.output.as_str()), (Some(0), "unload small: taken down as number 2\n"), "{taken:?}");

    let payload = r#"{"model": "small", "result": 7}"#;
    let submitted = run(&["submit", "simulate", "--payload", payload, "--model", "small", "--strategy", "task_specific", "--wait"]).await;
    assert_eq!((submitted.code, submitted.output.as_str()), (Some(0), "7\n"), "{submitted:?}");
}
