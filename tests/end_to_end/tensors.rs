//! Tensors that stay on GPUs between tasks: kept, found, brought to where a task runs, and lost with whoever had them.
//!
//! The kinds of these cases are their own, one for each way in which a kind takes tensors; what the fleet's own kinds do with them is beside those.

mod batches;
mod losing;
mod placing;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use executors::{Executor, Executors, Failure, Run, TakesTensors};
use producer::NewTask;
use protocol::{
    DType, Framed, IfExists, Json, KeepAs, KeptTensor, Kind, OnMissing, Outcome, Reply, Segments, TaskBody, TensorName, TensorRef,
    TensorShape,
};
use serde_json::{Value, json};
use tensors::Content;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{on, reply, result, task},
    until::until,
};

crate::on_both!(
    a_chain_of_tasks_leaves_its_tensors_on_the_gpu_and_nothing_is_copied,
    what_lies_on_another_gpu_is_brought_there_once,
    the_fleets_own_kinds_compute_in_a_chain_that_stays_on_the_gpu,
);

/// Takes tensors as raw bytes, and gives back what it was given.
struct Reading;

#[async_trait]
impl Executor for Reading {
    fn kind(&self) -> Kind {
        Kind::new("reading").unwrap()
    }

    fn takes_tensors(&self) -> TakesTensors {
        TakesTensors::AsSegments
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        Ok(Framed { json: run.payload.clone(), segments: run.segments().clone() })
    }
}

/// Copies each of its `inputs` on the GPU, and leaves the copies there, as many as it is told to keep. With `fails` its first attempt fails after that.
struct Passing;

#[async_trait]
impl Executor for Passing {
    fn kind(&self) -> Kind {
        Kind::new("passing").unwrap()
    }

    fn takes_tensors(&self) -> TakesTensors {
        TakesTensors::OnGpu
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let asked: Value = run.payload.to().unwrap();
        let memory = run.device.memory().expect("a simulated GPU has memory");
        let mut kept = Vec::new();
        for (output, input) in asked["inputs"].as_array().into_iter().flatten().enumerate() {
            let reference = TensorRef::of(input).expect("a reference");
            let tensor = run.tensors.input(&reference, "payload.inputs")?;
            let bytes = tensor.buffer().len();
            let copy = memory.allocate(bytes).await.expect("room");
            memory.copy((tensor.buffer(), 0), (&copy, 0), bytes).await.expect("copied");
            if output < run.tensors.kept_outputs() {
                kept.push(run.tensors.keep(output, tensor.about().shape.clone(), Content::Gpu(copy)).await?);
            }
        }
        if asked["fails"] == true && run.task.attempt == 1 {
            return Err(Failure::transient("as asked"));
        }
        Ok(Json::of(&kept).into())
    }
}

fn executors() -> Executors {
    Executors::new().with(executors::echo()).with(Arc::new(Reading)).with(Arc::new(Passing))
}

/// A fleet whose GPUs run these kinds.
fn fleet(gpus: usize) -> FleetPlan {
    Fleet::of(gpus).executors(executors())
}

fn name(name: &str) -> TensorName {
    TensorName::new(name).unwrap()
}

/// Bytes that are other ones at each place, and for each seed.
fn bytes(count: usize, seed: usize) -> Bytes {
    (0..count).map(|at| ((at * 31 + at / 251 + seed * 7) % 256) as u8).collect()
}

/// The same task, whose outputs stay under these names.
fn keeping(names: &[&str], task: NewTask) -> NewTask {
    let keep_as = KeepAs { names: names.iter().map(|given| name(given)).collect(), ttl_ms: None, if_exists: IfExists::default() };
    NewTask { body: TaskBody { keep_as: Some(keep_as), ..task.body }, ..task }
}

/// The same task, which waits for what it names.
fn waiting(task: NewTask) -> NewTask {
    NewTask { body: TaskBody { on_missing: OnMissing::Wait, ..task.body }, ..task }
}

/// A task that leaves these bytes on its GPU.
fn putting(tensor: &str, content: &Bytes) -> NewTask {
    let task = task("echo", json!({"data": {"$segment": 0}}));
    keeping(&[tensor], NewTask { body: TaskBody { segments: Segments::of(vec![content.clone()]), ..task.body }, ..task })
}

