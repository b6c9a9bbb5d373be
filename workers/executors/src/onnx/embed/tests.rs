//! `embed`, on all-MiniLM-L6-v2.

use std::sync::Arc;

use protocol::{Json, Segments};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::embed;
use crate::{
    BatchMember, Executor, Report, RunBatch, Usage,
    fixture::gpu,
    models::{ModelBounds, ModelCache},
    onnx::{
        OnnxModels, OnnxPlace,
        fixture::{World, fetched, floats_of, framed_task, linear},
    },
    schemas::tests::agree,
};

/// The world, and `embed` on the fetched model.
async fn minilm() -> (World, Arc<dyn Executor>) {
    let mut world = World::new();
    let mut section = world.section();
    section.directory = Some(fetched("all-MiniLM-L6-v2").parent().unwrap().to_owned());
    world.device = gpu();
    let models = OnnxModels::open(&section, OnnxPlace::Cpu, true).await.unwrap();
    let embed = embed(models, Arc::clone(&world.cache), None).await.unwrap();
    (world, embed)
}

fn vector(value: &Json, name: &str) -> Vec<f32> {
    value.fields().unwrap().remove(name).unwrap().to().unwrap()
}

fn product(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

fn farthest(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
}

#[tokio::test]
async fn near_meanings_have_near_vectors() {
    let (world, embed) = minilm().await;
    let texts = json!({"text": ["a cat", "a kitten", "a car engine"]});
    let given = world.run(&embed, texts, Segments::none()).await.unwrap().json;
    let vectors: Vec<Vec<f32>> = given.fields().unwrap().remove("embeddings").unwrap().to().unwrap();
    let fields: Value = given.to().unwrap();
    assert_eq!((&fields["dimensions"], &fields["model"], &fields["tokens"]), (&json!(384), &json!("all-MiniLM-L6-v2"), &json!(13)));
    // Reckoned apart from this program, with ONNX Runtime's own bindings for Python.
    for (one, other, expected) in [(0, 1, 0.763_88), (0, 2, 0.289_20), (1, 2, 0.249_47), (0, 0, 1.0)] {
        let found = product(&vectors[one], &vectors[other]);
        assert!((found - expected).abs() < 2e-3, "{one} and {other}: {found}, not {expected}");
    }
    let first = [0.057_432_75, 0.041_831_27, 0.009_011_386, 0.059_272_31, -0.126_114_34, 0.005_689_665];
    assert!(farthest(&vectors[0][..6], &first) < 1e-3, "{:?}", &vectors[0][..6]);
}

#[tokio::test]
async fn a_vector_is_given_as_numbers_or_as_raw_bytes() {
    let (world, embed) = minilm().await;
    let numbers = world.run(&embed, json!({"text": "hello"}), Segments::none()).await.unwrap();
    let raw = world.run(&embed, json!({"text": "hello", "as": "segment"}), Segments::none()).await.unwrap();
    let reference = raw.json.fields().unwrap().remove("embedding").unwrap();
    assert_eq!(reference, json!({"$segment": 0, "dtype": "f32", "shape": [384]}));
    assert_eq!(floats_of(&raw, &reference), vector(&numbers.json, "embedding"));
    assert!(numbers.segments.is_empty());
}

#[tokio::test]
async fn texts_that_run_together_get_what_each_gets_alone() {
    let (world, embed) = minilm().await;
    let long = "a much longer text, with many words in it, so that the others are filled up to its length ".repeat(5);
    let payloads = [json!({"text": "a cat"}), json!({"text": 7}), json!({"text": [long, "a kitten"]}), json!({"text": "dogs and cats"})];
    let tasks: Vec<_> = payloads.iter().map(|payload| framed_task(&embed, payload.clone(), Segments::none())).collect();
    let usages: Vec<Usage> = tasks.iter().map(|_| Usage::default()).collect();
    let member = |(task, usage): (_, &Usage)| {
        let task: &protocol::Task = task;
        BatchMember {
            task,
            payload: &task.body.payload,
            cancel: CancellationToken::new(),
            report: Report::to_nobody(),
            usage: usage.clone(),
        }
    };
    let members = tasks.iter().zip(&usages).map(member).collect();
    let together = embed.run_batch(RunBatch { device: &world.device, members, cancel: CancellationToken::new() }).await;
    assert_eq!(together[1].as_ref().unwrap_err().field.as_deref(), Some("payload.text"));
    assert_eq!(usages.iter().map(Usage::batch_size).collect::<Vec<_>>(), [Some(3), None, Some(3), Some(3)]);
    for at in [0, 3] {
        let alone = world.run(&embed, payloads[at].clone(), Segments::none()).await.unwrap();
        let beside = together[at].as_ref().unwrap();
        assert!(farthest(&vector(&alone.json, "embedding"), &vector(&beside.json, "embedding")) < 1e-5, "{}", payloads[at]);
    }
    let list: Vec<Vec<f32>> = together[2].as_ref().unwrap().json.fields().unwrap().remove("embeddings").unwrap().to().unwrap();
    let alone = world.run(&embed, json!({"text": "a kitten"}), Segments::none()).await.unwrap();
    assert!(farthest(&list[1], &vector(&alone.json, "embedding")) < 1e-5);
}

#[tokio::test]
async fn of_a_text_that_is_too_long_it_is_said_that_its_beginning_was_read() {
    let (world, embed) = minilm().await;
    let long = "word ".repeat(1_000);
    let given: Value = world.run(&embed, json!({"text": ["short", long]}), Segments::none()).await.unwrap().json.to().unwrap();
    assert_eq!(given["truncated"], json!([1]));
    let short: Value = world.run(&embed, json!({"text": "short"}), Segments::none()).await.unwrap().json.to().unwrap();
    assert_eq!(short.get("truncated"), None);
}

#[tokio::test]
async fn a_payload_that_is_no_text_is_refused() {
    let (world, embed) = minilm().await;
    for (payload, field) in [
        (json!({}), "payload.text"),
        (json!({"text": 3}), "payload.text"),
        (json!({"text": []}), "payload.text"),
        (json!({"text": ["a", 1]}), "payload.text"),
        (json!({"text": "a", "as": "bytes"}), "payload.as"),
        (json!({"text": "a", "model": "b"}), "payload.model"),
    ] {
        let failure = world.run(&embed, payload.clone(), Segments::none()).await.unwrap_err();
        assert_eq!(failure.field.as_deref(), Some(field), "{payload}");
    }
}

#[tokio::test]
async fn a_model_for_something_else_is_told() {
    let world = World::new();
    world.put("other/1/model.onnx", &linear(1.0));
    let open = || async { embed(world.models().await, Arc::new(ModelCache::new(ModelBounds::default())), Some("other".to_owned())).await };
    let missing = open().await.err().unwrap().to_string();
    assert!(missing.contains("tokenizer.json"), "{missing}");
    world.put("other/1/tokenizer.json", &std::fs::read(fetched("all-MiniLM-L6-v2/1/tokenizer.json")).unwrap());
    let embed = open().await.unwrap();
    let failure = world.run(&embed, json!({"text": "a"}), Segments::none()).await.unwrap_err();
    assert!(failure.message.contains("is none for `embed`: it takes \"x\"") && !failure.retry, "{failure:?}");
}

#[tokio::test]
async fn the_schema_and_the_reader_agree() {
    let (_world, embed) = minilm().await;
    let accepted = [json!({"text": ["a", ""]}), json!({"text": "", "as": "segment"}), json!({"text": "a", "as": null})];
    let many = vec!["a"; 1_025];
    let refused = [
        json!(null),
        json!({}),
        json!({"text": 1}),
        json!({"text": []}),
        json!({"text": many}),
        json!({"text": "a", "as": "segments"}),
        json!({"text": "a", "model": "b"}),
    ];
    agree(embed, &accepted, &refused).await;
}
