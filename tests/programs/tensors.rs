//! `gpufleet tensors`, on a fleet's servers and through its gateway.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::program::{Ended, gpufleet, typed};

use crate::servers::Servers;

/// The bytes of little-endian numbers.
fn numbers(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// A folder of files, and their names.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("text").to_owned()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).expect("written");
        path
    }
}

fn told(ended: &Ended) -> (Option<i32>, &str) {
    (ended.code, ended.output.trim())
}

fn json_of(ended: &Ended) -> Value {
    serde_json::from_str(&ended.output).unwrap_or_else(|error| panic!("one JSON value and nothing else ({error}): {ended:?}"))
}

/// What a command does, whichever way it takes to the fleet.
async fn put_ls_get_rm(run: impl AsyncFn(&[&str]) -> Ended) {
    let files = Files::new();
    let nothing = run(&["tensors", "ls"]).await;
    assert_eq!(told(&nothing), (Some(0), "there are no tensors on the GPUs of the pool"));

    let raw = files.write("raw", &numbers(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let put = run(&["tensors", "put", "x", &raw, "--dtype", "f32", "--shape", "2,3", "--gpu", "1", "--ttl", "1h"]).await;
    assert_eq!(put.code, Some(0), "{put:?}");
    assert!(put.output.starts_with("x: version ") && put.output.trim().ends_with("on sim-1, f32 [2, 3], 24 B"), "{put:?}");
    let listed = json_of(&run(&["tensors", "ls", "--json"]).await);
    let view = &listed[0];
    assert_eq!(
        (&view["name"], &view["dtype"], &view["shape"], &view["ttl_ms"]),
        (&json!("x"), &json!("f32"), &json!([2, 3]), &json!(3_600_000))
    );
    assert_eq!(view["copies"], json!([{"gpu_id": "sim-1", "place": "gpu"}]));
    let table = run(&["tensors", "ls"]).await;
    assert!(table.output.lines().any(|line| ["x", "f32", "[2, 3]", "24 B", "sim-1"].iter().all(|word| line.contains(word))), "{table:?}");

    let (back, npy) = (files.path("back"), files.path("x.npy"));
    assert_eq!(run(&["tensors", "get", "x", "-o", &back]).await.code, Some(0));
    assert_eq!(fs::read(&back).expect("a file"), numbers(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    assert_eq!(run(&["tensors", "get", "x", "--output", &npy]).await.code, Some(0));
    let again = run(&["tensors", "put", "y", &npy, "--json"]).await;
    let kept = json_of(&again);
    assert_eq!((&kept["dtype"], &kept["shape"], &kept["bytes"]), (&json!("f32"), &json!([2, 3]), &json!(24)), "{again:?}");

    let taken = run(&["tensors", "put", "x", &raw, "--if-exists", "fail", "--gpu", "1"]).await;
    assert_eq!((taken.code, taken.errors.contains("tensor x")), (Some(1), true), "{taken:?}");
    let freed = run(&["tensors", "rm", "x", "nobody", "y"]).await;
    assert_eq!((freed.code, freed.output.lines().count(), freed.errors.contains("the tensor nobody")), (Some(4), 2, true), "{freed:?}");
    let gone = run(&["tensors", "get", "x", "-o", &back]).await;
    assert_eq!((gone.code, gone.errors.contains("no living GPU of the pool default has the tensor x")), (Some(4), true), "{gone:?}");
    assert!(!Path::new(&format!("{back}.part")).exists(), "no part is left");
    let elsewhere = run(&["tensors", "put", "x", &raw, "--gpu", "sim-7"]).await;
    assert_eq!((elsewhere.code, elsewhere.errors.contains("sim-7")), (Some(4), true), "{elsewhere:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tensors_are_put_listed_read_and_freed_on_the_servers() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(2, &[]).await;
    put_ls_get_rm(async |arguments: &[&str]| servers.run(arguments).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tensors_are_put_listed_read_and_freed_through_a_gateway() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(2, &[]).await;
    let url = fleet.url().await;
    put_ls_get_rm(async |arguments: &[&str]| gpufleet(Path::new("/"), arguments, &[("GPUFLEET_URL", url.as_str())]).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_tasks_leaves_its_results_on_the_gpu() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(2, &[]).await;
    let (files, url) = (Files::new(), fleet.url().await);
    let raw = files.write("raw", &numbers(&[1.0, 2.0, 3.0]));
    assert_eq!(servers.run(&["tensors", "put", "x", &raw, "--dtype", "f32"]).await.code, Some(0));
    for (input, output) in [("x", "y"), ("y", "z")] {
        let payload = json!({"inputs": [{"tensor": input}], "add": 1.5}).to_string();
        let submit = ["submit", "simulate", "--payload", &payload, "--keep-as", output, "--keep-ttl", "5m", "--wait"];
        let ended =
            if output == "y" { servers.run(&submit).await } else { gpufleet(Path::new("/"), submit, &[("GPUFLEET_URL", &url)]).await };
        let kept = json_of(&ended);
        assert_eq!((&kept["tensor"], &kept["shape"], &kept["bytes"]), (&json!(output), &json!([3]), &json!(12)), "{ended:?}");
    }
    let back = files.path("back");
    assert_eq!(servers.run(&["tensors", "get", "z", "-o", &back]).await.code, Some(0));
    assert_eq!(fs::read(&back).expect("a file"), numbers(&[4.0, 5.0, 6.0]));

    let payload = json!({"inputs": [{"tensor": "nowhere"}]}).to_string();
    let missing = servers.run(&["submit", "simulate", "--payload", &payload, "--wait"]).await;
    assert_eq!((missing.code, missing.errors.contains("tensor_missing")), (Some(1), true), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_input_is_passed_on_and_must_be_as_long_as_is_said() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(1, &[]).await;
    let (files, url) = (Files::new(), fleet.url().await);
    let run = async |line: &str| typed(files.0.path(), line, &[("GPUFLEET_URL", url.as_str())]).await;
    let put = run("printf 12345678 | gpufleet tensors put x - --dtype u16").await;
    assert!(put.code == Some(0) && put.output.contains("u16 [4], 8 B"), "{put:?}");
    let put = run("printf 12345678 | gpufleet tensors put x - --shape 2,4").await;
    assert!(put.code == Some(0) && put.output.contains("u8 [2, 4], 8 B"), "{put:?}");
    let piped = run("gpufleet tensors get x").await;
    assert_eq!((piped.code, piped.output.as_str()), (Some(0), "12345678"), "standard output is no terminal here");
    for (shape, words) in [("7", "more"), ("9", "ends 1 bytes before")] {
        let wrong = run(&format!("printf 12345678 | gpufleet tensors put y - --shape {shape}")).await;
        assert_eq!((wrong.code, wrong.errors.contains(words)), (Some(2), true), "{wrong:?}");
    }
    let listed = json_of(&run("gpufleet tensors ls --json").await);
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "nothing is left of what was not whole: {listed}");
}
