mod built_in;
mod loading;
mod reference;
mod streaming;
mod together;

use std::{path::Path, sync::Arc, time::Duration};

use protocol::config::PredictSection;
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{FinishReason, Generated, Model, Predict, PredictError, Request, Watch, fixture::Tiny, registry};
use crate::{
    Executor, Report, Run,
    fixture::{gpu, run_of, run_on, task},
};

fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn request(text: &str, max_length: u32) -> Request {
    Request { text: text.to_owned(), max_length, temperature: 0.0, seed: 0 }
}

fn drawn(text: &str, seed: u64) -> Request {
    Request { temperature: 1.0, seed, ..request(text, 24) }
}

fn generated(model: &Model, request: &Request) -> Generated {
    model.generate(request, &mut ()).unwrap()
}

/// The tiny model from both kinds of files.
fn both(scratch: &TempDir) -> [Model; 2] {
    let tiny = Tiny::default();
    [tiny.gguf(scratch.path()), tiny.directory(scratch.path())].map(|path| Model::load(&path).unwrap())
}

async fn executor(path: &Path) -> Arc<dyn Executor> {
    let section = PredictSection { model: Some(path.to_owned()), max_length_max: 100_000, ..PredictSection::default() };
    Predict::load(&section).await.unwrap()
}

#[test]
fn the_same_weights_give_the_same_text_from_a_gguf_file_and_from_safetensors() {
    let [gguf, directory] = both(&scratch());
    for text in ["hello there", "a", "the then", "zażółć 漢字 🙂"] {
        assert_eq!(gguf.tokens(text), directory.tokens(text));
        let (one, other) = (generated(&gguf, &request(text, 40)), generated(&directory, &request(text, 40)));
        assert_eq!(one, other);
        let varied: std::collections::BTreeSet<u32> = one.tokens.iter().copied().collect();
        assert!(varied.len() > 5, "a model that says little proves little: {one:?}");
    }
}

#[test]
fn greedy_takes_the_likeliest_token_of_a_pass_without_a_cache() {
    for model in both(&scratch()) {
        let mut sequence = model.tokens("hello there").unwrap();
        let ours = generated(&model, &request("hello there", 20));
        for token in &ours.tokens {
            let logits = model.logits(&sequence);
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(logits[*token as usize], highest);
            sequence.push(*token);
        }
    }
}

#[test]
fn a_prompt_of_many_chunks_gives_what_it_gives_in_one_piece() {
    let [model, _] = both(&scratch());
    let text = "hello the ".repeat(20);
    let prompt = model.tokens(&text).unwrap();
    assert!(prompt.len() > 128);
    let logits = model.logits(&prompt);
    let first = generated(&model, &request(&text, 1)).tokens[0];
    assert_eq!(logits[first as usize], logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
}

#[test]
fn the_same_seed_gives_the_same_text_and_another_seed_another() {
    for model in both(&scratch()) {
        let first = generated(&model, &drawn("hello", 7));
        assert_eq!(first, generated(&model, &drawn("hello", 7)));
        assert_ne!(first.text, generated(&model, &drawn("hello", 8)).text);
    }
}

/// Runs another generation inside each step of the one that it watches.
struct Meddling<'a>(&'a Model, Generated);

impl Watch for Meddling<'_> {
    fn goes_on(&mut self) -> bool {
        assert_eq!(generated(self.0, &drawn("quite another text", 3)), self.1);
        true
    }
}

#[test]
fn interleaved_runs_do_not_disturb_each_other() {
    for model in both(&scratch()) {
        let alone = generated(&model, &request("hello there", 24));
        let other_alone = generated(&model, &drawn("quite another text", 3));
        let mut meddling = Meddling(&model, other_alone);
        assert_eq!(model.generate(&request("hello there", 24), &mut meddling).unwrap(), alone);
    }
}

#[test]
fn max_length_and_the_context_end_a_text() {
    let [model, _] = both(&scratch());
    let short = generated(&model, &request("hello", 3));
    assert_eq!((short.tokens.len(), short.finish_reason), (3, FinishReason::Length));
    let prompt = model.tokens("hello").unwrap().len();
    let full = generated(&model, &request("hello", 5_000));
    assert_eq!((full.tokens.len() + prompt, full.finish_reason), (256, FinishReason::Length));
    assert_eq!(full.tokens[..3], short.tokens);
}

#[test]
fn the_end_token_stops_a_text_and_is_no_part_of_it() {
    let scratch = scratch();
    let endless = generated(&Model::load(&Tiny::default().gguf(scratch.path())).unwrap(), &request("hello", 20)).tokens;
    let at = (3..20).find(|at| !endless[..*at].contains(&endless[*at])).unwrap();
    let tiny = Tiny { end: endless[at], ..Tiny::default() };
    for path in [tiny.gguf(scratch.path()), tiny.directory(scratch.path())] {
        let ended = generated(&Model::load(&path).unwrap(), &request("hello", 20));
        assert_eq!((ended.tokens, ended.finish_reason), (endless[..at].to_vec(), FinishReason::Stop));
    }
}

struct StopsAfter(usize);

impl Watch for StopsAfter {
    fn goes_on(&mut self) -> bool {
        self.0 > 0
    }

