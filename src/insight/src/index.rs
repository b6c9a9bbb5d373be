//! The tasks of the last while, by what their steps say.
//!
//! Soft: it is made from the journal, which may lack steps, and forgets what changed longest ago. The store's record of a task is what counts.

mod histogram;
mod listing;
mod numbers;
mod packed;
mod recent;
mod record;
#[cfg(test)]
mod tests;
mod words;

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    ops::Bound,
    sync::Arc,
};

use protocol::{
    Kind, TaskId, TaskState, TaskStep,
    insight::{TaskLog, TaskSummary},
};

use self::{listing::Order, packed::Shared, recent::Recent};
pub(crate) use self::{
    recent::Arrivals,
    record::{Record, Turn},
};

/// How much a [`TaskIndex`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexBounds {
    /// Most tasks; at least one is held. Some 900 bytes each.
    pub tasks_max: usize,
    /// How long ago a task may have changed last, in ms.
    pub age_max_ms: u64,
}

/// The tasks of the last while.
pub struct TaskIndex {
    bounds: IndexBounds,
    records: Vec<Option<Box<Record>>>,
    free: Vec<u32>,
    by_id: BTreeMap<IdKey, u32>,
    /// By state; see [`place_of`].
    by_state: [Order; 8],
    /// How many of these are slices.
    slices: [u64; 8],
    /// Those that ended first, then those that did not; each by when they last changed. See [`change_of`].
    by_change: BTreeSet<(u64, u32)>,
    /// Delayed tasks by when they are due, and by number.
    by_due: BTreeMap<(u64, u64), u32>,
    shared: Shared,
    recent: Recent,
    numbered: u64,
    revision: u64,
}

/// The id of a task, found by its text.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct IdKey(Arc<TaskId>);

impl Borrow<str> for IdKey {
    fn borrow(&self) -> &str {
        self.0.as_str()
    }
}

/// Where the tasks of a state are in the index.
const fn place_of(state: TaskState) -> usize {
    match state {
        TaskState::Delayed => 0,
        TaskState::Waiting => 1,
        TaskState::Running => 2,
        TaskState::Retrying => 3,
        TaskState::Succeeded => 4,
        TaskState::Failed => 5,
        TaskState::Cancelled => 6,
        TaskState::Expired => 7,
    }
}

impl TaskIndex {
    /// An index that knows nothing yet.
    #[must_use]
    pub fn new(bounds: IndexBounds) -> Self {
        Self {
            bounds,
            records: Vec::new(),
            free: Vec::new(),
            by_id: BTreeMap::new(),
            by_state: Default::default(),
            slices: [0; 8],
            by_change: BTreeSet::new(),
            by_due: BTreeMap::new(),
            shared: Shared::default(),
            recent: Recent::default(),
            numbered: 0,
            revision: 0,
        }
    }

    /// Takes a step. Steps may come late, twice, and not at all: later attempts and ends win, and an end stays unless the task is published anew.
    pub fn apply(&mut self, step: &TaskStep) {
        let Some(task_id) = &step.task_id else { return };
        let known = self.by_id.get(task_id.as_str()).copied();
        let mut record = match known.and_then(|slot| self.unlink(slot)) {
            Some(record) => record,
            None => {
                self.numbered += 1;
                Box::new(Record::new(task_id.clone(), self.numbered, step, &mut self.shared))
            }
        };
        if !record.has(step) {
            let meant = record.take(step, &mut self.shared);
            self.recent.note(step, &record, meant);
            self.revision += 1;
        }
        self.link(record);
        self.keep_bound();
    }

    /// Forgets what changed too long ago, and lets delayed tasks wait whose time has come. To be called about every second.
    pub fn forget_old(&mut self, now_ms: u64) {
        let oldest_ms = now_ms.saturating_sub(self.bounds.age_max_ms);
        for sort in [0, OPEN] {
            while let Some(slot) = self.first_changed(sort, oldest_ms) {
                self.forget(slot);
            }
        }
        while let Some((&(due_ms, _), &slot)) = self.by_due.first_key_value() {
            if due_ms > now_ms {
                break;
            }
            if let Some(mut record) = self.unlink(slot) {
                record.become_due();
                self.link(record);
                self.revision += 1;
            }
        }
        self.recent.tidy(now_ms);
    }

    /// What is known of a task.
    #[must_use]
    pub fn get(&self, task_id: &TaskId) -> Option<TaskSummary> {
        self.record(task_id).map(Record::summary)
    }

    /// The steps of a task, those of its slices among them, the oldest first.
    #[must_use]
    pub fn log(&self, task_id: &TaskId) -> Option<TaskLog> {
        let own = self.record(task_id)?;
        let slices = self.slices_of(task_id);
        let all = || std::iter::once(own).chain(slices.iter().copied());
        let mut steps: Vec<TaskStep> = all().flat_map(Record::steps).collect();
        steps.sort_by_key(|step| step.at_ms);
        Some(TaskLog { task_id: task_id.clone(), steps, forgotten: all().map(Record::forgotten).sum() })
    }

