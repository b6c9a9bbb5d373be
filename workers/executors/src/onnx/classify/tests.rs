//! `classify`, on magika.

use std::sync::Arc;

use devices::{SimulatedGpu, SimulatedOptions};
use protocol::Segments;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::classify;
use crate::{
    BatchMember, Executor, Report, RunBatch, Usage,
    onnx::{
        OnnxModels, OnnxPlace,
        fixture::{World, fetched, framed_task, segments},
    },
    schemas::tests::agree,
};

const PYTHON: &str = "import os\nimport sys\n\ndef main():\n    for name in os.listdir('.'):\n        print(name)\n\n\nif __name__ == '__main__':\n    sys.exit(main())\n";
const RUST: &str = "fn main() {\n    let numbers: Vec<u32> = (1..10).collect();\n    for number in &numbers {\n        println!(\"{number}\");\n    }\n}\n\n#[derive(Debug, Clone)]\nstruct Point { x: f64, y: f64 }\n\nimpl Point {\n    pub fn new(x: f64, y: f64) -> Self { Self { x, y } }\n}\n";
const TEXT: &str = "This is a plain text with words in it, and nothing else that one would call a format.\n";

async fn magika() -> (World, Arc<dyn Executor>) {
    let world = World::new();
    let mut section = world.section();
    section.directory = Some(fetched("magika").parent().unwrap().to_owned());
    let models = OnnxModels::open(&section, OnnxPlace::Cpu, true).await.unwrap();
    let classify = classify(models, Arc::clone(&world.cache), None).await.unwrap();
    (world, classify)
}

#[tokio::test]
async fn contents_get_the_labels_and_scores_that_the_models_makers_get() {
    let (world, classify) = magika().await;
    // Reckoned apart from this program, with ONNX Runtime's own bindings for Python.
    for (content, label, score) in [(PYTHON, "python", 0.999_945), (RUST, "rust", 0.999_200), (TEXT, "txt", 0.834_744)] {
        let given: Value = world.run(&classify, json!({"content": content}), Segments::none()).await.unwrap().json.to().unwrap();
        assert_eq!(given["label"], label);
        assert!((given["score"].as_f64().unwrap() - score).abs() < 2e-3, "{given}");
        assert_eq!((&given["model"], &given["version"], &given["is_text"]), (&json!("magika"), &json!("3.3"), &json!(true)));
    }
    let library = std::fs::read(fetched("onnxruntime/libonnxruntime.so.1.32.0")).unwrap();
    let given: Value = world.run(&classify, json!({"content": {"$segment": 0}}), segments(&[&library])).await.unwrap().json.to().unwrap();
    assert_eq!((&given["label"], &given["is_text"], &given["group"]), (&json!("elf"), &json!(false), &json!("executable")));
}

#[tokio::test]
async fn what_is_too_little_for_the_model_is_known_without_it() {
    let (world, classify) = magika().await;
    for (content, label) in [("", "empty"), ("hello", "txt"), ("            \n\n\n\n     ", "txt")] {
        let given: Value = world.run(&classify, json!({"content": content}), Segments::none()).await.unwrap().json.to().unwrap();
        assert_eq!((&given["label"], &given["score"]), (&json!(label), &json!(1.0)), "{content:?}");
    }
    let given: Value =
        world.run(&classify, json!({"content": {"$segment": 0}}), segments(&[&[0xff, 0xfe, 1]])).await.unwrap().json.to().unwrap();
    assert_eq!(given["label"], "unknown");
}

#[tokio::test]
async fn contents_that_run_together_get_what_each_gets_alone() {
    let (world, classify) = magika().await;
    let payloads = [json!({"content": PYTHON}), json!({"content": 3}), json!({"content": ""}), json!({"content": RUST})];
    let tasks: Vec<_> = payloads.iter().map(|payload| framed_task(&classify, payload.clone(), Segments::none())).collect();
    let member = |task| -> BatchMember<'_> {
        let task: &protocol::Task = task;
        let (cancel, report, usage) = (CancellationToken::new(), Report::to_nobody(), Usage::default());
        BatchMember { task, payload: &task.body.payload, cancel, report, usage }
    };
    let members = tasks.iter().map(member);
    let batch = RunBatch { device: &world.device, members: members.collect(), cancel: CancellationToken::new() };
    let together = classify.run_batch(batch).await;
    let label = |at: usize| together[at].as_ref().unwrap().json.to::<Value>().unwrap()["label"].clone();
    assert_eq!((label(0), label(2), label(3)), (json!("python"), json!("empty"), json!("rust")));
    assert_eq!(together[1].as_ref().unwrap_err().field.as_deref(), Some("payload.content"));
}

#[tokio::test]
async fn where_contents_fail_together_only_the_one_fails_that_did_it() {
    let (mut world, classify) = magika().await;
    let gpu = SimulatedGpu::new(SimulatedOptions::default());
    let knobs = gpu.knobs();
    world.device = Arc::new(gpu);
    world.run(&classify, json!({"content": PYTHON}), segments(&[])).await.unwrap();
    // Every second run fails from now on: the one of both, and the second alone.
    knobs.fail_tasks(0.5, "it fell off the bus");
    assert_eq!(world.device.take_fault(), None);
    let tasks = [PYTHON, RUST].map(|content| framed_task(&classify, json!({"content": content}), Segments::none()));
    let member = |task| -> BatchMember<'_> {
        let task: &protocol::Task = task;
        let (cancel, report, usage) = (CancellationToken::new(), Report::to_nobody(), Usage::default());
        BatchMember { task, payload: &task.body.payload, cancel, report, usage }
    };
    let members = tasks.iter().map(member).collect();
    let answers = classify.run_batch(RunBatch { device: &world.device, members, cancel: CancellationToken::new() }).await;
    assert_eq!(answers[0].as_ref().unwrap().json.to::<Value>().unwrap()["label"], "python");
    assert_eq!(answers[1].as_ref().unwrap_err().message, "the GPU failed: it fell off the bus");
}

#[tokio::test]
async fn a_score_that_is_too_low_is_not_believed_and_it_is_said() {
    let (world, classify) = magika().await;
    for (content, label, said, believed) in [
        ("key value pairs: 1; 2; 3\nfoo = bar\n<x>\n", "txt", Some("html"), false),
        ("SELECT x FROM y; def f(): { return 1 } <b>end</b> ${a} #include", "sql", None, true),
    ] {
        let given: Value = world.run(&classify, json!({"content": content}), Segments::none()).await.unwrap().json.to().unwrap();
        assert_eq!((given["label"].as_str(), given["model_says"].as_str()), (Some(label), said), "{given}");
        assert_eq!(given["score"].as_f64().unwrap() >= 0.5, believed, "{given}");
    }
}

#[tokio::test]
async fn the_schema_and_the_reader_agree() {
    let (_world, classify) = magika().await;
    let refused =
        [json!(null), json!({}), json!({"content": 1}), json!({"content": {"$segment": -1}}), json!({"content": "a", "name": "b"})];
    agree(classify, &[json!({"content": ""}), json!({"content": PYTHON})], &refused).await;
}
