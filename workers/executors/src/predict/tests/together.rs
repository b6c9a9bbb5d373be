//! Texts that are generated together.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use super::*;
use crate::predict::engine::{Engine, TEXTS_AT_ONCE};

/// The tiny model, with weights as files have them that people use.
fn engine(scratch: &TempDir, format: candle_core::quantized::GgmlDType) -> Arc<Engine> {
    let path = Tiny { context: 4_096, format, ..Tiny::default() }.gguf(scratch.path());
    Arc::new(Engine::new(Arc::new(Model::load(&path).unwrap())))
}

/// Of all lengths, so that they join and leave at different steps; one prompt takes several steps, and some draw.
fn requests() -> Vec<Request> {
    let text = |number: usize| if number == 3 { "hello the ".repeat(40) } else { "hello there ".repeat(number % 4 + 1) };
    let one = |number: usize| Request {
        temperature: (number % 2) as f64,
        seed: number as u64,
        ..request(&text(number), 8 + number as u32 * 5 % 60)
    };
    (0..3 * TEXTS_AT_ONCE).map(one).collect()
}

#[tokio::test]
async fn each_text_of_many_is_what_it_is_alone_to_the_last_token() {
    use candle_core::quantized::GgmlDType::{F32, Q4_0, Q4_1, Q8_0};
    for format in [F32, Q4_0, Q4_1, Q8_0] {
        let engine = engine(&scratch(), format);
        let submit = |request: Request| engine.submit(request, Box::new(())).unwrap();
        let answers: Vec<_> = requests().into_iter().map(submit).collect();
        for (request, answer) in requests().iter().zip(answers) {
            assert_eq!(answer.await.unwrap().unwrap(), generated(engine.model(), request), "{format:?}");
        }
    }
}

/// Goes on while it is told to.
struct Held(Arc<AtomicBool>, Option<oneshot::Sender<()>>);

impl Watch for Held {
    fn goes_on(&mut self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn token(&mut self, _token: u32) {
        if let Some(began) = self.1.take() {
            let _ = began.send(());
        }
    }
}

fn held() -> (Arc<AtomicBool>, Box<Held>, oneshot::Receiver<()>) {
    let (goes_on, (sender, began)) = (Arc::new(AtomicBool::new(true)), oneshot::channel());
    (Arc::clone(&goes_on), Box::new(Held(goes_on, Some(sender))), began)
}

#[tokio::test]
async fn a_short_text_joins_a_long_one_and_leaves_before_it() {
    let engine = engine(&scratch(), candle_core::quantized::GgmlDType::F32);
    let (goes_on, watch, began) = held();
    let long = engine.submit(request("hello", 4_000), watch).unwrap();
    began.await.unwrap();
    let short = engine.submit(request("hello there", 5), Box::new(())).unwrap().await.unwrap().unwrap();
    assert_eq!(short, generated(engine.model(), &request("hello there", 5)));
    goes_on.store(false, Ordering::SeqCst);
    assert_eq!(long.await.unwrap().unwrap().finish_reason, FinishReason::Cancelled, "it was still being generated");
}

#[tokio::test]
async fn where_all_places_are_taken_a_text_waits_and_a_cancel_does_not() {
    let engine = engine(&scratch(), candle_core::quantized::GgmlDType::F32);
    let (goes_on, _, _) = held();
    let mut long = Vec::new();
    for _ in 0..TEXTS_AT_ONCE {
        let (sender, began) = oneshot::channel();
        long.push(engine.submit(request("hello", 4_000), Box::new(Held(Arc::clone(&goes_on), Some(sender)))).unwrap());
        began.await.unwrap();
    }
    let (its_own, watch, began) = held();
    let waiting = engine.submit(request("hello", 5), watch).unwrap();
    its_own.store(false, Ordering::SeqCst);
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!((answer.tokens.len(), answer.finish_reason), (0, FinishReason::Cancelled));
    assert!(began.await.is_err(), "it never began");
    goes_on.store(false, Ordering::SeqCst);
    for text in long {
        assert_eq!(text.await.unwrap().unwrap().finish_reason, FinishReason::Cancelled);
    }
}

/// Breaks the thread at its first token.
struct Breaks;

impl Watch for Breaks {
    fn goes_on(&mut self) -> bool {
        true
    }

    fn token(&mut self, _token: u32) {
        panic!("a watch that breaks the thread");
    }
}

#[tokio::test]
async fn a_thread_that_breaks_fails_the_texts_that_it_had_and_the_next_one_goes_on() {
    let engine = engine(&scratch(), candle_core::quantized::GgmlDType::F32);
    assert!(engine.submit(request("hello", 5), Box::new(Breaks)).unwrap().await.is_err());
    let text = engine.submit(request("hello", 5), Box::new(())).unwrap();
    assert_eq!(text.await.unwrap().unwrap(), generated(engine.model(), &request("hello", 5)));
}

#[tokio::test]
async fn those_that_wait_outlive_a_thread_that_breaks() {
    let engine = engine(&scratch(), candle_core::quantized::GgmlDType::F32);
    let broken: Vec<_> = (0..TEXTS_AT_ONCE).map(|_| engine.submit(request("hello", 5), Box::new(Breaks)).unwrap()).collect();
    let waiting: Vec<_> = (0..TEXTS_AT_ONCE).map(|_| engine.submit(request("hello", 5), Box::new(())).unwrap()).collect();
    let failed = futures::future::join_all(broken).await;
    assert!(failed.iter().all(Result::is_err));
    let done = futures::future::join_all(waiting).await;
    assert!(done.iter().filter(|answer| answer.is_ok()).count() > 0, "those that had not joined yet");
}
