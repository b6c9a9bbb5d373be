//! The kinds that need CUDA, on an NVIDIA GPU whose libraries are fakes.

use std::{fs, sync::Arc};

use bytes::Bytes;
use devices::{Device, Use};
use executors::{BatchMember, Executor, Failure, Run, RunBatch, Usage};
use fake_nvidia::process;
use protocol::{Framed, Json, Segments, Task};
use serde_json::{Value, json};
use tests::{
    executing::{self, member_of, run_of},
    until::until,
};
use tokio_util::sync::CancellationToken;

use crate::rig::{block_on, first_gpu};

fn task(executor: &Arc<dyn Executor>, payload: Value) -> Task {
    executing::task(executor.kind().as_str(), payload, Segments::none())
}

async fn run(executor: &Arc<dyn Executor>, device: &Arc<dyn Device>, payload: Value, pieces: u32) -> Result<Json, Failure> {
    let task = task(executor, payload);
    executor.run(Run { pieces, ..run_of(&task, device) }).await.map(|framed| framed.json)
}

/// The same, with raw bytes beside the payload.
async fn run_raw(executor: &Arc<dyn Executor>, device: &Arc<dyn Device>, payload: Value, segments: Segments, pieces: u32) -> Framed {
    let task = executing::task(executor.kind().as_str(), payload, segments);
    executor.run(Run { pieces, ..run_of(&task, device) }).await.unwrap()
}

/// Numbers as raw bytes, at a place in memory where no number may begin.
fn raw(numbers: &[f32]) -> Bytes {
    let unaligned: Bytes = [0_u8].into_iter().chain(numbers.iter().flat_map(|number| number.to_le_bytes())).collect();
    unaligned.slice(1..)
}

#[test]
fn a_kernel_takes_raw_bytes_and_gives_some_back() {
    process::on_a_machine(1, |_| {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"extern "C" __global__ void saxpy(unsigned int n, float a, const float *x, float *y) {}"#;
        fs::write(folder.path().join("saxpy.cu"), text).unwrap();
        block_on(async {
            let gpu: Arc<dyn Device> = Arc::new(first_gpu().await);
            let kernel = executors::kernel(folder.path().to_owned());
            let segments = || Segments::of(vec![raw(&[1.0, 2.0, 3.0, 4.0]), raw(&[10.0, 20.0, 30.0, 40.0])]);
            let (x, y) = (json!({"$segment": 0}), json!({"$segment": 1, "dtype": "f32", "shape": [2, 2]}));
            let payload = |outputs: Value| {
                let arguments = json!([{"u32": 4}, {"f32": 2.0}, {"in": x}, {"inout": y}]);
                json!({"module": "saxpy", "blocks": 1, "threads": 32, "arguments": arguments, "outputs": outputs})
            };
            let raw_back = run_raw(&kernel, &gpu, payload(Value::Null), segments(), 1).await;
            assert_eq!(raw_back.json, json!({"outputs": [{"$segment": 0, "dtype": "f32", "shape": [2, 2]}]}));
            assert_eq!(raw_back.segments, Segments::of(vec![raw(&[12.0, 24.0, 36.0, 48.0])]));
            let numbers = run_raw(&kernel, &gpu, payload(json!("numbers")), segments(), 1).await;
            assert_eq!((numbers.json, numbers.segments.len()), (Json::from(json!({"outputs": [[12.0, 24.0, 36.0, 48.0]]})), 0));
            let mut asked_for = fill("saxpy", 7);
            asked_for["kernel"] = json!("saxpy");
            asked_for["outputs"] = json!("segments");
            asked_for["arguments"] = json!([{"u32": 1}, {"f32": 2.0}, {"in": {"f32": [1]}}, {"inout": {"f32": [1]}}]);
            let of_lists = run_raw(&kernel, &gpu, asked_for, Segments::none(), 1).await;
            assert_eq!(of_lists.segments, Segments::of(vec![raw(&[3.0])]));
        });
    });
}

