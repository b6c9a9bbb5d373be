//! What goes wrong when the fleet is observed.

use gpu_table::TableError;
use task_queue::QueueError;
use task_store::StoreError;

/// The fleet could not be observed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The store, or its journal, does not say.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The table does not say.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The broker does not say.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A server took too long.
    #[error("ask the {server}: no answer within {after_ms} ms")]
    NoAnswer {
        /// `broker`, `store` or `table`.
        server: &'static str,
        /// How long was waited.
        after_ms: u128,
    },
    /// A server did not answer when it was last asked.
    #[error("the {server} does not answer, and what it last said is too old to go by")]
    Away {
        /// `broker`, `store` or `table`.
        server: &'static str,
    },
    /// Nothing is known yet.
    #[error("nothing was heard of the fleet yet; the journal may be long: try again in a moment")]
    NotYet,
}

impl ObserveError {
    /// Whether a later try can succeed without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Table(error) => error.is_transient(),
            Self::Queue(error) => error.is_transient(),
            Self::NoAnswer { .. } | Self::Away { .. } | Self::NotYet => true,
        }
    }
}
