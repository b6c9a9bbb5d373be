//! What can go wrong with the store.

/// An operation on the store that failed. The delivery that needed it stays unacked meanwhile, so nothing is lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store's server cannot be reached, or did not answer in time. The operation may have happened; every operation is idempotent. Retry.
    #[error("{operation}: the store at {url} does not answer: {reason}")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// The server, without its password.
        url: String,
        /// Why.
        reason: String,
    },
    /// The URL is not one of a Redis server.
    #[error("connect: {url} is not a Redis URL (redis://[user:password@]host[:port][/database]): {reason}")]
    BadUrl {
        /// The URL, without its password.
        url: String,
        /// Why.
        reason: String,
    },
    /// The server answered something that no version of this program writes.
    #[error("{operation}: the store's answer is not understood: {answer}")]
    Garbled {
        /// What was tried.
        operation: &'static str,
        /// What came, shortened.
        answer: String,
    },
}

impl StoreError {
    /// Whether a later retry can succeed without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
