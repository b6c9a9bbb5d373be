//! `count_words`: a kind in Rust.

use std::sync::Arc;

use async_trait::async_trait;
use executors::{Executor, Failure, Run};
use protocol::{Framed, Json, Kind};
use serde_json::json;

struct CountWords;

/// The executor of the kind `count_words`: `{"text": "a b"}` gives `{"words": 2}`.
pub fn count_words() -> Arc<dyn Executor> {
    Arc::new(CountWords)
}

#[async_trait]
impl Executor for CountWords {
    fn kind(&self) -> Kind {
        Kind::new("count_words").expect("a literal that keeps the rule")
    }

    fn about(&self) -> String {
        "counts the words of a text".to_owned()
    }

    fn schema(&self) -> Option<Json> {
        Some(json!({"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}).into())
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let fields = run.payload.fields().map_err(|error| Failure::invalid("payload", error.to_string()))?;
        let text = fields.get("text").and_then(|text| text.to::<String>().ok());
        let text = text.ok_or_else(|| Failure::invalid("payload.text", "must be text"))?;
        Ok(json!({"words": text.split_whitespace().count()}).into())
    }
}
