//! What the client library's errors mean to us.

use std::fmt;

use lapin::ErrorKind;

use crate::QueueError;

/// How the broker begins to say that something does not exist. Its other texts under the same code are about queues that exist.
const MISSING: &str = "NOT_FOUND - no ";

/// The AMQP reply codes that we tell apart.
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;
const INTERNAL_ERROR: u16 = 541;

/// Why an operation did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The broker refused it, in its words, and closed the channel.
    Refused { code: u16, text: String },
    /// The queue exists, but the node that has it is down, or somebody is just creating it. The broker has closed the channel.
    Inaccessible(String),
    /// The broker stumbled over it and ended the connection.
    Stumbled(String),
    /// The channel was closing, so the operation was never sent.
    Unsent(String),
    /// The connection or channel is down, or there was no answer in time.
    Away(String),
}

/// The reason alone: whoever logs it says what was tried.
impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { text: reason, .. }
            | Self::Inaccessible(reason)
            | Self::Stumbled(reason)
            | Self::Unsent(reason)
            | Self::Away(reason) => formatter.write_str(reason),
        }
    }
}

impl From<lapin::Error> for Failure {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(refusal) if error.is_amqp_soft_error() => {
                Self::refused(refusal.get_id(), refusal.get_message().to_string())
            }
            ErrorKind::ProtocolError(stumble) if stumble.get_id() == INTERNAL_ERROR => Self::Stumbled(stumble.get_message().to_string()),
            ErrorKind::InvalidChannelState(..) => Self::Unsent(error.to_string()),
            _ => Self::Away(error.to_string()),
        }
    }
}

impl Failure {
    fn refused(code: u16, text: String) -> Self {
        if code == NOT_FOUND && !text.starts_with(MISSING) { Self::Inaccessible(text) } else { Self::Refused { code, text } }
    }

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
            Self::Inaccessible(reason) => QueueError::Inaccessible { operation, reason },
            Self::Stumbled(reason) | Self::Unsent(reason) | Self::Away(reason) => QueueError::Unreachable { url: url.to_owned(), reason },
        }
    }

    /// As [`Failure::into_error`] for a declaration: says which argument differs.
    pub(super) fn into_declare_error(self, url: &str, queue: &str) -> QueueError {
        let Some(argument) = self.mismatch() else { return self.into_error(url, format!("declare queue {queue}")) };
        match self.exchange() {
            Some(exchange) => QueueError::Refused {
                operation: format!("declare exchange {exchange}, which leads to queue {queue}"),
                reason: format!(
                    "it exists with another {argument}; delete the exchange while no worker runs, and the next one declares it"
                ),
            },
            None => QueueError::Mismatch { queue: queue.to_owned(), argument },
        }
    }

    /// Which argument of what exists is not the declared one, and both values; `None` if that is not what is wrong.
    pub(super) fn mismatch(&self) -> Option<String> {
        match self {
            Self::Refused { code: PRECONDITION_FAILED, text } => Some(differing(text)),
            _ => None,
        }
    }

    /// The name of that argument.
    pub(super) fn differing_argument(&self) -> Option<&str> {
        match self {
            Self::Refused { code: PRECONDITION_FAILED, text } => split(text).map(|(argument, _)| argument),
            _ => None,
        }
    }

    /// The exchange that a mismatch is about; `None` if it is about a queue.
    fn exchange(&self) -> Option<&str> {
        let Self::Refused { text, .. } = self else { return None };
        split(text)?.1.strip_prefix(" for exchange '")?.split('\'').next()
    }
}

/// The argument that a refusal names, and what stands behind it. The end of a long text may be cut off by the broker.
fn split(text: &str) -> Option<(&str, &str)> {
    text.split_once("inequivalent arg '")?.1.split_once('\'')
}

/// From `PRECONDITION_FAILED - inequivalent arg 'x' for queue 'q' in vhost '/': received 1 but current is 2`: `x (received 1 but current is 2)`.
fn differing(text: &str) -> String {
    let Some((argument, rest)) = split(text) else { return text.to_owned() };
    let values = rest.split_once("': ").map_or(rest, |(_, values)| values);
    format!("{argument} ({values})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_found_is_missing_only_where_the_broker_says_that_there_is_none() {
        assert!(Failure::refused(NOT_FOUND, "NOT_FOUND - no queue 'a' in vhost '/'".to_owned()).is_missing());
        for text in [
            "NOT_FOUND - home node 'a@b' of durable queue 'no queue' in vhost '/' is down or inaccessible",
            "NOT_FOUND - queue 'a' in vhost '/' process is stopped by supervisor",
            "NOT_FOUND - failed to perform operation on queue 'a' in vhost '/' due to timeout",
        ] {
            let failure = Failure::refused(NOT_FOUND, text.to_owned());
            assert!(!failure.is_missing(), "{text}");
            assert!(failure.into_declare_error("amqp://a", "a").is_transient(), "{text}");
        }
    }

    #[test]
    fn a_mismatch_names_the_argument_and_both_values() {
        let text =
            "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'a' in vhost '/': received none but current is the value '3'";
        assert_eq!(differing(text), "x-max-length (received none but current is the value '3')");
        assert_eq!(differing("PRECONDITION_FAILED - else"), "PRECONDITION_FAILED - else");
    }

    #[test]
    fn a_mismatch_is_about_a_queue_or_about_an_exchange_however_long_the_names() {
        let refused = |rest: &str| Failure::refused(PRECONDITION_FAILED, format!("PRECONDITION_FAILED - inequivalent arg {rest}"));
        let queue =
            refused("'x-max-length' for queue 'a' in vhost '/': received the value '1000000' of type 'signedint' but current is none");
        assert_eq!((queue.differing_argument(), queue.exchange()), (Some("x-max-length"), None));
        assert!(matches!(queue.into_declare_error("amqp://a", "a"), QueueError::Mismatch { .. }));
        let cut_off = refused("'x-max-length-bytes' for queue 'a-name-as-long-as-th...");
        assert_eq!(cut_off.differing_argument(), Some("x-max-length-bytes"));
        let exchange = refused(
            "'alternate-exchange' for exchange 'a.tasks' in vhost '/': received the value 'a.unrouted' of type 'longstr' but current is none",
        );
        assert_eq!((exchange.differing_argument(), exchange.exchange()), (Some("alternate-exchange"), Some("a.tasks")));
        let error = exchange.into_declare_error("amqp://a", "a.tasks.default").to_string();
        assert!(
            error.starts_with("declare exchange a.tasks, which leads to queue a.tasks.default: it exists with another alternate-exchange"),
            "{error}"
        );
        let other = Failure::refused(NOT_FOUND, "NOT_FOUND - no queue 'inequivalent arg 'x'' in vhost '/'".to_owned());
        assert_eq!((other.mismatch(), other.differing_argument()), (None, None));
    }
}