    fn token(&mut self, _token: u32) {
        self.0 -= 1;
    }
}

#[test]
fn a_cancel_keeps_what_was_generated() {
    let [model, _] = both(&scratch());
    let whole = generated(&model, &request("hello", 20));
    let cut = model.generate(&request("hello", 20), &mut StopsAfter(5)).unwrap();
    assert_eq!((cut.tokens, cut.finish_reason), (whole.tokens[..5].to_vec(), FinishReason::Cancelled));
    let nothing = model.generate(&request("hello", 20), &mut StopsAfter(0)).unwrap();
    assert_eq!((nothing.text.as_str(), nothing.finish_reason), ("", FinishReason::Cancelled));
}

#[tokio::test]
async fn the_executor_answers_with_text_tokens_reason_and_model() {
    let scratch = scratch();
    let path = Tiny::default().gguf(scratch.path());
    let executor = executor(&path).await;
    assert_eq!((executor.kind().as_str(), executor.models()), ("predict", vec!["tiny".to_owned()]));
    let alone = generated(&Model::load(&path).unwrap(), &request("hello there", 9));
    let answer = run_on(&executor, &gpu(), json!({"text": "hello there", "max_length": 9})).await.unwrap();
    assert_eq!(answer, json!({"text": alone.text, "tokens": 9, "finish_reason": "length", "model": "tiny"}));
    let refused = run_on(&executor, &gpu(), json!({"text": "hello", "top_p": 1})).await.unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("payload.top_p"));
}

#[tokio::test]
async fn concurrent_runs_answer_as_they_do_alone() {
    let scratch = scratch();
    let (executor, gpu) = (executor(&Tiny::default().directory(scratch.path())).await, gpu());
    let payload = |seed: u64| json!({"text": format!("hello {seed}"), "max_length": 60, "temperature": 1.0, "seed": seed});
    let mut alone = Vec::new();
    for seed in 0..4 {
        alone.push(run_on(&executor, &gpu, payload(seed)).await.unwrap());
    }
    let run = |seed| run_on(&executor, &gpu, payload(seed));
    let together = tokio::join!(run(0), run(1), run(2), run(3));
    assert_eq!([together.0, together.1, together.2, together.3].map(Result::unwrap).to_vec(), alone);
    assert_eq!(gpu.sample().utilization_percent, 0.0, "the GPU is free again");
}

#[tokio::test]
async fn a_prompt_that_leaves_no_room_is_refused_and_names_the_field() {
    let scratch = scratch();
    let executor = executor(&Tiny::default().gguf(scratch.path())).await;
    for (text, said) in [("x".repeat(256), "is 256 tokens long; this model takes at most 255"), ("x".repeat(9_000_000), "at most 255")] {
        let refused = run_on(&executor, &gpu(), json!({"text": text})).await.unwrap_err();
        assert_eq!((refused.field.as_deref(), refused.retry), (Some("payload.text"), false));
        assert!(refused.message.contains(said), "{refused:?}");
    }
}

#[tokio::test]
async fn a_cancelled_run_answers_soon_with_what_it_has() {
    let scratch = scratch();
    let executor = executor(&Tiny { context: 4_096, ..Tiny::default() }.gguf(scratch.path())).await;
    let (gpu, cancel) = (gpu(), CancellationToken::new());
    let task = task("predict", json!({"text": "hello", "max_length": 4_000}));
    let run = executor.run(Run { task: &task, device: &gpu, cancel: cancel.clone(), ..run_of(&task, &gpu) });
    let (answer, ()) = tokio::join!(run, async { cancel.cancel() });
    let answer: serde_json::Value = answer.unwrap().json.to().unwrap();
    assert_eq!(answer["finish_reason"], "cancelled");
    assert!(answer["tokens"].as_u64().unwrap() < 4_000);
}

#[tokio::test]
async fn a_dropped_run_stops_computing() {
    let scratch = scratch();
    let path = Tiny { context: 4_096, ..Tiny::default() }.gguf(scratch.path());
    let (executor, model, gpu) = (executor(&path).await, registry::engine(Some(&path)).unwrap(), gpu());
    let held = Arc::strong_count(&model);
    tokio::select! {
        biased;
        _ = run_on(&executor, &gpu, json!({"text": "hello", "max_length": 4_000})) => panic!("it ended at once"),
        () = async { while Arc::strong_count(&model) == held { tokio::task::yield_now().await } } => {}
    }
    let stopped = async {
        while Arc::strong_count(&model) > held {
            tokio::time::sleep(Duration::from_millis(1)).await
        }
    };
    tokio::time::timeout(Duration::from_secs(2), stopped).await.expect("the thread stops at its next token");
}

#[tokio::test]
async fn a_model_is_in_memory_once_and_leaves_with_its_last_holder() {
    let scratch = scratch();
    let path = Tiny::default().gguf(scratch.path());
    let (first, second) = (registry::engine(Some(&path)).unwrap(), registry::engine(Some(&scratch.path().join("./tiny.gguf"))).unwrap());
    assert!(Arc::ptr_eq(&first, &second));
    let gone = Arc::downgrade(&first);
    drop((first, second));
    assert!(gone.upgrade().is_none());
    assert!(registry::engine(Some(&path)).is_ok());
}
