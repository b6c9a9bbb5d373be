//! What can go wrong when a message travels.

/// A publish that did not end in a queue (or may not have).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The broker returned the message: no queue has that name. Retrying changes nothing until somebody declares it.
    #[error("publish to {target}: no such queue, the broker returned the message")]
    Unroutable {
        /// Where it should have gone.
        target: String,
    },
    /// The queue exists, but the broker's node that has it is down; the message was returned. Retry, or do something else meanwhile.
    #[error("publish to {target}: the queue exists, but it cannot be reached now: {reason}")]
    Inaccessible {
        /// Where it should have gone.
        target: String,
        /// The broker's words.
        reason: String,
    },
    /// The queue is at its bound and refuses new messages.
    #[error("publish to {target}: the queue is full")]
    Full {
        /// Where it should have gone.
        target: String,
    },
    /// The broker blocks publishers (memory or disk alarm).
    #[error("publish to {target}: the broker blocks publishers: {reason}")]
    Blocked {
        /// Where it should have gone.
        target: String,
        /// The broker's words.
        reason: String,
    },
    /// No confirm came in time. The message may be in the queue: a retry may make a copy, which identity makes harmless.
    #[error("publish to {target}: no confirm within {after_ms} ms")]
    Timeout {
        /// Where it should have gone.
        target: String,
        /// How long was waited.
        after_ms: u64,
    },
    /// The connection is down or broke meanwhile. The message may be in the queue.
    #[error("publish to {target}: not connected: {reason}")]
    Disconnected {
        /// Where it should have gone.
        target: String,
        /// Why.
        reason: String,
    },
    /// The message itself cannot be sent (a property too long for AMQP, say). A retry fails again.
    #[error("publish to {target}: the message cannot be sent: {reason}")]
    Refused {
        /// Where it should have gone.
        target: String,
        /// Why.
        reason: String,
    },
}

impl PublishError {
    /// No confirm came within `waited`.
    pub(crate) fn timeout(target: String, waited: std::time::Duration) -> Self {
        Self::Timeout { target, after_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX) }
    }

    /// Whether a later retry can succeed without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        !matches!(self, Self::Unroutable { .. } | Self::Refused { .. })
    }

    /// Whether the broker as a whole is away or takes nothing: a publish to another queue would fail too.
    #[must_use]
    pub const fn is_of_the_broker(&self) -> bool {
        matches!(self, Self::Blocked { .. } | Self::Disconnected { .. })
    }
}

/// An operation on a queue or a delivery that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The broker cannot be reached. Retry.
    #[error("reach the broker at {url}: {reason}")]
    Unreachable {
        /// The broker, without its password.
        url: String,
        /// Why.
        reason: String,
    },
    /// What listens there lets nobody in: a wrong login or virtual host, or no AMQP. Somebody must change something.
    #[error("connect to {url}: {reason}")]
    NotAdmitted {
        /// The broker, without its password.
        url: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The queue exists, but the broker's node that has it is down, or somebody is just creating it. Retry.
    #[error("{operation}: the queue exists, but it cannot be reached now: {reason}")]
    Inaccessible {
        /// What was tried.
        operation: String,
        /// The broker's words.
        reason: String,
    },
    /// The queue exists with other arguments. Somebody must delete it or change the configuration.
    #[error("declare queue {queue}: it exists with another {argument}; delete the queue when it is empty, or configure the value it has")]
    Mismatch {
        /// The queue.
        queue: String,
        /// The argument, its wanted and its present value, in the broker's words.
        argument: String,
    },
    /// The delivery's channel is gone; the broker delivers the message again. Nothing to do.
    #[error("settle a delivery: its channel is gone, the broker will deliver it again")]
    Stale,
    /// The broker refused the operation.
    #[error("{operation}: {reason}")]
    Refused {
        /// What was tried.
        operation: String,
        /// The broker's words.
        reason: String,
    },
    /// The queue was closed by this process.
    #[error("the queue is closed")]
    Closed,
}

impl QueueError {
    /// Whether a later retry can succeed without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Inaccessible { .. } | Self::Stale)
    }
}