/// A task whose result has the bytes of these tensors.
fn reading(tensors: &[&str]) -> NewTask {
    task("reading", json!({"of": tensors.iter().map(|tensor| json!({ "tensor": tensor })).collect::<Vec<_>>()}))
}

/// A task that copies tensors on its GPU and leaves the copies there.
fn passing(inputs: &[&str], names: &[&str]) -> NewTask {
    let inputs: Vec<Value> = inputs.iter().map(|input| json!({ "tensor": input })).collect();
    keeping(names, task("passing", json!({ "inputs": inputs })))
}

/// The bytes that a task has read.
fn read(reply: &Reply) -> Vec<Bytes> {
    assert_eq!(reply.outcome, Outcome::Succeeded, "{reply:?}");
    reply.segments.iter().cloned().collect()
}

/// The code and the field of the error that a task ended with, and its words.
fn error(reply: &Reply) -> (&str, Option<&str>, &str) {
    let error = reply.error.as_ref().unwrap_or_else(|| panic!("{reply:?}"));
    (error.code.as_str(), error.field.as_deref(), error.message.as_str())
}

/// Waits until the table has heard of workers for a lease: before, nobody believes that a tensor is nowhere.
async fn steady(fleet: &Fleet) {
    let lease = Duration::from_millis(fleet.configuration().worker.lease_ms);
    until("the table is steady", async || fleet.ports.table.steady(&fleet.pool()).await.unwrap() >= lease).await;
}

/// The bytes that went from one GPU to another.
fn moved(fleet: &Fleet) -> f64 {
    fleet.counted("gpufleet_transfer_bytes_total", "")
}

/// The names of the tensors of the fleet, with a copy's GPU each.
async fn told(fleet: &Fleet) -> Vec<(String, String)> {
    let records = fleet.ports.table.tensors(&fleet.pool(), None, 1_000).await.unwrap();
    records.into_iter().map(|record| (record.name.to_string(), record.gpu_id.to_string())).collect()
}

async fn a_chain_of_tasks_leaves_its_tensors_on_the_gpu_and_nothing_is_copied(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(fleet(1)).start().await;
    let content = bytes(300_001, 1);
    let first = reply(&fleet.producer, putting("x", &content)).await;
    let kept: KeptTensor = serde_json::from_value(result(&first)["data"].clone()).unwrap();
    assert_eq!((&kept.tensor, kept.bytes, &kept.gpu_id), (&name("x"), 300_001, &fleet.gpus()[0]));
    assert_eq!(kept.shape, TensorShape { dtype: DType::U8, shape: vec![300_001] });
    assert!(first.segments.is_empty(), "what is kept leaves the result");
    result(&reply(&fleet.producer, passing(&["x"], &["y"])).await);
    // What a result says of a tensor is a reference to it.
    let second = reply(&fleet.producer, passing(&["y"], &["z"])).await;
    let answer = reply(&fleet.producer, task("reading", json!({"z": result(&second)[0]}))).await;
    assert_eq!(result(&answer), json!({"z": {"$segment": 0, "dtype": "u8", "shape": [300_001]}}));
    assert_eq!((read(&answer), moved(&fleet)), (vec![content], 0.0));
    let gpu = fleet.gpus()[0].to_string();
    assert_eq!(told(&fleet).await, ["x", "y", "z"].map(|kept| (kept.to_owned(), gpu.clone())));
    fleet.idle().await;
}

async fn what_lies_on_another_gpu_is_brought_there_once(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(fleet(2)).start().await;
    let content = bytes(500_000, 2);
    result(&reply(&fleet.producer, on("gpu-0", putting("x", &content))).await);
    for time in 0..2 {
        let answer = reply(&fleet.producer, on("gpu-1", reading(&["x"]))).await;
        assert_eq!((read(&answer), answer.gpu_id.as_ref()), (vec![content.clone()], Some(&fleet.gpus()[1])));
        assert_eq!(moved(&fleet), 500_000.0, "reading {time}");
    }
    assert_eq!(told(&fleet).await.len(), 2, "two copies");
}

