//! Generates text with a model, without a fleet, and prints the tokens: what `scripts/check-predict` compares with another implementation.
//!
//! `cargo run --release -p executors --example generate -- MODEL MAX_LENGTH < prompts.jsonl`, where each line is a JSON text. Prints a line of
//! JSON for each: `prompt_tokens`, `tokens`, `text`, `finish_reason`, `first_token_s` and `tokens_per_s` (after the first). With a MAX_LENGTH of 0
//! only `prompt_tokens`: nothing is generated.

use std::{
    error::Error,
    io::{BufRead, Write},
    path::Path,
    time::{Duration, Instant},
};

use executors::predict::{Generated, Model, Request, Watch};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, max_length] = arguments.as_slice() else { return Err("usage: generate MODEL MAX_LENGTH < prompts.jsonl".into()) };
    let model = Model::load(Path::new(path))?;
    for line in std::io::stdin().lock().lines() {
        let request = Request { text: serde_json::from_str(&line?)?, max_length: max_length.parse()?, temperature: 0.0, seed: 0 };
        if request.max_length == 0 {
            writeln!(std::io::stdout(), "{}", json!({ "prompt_tokens": model.tokens(&request.text)? }))?;
            continue;
        }
        let mut watch = Stopwatch { began: Instant::now(), first: None };
        let generated = model.generate(&request, &mut watch)?;
        print(&model, &request, &generated, &watch)?;
    }
    Ok(())
}

fn print(model: &Model, request: &Request, generated: &Generated, watch: &Stopwatch) -> Result<(), Box<dyn Error>> {
    let first = watch.first.unwrap_or_default();
    let rest = watch.began.elapsed().saturating_sub(first).as_secs_f64();
    let line = json!({
        "prompt_tokens": model.tokens(&request.text)?,
        "tokens": generated.tokens,
        "text": generated.text,
        "finish_reason": generated.finish_reason.name(),
        "first_token_s": first.as_secs_f64(),
        "tokens_per_s": generated.tokens.len().saturating_sub(1) as f64 / rest,
    });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

struct Stopwatch {
    began: Instant,
    first: Option<Duration>,
}

impl Watch for Stopwatch {
    fn goes_on(&mut self) -> bool {
        true
    }

    fn token(&mut self, _token: u32) {
        self.first.get_or_insert_with(|| self.began.elapsed());
    }
}
