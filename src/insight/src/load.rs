//! How much work there is and how many slots there are for it: what verdicts and scaling have in common.

use std::collections::BTreeMap;

use protocol::{Kind, gpu::GpuView};

use crate::{Observed, PriorityNumbers};

/// By how much the slots must exceed the work that comes, as a share of it: at less the wait grows with every chance gathering of tasks.
const HEADROOM: f64 = 0.15;

/// The share of the wait's objective within which the backlog is to be drained. The rest goes by until more workers are there.
const DRAIN_SHARE: f64 = 0.5;

/// The work that waits and comes, in slot time by the learnt run times, and the slots of the GPUs that take tasks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Load {
    /// Tasks that wait.
    pub(crate) waiting: u64,
    /// Those of them that more of the GPUs that there are could run: not those that no GPU of the fleet could ever run.
    pub(crate) servable: u64,
    /// Age of the oldest of them, in ms; 0 where none waits.
    pub(crate) oldest_ms: u64,
    /// What those will take, in ms of a slot. Kinds that nothing is known of count as the mean of the others.
    pub(crate) waiting_slot_ms: f64,
    /// What comes, in ms of a slot per ms: that many slots would be busy with it.
    pub(crate) arriving: f64,
    /// Tasks that arrived in the window.
    pub(crate) arrived: u64,
    /// What a task takes on average, in ms. `None`: nothing is learnt yet.
    pub(crate) mean_run_ms: Option<f64>,
    /// GPUs that take tasks.
    pub(crate) workers: u64,
    /// Their slots.
    pub(crate) slots: u64,
    /// Those of these slots that are held.
    pub(crate) held: u64,
    /// Slots that are held on all living GPUs.
    pub(crate) held_anywhere: u64,
}

impl Load {
    pub(crate) fn of(observed: &Observed<'_>) -> Self {
        let activity = observed.activity;
        let by_kind = waiting_by_kind(observed);
        let of_known_kinds: u64 = by_kind.values().sum();
        let indexed: u64 = activity.priorities.iter().map(PriorityNumbers::waiting_tasks).sum();
        let waiting = indexed.max(observed.ready.unwrap_or(0));
        let mean_run_ms = mean_run_ms(observed);
        let unserved = |kind: &Kind| activity.unserved_kinds.get(kind).copied().unwrap_or(0);
        let known =
            by_kind.iter().map(|(kind, count)| count.saturating_sub(unserved(kind)) as f64 * run_ms_or(observed, kind, mean_run_ms));
        let known: f64 = known.sum();
        let unknown = waiting.saturating_sub(of_known_kinds) as f64 * mean_run_ms.unwrap_or(0.0);
        let arriving = if activity.window_ms == 0 { 0.0 } else { activity.arrived as f64 / activity.window_ms as f64 };
        let serving = || observed.gpus.iter().filter(|view| view.eligible);
        Self {
            waiting,
            servable: waiting.saturating_sub(activity.unserved),
            oldest_ms: oldest_ms(observed),
            waiting_slot_ms: known + unknown,
            arriving: arriving * mean_run_ms.unwrap_or(0.0),
            arrived: activity.arrived,
            mean_run_ms,
            workers: serving().count() as u64,
            slots: serving().map(slots).sum(),
            held: serving().map(|view| u64::from(view.held)).sum(),
            held_anywhere: observed.gpus.iter().map(|view| u64::from(view.held)).sum(),
        }
    }

    /// In how many ms the last waiting task would begin with the slots that there are. `None`: there are none, or nothing is learnt.
    pub(crate) fn drained_in_ms(&self) -> Option<f64> {
        match (self.waiting, self.slots, self.mean_run_ms) {
            (0, ..) => Some(0.0),
            (_, 0, _) | (_, _, None) => None,
            _ => Some(self.waiting_slot_ms / self.slots as f64),
        }
    }

    /// Whether tasks wait longer than they should, or will by what is learnt.
    pub(crate) fn is_late(&self, objective_ms: u64) -> bool {
        self.waiting > 0 && (self.oldest_ms > objective_ms || self.drained_in_ms().is_some_and(|ms| ms > objective_ms as f64))
    }

