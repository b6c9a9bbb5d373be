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

    /// The body's share, if it is to be had right now and leaves half of the budget to others: for what may be in hand for long.
    pub(crate) fn beside_others(budget: &BodyBudget, body: &Bytes) -> Option<Self> {
        let half = budget.size_bytes() / 2;
        let leaves_half = body.len() <= half && budget.has_room_for(body.len() + half);
        if leaves_half || is_small(body.len()) { Self::at_once(budget, body) } else { None }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_in_hand_for_long_leaves_half_of_the_budget_to_others() {
        let (budget, small) = (BodyBudget::new(1), Bytes::from_static(b"{}"));
        let [medium, large] = [400_000, 600_000].map(|bytes| Bytes::from(vec![b'x'; bytes]));
        assert!(Share::beside_others(&budget, &large).is_none());
        let first = Share::beside_others(&budget, &medium);
        assert!(first.is_some() && Share::beside_others(&budget, &medium).is_none());
        assert!(Share::at_once(&budget, &medium).is_some(), "there is room for what runs");
        assert!(Share::beside_others(&budget, &small).is_some());
        drop(first);
        assert!(Share::beside_others(&budget, &medium).is_some());
    }
}
