//! Texts as the numbers of their words (tokens).

use std::{path::PathBuf, sync::Arc};

use tokenizers::Tokenizer;
use tokio::sync::OnceCell;

use crate::{Failure, onnx::OnnxError};

/// Longest text in tokens where the model's words say none.
const TOKENS_MAX: usize = 512;

/// What a model's words are.
pub(super) struct Words {
    tokenizer: Tokenizer,
    /// Whether texts of different lengths may run together, filled up to the longest.
    pub(super) may_be_filled: OnceCell<bool>,
}

/// A text in the model's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) words: Vec<u32>,
    pub(super) is_truncated: bool,
}

impl Text {
    pub(super) fn len(&self) -> usize {
        self.words.len()
    }
}

impl Words {
    /// Reads them from `tokenizer.json`, off the async runtime.
    pub(super) async fn load(path: PathBuf) -> Result<Arc<Self>, OnnxError> {
        let unreadable = |path: &PathBuf, why: &dyn ToString| OnnxError::Unreadable { path: path.clone(), why: why.to_string() };
        let loading = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || Self::load_here(&path).map_err(|why| unreadable(&path, &why)))
        };
        loading.await.unwrap_or_else(|_| Err(unreadable(&path, &"reading it crashed")))
    }

    fn load_here(path: &PathBuf) -> Result<Arc<Self>, String> {
        let mut tokenizer = Tokenizer::from_file(path).map_err(|error| error.to_string())?;
        // Texts that run together are filled up here, to the longest of them.
        tokenizer.with_padding(None);
        let mut truncation = tokenizer.get_truncation().cloned().unwrap_or_default();
        if truncation.max_length == 0 || truncation.max_length > TOKENS_MAX {
            truncation.max_length = TOKENS_MAX;
        }
        tokenizer.with_truncation(Some(truncation)).map_err(|error| error.to_string())?;
        Ok(Arc::new(Self { tokenizer, may_be_filled: OnceCell::new() }))
    }

    /// Each text in the model's words, in their order, off the async runtime.
    pub(super) async fn read(self: &Arc<Self>, texts: Vec<String>) -> Result<Vec<Text>, Failure> {
        let this = Arc::clone(self);
        let reading = tokio::task::spawn_blocking(move || texts.into_iter().map(|text| this.read_one(text)).collect());
        reading.await.unwrap_or_else(|_| Err(Failure::transient("reading the texts crashed")))
    }

    fn read_one(&self, text: String) -> Result<Text, Failure> {
        let wrong = |error: tokenizers::Error| Failure::invalid("payload.text", format!("cannot be read: {error}"));
        let encoding = self.tokenizer.encode(text, true).map_err(wrong)?;
        Ok(Text { words: encoding.get_ids().to_vec(), is_truncated: !encoding.get_overflowing().is_empty() })
    }
}