    /// The share of the slots that is held, 0 to 1. No slots are all held.
    pub(crate) fn busy(&self) -> f64 {
        if self.slots == 0 { 1.0 } else { (self.held as f64 / self.slots as f64).min(1.0) }
    }

    /// How many slots would hold the objective of the wait: enough for what comes, with headroom, and for the backlog to be drained in time. `None`: nothing is learnt of the tasks that wait.
    pub(crate) fn needed_slots(&self, objective_ms: u64) -> Option<f64> {
        let objective_ms = objective_ms.max(1) as f64;
        let Some(mean_run_ms) = self.mean_run_ms else { return (self.waiting == 0).then_some(0.0) };
        // Where a task takes long against the objective, no slot comes free in time for those that chance gathers.
        let gathered = self.arriving.sqrt() * (mean_run_ms / objective_ms).min(1.0);
        let with_headroom = self.arriving + gathered.max(self.arriving * HEADROOM);
        // One long task in a short window looks like many slots of work, and can use but one.
        let known = (self.arrived + self.servable + self.held_anywhere) as f64;
        let mut serving = with_headroom.min(known);
        if mean_run_ms > objective_ms {
            serving = serving.max(self.held_anywhere as f64);
        }
        Some(serving + self.draining_slots(objective_ms))
    }

    /// How many slots drain the backlog in time: no more than there are tasks in it that they can run.
    pub(crate) fn draining_slots(&self, objective_ms: f64) -> f64 {
        (self.waiting_slot_ms / (objective_ms * DRAIN_SHARE)).min(self.servable as f64)
    }
}

/// The slots of a GPU.
pub(crate) fn slots(view: &GpuView) -> u64 {
    u64::from(view.row.slots)
}

/// Waiting tasks by kind, as far as the index tells them apart.
pub(crate) fn waiting_by_kind<'a>(observed: &Observed<'a>) -> BTreeMap<&'a Kind, u64> {
    let mut by_kind = BTreeMap::new();
    for priority in &observed.activity.priorities {
        for (kind, count) in priority.waiting.iter().filter(|(_, count)| **count > 0) {
            *by_kind.entry(kind).or_insert(0) += count;
        }
    }
    by_kind
}

/// The age of the oldest waiting task of all, in ms.
pub(crate) fn oldest_ms(observed: &Observed<'_>) -> u64 {
    observed.activity.priorities.iter().map(|priority| priority.oldest_ms).max().unwrap_or(0)
}

/// What a task of the kind takes by what is learnt: from the journal, else as the GPUs' rows say.
pub(crate) fn learnt_run_ms(observed: &Observed<'_>, kind: &Kind) -> Option<f64> {
    let learnt = observed.activity.kinds.get(kind).map(|numbers| numbers.learnt_run_ms).filter(|ms| *ms > 0.0);
    learnt.or_else(|| mean(observed.gpus.iter().filter_map(|view| view.row.run_ms.get(kind).copied())))
}

fn run_ms_or(observed: &Observed<'_>, kind: &Kind, mean_run_ms: Option<f64>) -> f64 {
    learnt_run_ms(observed, kind).or(mean_run_ms).unwrap_or(0.0)
}

/// What a task takes on average, of the kinds that begin and wait; where there are none, of all that something is known of.
fn mean_run_ms(observed: &Observed<'_>) -> Option<f64> {
    let waiting = waiting_by_kind(observed);
    let mut kinds: BTreeMap<&Kind, u64> = observed.activity.kinds.iter().map(|(kind, numbers)| (kind, numbers.began)).collect();
    for (kind, count) in waiting {
        *kinds.entry(kind).or_insert(0) += count;
    }
    let learnt = kinds.into_iter().filter_map(|(kind, tasks)| Some((learnt_run_ms(observed, kind)?, tasks as f64)));
    let (slot_ms, tasks) = learnt.fold((0.0, 0.0), |(slot_ms, sum), (run_ms, tasks)| (run_ms.mul_add(tasks, slot_ms), sum + tasks));
    if tasks > 0.0 {
        return Some(slot_ms / tasks);
    }
    let of_journal = mean(observed.activity.kinds.values().map(|numbers| numbers.learnt_run_ms).filter(|ms| *ms > 0.0));
    of_journal.or_else(|| mean(observed.gpus.iter().flat_map(|view| view.row.run_ms.values().copied())))
}

pub(crate) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}
