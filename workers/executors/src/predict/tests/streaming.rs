//! The text as it grows.

use super::*;
use crate::{Listening, fixture::run_reporting};

/// Keeps the pieces it is told.
#[derive(Default)]
struct Listener(Vec<String>);

impl Watch for Listener {
    fn goes_on(&mut self) -> bool {
        true
    }

    fn wants_text(&self) -> bool {
        true
    }

    fn text(&mut self, piece: &str) {
        self.0.push(piece.to_owned());
    }
}

#[test]
fn the_pieces_joined_are_the_text_and_a_character_is_never_cut() {
    let (mut tokens, mut told) = (0, 0);
    for model in both(&scratch()) {
        for seed in 0..20 {
            let request = Request { max_length: 200, temperature: 1.5, ..drawn("zażółć 漢字 🙂", seed) };
            let mut listener = Listener::default();
            let generated = model.generate(&request, &mut listener).unwrap();
            let pieces = listener.0;
            assert_eq!(pieces.concat(), generated.text);
            assert!(pieces.iter().all(|piece| !piece.is_empty()));
            let all_but_last = &pieces[..pieces.len() - 1];
            assert!(all_but_last.iter().all(|piece| !piece.ends_with('\u{FFFD}')), "{pieces:?}");
            tokens += generated.tokens.len();
            told += pieces.len();
        }
    }
    assert!(
        told > 400 && tokens > told,
        "{told} pieces of {tokens} tokens: a text in one piece is no stream, and some tokens end no character"
    );
}

#[test]
fn the_text_is_the_same_whether_or_not_it_is_told_as_it_grows() {
    for model in both(&scratch()) {
        let told = model.generate(&drawn("hello there", 5), &mut Listener::default()).unwrap();
        assert_eq!(told, generated(&model, &drawn("hello there", 5)));
    }
}

#[tokio::test]
async fn the_executor_reports_its_tokens_as_a_share_and_the_text_in_pieces() {
    let scratch = scratch();
    let executor = executor(&Tiny::default().gguf(scratch.path())).await;
    let (report, reports) = Report::new(Listening::ToPartialsToo);
    let payload = json!({"text": "hello there", "max_length": 40, "temperature": 1.0, "seed": 3});
    let answer: serde_json::Value = run_reporting(&executor, &gpu(), payload, report).await.unwrap().to().unwrap();
    let partials = reports.partials.take();
    let text: String = partials.iter().map(|partial| partial.value.to::<String>().unwrap()).collect();
    assert_eq!(answer["text"], text);
    assert_eq!(partials.iter().map(|partial| partial.number).collect::<Vec<_>>(), (1..=partials.len() as u64).collect::<Vec<_>>());
    let share = reports.progress.borrow().fraction.get();
    assert_eq!(share, answer["tokens"].as_u64().unwrap() as f64 / 40.0);
}
