//! When a task will probably begin: the line of those that wait is acted out on the slots of the fleet, by the learnt run times.
//!
//! What comes later with a higher priority is reckoned with, too: as much of it as came lately. It does not know of models that must be loaded, tensors that must be brought, and batches.

mod acting;
mod costs;
mod fleet;
#[cfg(test)]
mod tests;

use gpu_table::Wanted;
use protocol::{GpuId, Kind, Needs, TaskId, TaskState};

use self::{
    acting::{Line, Place},
    costs::Costs,
    fleet::Fleet,
};
use crate::{
    Observed, PriorityNumbers,
    index::{Arrivals, Record, TaskIndex, Turn},
};

/// Later arrivals of higher priority may take at most this share of the fleet, or a task would seem to wait for ever.
const LATER_SHARE_MAX: f64 = 0.9;
/// For how much longer than a task should wait others are acted out that come meanwhile.
const HORIZON: f64 = 1.5;
/// So many of these are acted out; more count by the share of the fleet that they take.
const LATER_MAX: f64 = 5_000.0;
/// What a task wants whose kind is not known: anything.
const ANYTHING: Class<'static> = Class { kind: None, needs: None, only: None, is_on_its_way: false };

/// In how many ms a task of this priority (and kind, if that matters) that comes now will probably begin. `None`: no GPU takes such tasks, or no run of anything has ended yet.
#[must_use]
pub fn expected_wait_ms(observed: &Observed<'_>, priority: u8, kind: Option<&Kind>) -> Option<f64> {
    let costs = Costs::of_activity(observed.activity);
    let fleet = Fleet::of_rows(observed, &costs);
    let mut line = Line::new(&fleet, &costs);
    let below_top = 9 - priority.min(9);
    for (level, numbers) in observed.activity.priorities.iter().enumerate().skip(usize::from(priority.min(9))) {
        for (kind, count) in &numbers.waiting {
            let class = line.class(Class { kind: Some(kind), ..ANYTHING });
            line.add_evenly(class, 9 - level as u8, *count);
        }
        let class = line.class(ANYTHING);
        line.add_evenly(class, 9 - level as u8, numbers.waiting_others);
    }
    let known: u64 = observed.activity.priorities.iter().map(PriorityNumbers::waiting_tasks).sum();
    if priority == 0 {
        line.add_unknown(unknown(observed, known));
    }
    let class = line.class(Class { kind, ..ANYTHING });
    let turn = Turn { below_top, since_ms: u64::MAX, number: u64::MAX };
    begins_with_later(&mut line, Place { class, turn, due_ms: 0.0 }, &arrivals_of_activity(observed))
}

/// The same for each priority, whatever the kind.
#[must_use]
pub fn expected_waits_ms(observed: &Observed<'_>) -> [Option<f64>; 10] {
    let mut waits_ms = [None; 10];
    for (priority, wait_ms) in (0_u8..).zip(&mut waits_ms) {
        *wait_ms = expected_wait_ms(observed, priority, None);
    }
    waits_ms
}

/// In how many ms a task that waits, is delayed or is to be tried again will probably begin. `None`: it is not known, runs, has ended, no GPU takes such tasks now, or no run of anything has ended yet.
#[must_use]
pub fn begins_in_ms(observed: &Observed<'_>, index: &TaskIndex, task_id: &TaskId) -> Option<f64> {
    let record = index.record(task_id)?;
    if !matches!(record.state, TaskState::Waiting | TaskState::Delayed | TaskState::Retrying) || record.is_unserved() {
        return None;
    }
    let costs = Costs::of_index(index);
    let fleet = Fleet::of_index(observed, index, &costs);
    let mut line = Line::new(&fleet, &costs);
    let class = line.class(Class::of(record));
    let place = Place { class, turn: turn(record), due_ms: due_in_ms(record, observed.now_ms) };
    let waiting = [TaskState::Waiting, TaskState::Retrying, TaskState::Delayed].into_iter().flat_map(|state| index.in_state(state));
    for other in waiting.filter(|other| other.pool == record.pool && !std::ptr::eq(*other, record) && !other.is_unserved()) {
        let (turn, due_ms) = (turn(other), due_in_ms(other, observed.now_ms));
        // What comes after it in the line is before it only while it is not due.
        if turn < place.turn || due_ms < place.due_ms {
            let class = line.class(Class::of(other));
            line.add(Place { class, turn, due_ms });
        }
    }
    if place.turn.below_top == 9 {
        line.add_unknown(unknown(observed, index.in_state(TaskState::Waiting).count() as u64));
    }
    begins_with_later(&mut line, place, &index.arrivals(observed.now_ms))
}

