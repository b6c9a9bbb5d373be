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

/// Most characters of a value that a refusal shows.
const SHOWN_MAX: usize = 60;

/// A value as a refusal shows it: in quotes, and cut where it is long.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{:?} (cut)", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_between_characters() {
        assert_eq!(quoted("a\n"), "\"a\\n\"");
        assert_eq!(quoted(&"é".repeat(SHOWN_MAX)), format!("\"{}\"", "é".repeat(SHOWN_MAX)));
        assert_eq!(quoted(&"é".repeat(SHOWN_MAX + 1)), format!("\"{}\" (cut)", "é".repeat(SHOWN_MAX)));
    }
}
