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
    /// It went elsewhere (forwarded, parked, refused, skipped): its credit keeps the standing it had, unless other deliveries have just shown that tasks
    /// wait. Without that exception a credit that was idle once would forward one task after another for as long as the backlog lasts.
    Elsewhere(Waits),
}

/// The open credits of one consumer, oldest first. `None`: an idle one.
#[derive(Debug)]
pub(crate) struct Credits {
    open: VecDeque<Option<Instant>>,
    /// When a delivery last showed that tasks wait.
    tasks_waited: Option<Instant>,
    /// How long it took lately from the ack that opened a credit to the delivery that took it up, smoothed.
    pace: Duration,
}

/// How many times as long it counts that tasks waited: a busy machine lets some deliveries come late.
pub(crate) const LATELY: u32 = 4;

/// A credit that was open for longer was idle; it tells nothing of the broker's pace.
const IDLE: Duration = Duration::from_millis(50);

impl Credits {
    /// All of a new consumer's credits are idle.
    pub(crate) fn new(prefetch: u16) -> Self {
        Self { open: (0..prefetch).map(|_| None).collect(), tasks_waited: None, pace: Duration::ZERO }
    }

    /// A delivery takes up the oldest credit. `within` is how soon after its birth means that tasks wait, at least; while the broker is slow, it is twice
    /// the pace that it has shown lately.
    pub(crate) fn delivered(&mut self, now: Instant, within: Duration) -> Waits {
        let Some(born) = self.open.pop_front().flatten() else { return Waits::Slots };
        let open_for = now.saturating_duration_since(born);
        if open_for <= within.max(self.pace * 2) {
            self.tasks_waited = Some(now);
        }
        if open_for <= IDLE {
            self.pace = (self.pace * 7 + open_for) / 8;
        }
        // Credits are taken up oldest first, so one of its age is taken up only where all the others are: and where tasks waited a moment ago, they wait still.
        let lately = within * LATELY;
        let waited_lately = self.tasks_waited.is_some_and(|at| now.saturating_duration_since(at) <= lately);
        if waited_lately && open_for <= lately { Waits::Tasks } else { Waits::Slots }
    }

    /// A settled delivery opens a credit. `within` as in [`Credits::delivered`].
    pub(crate) fn settled(&mut self, now: Instant, how: Settled, within: Duration) {
        let fresh = match how {
            Settled::AfterRun | Settled::Elsewhere(Waits::Tasks) => true,
            Settled::Elsewhere(Waits::Slots) => self.tasks_waited.is_some_and(|at| now.saturating_duration_since(at) <= within),
        };
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
        credits.settled(after(start, 100), Settled::AfterRun, WITHIN);
        assert_eq!(credits.delivered(after(start, 102), WITHIN), Waits::Tasks);
        credits.settled(after(start, 200), Settled::AfterRun, WITHIN);
        assert_eq!(credits.delivered(after(start, 220), WITHIN), Waits::Slots);
    }

    #[test]
    fn where_tasks_waited_a_moment_ago_a_delivery_that_comes_late_means_the_same() {
        let (mut credits, start) = (Credits::new(2), Instant::now());
        assert!((0..2).all(|_| credits.delivered(start, WITHIN) == Waits::Slots));
        (0..2).for_each(|_| credits.settled(after(start, 100), Settled::AfterRun, WITHIN));
        assert_eq!(credits.delivered(after(start, 101), WITHIN), Waits::Tasks);
        assert_eq!(credits.delivered(after(start, 115), WITHIN), Waits::Tasks, "the machine is busy");
        credits.settled(after(start, 130), Settled::AfterRun, WITHIN);
        assert_eq!(credits.delivered(after(start, 145), WITHIN), Waits::Slots, "nothing has shown it lately");
    }

    #[test]
    fn while_a_credit_lies_idle_slots_wait_however_soon_the_delivery_comes() {
        let (mut credits, start) = (Credits::new(2), Instant::now());
        credits.delivered(start, WITHIN);
        credits.settled(after(start, 10), Settled::AfterRun, WITHIN);
        assert_eq!(credits.delivered(after(start, 11), WITHIN), Waits::Slots, "the second credit was never used");
    }

    #[test]
    fn a_task_that_goes_elsewhere_leaves_its_credit_as_it_was() {
        let (mut credits, start) = (Credits::new(1), Instant::now());
        credits.delivered(start, WITHIN);
        credits.settled(start, Settled::Elsewhere(Waits::Slots), WITHIN);
        assert_eq!(credits.delivered(start, WITHIN), Waits::Slots);
        credits.settled(start, Settled::AfterRun, WITHIN);
        assert_eq!(credits.delivered(start, WITHIN), Waits::Tasks);
        credits.settled(start, Settled::Elsewhere(Waits::Tasks), WITHIN);
        assert_eq!(credits.delivered(start, WITHIN), Waits::Tasks);
    }

    #[test]
    fn in_a_backlog_an_idle_credit_forwards_once_and_no_more() {
        let (mut credits, start) = (Credits::new(2), Instant::now());
        credits.delivered(start, WITHIN);
        credits.settled(after(start, 50), Settled::AfterRun, WITHIN);
        assert_eq!(credits.delivered(after(start, 51), WITHIN), Waits::Slots, "the idle credit comes first");
        assert_eq!(credits.delivered(after(start, 52), WITHIN), Waits::Tasks);
        credits.settled(after(start, 53), Settled::Elsewhere(Waits::Slots), WITHIN);
        assert_eq!(credits.delivered(after(start, 54), WITHIN), Waits::Tasks, "others have just shown that tasks wait");
    }

    #[test]
    fn a_slow_broker_does_not_look_like_an_idle_fleet_and_an_idle_fleet_not_like_a_slow_broker() {
        let gaps = |ms: u64| {
            let (mut credits, mut now) = (Credits::new(1), Instant::now());
            credits.delivered(now, WITHIN);
            let mut last = Waits::Slots;
            for _ in 0..40 {
                credits.settled(now, Settled::AfterRun, WITHIN);
                now = after(now, ms);
                last = credits.delivered(now, WITHIN);
            }
            last
        };
        assert_eq!(gaps(20), Waits::Tasks, "every credit is taken up after 20 ms: that is the pace");
        assert_eq!(gaps(60), Waits::Slots);
    }
}