/// What a task asks of a GPU, as far as it is known. Tasks that ask the same are of one class.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Class<'a> {
    kind: Option<&'a Kind>,
    needs: Option<&'a Needs>,
    only: Option<&'a GpuId>,
    /// It went to that GPU, and takes its next slot.
    is_on_its_way: bool,
}

impl<'a> Class<'a> {
    fn of(record: &'a Record) -> Self {
        let forwarded_to = record.gpu.as_deref().filter(|_| record.is_forwarded);
        let is_on_its_way = forwarded_to.is_some();
        Self { kind: record.kind.as_deref(), needs: record.needs.as_deref(), only: forwarded_to.or(record.only.as_deref()), is_on_its_way }
    }

    /// `None`: anything will do, as far as is known.
    fn wanted(&self) -> Option<Wanted> {
        let kind = self.kind?.clone();
        Some(Wanted { kind, needs: self.needs.cloned().unwrap_or_default(), specific_gpu_id: self.only.cloned() })
    }
}

/// A task that went to a GPU is in its worker's hand, before all that are in the queue.
fn turn(record: &Record) -> Turn {
    let turn = record.turn();
    if record.is_forwarded { Turn { since_ms: 0, below_top: 0, ..turn } } else { turn }
}

/// In how many ms it may begin at the earliest.
fn due_in_ms(record: &Record, now_ms: u64) -> f64 {
    record.due_ms.map_or(0.0, |due_ms| due_ms.get().saturating_sub(now_ms) as f64)
}

/// How many tasks wait of which nobody told: those in the queue and in workers' hands above those that are known to wait.
fn unknown(observed: &Observed<'_>, known: u64) -> u64 {
    let in_hand: u64 = observed.gpus.iter().map(|view| u64::from(view.row.waiting)).sum();
    observed.ready.map_or(0, |ready| (ready + in_hand).saturating_sub(known))
}

/// In how many ms the task at this place begins, where others of higher priority come while it waits: as many as came lately.
fn begins_with_later<'a>(line: &mut Line<'a>, place: Place, arrivals: &[Arrivals<'a>]) -> Option<f64> {
    let begins_ms = line.begins_ms(place)?;
    let waits_ms = begins_ms - place.due_ms;
    let above = usize::from(9 - place.turn.below_top.min(9)) + 1;
    let rate: f64 = arrivals.iter().flat_map(|(_, rates)| rates.iter().skip(above)).sum();
    if waits_ms <= 0.0 || rate <= 0.0 {
        return Some(begins_ms);
    }
    let share = (rate * line.mean_run_ms() / line.slots().max(1) as f64).min(LATER_SHARE_MAX);
    let stretched_ms = waits_ms / (1.0 - share);
    // They come for longer than it should wait: their kinds may delay it more than the average does.
    let until_ms = place.due_ms + stretched_ms * HORIZON;
    if rate * until_ms > LATER_MAX {
        return Some(place.due_ms + stretched_ms);
    }
    for (kind, rates) in arrivals {
        let class = line.class(Class { kind: Some(*kind), ..ANYTHING });
        for (level, rate) in rates.iter().enumerate().skip(above).filter(|(_, rate)| **rate > 0.0) {
            line.add_later(class, 9 - level as u8, *rate, until_ms);
        }
    }
    line.begins_ms(place)
}

/// How fast tasks arrive, by what an activity says: of each priority the kinds that began, each by its share.
fn arrivals_of_activity<'a>(observed: &Observed<'a>) -> Vec<Arrivals<'a>> {
    let activity = observed.activity;
    let began: u64 = activity.kinds.values().map(|numbers| numbers.began).sum();
    let kinds = activity.kinds.iter().filter(|(_, numbers)| numbers.began > 0);
    let rates = kinds.map(|(kind, numbers)| {
        let share = numbers.began as f64 / began.max(1) as f64 / activity.window_ms.max(1) as f64;
        (kind, std::array::from_fn(|level| activity.priorities[level].arrived as f64 * share))
    });
    rates.collect()
}
