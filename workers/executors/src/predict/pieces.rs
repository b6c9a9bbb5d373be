//! A text as it grows: tokens in, whole characters out.

use super::vocabulary::Vocabulary;

/// How the decoder shows the bytes of a character that is not complete yet.
const INCOMPLETE: char = '\u{FFFD}';

/// Cuts a growing text into pieces of whole characters. Joined, the pieces are the text that [`Vocabulary::text_after`] gives for all the tokens.
///
/// A token is decoded together with those before it back to the last cut: alone it may be half a character, or lose the space before a word.
pub(super) struct Pieces<'a> {
    vocabulary: &'a Vocabulary,
    /// The tokens from the last but one cut on: up to `cut` they were given out, and decode the others rightly.
    window: Vec<u32>,
    cut: usize,
    given: String,
}

impl<'a> Pieces<'a> {
    pub(super) fn after(vocabulary: &'a Vocabulary, prompt: &[u32]) -> Self {
        let window = Vocabulary::tail(prompt).to_vec();
        Self { vocabulary, cut: window.len(), window, given: String::new() }
    }

    /// Takes the next token; gives the text that is complete with it, if any is.
    pub(super) fn push(&mut self, token: u32) -> Option<String> {
        self.window.push(token);
        let whole = self.vocabulary.text(&self.window);
        if whole.ends_with(INCOMPLETE) {
            return None;
        }
        let before = self.vocabulary.text(&self.window[..self.cut]);
        let piece = whole.strip_prefix(&before).filter(|piece| !piece.is_empty())?.to_owned();
        self.window.drain(..self.cut);
        self.cut = self.window.len();
        self.given.push_str(&piece);
        Some(piece)
    }

    /// What of the whole text was not given out yet: characters that the last tokens left incomplete.
    pub(super) fn rest<'text>(&self, whole: &'text str) -> Option<&'text str> {
        whole.strip_prefix(&self.given).filter(|rest| !rest.is_empty())
    }
}
