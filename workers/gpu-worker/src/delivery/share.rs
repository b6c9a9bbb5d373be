//! A body's share of the memory for bodies.

use bytes::Bytes;
use task_queue::{BodyBudget, BodyShare};

/// Smaller bodies take no share: the prefetch bounds how many there are, and a task that is small and quick pays for no budget.
const SMALL_BYTES: usize = 16 * 1_024;

/// What a body in hand has of the process's memory for bodies, until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Share {
    /// `None`: the body is small.
    _taken: Option<BodyShare>,
}

impl Share {
    /// The body's share, if it is to be had right now.
    pub(crate) fn at_once(budget: &BodyBudget, body: &Bytes) -> Option<Self> {
        if is_small(body.len()) {
            return Some(Self::default());
        }
        budget.try_take(body.len()).map(|share| Self { _taken: Some(share) })
    }

    /// Waits for the body's share. Has no time limit of its own. Cancel safe.
    pub(crate) async fn wait(budget: &BodyBudget, body: &Bytes) -> Self {
        if is_small(body.len()) {
            return Self::default();
        }
        Self { _taken: Some(budget.take(body.len()).await) }
    }

    /// Whether a body of so many bytes would have its share right now.
    pub(crate) fn is_there_for(budget: &BodyBudget, bytes: usize) -> bool {
        is_small(bytes) || budget.has_room_for(bytes)
    }
}

const fn is_small(bytes: usize) -> bool {
    bytes < SMALL_BYTES
}
