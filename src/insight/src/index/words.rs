//! Words that many tasks share, each held once.

use std::{collections::HashSet, hash::Hash, sync::Arc};

/// Before so many words are known nobody looks for those that no task uses any more.
const CLEANED_FROM: usize = 1_024;

/// The words of one sort: kinds, GPUs, groups, pools. One that no task uses any more is forgotten once the words have doubled.
pub(super) struct Words<T> {
    known: HashSet<Arc<T>>,
    cleaned_at: usize,
}

impl<T> Default for Words<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), cleaned_at: CLEANED_FROM }
    }
}

impl<T: Eq + Hash + Clone> Words<T> {
    /// The one copy of this word.
    pub(super) fn shared(&mut self, word: &T) -> Arc<T> {
        if let Some(known) = self.known.get(word) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.cleaned_at {
            self.known.retain(|word| Arc::strong_count(word) > 1);
            self.cleaned_at = CLEANED_FROM.max(2 * self.known.len());
        }
        let word = Arc::new(word.clone());
        self.known.insert(Arc::clone(&word));
        word
    }

    /// The same of a word that may be absent.
    pub(super) fn shared_if_any(&mut self, word: Option<&T>) -> Option<Arc<T>> {
        word.map(|word| self.shared(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_held_once_and_those_that_nobody_uses_are_forgotten() {
        let mut words = Words::default();
        let kept = words.shared(&"kept".to_owned());
        assert!(Arc::ptr_eq(&kept, &words.shared(&"kept".to_owned())));
        for number in 0..10 * CLEANED_FROM {
            words.shared(&number.to_string());
        }
        assert!(words.known.len() <= CLEANED_FROM, "{}", words.known.len());
        assert!(Arc::ptr_eq(&kept, &words.shared(&"kept".to_owned())));
    }
}
