//! Who waits for a run, and who is in the next one.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use protocol::DeliveryId;
use tokio::{sync::oneshot, time::Instant};

use super::{Answer, Asked};

/// Lower comes first: higher priority, then earlier arrival.
pub(super) type Place = (Reverse<u8>, u64);

/// A payload that waits.
pub(super) struct Waiting {
    pub(super) asked: Asked,
    pub(super) size: u64,
    pub(super) since: Instant,
    /// `None`: nobody waits for it any more.
    pub(super) answer: Option<oneshot::Sender<Answer>>,
}

/// When a run starts, and what may be in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    /// Most payloads of a run, at least 1.
    pub(super) largest: usize,
    /// Most that their sizes may come to.
    pub(super) size_max: u64,
    /// Most runs beside each other, at least 1.
    pub(super) at_once: usize,
    /// How long the first waits for others.
    pub(super) wait: Duration,
}

/// Why it is looked whether a run can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// A payload joined, or has waited.
    Joined,
    /// A run ended: what gathered meanwhile has waited for long enough.
    RunEnded,
}

/// The payloads that wait, and the runs that are under way.
#[derive(Default)]
pub(super) struct Line {
    waiting: BTreeMap<Place, Waiting>,
    arrivals: u64,
    under_way: usize,
    /// The tasks of the run that ended last.
    answered: BTreeSet<DeliveryId>,
}

impl Line {
    /// Takes a payload in.
    pub(super) fn join(&mut self, asked: Asked, size: u64, since: Instant, answer: oneshot::Sender<Answer>) -> Place {
        self.arrivals += 1;
        let place = (Reverse(asked.task.priority), self.arrivals);
        self.waiting.insert(place, Waiting { asked, size, since, answer: Some(answer) });
        place
    }

    /// Takes a payload out. Whether it still waited.
    pub(super) fn leave(&mut self, place: Place) -> bool {
        self.waiting.remove(&place).is_some()
    }

    /// A run of these tasks is not under way any more.
    pub(super) fn run_ended(&mut self, tasks: BTreeSet<DeliveryId>) {
        self.under_way -= 1;
        self.answered = tasks;
    }

    /// The members of a run that is to start now, which counts as under way from here on. `more_may_come`: whether another task could begin while so many wait here.
    pub(super) fn next(
        &mut self,
        rule: &Rule,
        occasion: Occasion,
        now: Instant,
        more_may_come: impl FnOnce(usize) -> bool,
    ) -> Option<Vec<Waiting>> {
        if self.under_way >= rule.at_once || self.waiting.is_empty() {
            return None;
        }
        let (count, is_full) = self.first(rule);
        let starts_now = occasion == Occasion::RunEnded || is_full || self.goes_on() || self.has_waited(rule.wait, now);
        if !starts_now && more_may_come(self.tasks()) {
            return None;
        }
        self.under_way += 1;
        Some((0..count).filter_map(|_| Some(self.waiting.pop_first()?.1)).collect())
    }

    /// How many of the first may run together, at least 1, and whether no other could join them.
    fn first(&self, rule: &Rule) -> (usize, bool) {
        let (mut count, mut size) = (0, 0_u64);
        for waiting in self.waiting.values() {
            let larger = size.saturating_add(waiting.size);
            if count == rule.largest || (count > 0 && larger > rule.size_max) {
                return (count, true);
            }
            (count, size) = (count + 1, larger);
        }
        (count, count == rule.largest || size >= rule.size_max)
    }

    /// Whether the one that came first has waited for so long.
    fn has_waited(&self, wait: Duration, now: Instant) -> bool {
        self.waiting.values().any(|waiting| now.saturating_duration_since(waiting.since) >= wait)
    }

    /// Whether a task waits here that was in the run that ended last, as a batch does with its next items. It may come just after the end of that run was an occasion, and a batch that paused
    /// between its runs would leave the GPU idle for nothing.
    fn goes_on(&self) -> bool {
        self.waiting.values().any(|waiting| self.answered.contains(&waiting.asked.task.delivery))
    }

    /// How many tasks wait here: one may have brought many items.
    fn tasks(&self) -> usize {
        tasks(self.waiting.values()).len()
    }
}

/// The tasks that these payloads belong to.
pub(super) fn tasks<'a>(waiting: impl IntoIterator<Item = &'a Waiting>) -> BTreeSet<DeliveryId> {
    waiting.into_iter().map(|waiting| waiting.asked.task.delivery).collect()
}