#[test]
fn a_product_of_raw_bytes_is_raw_bytes_also_in_pieces() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let gpu: Arc<dyn Device> = Arc::new(first_gpu().await);
            let matmul = executors::matmul();
            let segments = || Segments::of(vec![raw(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), raw(&[1.0, 0.0, 0.0, 1.0])]);
            let a = json!({"$segment": 0, "dtype": "f32", "shape": [3, 2]});
            let payload = json!({"a": a, "b": {"$segment": 1, "dtype": "f32", "shape": [2, 2]}, "check": true});
            for pieces in [1, 2, 3] {
                let product = run_raw(&matmul, &gpu, payload.clone(), segments(), pieces).await;
                assert_eq!(product.json, json!({"max_error": 0.0, "product": {"$segment": 0, "dtype": "f32", "shape": [3, 2]}}));
                assert_eq!(product.segments, Segments::of(vec![raw(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]), "in {pieces} pieces");
            }
            let with_a_list = json!({"a": a, "b": [[1, 0], [0, 1]], "outputs": "numbers"});
            let product = run_raw(&matmul, &gpu, with_a_list, segments(), 1).await;
            assert_eq!((product.json, product.segments.len()), (Json::from(json!({"product": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]})), 0));
            let lists = json!({"a": [[1]], "b": [[2]], "dtype": "f64", "outputs": "segments"});
            let product = run_raw(&matmul, &gpu, lists, Segments::none(), 1).await;
            assert_eq!(product.segments.get(0).map(|segment| segment.to_vec()), Some(2.0_f64.to_le_bytes().to_vec()));
        });
    });
}

fn fill(module: &str, value: i32) -> Value {
    let arguments = json!([{"out": {"i32": 3}}, {"i32": value}, {"u32": 3}]);
    json!({"module": module, "kernel": "fill_i32", "blocks": 1, "threads": 32, "arguments": arguments})
}

/// Whether the GPU has not so much memory for a task now. A sample that was taken while a buffer came or went tells too little for a moment.
fn lacks(gpu: &Arc<dyn Device>, memory_mb: u64) -> bool {
    gpu.begin(Use { memory_mb, compute_share: 1.0 }).is_err()
}

#[test]
fn a_product_that_is_too_large_for_the_memory_is_right_in_pieces() {
    process::on_a_machine(1, |machine| {
        machine.change(|state| state.gpus[0].memory_mib = 452);
        block_on(async {
            let gpu: Arc<dyn Device> = Arc::new(first_gpu().await);
            until("the context's memory counts", async || lacks(&gpu, 9)).await;
            let side = 1_000;
            let (a, b): (Vec<[usize; 1]>, [Vec<usize>; 1]) = ((0..side).map(|row| [row]).collect(), [(0..side).collect()]);
            let payload = json!({"a": a, "b": b, "dtype": "f64", "check": true});
            let matmul = executors::matmul();
            let refused = run(&matmul, &gpu, payload.clone(), 1).await.unwrap_err();
            assert_eq!((refused.code.as_str(), refused.memory_mb), ("out_of_memory", Some(9)), "{refused:?}");
            let result: Value = run(&matmul, &gpu, payload, 3).await.unwrap().to().unwrap();
            assert_eq!((&result["max_error"], &result["product"][999][7]), (&json!(0.0), &json!(6_993.0)));
            assert_eq!(result["product"].as_array().unwrap().len(), side);
        });
    });
}

