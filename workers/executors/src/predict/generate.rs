//! The loop: prompt in, token by token out.

use super::{Model, Request, pieces::Pieces, sampler::Sampler};

/// How many tokens of a prompt are taken in at once: bounds the memory of attention and the time until a cancel is seen.
const PROMPT_CHUNK: usize = 128;

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
    /// The arithmetic failed.
    #[error("run the model")]
    Compute(#[from] candle_core::Error),
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

/// A watch that is also told the text, if it wants it.
struct Telling<'a> {
    watch: &'a mut dyn Watch,
    pieces: Option<Pieces<'a>>,
}

impl Telling<'_> {
    fn goes_on(&mut self) -> bool {
        self.watch.goes_on()
    }

    fn token(&mut self, token: u32) {
        self.watch.token(token);
        if let Some(piece) = self.pieces.as_mut().and_then(|pieces| pieces.push(token)) {
            self.watch.text(&piece);
        }
    }

    fn rest_of(&mut self, text: &str) {
        if let Some(rest) = self.pieces.as_ref().and_then(|pieces| pieces.rest(text)) {
            self.watch.text(rest);
        }
    }
}

impl Model {
    /// Generates what follows `request.text`. Computes on the calling thread: not for an async runtime's threads.
    ///
    /// # Errors
    /// [`GenerateError`]; the same request fails again.
    pub fn generate(&self, request: &Request, watch: &mut dyn Watch) -> Result<Generated, GenerateError> {
        let prompt = self.prompt(&request.text)?;
        let mut telling = Telling { pieces: watch.wants_text().then(|| Pieces::after(self.vocabulary(), &prompt)), watch };
        let (tokens, finish_reason) = self.follow(&prompt, request, &mut telling)?;
        let text = self.vocabulary().text_after(&prompt, &tokens);
        telling.rest_of(&text);
        Ok(Generated { text, tokens, finish_reason })
    }

    /// The prompt's tokens, at least one and fewer than the context has.
    fn prompt(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        let max = self.context() - 1;
        // Tokenizing megabytes takes seconds, and what is sure to be too long need not be tokenized.
        let tokens_min = text.len() / self.vocabulary().longest_token_bytes();
        if tokens_min > max {
            return Err(GenerateError::PromptTooLong { tokens: tokens_min, max });
        }
        let prompt = self.tokens(text).map_err(GenerateError::Tokenize)?;
        match prompt.len() {
            0 => Err(GenerateError::Tokenize("it has no tokens".to_owned())),
            tokens if tokens > max => Err(GenerateError::PromptTooLong { tokens, max }),
            _ => Ok(prompt),
        }
    }

    /// The tokens that follow the prompt, and why they end.
    fn follow(&self, prompt: &[u32], request: &Request, watch: &mut Telling<'_>) -> Result<(Vec<u32>, FinishReason), GenerateError> {
        let room = (self.context() - prompt.len()).min(request.max_length as usize);
        let mut tokens = Vec::with_capacity(room);
        let mut sampler = Sampler::new(request.temperature, request.seed);
        let mut pass = self.pass();
        let mut logits = Vec::new();
        for chunk in prompt.chunks(PROMPT_CHUNK) {
            if !watch.goes_on() {
                return Ok((tokens, FinishReason::Cancelled));
            }
            logits = pass.advance(chunk)?;
        }
        loop {
            let token = sampler.choose(&logits);
            if self.vocabulary().ends_text(token) {
                return Ok((tokens, FinishReason::Stop));
            }
            tokens.push(token);
            watch.token(token);
            if tokens.len() >= room {
                return Ok((tokens, FinishReason::Length));
            }
            if !watch.goes_on() {
                return Ok((tokens, FinishReason::Cancelled));
            }
            logits = pass.advance(&[token])?;
        }
    }
}
