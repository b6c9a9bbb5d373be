//! Batches on the command line: a file's lines as the items of one task, its status, and its results in pieces.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tests::{
    program::{Ended, Program, gpufleet},
    until::until,
};

use crate::servers::Servers;

/// A file with so many lines, each an item of `simulate`; the item of this number, if one is named, fails.
fn written(folder: &Path, items: u32, failing: Option<u32>) -> String {
    let item = |index| {
        let fails = json!({"fail": {"code": "broken", "message": "as asked"}});
        let payload = if failing == Some(index) { fails } else { json!({"duration_ms": 1, "result": index}) };
        format!("{payload}\n")
    };
    let file = folder.join("items.ndjson");
    fs::write(&file, (0..items).map(item).collect::<String>()).expect("written");
    file.to_str().expect("text").to_owned()
}

/// The results that were printed, a line each.
fn lines(ended: &Ended) -> Vec<Value> {
    ended.output.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// Submits batches and reads their results with commands that reach the fleet by `run`.
async fn batches_come_and_go(run: impl AsyncFn(&[&str]) -> Ended) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = written(folder.path(), 12, None);
    let submitted = run(&["submit", "simulate", "--items", &file, "--as-batch", "--task-id", "good", "--wait"]).await;
    let expected: Vec<Value> = (0..12).map(|index| json!({"result": index})).collect();
    assert_eq!((submitted.code, lines(&submitted)), (Some(0), expected.clone()), "{submitted:?}");

    until("the status tells of the end", async || run(&["status", "good"]).await.output.contains("succeeded")).await;
    let status = run(&["status", "good"]).await;
    assert!(status.output.contains("12 of 12 items ended"), "{status:?}");
    assert!(status.output.contains("gpufleet results good"), "{status:?}");
    let results = run(&["results", "good"]).await;
    assert_eq!((results.code, lines(&results)), (Some(0), expected.clone()), "{results:?}");
    let rest = run(&["results", "good", "--from", "10"]).await;
    assert_eq!((rest.code, lines(&rest)), (Some(0), expected[10..].to_vec()), "{rest:?}");

    let file = written(folder.path(), 3, Some(1));
    let partly = run(&["submit", "simulate", "--items", &file, "--as-batch", "--wait"]).await;
    assert_eq!((partly.code, partly.errors.contains("1 of 3 items failed")), (Some(1), true), "{partly:?}");
    let came_out = lines(&partly);
    assert_eq!((&came_out[0], &came_out[2]), (&json!({"result": 0}), &json!({"result": 2})), "{partly:?}");
    assert_eq!(came_out[1]["error"]["code"], "broken", "{partly:?}");
    let failed = run(&["submit", "simulate", "--items", &file, "--as-batch", "--on-error", "fail", "--task-id", "whole", "--wait"]).await;
    assert_eq!((failed.code, failed.output.as_str(), failed.errors.contains("broken")), (Some(1), "", true), "{failed:?}");
    until("the status tells of the failure", async || run(&["status", "whole"]).await.output.contains("failed")).await;
    let none = run(&["results", "whole"]).await;
    assert_eq!((none.code, none.errors.contains("as a whole")), (Some(1), true), "{none:?}");
    let unknown = run(&["results", "nobody"]).await;
    assert_eq!((unknown.code, unknown.errors.contains("nobody")), (Some(4), true), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_submitted_as_one_batch_and_its_results_are_printed_in_order_on_servers() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(2, &[]).await;
    batches_come_and_go(async |arguments: &[&str]| servers.run(arguments).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_submitted_as_one_batch_and_its_results_are_printed_in_order_through_a_gateway() {
    let fleet = Program::start(["up", "--simulated", "2", "--listen", "127.0.0.1:0"], &[]);
    let url = fleet.url().await;
    let run = async |arguments: &[&str]| gpufleet(Path::new("/"), arguments, &[("GPUFLEET_URL", url.as_str())]).await;
    until("both GPUs are there", async || run(&["gpus", "--json"]).await.output.matches("\"eligible\":true").count() == 2).await;
    batches_come_and_go(run).await;
}
