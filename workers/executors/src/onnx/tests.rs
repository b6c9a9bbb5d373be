//! The kind `onnx`, on small models.

use std::{fs, sync::Arc};

use protocol::{DType, Json, Segments};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    OnnxModels, OnnxPlace,
    fixture::{World, floats, floats_of, framed_task, identity, linear, mixing, parted, segments, slow},
    tensor::Element,
};
use crate::{
    BatchMember, Executor, Failure, ModelBounds, ModelCache, ModelSource, Report, Run, RunBatch, Usage, fixture, schemas::tests::agree,
};

fn nested(value: &Json) -> Value {
    value.to().unwrap()
}

#[tokio::test]
async fn numbers_go_in_and_come_out_as_lists_or_as_raw_bytes() {
    let world = World::new();
    world.put("linear/7/model.onnx", &linear(1.0));
    let onnx = world.onnx().await;
    let lists = world.run(&onnx, json!({"model": "linear", "inputs": {"x": [[1, 0, 0], [1, 1, 1]]}}), Segments::none()).await.unwrap();
    assert_eq!(lists.json, json!({"model": "linear", "version": "7", "provider": "cpu", "outputs": {"y": [[2.0, 3.0], [10.0, 13.0]]}}));
    assert!(lists.segments.is_empty());
    let bytes = floats(&[0.0, 0.0, 2.0]);
    let x = json!({"$segment": 0, "dtype": "f32", "shape": [1, 3]});
    let raw = world.run(&onnx, json!({"model": "linear", "inputs": {"x": x}}), segments(&[&bytes])).await.unwrap();
    let y = raw.json.fields().unwrap().remove("outputs").unwrap().fields().unwrap().remove("y").unwrap();
    assert_eq!(y, json!({"$segment": 0, "dtype": "f32", "shape": [1, 2]}));
    assert_eq!(floats_of(&raw, &y), [11.0, 13.0]);
    let as_numbers = world.run(&onnx, json!({"model": "linear", "inputs": {"x": x}, "as": "numbers"}), segments(&[&bytes])).await.unwrap();
    assert_eq!(nested(&as_numbers.json)["outputs"]["y"], json!([[11.0, 13.0]]));
}

