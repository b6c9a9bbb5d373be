//! A model in memory.

use std::{fmt, io, path::Path};

use super::{
    PredictError, directory,
    error::FETCH_AGAIN,
    gguf,
    vocabulary::Vocabulary,
    weights::{Intake, Weights},
};

/// The longest context, in tokens: bounds what a text remembers. A model may allow less.
pub(super) const CONTEXT_MAX: usize = 4_096;

/// A model in memory: weights, vocabulary and limits. Shared by all runs; never changes.
pub struct Model {
    name: String,
    weights: Weights,
    vocabulary: Vocabulary,
}

/// See `models/tiny/README.md`.
const BUILT_IN: &[u8] = include_bytes!("../../../../models/tiny/tiny.gguf");

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

    /// How many numbers a head has.
    pub(super) const fn head(self) -> usize {
        self.hidden / self.heads
    }

    /// How many numbers the keys of a position have, and its values.
    pub(super) const fn kv_width(self) -> usize {
        self.head() * self.kv_heads
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
        let (weights, vocabulary) = if found.is_dir() { directory::load(path)? } else { gguf::load(path)? };
        let name = if found.is_dir() { path.file_name() } else { path.file_stem() };
        let name = name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
        Self::of(name, weights, vocabulary).map_err(|problem| PredictError::unusable(path, problem, FETCH_AGAIN))
    }

    /// The model that is part of the program: `tiny`.
    ///
    /// # Errors
    /// Only where the program was built with another file in its place.
    pub fn built_in() -> Result<Self, PredictError> {
        let name = Path::new("tiny");
        let (weights, vocabulary) = gguf::read(name, (&mut io::Cursor::new(BUILT_IN), BUILT_IN.len() as u64), None)?;
        Self::of("tiny".to_owned(), weights, vocabulary).map_err(|problem| PredictError::unusable(name, problem, FETCH_AGAIN))
    }

    fn of(name: String, weights: Weights, vocabulary: Vocabulary) -> Result<Self, String> {
        let model = Self { name, weights, vocabulary };
        model.probe()?;
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
        self.weights.shape.context
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
        let shape = self.weights.shape;
        2 * shape.layers * shape.kv_width() * size_of::<f32>() * tokens
    }

    pub(super) const fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    pub(super) const fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The logits of what may follow these tokens, which are at least one.
    pub(super) fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let mut memory = self.weights.memory();
        let intake = Intake { tokens, memory: &mut memory, says_next: true };
        self.weights.forward(&mut [intake]).pop().flatten().unwrap_or_default()
    }

    /// Runs one token through, so that tensors of a wrong shape are found at the start and not by the first task.
    fn probe(&self) -> Result<(), String> {
        let known = self.vocabulary.len();
        let tokens = self.weights.shape.tokens;
        if known > tokens {
            return Err(format!("its vocabulary has {known} tokens, its weights only {tokens}"));
        }
        let logits = self.logits(&[0]);
        if logits.len() < known || !logits.iter().all(|logit| logit.is_finite()) {
            return Err("its weights give no sensible numbers".to_owned());
        }
        Ok(())
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Model").field("name", &self.name).field("shape", &self.weights.shape).finish_non_exhaustive()
    }
}
