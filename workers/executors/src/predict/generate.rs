//! What a generation gives, who watches it, and one by itself.

use super::{
    Model, Request,
    sequence::{Sequence, step},
};

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model said that the text is complete.
    Stop,
    /// `max_length`, or the end of the model's context.
    Length,
    /// It was told to stop.
    Cancelled,
}

impl FinishReason {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A generated text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// What follows the prompt.
    pub text: String,
    /// The same as tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

impl Generated {
    pub(super) const fn cancelled_before_it_began() -> Self {
        Self { text: String::new(), tokens: Vec::new(), finish_reason: FinishReason::Cancelled }
    }
}

/// Why nothing was generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The prompt leaves no room for an answer.
    #[error("is {tokens} tokens long; this model takes at most {max}")]
    PromptTooLong {
        /// How long it is; from below where it was not even read.
        tokens: usize,
        /// The longest prompt.
        max: usize,
    },
    /// The tokenizer failed.
    #[error("tokenize the text: {0}")]
    Tokenize(String),
}

/// Who watches a generation: asked between tokens, told each of them.
pub trait Watch {
    /// Whether to go on. Asked before each token and each part of the prompt.
    fn goes_on(&mut self) -> bool;

    /// A token was generated.
    fn token(&mut self, _token: u32) {}

    /// Whether to tell the text as it grows. Asked once; it costs a little with every token.
    fn wants_text(&self) -> bool {
        false
    }

    /// The text grew by whole characters. All pieces together are the generated text.
    fn text(&mut self, _piece: &str) {}
}

/// Goes on to the end.
impl Watch for () {
    fn goes_on(&mut self) -> bool {
        true
    }
}

impl<W: Watch + ?Sized> Watch for &mut W {
    fn goes_on(&mut self) -> bool {
        (**self).goes_on()
    }

    fn token(&mut self, token: u32) {
        (**self).token(token);
    }

    fn wants_text(&self) -> bool {
        (**self).wants_text()
    }

    fn text(&mut self, piece: &str) {
        (**self).text(piece);
    }
}

impl Model {
    /// Generates what follows `request.text`. Computes on the calling thread and the processor's other cores: not for an async runtime's threads.
    ///
    /// # Errors
    /// [`GenerateError`]; the same request fails again.
    pub fn generate(&self, request: &Request, mut watch: &mut dyn Watch) -> Result<Generated, GenerateError> {
        let mut sequence = Sequence::new(self, request, Box::new(&mut watch))?;
        while !sequence.is_over() {
            step(self, std::slice::from_mut(&mut sequence));
        }
        Ok(sequence.finish())
    }
}
