//! A model in memory.

use std::{fmt, path::Path};

use super::{
    PredictError, directory,
    error::FETCH_AGAIN,
    gguf,
    vocabulary::Vocabulary,
    weights::{Pass, Weights},
};

/// The longest context, in tokens: what the library prepares positions for. A model may allow less.
pub(super) const CONTEXT_MAX: usize = candle_transformers::models::quantized_llama::MAX_SEQ_LEN;

/// A model in memory: weights, vocabulary and limits. Shared by all runs; never changes.
pub struct Model {
    name: String,
    weights: Weights,
    vocabulary: Vocabulary,
    shape: Shape,
}

/// The sizes of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Rows of the embedding.
    pub(super) tokens: usize,
    /// Prompt and generated text together, in tokens.
    pub(super) context: usize,
}

impl Shape {
    /// Refuses sizes that the arithmetic would stumble over.
    pub(super) fn check(self) -> Result<Self, String> {
        let Self { layers, hidden, heads, kv_heads, tokens, context } = self;
        let whole = layers > 0 && tokens > 0 && context > 1 && heads > 0 && kv_heads > 0;
        let even = heads.checked_mul(2).is_some_and(|twice| hidden.is_multiple_of(twice));
        if !whole || !even || !heads.is_multiple_of(kv_heads) || hidden == 0 {
            return Err(format!(
                "its sizes do not go together: {layers} layers, {hidden} wide, {heads} heads, {kv_heads} of them for keys and values, {tokens} tokens in all, {context} in a \
                 context"
            ));
        }
        Ok(Self { context: context.min(CONTEXT_MAX), ..self })
    }
}

impl Model {
    /// Loads a GGUF file, or a directory with `config.json`, `tokenizer.json` and `*.safetensors`. Blocks for the time it takes to read the
    /// weights: not for an async runtime's threads.
    ///
    /// # Errors
    /// [`PredictError`] says which file, what is wrong and what to do.
    pub fn load(path: &Path) -> Result<Self, PredictError> {
        let found = std::fs::metadata(path).map_err(|source| PredictError::read(path, source))?;
        let (weights, vocabulary, shape) = if found.is_dir() { directory::load(path)? } else { gguf::load(path)? };
        let name = if found.is_dir() { path.file_name() } else { path.file_stem() };
        let name = name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
        let model = Self { name, weights, vocabulary, shape };
        model.probe().map_err(|problem| PredictError::unusable(path, problem, FETCH_AGAIN))?;
        Ok(model)
    }

    /// Its name: the file's without its ending, or the directory's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many tokens prompt and generated text may have together.
    #[must_use]
    pub const fn context(&self) -> usize {
        self.shape.context
    }

    /// The tokens of a prompt, as [`generate`](Self::generate) would take them in.
    ///
    /// # Errors
    /// The tokenizer's complaint.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, String> {
        self.vocabulary.tokens(text)
    }

    /// The memory that a run needs for itself, in bytes, when prompt and text have this many tokens: keys and values of every layer.
    pub(super) const fn run_bytes(&self, tokens: usize) -> usize {
        let Shape { layers, hidden, heads, kv_heads, .. } = self.shape;
        2 * layers * (hidden / heads) * kv_heads * size_of::<f32>() * tokens
    }

    pub(super) const fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    pub(super) fn pass(&self) -> Pass {
        self.weights.pass()
    }

    /// Runs one token through, so that tensors of a wrong shape are found at the start and not by the first task.
    fn probe(&self) -> Result<(), String> {
        let known = self.vocabulary.len();
        if known > self.shape.tokens {
            return Err(format!("its vocabulary has {known} tokens, its weights only {}", self.shape.tokens));
        }
        let logits = self.pass().advance(&[0]).map_err(|error| error.to_string())?;
        if logits.len() < known || !logits.iter().all(|logit| logit.is_finite()) {
            return Err("its weights give no sensible numbers".to_owned());
        }
        Ok(())
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Model").field("name", &self.name).field("shape", &self.shape).finish_non_exhaustive()
    }
}
