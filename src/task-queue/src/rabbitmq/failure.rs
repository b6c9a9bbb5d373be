//! What the client library's errors mean to us.

use lapin::ErrorKind;

use crate::QueueError;

/// The AMQP reply codes that we tell apart.
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;
const INTERNAL_ERROR: u16 = 541;

/// Why an operation did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The broker refused it, in its words, and closed the channel.
    Refused { code: u16, text: String },
    /// The broker stumbled over it and ended the connection.
    Stumbled(String),
    /// The channel was closing, so the operation was never sent.
    Unsent(String),
    /// The connection or channel is down, or there was no answer in time.
    Away(String),
}

impl From<lapin::Error> for Failure {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(refusal) if error.is_amqp_soft_error() => {
                Self::Refused { code: refusal.get_id(), text: refusal.get_message().to_string() }
            }
            ErrorKind::ProtocolError(stumble) if stumble.get_id() == INTERNAL_ERROR => Self::Stumbled(stumble.get_message().to_string()),
            ErrorKind::InvalidChannelState(..) => Self::Unsent(error.to_string()),
            _ => Self::Away(error.to_string()),
        }
    }
}

impl Failure {
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { code: NOT_FOUND, .. })
    }

    pub(super) fn is_precondition(&self) -> bool {
        matches!(self, Self::Refused { code: PRECONDITION_FAILED, .. })
    }

    /// In the port's words.
    pub(super) fn into_error(self, url: &str, operation: String) -> QueueError {
        match self {
            Self::Refused { text, .. } => QueueError::Refused { operation, reason: text },
            Self::Stumbled(reason) | Self::Unsent(reason) | Self::Away(reason) => QueueError::Unreachable { url: url.to_owned(), reason },
        }
    }

    /// As [`Failure::into_error`] for a declaration: says which argument differs.
    pub(super) fn into_declare_error(self, url: &str, queue: &str) -> QueueError {
        match &self {
            Self::Refused { code: PRECONDITION_FAILED, text } => {
                QueueError::Mismatch { queue: queue.to_owned(), argument: differing(text) }
            }
            _ => self.into_error(url, format!("declare queue {queue}")),
        }
    }
}

/// From `PRECONDITION_FAILED - inequivalent arg 'x' for queue 'q' in vhost '/': received 1 but current is 2`: `x (received 1 but current is 2)`.
fn differing(text: &str) -> String {
    let Some((_, rest)) = text.split_once("inequivalent arg '") else { return text.to_owned() };
    let Some((argument, rest)) = rest.split_once('\'') else { return text.to_owned() };
    let values = rest.split_once("': ").map_or(rest, |(_, values)| values);
    format!("{argument} ({values})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatch_names_the_argument_and_both_values() {
        let text =
            "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'a' in vhost '/': received none but current is the value '3'";
        assert_eq!(differing(text), "x-max-length (received none but current is the value '3')");
        assert_eq!(differing("PRECONDITION_FAILED - else"), "PRECONDITION_FAILED - else");
    }
}
