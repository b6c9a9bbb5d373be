//! Text to tokens and back.

mod from_gguf;
mod sentencepiece;

use std::{collections::BTreeSet, fs, path::Path};

use tokenizers::Tokenizer;

use super::{PredictError, error::FETCH_AGAIN};

pub(super) use from_gguf::build;

/// Tokens that end a text wherever a vocabulary has them, whatever else is declared: models are published with the one of their base.
const ENDS: [&str; 7] = ["<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "<|end|>", "</s>"];

/// How many tokens of the prompt are decoded with the text: enough that a token's spelling at the start of a text does not matter.
const TAIL: usize = 4;

/// A tokenizer, and what begins and ends a text.
pub(super) struct Vocabulary {
    tokenizer: Tokenizer,
    begin: Option<u32>,
    ends: BTreeSet<u32>,
    longest_token_bytes: usize,
}

/// Reads a `tokenizer.json`. It says itself what begins a text; `ends` are the tokens that end one.
pub(super) fn read(path: &Path, ends: &[u32]) -> Result<Vocabulary, PredictError> {
    let bytes = fs::read(path).map_err(|source| PredictError::read(path, source))?;
    let tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| error.to_string());
    let vocabulary = tokenizer.and_then(|tokenizer| Vocabulary::new(tokenizer, None, ends));
    vocabulary.map_err(|problem| PredictError::unusable(path, problem, FETCH_AGAIN))
}

impl Vocabulary {
    /// `begin` is put before every prompt; `ends` are the declared tokens that end a text.
    pub(super) fn new(tokenizer: Tokenizer, begin: Option<u32>, ends: &[u32]) -> Result<Self, String> {
        let tokens = tokenizer.get_vocab(true);
        let longest_token_bytes = tokens.keys().map(String::len).max().filter(|longest| *longest > 0).ok_or("its vocabulary is empty")?;
        let ends = ends.iter().copied().chain(ENDS.iter().filter_map(|end| tokens.get(*end).copied())).collect();
        Ok(Self { tokenizer, begin, ends, longest_token_bytes })
    }

    pub(super) fn len(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    pub(super) const fn longest_token_bytes(&self) -> usize {
        self.longest_token_bytes
    }

    pub(super) fn ends_text(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    pub(super) fn tokens(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoding = self.tokenizer.encode_fast(text, true).map_err(|error| error.to_string())?;
        Ok(self.begin.into_iter().chain(encoding.get_ids().iter().copied()).collect())
    }

    /// The text of `tokens` as it stands after `prompt`: some tokenizers drop the space before a word at the start of a text.
    pub(super) fn text_after(&self, prompt: &[u32], tokens: &[u32]) -> String {
        let tail = Self::tail(prompt);
        let before = self.text(tail);
        let whole = self.text(&[tail, tokens].concat());
        whole.strip_prefix(&before).map_or_else(|| self.text(tokens), str::to_owned)
    }

    /// What of a prompt is decoded with the text that follows it.
    pub(super) fn tail(prompt: &[u32]) -> &[u32] {
        &prompt[prompt.len().saturating_sub(TAIL)..]
    }

    pub(super) fn text(&self, tokens: &[u32]) -> String {
        // Only an id outside the vocabulary can fail, and those are left out.
        self.tokenizer.decode(tokens, true).unwrap_or_default()
    }
}