    /// How many waiting tasks of its pool will begin before a waiting task, and the `first` of them: those of higher priority, and those of its own that wait longer. `None`: it is not known, or
    /// does not wait. An unknown priority counts as 0; what no GPU could ever run is before nobody.
    #[must_use]
    pub fn ahead_of(&self, task_id: &TaskId, first: usize) -> Option<(u64, Vec<TaskId>)> {
        let record = self.record(task_id).filter(|record| record.state == TaskState::Waiting)?;
        let turn = record.turn();
        let is_ahead = |other: &&Record| other.pool == record.pool && other.turn() < turn && !other.is_unserved();
        let (mut count, mut found) = (0, BTreeSet::new());
        for other in self.in_state(TaskState::Waiting).filter(is_ahead) {
            count += 1;
            found.insert((other.turn(), &other.id));
            if found.len() > first {
                found.pop_last();
            }
        }
        Some((count, found.into_iter().map(|(_, id)| TaskId::clone(id)).collect()))
    }

    /// Grows with every change.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// How many tasks it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// What a run of this kind takes, in ms, as far as any ended.
    pub(crate) fn learnt_run_ms(&self, kind: &Kind) -> Option<f64> {
        self.recent.learnt_run_ms(kind)
    }

    /// What a run takes, over all kinds, in ms.
    pub(crate) fn mean_run_ms(&self) -> Option<f64> {
        self.recent.mean_run_ms()
    }

    /// How fast tasks arrived lately, by kind.
    pub(crate) fn arrivals(&self, now_ms: u64) -> Vec<Arrivals<'_>> {
        self.recent.arrivals(now_ms)
    }

    pub(crate) fn record(&self, task_id: &TaskId) -> Option<&Record> {
        self.by_id.get(task_id.as_str()).and_then(|slot| self.record_at(*slot))
    }

    /// The tasks of a state, those first that were heard of first.
    pub(crate) fn in_state(&self, state: TaskState) -> impl Iterator<Item = &Record> {
        self.by_state[place_of(state)].values().filter_map(|slot| self.record_at(*slot))
    }

    /// The slices of a batch.
    pub(crate) fn slices_of(&self, batch: &TaskId) -> Vec<&Record> {
        let prefix = format!("{batch}{{");
        let from = self.by_id.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
        let slices = from.take_while(|(id, _)| id.0.as_str().starts_with(&prefix));
        slices.filter_map(|(_, slot)| self.record_at(*slot)).collect()
    }

    fn record_at(&self, slot: u32) -> Option<&Record> {
        self.records.get(slot as usize)?.as_deref()
    }

    /// Takes a task out of all but `by_id`, with its slot.
    fn unlink(&mut self, slot: u32) -> Option<Box<Record>> {
        let record = self.records.get_mut(slot as usize)?.take()?;
        let state = place_of(record.state);
        self.by_state[state].remove(&(record.first_seen_ms, record.number));
        self.slices[state] -= u64::from(record.is_slice);
        self.by_change.remove(&(change_of(&record), slot));
        if let Some(due) = due_of(&record) {
            self.by_due.remove(&due);
        }
        self.free.push(slot);
        Some(record)
    }

    fn link(&mut self, record: Box<Record>) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.records.push(None);
            u32::try_from(self.records.len() - 1).expect("far fewer tasks are held")
        });
        let state = place_of(record.state);
        self.by_state[state].insert((record.first_seen_ms, record.number), slot);
        self.slices[state] += u64::from(record.is_slice);
        self.by_change.insert((change_of(&record), slot));
        if let Some(due) = due_of(&record) {
            self.by_due.insert(due, slot);
        }
        match self.by_id.entry(IdKey(Arc::clone(&record.id))) {
            Entry::Occupied(mut entry) => *entry.get_mut() = slot,
            Entry::Vacant(entry) => {
                entry.insert(slot);
            }
        }
        self.records[slot as usize] = Some(record);
    }

    fn forget(&mut self, slot: u32) {
        if let Some(record) = self.unlink(slot) {
            self.by_id.remove(record.id.as_str());
            self.revision += 1;
        }
    }

    fn keep_bound(&mut self) {
        while self.len() > self.bounds.tasks_max.max(1)
            && let Some((_, slot)) = self.by_change.first().copied()
        {
            self.forget(slot);
        }
    }

    /// The task that changed longest ago, before a time, of those that ended (0) or of those that did not ([`OPEN`]).
    fn first_changed(&self, sort: u64, before_ms: u64) -> Option<u32> {
        self.by_change.range((sort, 0)..(sort | before_ms.min(OPEN - 1), 0)).next().map(|(_, slot)| *slot)
    }
}

/// What is added to the time of a change of a task that did not end.
const OPEN: u64 = 1 << 63;

/// When a task changed, in Unix ms; those that did not end after all others.
fn change_of(record: &Record) -> u64 {
    let changed_ms = record.changed_ms.min(OPEN - 1);
    if record.state.ended() { changed_ms } else { OPEN | changed_ms }
}

fn due_of(record: &Record) -> Option<(u64, u64)> {
    let due_ms = record.due_ms.filter(|_| record.state == TaskState::Delayed)?;
    Some((due_ms.get(), record.number))
}
