//! Do tasks wait, or do slots wait?
//!
//! The broker holds back deliveries while a consumer has `prefetch` of them unacked; every settled delivery gives it one *credit* more. If tasks
//! wait in the queue, the next delivery follows the ack at once. If slots wait, a credit lies idle until a task comes. So a delivery that
//! takes up a credit born a few milliseconds ago, from the end of a run, says that tasks wait; credits are taken up oldest first, so a
//! delivery that finds an idle one says that slots wait.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Whether tasks or slots wait, as one delivery shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// Tasks: every free slot takes the next task.
    Tasks,
    /// Slots: the strategy chooses.
    Slots,
}

/// How a delivery was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Its task ran here and ended.
    AfterRun,
    /// It went elsewhere (forwarded, parked, refused, skipped): its credit keeps the standing it had.
    Elsewhere(Waits),
}

/// The open credits of one consumer, oldest first. `None`: an idle one.
#[derive(Debug)]
pub(crate) struct Credits {
    open: VecDeque<Option<Instant>>,
}

impl Credits {
    /// All of a new consumer's credits are idle.
    pub(crate) fn new(prefetch: u16) -> Self {
        Self { open: (0..prefetch).map(|_| None).collect() }
    }

    /// A delivery takes up the oldest credit. `within` is how soon after its birth means that tasks wait.
    pub(crate) fn delivered(&mut self, now: Instant, within: Duration) -> Waits {
        match self.open.pop_front().flatten() {
            Some(born) if now.saturating_duration_since(born) <= within => Waits::Tasks,
            _ => Waits::Slots,
        }
    }

    /// A settled delivery opens a credit.
    pub(crate) fn settled(&mut self, now: Instant, how: Settled) {
        let fresh = matches!(how, Settled::AfterRun | Settled::Elsewhere(Waits::Tasks));
        self.open.push_back(fresh.then_some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_millis(5);

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn the_first_fill_is_chosen_by_the_strategy() {
        let mut credits = Credits::new(3);
        let now = Instant::now();
        assert!((0..3).all(|_| credits.delivered(now, WITHIN) == Waits::Slots));
    }

    #[test]
    fn a_delivery_right_after_the_end_of_a_run_means_that_tasks_wait() {
        let (mut credits, start) = (Credits::new(1), Instant::now());
        credits.delivered(start, WITHIN);
        credits.settled(after(start, 100), Settled::AfterRun);
        assert_eq!(credits.delivered(after(start, 102), WITHIN), Waits::Tasks);
        credits.settled(after(start, 200), Settled::AfterRun);
        assert_eq!(credits.delivered(after(start, 220), WITHIN), Waits::Slots);
    }

    #[test]
    fn while_a_credit_lies_idle_slots_wait_however_soon_the_delivery_comes() {
        let (mut credits, start) = (Credits::new(2), Instant::now());
        credits.delivered(start, WITHIN);
        credits.settled(after(start, 10), Settled::AfterRun);
        assert_eq!(credits.delivered(after(start, 11), WITHIN), Waits::Slots, "the second credit was never used");
    }

    #[test]
    fn a_task_that_goes_elsewhere_leaves_its_credit_as_it_was() {
        let (mut credits, start) = (Credits::new(1), Instant::now());
        credits.delivered(start, WITHIN);
        credits.settled(start, Settled::Elsewhere(Waits::Slots));
        assert_eq!(credits.delivered(start, WITHIN), Waits::Slots);
        credits.settled(start, Settled::AfterRun);
        assert_eq!(credits.delivered(start, WITHIN), Waits::Tasks);
        credits.settled(start, Settled::Elsewhere(Waits::Tasks));
        assert_eq!(credits.delivered(start, WITHIN), Waits::Tasks);
    }
}
