//! What operators did.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cut;

/// One action of an operator, as the action log keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OperatorAction {
    /// When, in Unix milliseconds of the clock of who noted it.
    pub at_ms: u64,
    /// Who asked for it: the address of an HTTP client, or `user@host` of a command.
    pub who: String,
    /// From where: `gateway` or `cli`.
    pub via: String,
    /// What was done, a word for programs: `set_strategy`, `set_thresholds`, `drain`, `undrain`, `cancel`, `requeue`, `purge`, `load_model`, `unload_model`, `pin_model`, `unpin_model`, `free_tensor`.
    pub action: String,
    /// To what: a GPU, a task, a model, a filter in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// More, for people: the old and the new value, how many tasks.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl OperatorAction {
    /// The longest text of an action, in bytes: what is longer is cut at a character's end.
    pub const TEXT_MAX: usize = 1_000;

    /// The same with every text cut to [`OperatorAction::TEXT_MAX`].
    #[must_use]
    pub fn bounded(mut self) -> Self {
        for text in [&mut self.who, &mut self.via, &mut self.action, &mut self.target, &mut self.detail] {
            cut(text, Self::TEXT_MAX);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_a_characters_end() {
        let action = OperatorAction {
            at_ms: 5,
            who: "user@host".to_owned(),
            via: "cli".to_owned(),
            action: "cancel".to_owned(),
            target: "ä".repeat(600),
            detail: String::new(),
        };
        let bounded = action.clone().bounded();
        assert!(bounded.target.len() <= OperatorAction::TEXT_MAX && bounded.target.ends_with('…'), "{}", bounded.target);
        assert_eq!(OperatorAction { target: action.target.clone(), ..bounded }, action);
    }
}