/// The numbers of a tensor of singles.
fn singles(raw: &Bytes) -> Vec<f32> {
    raw.chunks_exact(4).map(|number| f32::from_le_bytes(number.try_into().unwrap())).collect()
}

async fn the_fleets_own_kinds_compute_in_a_chain_that_stays_on_the_gpu(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(2)).start().await;
    let value = json!({"$segment": 0, "dtype": "f32", "shape": [2]});
    let put = task("tensor.put", json!({"name": "x", "value": value}));
    let raw: Bytes = [1.0_f32, 2.0].iter().flat_map(|number| number.to_le_bytes()).collect();
    let put = NewTask { body: TaskBody { segments: Segments::of(vec![raw]), ..put.body }, ..put };
    result(&reply(&fleet.producer, on("gpu-0", put)).await);
    let adding = |inputs: &[&str], add: f64| {
        let inputs: Vec<Value> = inputs.iter().map(|input| json!({ "tensor": input })).collect();
        on("gpu-0", task("simulate", json!({"inputs": inputs, "add": add, "duration_ms": 5})))
    };
    result(&reply(&fleet.producer, keeping(&["y"], adding(&["x"], 1.5))).await);
    result(&reply(&fleet.producer, keeping(&["z"], adding(&["x", "y"], 0.0))).await);
    result(&reply(&fleet.producer, keeping(&["sum"], adding(&["z"], 0.5))).await);
    assert_eq!(moved(&fleet), 0.0, "all of it happened where the first one lay");
    let get = || task("tensor.get", json!({"tensor": "sum"}));
    let got = reply(&fleet.producer, on("gpu-0", get())).await;
    assert_eq!((singles(&read(&got)[0]), moved(&fleet)), (vec![4.0, 6.0], 0.0));
    let elsewhere = reply(&fleet.producer, on("gpu-1", get())).await;
    assert_eq!((singles(&read(&elsewhere)[0]), moved(&fleet)), (vec![4.0, 6.0], 8.0));
    result(&reply(&fleet.producer, task("tensor.free", json!({"tensor": "sum"}))).await);
    assert_eq!(told(&fleet).await.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), ["x", "y", "z"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_written_again_means_the_newer_content() {
    let fleet = fleet(2).start().await;
    let (old, new) = (bytes(1_000, 3), bytes(2_000, 4));
    let first = reply(&fleet.producer, on("gpu-0", putting("x", &old))).await;
    result(&reply(&fleet.producer, on("gpu-1", putting("x", &new))).await);
    for gpu in ["gpu-0", "gpu-1"] {
        assert_eq!(read(&reply(&fleet.producer, on(gpu, reading(&["x"]))).await), std::slice::from_ref(&new));
    }
    // The version that a result names is that one and no other.
    let kept: KeptTensor = serde_json::from_value(result(&first)["data"].clone()).unwrap();
    let of_then = reply(&fleet.producer, task("reading", Json::of(&kept).to().unwrap())).await;
    assert!(of_then.outcome == Outcome::Succeeded || error(&of_then).0 == "tensor_missing", "{of_then:?}");
    if of_then.outcome == Outcome::Succeeded {
        assert_eq!(read(&of_then), [old]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_must_not_be_replaced_stays_and_another_attempt_replaces_its_own() {
    let fleet = fleet(1).start().await;
    let once = |mut task: NewTask| {
        task.body.keep_as.as_mut().unwrap().if_exists = IfExists::Fail;
        task
    };
    let content = bytes(1_000, 5);
    result(&reply(&fleet.producer, once(putting("x", &content))).await);
    let refused = reply(&fleet.producer, once(putting("x", &bytes(10, 6)))).await;
    assert_eq!((refused.attempt, error(&refused).0), (1, "tensor_exists"));
    assert_eq!(read(&reply(&fleet.producer, reading(&["x"])).await), std::slice::from_ref(&content));

    let flaky = task("passing", json!({"inputs": [{"tensor": "x"}], "fails": true}));
    let again = reply(&fleet.producer, once(keeping(&["y"], flaky))).await;
    assert_eq!((again.outcome, again.attempt), (Outcome::Succeeded, 2), "{again:?}");
    assert_eq!(read(&reply(&fleet.producer, reading(&["y"])).await), [content]);
    assert_eq!(told(&fleet).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn names_and_outputs_that_do_not_match_fail_the_task_with_what_the_kind_gave() {
    let fleet = fleet(1).start().await;
    let none = reply(&fleet.producer, keeping(&["x"], task("echo", json!("no bytes")))).await;
    let (code, field, message) = error(&none);
    assert_eq!((code, field, none.attempt), ("invalid_payload", Some("keep_as"), 1));
    assert!(message.contains("has 1 names, and the kind gave 0 outputs"), "{message}");
    result(&reply(&fleet.producer, putting("x", &bytes(10, 1))).await);
    let few = reply(&fleet.producer, passing(&["x"], &["y", "z"])).await;
    assert_eq!((error(&few).0, error(&few).1), ("invalid_payload", Some("keep_as")));
    let names: Vec<String> = told(&fleet).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["x"], "nothing stays of an attempt that failed");
    let many = reply(&fleet.producer, passing(&["x", "x"], &["y"])).await;
    assert_eq!(many.outcome, Outcome::Succeeded, "what has no name is not kept: {many:?}");
}

#[tokio::test(start_paused = true)]
async fn of_several_outputs_those_are_kept_that_have_names_and_the_others_come_back() {
    let fleet = fleet(1).start().await;
    let contents = [bytes(10, 1), bytes(20, 2), bytes(30, 3)];
    let payload = json!({"b": {"$segment": 2}, "a": {"$segment": 0, "dtype": "f32", "shape": [5]}, "c": [{"$segment": 1}]});
    let given = task("echo", payload);
    let wrong = NewTask { body: TaskBody { segments: Segments::of(contents.to_vec()), ..given.body.clone() }, ..given.clone() };
    // Five singles are no ten bytes: nothing is kept under a shape that is not true.
    assert_eq!(error(&reply(&fleet.producer, keeping(&["b", "a"], wrong)).await).0, "executor_failed");

    let payload = json!({"a": {"$segment": 2}, "b": {"$segment": 0, "dtype": "u16", "shape": [5]}, "c": [{"$segment": 1}]});
    let right = NewTask { body: TaskBody { payload: payload.into(), segments: Segments::of(contents.to_vec()), ..given.body }, ..given };
    let kept = reply(&fleet.producer, keeping(&["first", "second"], right)).await;
    let told = result(&kept);
    assert_eq!((&told["a"]["tensor"], &told["b"]["tensor"], &told["c"]), (&json!("first"), &json!("second"), &json!([{"$segment": 0}])));
    assert_eq!((&told["b"]["dtype"], &told["b"]["shape"]), (&json!("u16"), &json!([5])));
    assert_eq!(kept.segments, Segments::of(vec![contents[1].clone()]));
    let back = reply(&fleet.producer, reading(&["first", "second"])).await;
    assert_eq!(read(&back), [contents[2].clone(), contents[0].clone()]);
}

#[tokio::test(start_paused = true)]
async fn what_has_no_room_makes_way_or_is_refused() {
    let plan = fleet(1).configured(|configuration| {
        configuration.data.gpu_mb = Some(1);
        configuration.data.host_mb = 0;
    });
    let fleet = plan.start().await;
    let (first, second) = (bytes(600_000, 1), bytes(600_000, 2));
    result(&reply(&fleet.producer, putting("first", &first)).await);
    result(&reply(&fleet.producer, putting("second", &second)).await);
    assert_eq!(read(&reply(&fleet.producer, reading(&["second"])).await), std::slice::from_ref(&second));
    assert_eq!(error(&reply(&fleet.producer, reading(&["first"])).await).0, "tensor_missing");
    let large = reply(&fleet.producer, putting("large", &bytes(1_500_000, 3))).await;
    assert_eq!((large.outcome, error(&large).0), (Outcome::Failed, "tensors_full"));
    assert_eq!(read(&reply(&fleet.producer, reading(&["second"])).await), [second], "nothing went for what has no room at all");
    assert!(fleet.rows().await[0].row.health.takes_tasks(), "that there is no room says nothing of a GPU");
}
