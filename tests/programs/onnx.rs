//! The kinds on ONNX Runtime, with the library and the models that `scripts/fetch-models target/onnx` has fetched (`make test` does so).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::pages::root;

use crate::servers::Servers;

/// The folder of the library and the models.
///
/// # Panics
/// If they were not fetched.
pub fn fetched() -> PathBuf {
    let folder = root().join("target/onnx");
    assert!(folder.join("magika").is_dir(), "{} is missing; `scripts/fetch-models target/onnx` fetches it", folder.display());
    folder.canonicalize().expect("it is there")
}

fn set_directory(folder: &Path) -> String {
    format!("models.directory={}", folder.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_become_vectors_and_files_get_labels_on_a_fleet() {
    let servers = Servers::fresh().await;
    let directory = set_directory(&fetched());
    let _fleet = servers.up(1, &["--set", &directory]).await;
    let embedded = servers.run(&["submit", "embed", "--payload", r#"{"text": ["a cat", "a kitten", "a car engine"]}"#, "--wait"]).await;
    assert_eq!(embedded.code, Some(0), "{embedded:?}");
    let result: Value = serde_json::from_str(&embedded.output).expect("one JSON value");
    assert_eq!((&result["dimensions"], &result["provider"], &result["model"]), (&json!(384), &json!("cpu"), &json!("all-MiniLM-L6-v2")));
    let vectors: Vec<Vec<f64>> = serde_json::from_value(result["embeddings"].clone()).expect("vectors");
    let near = |one: usize, other: usize| vectors[one].iter().zip(&vectors[other]).map(|(one, other)| one * other).sum::<f64>();
    assert!(near(0, 1) > 0.7 && near(0, 2) < 0.4, "{} and {}", near(0, 1), near(0, 2));

    let labelled = servers
        .run(&[
            "submit",
            "classify",
            "--payload",
            r##"{"content": "<?php\necho 'hello';\nforeach ($a as $b) { print($b); }\n?>\n"}"##,
            "--wait",
        ])
        .await;
    assert_eq!(labelled.code, Some(0), "{labelled:?}");
    let result: Value = serde_json::from_str(&labelled.output).expect("one JSON value");
    assert_eq!((&result["label"], &result["version"]), (&json!("php"), &json!("3.3")), "{result}");

    let listed = servers.run(&["models", "ls"]).await;
    assert!(["all-MiniLM-L6-v2", "magika"].iter().all(|name| listed.output.contains(name)), "{listed:?}");
    let refused = servers.run(&["submit", "onnx", "--payload", r#"{"model": "magika", "inputs": {"bytes": [[1, 2, 3]]}}"#, "--wait"]).await;
    let told = format!("{}{}", refused.output, refused.errors);
    assert!(refused.code != Some(0) && told.contains("[1, 3] of i32; the model takes") && told.contains("2048"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_library_that_is_not_there_is_told_and_the_other_kinds_run() {
    let servers = Servers::fresh().await;
    let directory = set_directory(&fetched());
    let library = "models.onnx_runtime=/nowhere/libonnxruntime.so";
    let fleet = servers.up(1, &["--set", &directory, "--set", library]).await;
    let told = fleet.logged("ONNX Runtime at ").await;
    assert!(told.starts_with("/nowhere/libonnxruntime.so"), "{told}");
    assert_eq!(servers.run(&["submit", "echo", "--payload", "7", "--wait"]).await.output, "7\n");
    let examined = servers.run(&["doctor", "--set", &directory, "--set", library]).await;
    let line = examined.output.lines().find(|line| line.contains("ONNX Runtime")).expect("a finding");
    assert!(line.starts_with("warn") && line.contains("/nowhere/libonnxruntime.so") && line.contains("`embed`"), "{line}");
    let good = servers.run(&["doctor", "--set", &directory]).await;
    let line = good.output.lines().find(|line| line.contains("ONNX Runtime")).expect("a finding");
    assert!(line.starts_with("ok") && line.contains("1.32.0") && line.contains("runs models on cpu"), "{line}");
}
