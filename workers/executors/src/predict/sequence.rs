//! A text in the making, and the step that takes several of them further.

use super::{
    FinishReason, GenerateError, Generated, Model, Request, Watch,
    pieces::Pieces,
    sampler::Sampler,
    vocabulary::Vocabulary,
    weights::{Intake, Memory},
};

/// How many tokens of prompts a step takes in: bounds how long the texts that are past their prompts wait for their next token, and the time until a cancel is seen.
const PROMPT_TOKENS: usize = 128;

/// One text: a prompt that is taken in part by part, then token after token.
pub(super) struct Sequence<'a> {
    vocabulary: &'a Vocabulary,
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    /// How many of prompt and text the memory has.
    taken: usize,
    room: usize,
    memory: Memory,
    sampler: Sampler,
    pieces: Option<Pieces<'a>>,
    watch: Box<dyn Watch + 'a>,
    over: Option<FinishReason>,
}

impl<'a> Sequence<'a> {
    pub(super) fn new(model: &'a Model, request: &Request, watch: Box<dyn Watch + 'a>) -> Result<Self, GenerateError> {
        let (prompt, vocabulary) = (prompt(model, &request.text)?, model.vocabulary());
        let room = (model.context() - prompt.len()).min(request.max_length as usize);
        Ok(Self {
            vocabulary,
            pieces: watch.wants_text().then(|| Pieces::after(vocabulary, &prompt)),
            prompt,
            tokens: Vec::with_capacity(room),
            taken: 0,
            room,
            memory: model.weights().memory(),
            sampler: Sampler::new(request.temperature, request.seed),
            watch,
            over: None,
        })
    }

    /// How many tokens prompt and text may come to together.
    pub(super) const fn tokens_max(&self) -> usize {
        self.prompt.len() + self.room
    }

    pub(super) const fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// What was generated, also where it is not over.
    pub(super) fn finish(mut self) -> Generated {
        let text = self.vocabulary.text_after(&self.prompt, &self.tokens);
        if let Some(rest) = self.pieces.as_ref().and_then(|pieces| pieces.rest(&text)) {
            self.watch.text(rest);
        }
        Generated { text, tokens: self.tokens, finish_reason: self.over.unwrap_or(FinishReason::Cancelled) }
    }

    /// How many tokens the next step takes in, of `left` that it may take of prompts.
    fn wants(&mut self, left: &mut usize) -> usize {
        if self.over.is_none() && !self.watch.goes_on() {
            self.over = Some(FinishReason::Cancelled);
        }
        if self.is_over() {
            return 0;
        }
        let of_prompt = self.prompt.len().saturating_sub(self.taken);
        if of_prompt == 0 {
            return 1;
        }
        let part = of_prompt.min(*left);
        *left -= part;
        part
    }

    fn intake(&mut self, count: usize) -> Intake<'_> {
        let end = self.taken + count;
        let says_next = end >= self.prompt.len();
        let last = self.tokens.len().saturating_sub(1);
        let tokens = if self.taken < self.prompt.len() { &self.prompt[self.taken..end] } else { &self.tokens[last..] };
        self.taken = end;
        Intake { tokens, memory: &mut self.memory, says_next }
    }

    fn take(&mut self, logits: &[f32]) {
        let token = self.sampler.choose(logits);
        if self.vocabulary.ends_text(token) {
            self.over = Some(FinishReason::Stop);
            return;
        }
        self.tokens.push(token);
        self.watch.token(token);
        if let Some(piece) = self.pieces.as_mut().and_then(|pieces| pieces.push(token)) {
            self.watch.text(&piece);
        }
        if self.tokens.len() >= self.room {
            self.over = Some(FinishReason::Length);
        }
    }
}

/// Takes each sequence that is not over further: past its prompt by a token, before that by a part of its prompt where the step has room for one, in their order.
pub(super) fn step(model: &Model, sequences: &mut [Sequence<'_>]) {
    let mut left = PROMPT_TOKENS;
    let wanted: Vec<usize> = sequences.iter_mut().map(|sequence| sequence.wants(&mut left)).collect();
    let going = || wanted.iter().copied().enumerate().filter(|(_, count)| *count > 0);
    let with_counts = sequences.iter_mut().zip(&wanted).filter(|(_, count)| **count > 0);
    let mut intakes: Vec<Intake<'_>> = with_counts.map(|(sequence, count)| sequence.intake(*count)).collect();
    if intakes.is_empty() {
        return;
    }
    let logits = model.weights().forward(&mut intakes);
    for ((number, _), logits) in going().zip(logits) {
        if let Some(logits) = logits {
            sequences[number].take(&logits);
        }
    }
}

/// The prompt's tokens, at least one and fewer than the context has.
fn prompt(model: &Model, text: &str) -> Result<Vec<u32>, GenerateError> {
    let max = model.context() - 1;
    // Tokenizing megabytes takes seconds, and what is sure to be too long need not be tokenized.
    let tokens_min = text.len() / model.vocabulary().longest_token_bytes();
    if tokens_min > max {
        return Err(GenerateError::PromptTooLong { tokens: tokens_min, max });
    }
    let prompt = model.tokens(text).map_err(GenerateError::Tokenize)?;
    match prompt.len() {
        0 => Err(GenerateError::Tokenize("it has no tokens".to_owned())),
        tokens if tokens > max => Err(GenerateError::PromptTooLong { tokens, max }),
        _ => Ok(prompt),
    }
}
