//! Why something that came from outside is not a valid task.

use serde::Serialize;

/// A refusal names the field, says what is wrong with it and what would be accepted. It becomes a `failed` reply,
/// a problem document over HTTP, or an error line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Refusal {
    /// Where: an AMQP property (`priority`), a header, or a path in the body (`gpu_options.strategy`).
    pub field: String,
    /// What is wrong, and what would be accepted.
    pub problem: String,
}

impl Refusal {
    /// A refusal of `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}
