//! What operators did.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
