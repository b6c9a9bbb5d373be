//! What can go wrong with the table.

/// An operation on the table that failed. Never fatal: work that is held goes on, placement waits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The table's server cannot be reached, or did not answer in time. The operation may have happened; every operation is idempotent. Retry.
    #[error("{operation}: the table at {url} does not answer: {reason}")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// The server, without its password.
        url: String,
        /// Why.
        reason: String,
    },
    /// The table's URL is not one. Nobody's retry helps.
    #[error("the table's URL {url} is not valid: {reason}")]
    BadUrl {
        /// The URL, without its password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server answered something that no version of this program writes.
    #[error("{operation}: the table's answer is not understood: {answer}")]
    Garbled {
        /// What was tried.
        operation: &'static str,
        /// What came, shortened.
        answer: String,
    },
    /// Others changed the settings again and again before this change could be written.
    #[error("change the settings: somebody else was faster {tries} times; see who changes them all the time, and try again")]
    Contended {
        /// How often it was tried.
        tries: u32,
    },
    /// The pool has as many names of tensors as it may.
    #[error(
        "announce tensors: {refused} of them are not known to the fleet, for the pool has {names_max} names, the most that it may; free tensors, or keep them for a shorter time"
    )]
    TooManyTensors {
        /// How many records were not kept.
        refused: usize,
        /// How many names a pool may have.
        names_max: usize,
    },
}

impl TableError {
    /// Whether a later retry can succeed without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Contended { .. })
    }

    /// What came of announcing tensors of which so many were refused.
    pub(crate) const fn if_refused(refused: usize, names_max: usize) -> Result<(), Self> {
        if refused == 0 { Ok(()) } else { Err(Self::TooManyTensors { refused, names_max }) }
    }
}