#[test]
fn products_of_any_sizes_run_together_and_each_gets_its_own() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let gpu: Arc<dyn Device> = Arc::new(first_gpu().await);
            let matmul = executors::matmul();
            let tasks = [
                json!({"a": [[1, 2], [3, 4]], "b": [[5, 6], [7, 8]]}),
                json!({"a": [[1, 2, 3]], "b": [[1], [10], [100]], "dtype": "f64", "check": true}),
                json!({"a": [[1, 2]], "b": "no matrix"}),
                json!({"a": [[2, 0], [0, 2]], "b": [[1, 2], [3, 4]]}),
            ]
            .map(|payload| task(&matmul, payload));
            let usages: Vec<Usage> = tasks.iter().map(|_| Usage::default()).collect();
            let members = tasks.iter().zip(&usages).map(|(task, usage)| BatchMember { usage: usage.clone(), ..member_of(task) });
            let batch = RunBatch { device: &gpu, members: members.collect(), cancel: CancellationToken::new() };
            let answers = matmul.run_batch(batch).await;
            let product = |place: usize| answers[place].as_ref().unwrap().json.to::<Value>().unwrap();
            assert_eq!(product(0), json!({"product": [[19.0, 22.0], [43.0, 50.0]]}));
            assert_eq!(product(1), json!({"max_error": 0.0, "product": [[321.0]]}));
            assert_eq!(answers[2].as_ref().unwrap_err().field.as_deref(), Some("payload.b"));
            assert_eq!(product(3), json!({"product": [[2.0, 4.0], [6.0, 8.0]]}));
            assert!(usages[0].device_time().is_some() && usages[0].device_time() == usages[3].device_time());
            assert_eq!(usages[2].device_time(), None, "what did not run took nothing");
        });
    });
}

#[test]
fn products_without_the_memory_for_all_lack_it_together() {
    process::on_a_machine(1, |machine| {
        machine.change(|state| state.gpus[0].memory_mib = 452);
        block_on(async {
            let gpu: Arc<dyn Device> = Arc::new(first_gpu().await);
            until("the context's memory counts", async || lacks(&gpu, 9)).await;
            let matmul = executors::matmul();
            let (a, b): (Vec<[usize; 1]>, [Vec<usize>; 1]) = ((0..500).map(|row| [row]).collect(), [(0..500).collect()]);
            let task = task(&matmul, json!({"a": a, "b": b, "dtype": "f64"}));
            let member = || member_of(&task);
            let members = (0..8).map(|_| member()).collect();
            let answers = matmul.run_batch(RunBatch { device: &gpu, members, cancel: CancellationToken::new() }).await;
            assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|failure| failure.code == "out_of_memory" && failure.retry)));
            let alone = RunBatch { device: &gpu, members: vec![member()], cancel: CancellationToken::new() };
            assert!(matmul.run_batch(alone).await[0].is_ok());
        });
    });
}

#[test]
fn modules_that_are_let_go_are_compiled_again_and_so_are_changed_ones() {
    process::on_a_machine(1, |_| {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let text = r#"extern "C" __global__ void fill_i32(int *out, int value, unsigned int n) {}"#;
        write("one.cu", text);
        write("two.cu", text);
        block_on(async {
            let gpu: Arc<dyn Device> = Arc::new(first_gpu().await);
            let kernel = executors::kernel(folder.path().to_owned());
            assert!(!kernel.evict(gpu.as_ref()).await, "there is none yet");
            let both = futures::future::join_all((0..8).map(|at| run(&kernel, &gpu, fill(["one", "two"][at % 2], 7), 1)));
            for result in both.await {
                assert_eq!(result.unwrap(), json!({"outputs": [[7, 7, 7]]}));
            }
            assert!(kernel.evict(gpu.as_ref()).await);
            assert!(!kernel.evict(gpu.as_ref()).await, "all were let go");
            assert_eq!(run(&kernel, &gpu, fill("one", 8), 1).await.unwrap(), json!({"outputs": [[8, 8, 8]]}));

            write("one.cu", "#error changed");
            until("the changed file is refused", async || {
                let ran = run(&kernel, &gpu, fill("one", 9), 1).await;
                ran.is_err_and(|refused| refused.field.as_deref() == Some("payload.module"))
            })
            .await;
            assert!(!kernel.evict(gpu.as_ref()).await, "what replaced it never came to the GPU");
            write("one.cu", text);
            until("the mended file runs", async || run(&kernel, &gpu, fill("one", 9), 1).await.is_ok()).await;
        });
    });
}
