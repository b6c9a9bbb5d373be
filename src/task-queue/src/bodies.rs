//! Memory for bodies: one budget for all that a process has in hand.
//!
//! Whoever takes a body in takes a share of the budget first, and gives it back by dropping it. The budget bounds the bodies as they arrive, not what is made of them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Shares are counted in units of so many bytes: a semaphore hands out at most `u32::MAX` permits at once.
const UNIT_BYTES: usize = 1_024;

/// The bytes of bodies that a process may have in hand. Clones share them.
#[derive(Debug, Clone)]
pub struct BodyBudget {
    free: Arc<Semaphore>,
    units: u32,
}

/// A part of a [`BodyBudget`], until it is dropped.
#[derive(Debug)]
#[must_use = "a share that is dropped is given back"]
pub struct BodyShare(OwnedSemaphorePermit);

impl BodyBudget {
    /// A budget of so many MB (10^6 bytes), of which nothing is taken.
    #[must_use]
    pub fn new(mb: u32) -> Self {
        let units = u64::from(mb) * 1_000_000 / UNIT_BYTES as u64;
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// A share for a body of so many bytes; `None` if there is too little left, or if others wait. A body larger than the whole budget takes all of it.
    #[must_use]
    pub fn try_take(&self, bytes: usize) -> Option<BodyShare> {
        Arc::clone(&self.free).try_acquire_many_owned(self.units_of(bytes)).ok().map(BodyShare)
    }

    /// A share of nothing yet, for a body that arrives bit by bit.
    ///
    /// # Panics
    /// Never: nobody closes a budget, and nothing is always left.
    pub fn empty_share(&self) -> BodyShare {
        BodyShare(Arc::clone(&self.free).try_acquire_many_owned(0).expect("nothing is always left"))
    }

    /// Makes `share`, which is of this budget, as large as a body of so many bytes needs it. False: there is too little left, or others wait; nothing changed. A body larger than the whole
    /// budget takes all of it.
    ///
    /// # Panics
    /// If the share is of another budget.
    #[must_use]
    pub fn try_grow(&self, share: &mut BodyShare, bytes: usize) -> bool {
        let has = u32::try_from(share.0.num_permits()).unwrap_or(u32::MAX);
        let more = self.units_of(bytes).saturating_sub(has);
        let Ok(taken) = Arc::clone(&self.free).try_acquire_many_owned(more) else { return false };
        share.0.merge(taken);
        true
    }

    /// Waits for a share for a body of so many bytes, in the order of the calls. A body larger than the whole budget waits for all of it, and so goes alone.
    ///
    /// Has no time limit of its own. Cancel safe: it loses its place in the order.
    pub async fn take(&self, bytes: usize) -> BodyShare {
        let share = Arc::clone(&self.free).acquire_many_owned(self.units_of(bytes)).await;
        BodyShare(share.expect("nobody closes a budget"))
    }

    /// Whether [`BodyBudget::try_take`] would give a share right now.
    #[must_use]
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.free.available_permits() >= self.units_of(bytes) as usize
    }

    /// The bytes that are taken, those included that are set aside for who waits.
    #[must_use]
    pub fn in_use_bytes(&self) -> usize {
        (self.units as usize).saturating_sub(self.free.available_permits()) * UNIT_BYTES
    }

    /// The bytes of the whole budget.
    #[must_use]
    pub const fn size_bytes(&self) -> usize {
        self.units as usize * UNIT_BYTES
    }

    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn above_the_budget_who_takes_waits_until_a_share_is_dropped() {
        let budget = BodyBudget::new(1);
        let first = budget.try_take(600_000).unwrap();
        assert!(budget.try_take(600_000).is_none() && !budget.has_room_for(600_000));
        let mut second = Box::pin(budget.take(600_000));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        let second = second.now_or_never().unwrap();
        assert_eq!(budget.in_use_bytes(), 600_000_usize.next_multiple_of(UNIT_BYTES));
        drop(second);
        assert_eq!(budget.in_use_bytes(), 0);
    }

    #[test]
    fn shares_are_given_in_the_order_of_the_calls_and_a_small_body_overtakes_no_large_one() {
        let budget = BodyBudget::new(1);
        let first = budget.try_take(500_000).unwrap();
        let mut large = Box::pin(budget.take(900_000));
        assert!(large.as_mut().now_or_never().is_none());
        let mut small = Box::pin(budget.take(200_000));
        assert!(small.as_mut().now_or_never().is_none() && budget.try_take(1).is_none());
        drop(first);
        let large = large.now_or_never().unwrap();
        assert!(small.as_mut().now_or_never().is_none());
        drop(large);
        assert!(small.now_or_never().is_some());
    }

    #[test]
    fn who_waits_no_longer_gives_back_what_was_set_aside_for_it() {
        let budget = BodyBudget::new(1);
        let first = budget.try_take(500_000).unwrap();
        let mut large = Box::pin(budget.take(900_000));
        assert!(large.as_mut().now_or_never().is_none());
        drop(large);
        assert!(budget.try_take(400_000).is_some());
        drop(first);
        assert_eq!(budget.in_use_bytes(), 0);
    }

    #[test]
    fn a_body_larger_than_the_budget_goes_alone() {
        let budget = BodyBudget::new(1);
        let small = budget.try_take(1).unwrap();
        assert!(budget.try_take(8_000_000).is_none());
        drop(small);
        let large = budget.try_take(8_000_000).unwrap();
        assert_eq!(budget.in_use_bytes(), budget.size_bytes());
        assert!(budget.try_take(1).is_none());
        drop(large);
        assert_eq!(budget.in_use_bytes(), 0);
    }

    #[test]
    fn a_share_grows_while_there_is_something_left() {
        let budget = BodyBudget::new(1);
        let (mut one, mut other) = (budget.empty_share(), budget.empty_share());
        assert_eq!(budget.in_use_bytes(), 0);
        assert!(budget.try_grow(&mut one, 600_000) && budget.try_grow(&mut one, 1));
        assert_eq!(budget.in_use_bytes(), 600_000_usize.next_multiple_of(UNIT_BYTES), "it only grows");
        assert!(budget.try_grow(&mut other, 300_000) && !budget.try_grow(&mut other, 600_000));
        drop(one);
        assert!(budget.try_grow(&mut other, 8_000_000));
        assert_eq!(budget.in_use_bytes(), budget.size_bytes());
        drop(other);
        assert_eq!(budget.in_use_bytes(), 0);
    }

    #[test]
    fn a_budget_of_any_size_can_be_made() {
        assert_eq!(BodyBudget::new(256).size_bytes(), 256_000_000);
        assert!(BodyBudget::new(u32::MAX).try_take(usize::MAX).is_some());
    }
}