#[tokio::test]
async fn tensors_of_every_type_pass_through_a_model_unchanged() {
    let world = World::new();
    let all = ["bool", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f16", "bf16", "f32", "f64"];
    let types: Vec<DType> = all.iter().map(|name| Json::of(name).to().unwrap()).collect();
    types.iter().for_each(|dtype| world.put(&format!("{}.onnx", dtype.name()), &identity(Element::Number(*dtype))));
    world.put("texts.onnx", &identity(Element::Text));
    let onnx = world.onnx().await;
    for dtype in types {
        // Every pattern of bits, also those that are no number; a bool is 0 or 1.
        let bytes: Vec<u8> = (0..4 * dtype.size()).map(|at| if dtype == DType::Bool { at as u8 % 2 } else { 255 - at as u8 }).collect();
        let x = json!({"$segment": 0, "dtype": dtype.name(), "shape": [2, 2]});
        let given = world.run(&onnx, json!({"model": dtype.name(), "inputs": {"x": x}}), segments(&[&bytes])).await.unwrap();
        assert_eq!(given.segments.get(0).unwrap(), &bytes, "{}", dtype.name());
        assert_eq!(nested(&given.json)["outputs"]["y"], x, "{}", dtype.name());
    }
    let texts = json!([["a", "ö"], ["", "long enough to lie elsewhere"]]);
    let given = world.run(&onnx, json!({"model": "texts", "inputs": {"x": texts}}), Segments::none()).await.unwrap();
    assert_eq!(nested(&given.json)["outputs"]["y"], texts);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_it_runs() {
    let world = World::new();
    world.put("linear.onnx", &linear(1.0));
    let onnx = world.onnx().await;
    let short = segments(&[&[0; 8]]);
    for (payload, field, says) in [
        (json!({"model": "other", "inputs": {}}), "payload.model", "it has linear"),
        (json!({"model": "../linear", "inputs": {}}), "payload.model", "there is no model"),
        (json!({"model": "linear", "inputs": {"x": [[1, 2]]}}), "payload.inputs.x", "[1, 2] of f32; the model takes [batch, 3] of f32"),
        (json!({"model": "linear", "inputs": {"x": [[1, 2, "a"]]}}), "payload.inputs.x", "holds \"a\""),
        (json!({"model": "linear", "inputs": {"z": [[1, 2, 3]]}}), "payload.inputs.z", "is unknown; the model takes x"),
        (json!({"model": "linear", "inputs": {}}), "payload.inputs.x", "is missing"),
        (json!({"model": "linear", "inputs": {"x": {"$segment": 0, "dtype": "f32", "shape": [1, 3]}}}), "payload.inputs.x", "has 8 bytes"),
        (json!({"model": "linear", "inputs": {"x": {"$segment": 4}}}), "payload.inputs.x", "refers to segment 4"),
        (json!({"model": "linear", "inputs": {"x": [[1, 2, 3]]}, "outputs": ["z"]}), "payload.outputs", "the model gives y"),
    ] {
        let failure = world.run(&onnx, payload.clone(), short.clone()).await.unwrap_err();
        assert_eq!(failure.field.as_deref(), Some(field), "{payload}: {failure:?}");
        assert!(failure.message.contains(says) && !failure.retry, "{payload}: {failure:?}");
    }
}

#[tokio::test]
async fn the_schema_and_the_reader_agree() {
    let world = World::new();
    world.put("linear.onnx", &linear(1.0));
    let accepted = [
        json!({"model": "linear", "inputs": {"x": [[1, 2, 3]]}, "outputs": ["y"], "as": "segments"}),
        json!({"model": "linear", "inputs": {"x": [[1, 2, 3], [4, 5, 6]]}, "outputs": null, "as": null}),
    ];
    let refused = [
        json!(null),
        json!({"model": "linear"}),
        json!({"model": 1, "inputs": {}}),
        json!({"model": "linear", "inputs": [1]}),
        json!({"model": "linear", "inputs": {"x": [[1, 2, 3]]}, "outputs": "y"}),
        json!({"model": "linear", "inputs": {"x": [[1, 2, 3]]}, "as": "text"}),
        json!({"model": "linear", "inputs": {"x": [[1, 2, 3]]}, "colour": 1}),
    ];
    agree(world.onnx().await, &accepted, &refused).await;
}

#[tokio::test]
async fn a_file_that_is_no_model_is_told_in_a_sentence() {
    let world = World::new();
    let good = linear(1.0);
    world.put("text.onnx", b"this is no model");
    world.put("empty.onnx", b"");
    world.put("cut.onnx", &good[..good.len() - 20]);
    let mut elsewhere = good.clone();
    elsewhere.extend_from_slice(b"\x0a\x08location\x12\x0d../../passwd1");
    world.put("elsewhere.onnx", &elsewhere);
    let onnx = world.onnx().await;
    for name in ["text", "empty", "cut", "elsewhere"] {
        let failure = world.run(&onnx, json!({"model": name, "inputs": {"x": [[1, 2, 3]]}}), Segments::none()).await.unwrap_err();
        assert!(failure.field.is_none() && failure.message.contains(name), "{name}: {failure:?}");
    }
    // The others are served as before.
    world.put("good.onnx", &good);
    assert!(world.run(&onnx, json!({"model": "good", "inputs": {"x": [[1, 2, 3]]}}), Segments::none()).await.is_ok());
}

#[tokio::test]
async fn weights_may_lie_in_a_file_beside_the_model_and_nowhere_else() {
    let world = World::new();
    world.put("parted/1/model.onnx", &parted("model.onnx_data"));
    world.put("parted/1/model.onnx_data", &floats(&[1.0, 10.0, 100.0]));
    world.put("away/1/model.onnx", &parted("../../secret"));
    world.put("secret", &floats(&[1.0, 2.0, 3.0]));
    world.put("linked/1/model.onnx", &parted("link"));
    std::os::unix::fs::symlink("../../secret", world.folder.path().join("linked/1/link")).unwrap();
    world.put("alone/1/model.onnx", &parted("model.onnx_data"));
    let onnx = world.onnx().await;
    let run = async |model: &str| world.run(&onnx, json!({"model": model, "inputs": {"x": [[1, 2, 3]]}}), Segments::none()).await;
    assert_eq!(nested(&run("parted").await.unwrap().json)["outputs"]["y"], json!([[321.0]]));
    for (model, says) in [("away", "only files beside the model"), ("linked", "no link"), ("alone", "No such file")] {
        let failure = run(model).await.unwrap_err();
        assert!(failure.message.contains(says), "{model}: {failure:?}");
    }
}

/// Runs `x = [1, 0, 0]` until `is_there` holds of the first number that comes out.
async fn until(world: &World, onnx: &Arc<dyn Executor>, is_there: impl Fn(f64) -> bool) {
    for _ in 0..100_000 {
        let given = world.run(onnx, json!({"model": "linear", "inputs": {"x": [[1, 0, 0]]}}), Segments::none()).await.unwrap();
        let first = nested(&given.json)["outputs"]["y"][0][0].as_f64().unwrap();
        if is_there(first) {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never came");
}

#[tokio::test]
async fn a_file_that_was_replaced_is_loaded_beside_the_old_model_and_takes_its_place_only_if_it_runs() {
    let world = World::new();
    world.put("linear.onnx", &linear(1.0));
    let models = world.models().await;
    let onnx = super::onnx(Arc::clone(&models), Arc::clone(&world.cache));
    until(&world, &onnx, |first| first == 2.0).await;
    world.put("linear.onnx", b"broken, and of another length");
    let broken = models.find("linear").await.unwrap().stamp;
    while !models.refused("linear", broken) {
        until(&world, &onnx, |first| first == 2.0).await;
    }
    assert_eq!(models.is_up("linear"), Ok(()), "the old one runs");
    world.put("linear/1/model.onnx", &linear(10.0));
    until(&world, &onnx, |first| first == 11.0).await;
    fs::remove_dir_all(world.folder.path().join("linear")).unwrap();
    fs::remove_file(world.folder.path().join("linear.onnx")).unwrap();
    until(&world, &onnx, |first| first == 11.0).await;
}

/// Two looks may share one load, which read the file that the first of them saw.
#[tokio::test]
async fn a_file_is_not_given_up_for_what_another_one_failed_with() {
    let world = World::new();
    world.put("linear.onnx", &linear(1.0));
    let models = world.models().await;
    world.put("linear.onnx", b"broken, and of another length");
    let broken = models.find("linear").await.unwrap().stamp;
    assert!(models.load("linear").await.is_err());
    world.put("linear.onnx", &linear(10.0));
    let good = models.find("linear").await.unwrap().stamp;
    [good, broken].iter().for_each(|looked_at| models.refuse_if_it_failed("linear", *looked_at));
    assert!(models.refused("linear", broken) && !models.refused("linear", good));
    let onnx = super::onnx(Arc::clone(&models), Arc::clone(&world.cache));
    until(&world, &onnx, |first| first == 11.0).await;
}

#[tokio::test]
async fn a_new_file_for_which_there_is_no_memory_beside_the_old_model_is_not_given_up() {
    let mut world = World::new();
    world.cache = Arc::new(ModelCache::new(ModelBounds { memory_mb: Some(1), ..ModelBounds::default() }));
    world.put("linear.onnx", &linear(1.0));
    let models = world.models().await;
    let onnx = super::onnx(Arc::clone(&models), Arc::clone(&world.cache));
    until(&world, &onnx, |first| first == 2.0).await;
    world.put("linear.onnx", &linear(10.0));
    let new = models.find("linear").await.unwrap().stamp;
    while world.cache.errors().is_empty() {
        until(&world, &onnx, |first| first == 2.0).await;
    }
    assert!(world.cache.errors()["linear"].contains("needs 1 MB of the 1 MB"), "{:?}", world.cache.errors());
    assert_eq!((models.refused("linear", new), models.is_up("linear")), (false, Ok(())), "the old one runs");
    assert!(world.cache.forget("onnx", "linear"));
    // A try to replace it that is under way fails those that come meanwhile.
    for _ in 0..100_000 {
        let payload = json!({"model": "linear", "inputs": {"x": [[1, 0, 0]]}});
        if world.run(&onnx, payload, Segments::none()).await.is_ok_and(|given| nested(&given.json)["outputs"]["y"][0][0] == 11.0) {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the new file was never loaded");
}

fn members<'a>(tasks: &'a [protocol::Task], usages: &[Usage], cancels: &[CancellationToken]) -> Vec<BatchMember<'a>> {
    let each = tasks.iter().zip(usages).zip(cancels);
    let member = |((task, usage), cancel): ((&'a protocol::Task, &Usage), &CancellationToken)| BatchMember {
        task,
        payload: &task.body.payload,
        cancel: cancel.clone(),
        report: Report::to_nobody(),
        usage: usage.clone(),
    };
    each.map(member).collect()
}

async fn run_batch(world: &World, onnx: &Arc<dyn Executor>, tasks: &[protocol::Task]) -> (Vec<Result<Json, Failure>>, Vec<Option<u32>>) {
    let usages: Vec<Usage> = tasks.iter().map(|_| Usage::default()).collect();
    let cancels: Vec<CancellationToken> = tasks.iter().map(|_| CancellationToken::new()).collect();
    let batch = RunBatch { device: &world.device, members: members(tasks, &usages, &cancels), cancel: CancellationToken::new() };
    let answers = onnx.run_batch(batch).await.into_iter().map(|answer| answer.map(|framed| framed.json)).collect();
    (answers, usages.iter().map(Usage::batch_size).collect())
}

#[tokio::test]
async fn payloads_of_one_model_run_together_and_a_wrong_one_fails_alone() {
    let world = World::new();
    world.put("linear.onnx", &linear(1.0));
    world.put("mixing.onnx", &mixing());
    let onnx = world.onnx().await;
    let x = |model: &str, rows: Value| framed_task(&onnx, json!({"model": model, "inputs": {"x": rows}}), Segments::none());
    let tasks = [
        x("linear", json!([[1, 0, 0]])),
        x("mixing", json!([[1, 2]])),
        x("linear", json!([[1, 2]])),
        x("linear", json!([[0, 1, 0], [0, 0, 1]])),
        x("none", json!([[1]])),
        x("mixing", json!([[3, 4]])),
    ];
    assert!(!onnx.takes_part(&tasks[0].body.payload), "nothing is known of it yet");
    let (answers, together) = run_batch(&world, &onnx, &tasks).await;
    let outputs = |at: usize| nested(answers[at].as_ref().unwrap())["outputs"]["y"].clone();
    assert_eq!((outputs(0), outputs(3)), (json!([[2.0, 3.0]]), json!([[4.0, 5.0], [6.0, 7.0]])));
    // Beside others its answer would be another one: it was found that its rows are not payloads.
    assert_eq!((outputs(1), outputs(5)), (json!([[1.0, 1.0]]), json!([[1.0, 1.0]])));
    assert_eq!(answers[2].as_ref().unwrap_err().field.as_deref(), Some("payload.inputs.x"));
    assert_eq!(answers[4].as_ref().unwrap_err().field.as_deref(), Some("payload.model"));
    assert_eq!(together, [Some(2), None, None, Some(2), None, None]);
    assert!(onnx.takes_part(&tasks[0].body.payload) && !onnx.takes_part(&tasks[1].body.payload));
}

#[tokio::test]
async fn a_cancel_ends_a_run_that_is_under_way() {
    let world = World::new();
    world.put("slow.onnx", &slow());
    let onnx = world.onnx().await;
    let task = framed_task(
        &onnx,
        json!({"model": "slow", "inputs": {"x": {"$segment": 0, "dtype": "f32", "shape": [700, 700]}}}),
        segments(&[&floats(&vec![0.0; 490_000])]),
    );
    // The model itself takes memory, too.
    world.run(&onnx, json!({"model": "slow", "inputs": {"x": [[1]]}}), Segments::none()).await.unwrap();
    let at_rest = world.device.sample().memory_used_mb;
    let cancel = CancellationToken::new();
    let run = onnx.run(Run { cancel: cancel.clone(), ..fixture::run_of(&task, &world.device) });
    tokio::pin!(run);
    // Memory is in use as long as the run goes on: it has begun.
    while world.device.sample().memory_used_mb <= at_rest {
        tokio::select! {
            biased;
            answer = &mut run => panic!("it ended by itself: {answer:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    cancel.cancel();
    assert_eq!(run.await.unwrap_err(), Failure::cancelled());
}

#[tokio::test]
async fn a_run_that_nobody_waits_for_gives_its_memory_back_only_when_it_has_ended() {
    let world = World::new();
    world.put("slow.onnx", &slow());
    let onnx = world.onnx().await;
    let bytes = floats(&vec![0.0; 490_000]);
    let task = framed_task(
        &onnx,
        json!({"model": "slow", "inputs": {"x": {"$segment": 0, "dtype": "f32", "shape": [700, 700]}}}),
        segments(&[&bytes]),
    );
    // The model itself takes memory, too.
    world.run(&onnx, json!({"model": "slow", "inputs": {"x": [[1]]}}), Segments::none()).await.unwrap();
    let at_rest = world.device.sample().memory_used_mb;
    {
        let run = onnx.run(fixture::run_of(&task, &world.device));
        tokio::pin!(run);
        while world.device.sample().memory_used_mb <= at_rest {
            assert!(futures::poll!(&mut run).is_pending());
            tokio::task::yield_now().await;
        }
    }
    // The thread still works when the future is dropped, and was told to stop.
    while world.device.sample().memory_used_mb > at_rest {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn cuda_that_is_not_there_is_told_and_never_replaced_by_the_cpu() {
    let world = World::new();
    world.put("linear.onnx", &linear(1.0));
    // The library for tests has no CUDA.
    let refused = OnnxModels::open(&world.section(), OnnxPlace::Cuda { memory_mb: 1_000 }, true).await.err().unwrap().to_string();
    assert!(refused.starts_with("ONNX models do not run on cuda here: "), "{refused}");
}
