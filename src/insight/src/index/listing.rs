//! Lists of tasks, those first that were heard of last.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{
    TaskId, TaskState,
    insight::{TaskFilter, TaskPage},
};

use super::{Record, TaskIndex, place_of};

/// The tasks of one state by the time when they were first heard of, and by number.
pub(super) type Order = BTreeMap<(u64, u64), u32>;

/// Tasks of several states, the newest first.
struct Newest<I: Iterator> {
    /// Of each state its newest task that is still to come, and those after it.
    states: Vec<(Option<I::Item>, I)>,
}

impl<I: Iterator> Newest<I> {
    fn of(states: impl Iterator<Item = I>) -> Self {
        Self { states: states.map(|mut state| (state.next(), state)).collect() }
    }
}

impl<I: Iterator<Item: Ord>> Iterator for Newest<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<Self::Item> {
        let (newest, after) = self.states.iter_mut().max_by(|(one, _), (other, _)| one.cmp(other))?;
        let next = after.next();
        std::mem::replace(newest, next)
    }
}

/// Where a page ended, as text.
fn cursor((first_seen_ms, number): (u64, u64)) -> String {
    format!("{first_seen_ms:x}-{number:x}")
}

/// What [`cursor`] wrote.
fn read_cursor(text: &str) -> Option<(u64, u64)> {
    let (first_seen_ms, number) = text.split_once('-')?;
    Some((u64::from_str_radix(first_seen_ms, 16).ok()?, u64::from_str_radix(number, 16).ok()?))
}

/// A filter as it is held against records.
struct Wanted<'a> {
    filter: &'a TaskFilter,
    /// In lower case.
    error: Option<String>,
    now_ms: u64,
}

impl<'a> Wanted<'a> {
    fn of(filter: &'a TaskFilter, now_ms: u64) -> Self {
        Self { filter, error: filter.error.as_ref().map(|text| text.to_lowercase()), now_ms }
    }

    /// Whether state and slices are all that it asks about.
    fn asks_for_states_only(&self) -> bool {
        let TaskFilter { state: _, kind, priority, group, gpu_id, id_prefix, error, older_than_ms, newer_than_ms, dead, slices: _ } =
            self.filter;
        kind.is_empty()
            && priority.is_empty()
            && group.is_none()
            && gpu_id.is_none()
            && id_prefix.is_none()
            && error.is_none()
            && older_than_ms.is_none()
            && newer_than_ms.is_none()
            && dead.is_none()
    }

    /// Whether it passes, its state aside.
    fn passes(&self, record: &Record) -> bool {
        let filter = self.filter;
        let age_ms = self.now_ms.saturating_sub(record.first_seen_ms);
        (filter.slices || !record.is_slice)
            && (filter.kind.is_empty() || record.kind.as_ref().is_some_and(|kind| filter.kind.contains(kind)))
            && (filter.priority.is_empty() || record.priority.is_some_and(|priority| filter.priority.contains(&priority)))
            && filter.group.as_ref().is_none_or(|group| record.group.as_deref() == Some(group))
            && filter.gpu_id.as_ref().is_none_or(|gpu_id| record.gpu.as_deref() == Some(gpu_id))
            && filter.id_prefix.as_ref().is_none_or(|prefix| record.id.as_str().starts_with(prefix.as_str()))
            && filter.older_than_ms.is_none_or(|ms| age_ms >= ms)
            && filter.newer_than_ms.is_none_or(|ms| age_ms <= ms)
            && filter.dead.is_none_or(|dead| record.is_dead() == dead)
            && self.error.as_ref().is_none_or(|text| has_in_error(record, text))
    }
}

/// Where the tasks of a filter's states are in the index.
fn places_of(filter: &TaskFilter) -> Vec<usize> {
    TaskState::ALL.into_iter().filter(|state| filter.state.is_empty() || filter.state.contains(state)).map(place_of).collect()
}

fn has_in_error(record: &Record, text: &str) -> bool {
    let has = |said: &str| said.to_lowercase().contains(text);
    record.error().is_some_and(|error| has(&error.code) || has(&error.message))
}

impl TaskIndex {
    /// Tasks that pass the filter, those first that were heard of last; at most `limit`, and at least one if there is any. `after` is what the page before gave as `next`: it stays valid while
    /// tasks come and go. What is none is passed over.
    #[must_use]
    pub fn list(&self, filter: &TaskFilter, after: Option<&str>, limit: usize, now_ms: u64) -> TaskPage {
        let wanted = Wanted::of(filter, now_ms);
        let states = places_of(filter);
        let end = after.and_then(read_cursor).unwrap_or((u64::MAX, u64::MAX));
        let newest = Newest::of(states.iter().map(|state| self.by_state[*state].range(..end).rev()));
        let mut passing = newest.filter(|(_, slot)| self.record_at(**slot).is_some_and(|record| wanted.passes(record)));
        let page: Vec<(&(u64, u64), &u32)> = passing.by_ref().take(limit.max(1)).collect();
        let has_more = passing.next().is_some();
        TaskPage {
            tasks: page.iter().filter_map(|(_, slot)| self.record_at(**slot).map(Record::summary)).collect(),
            next: page.last().filter(|_| has_more).map(|(key, _)| cursor(**key)),
            matching: self.matching(&wanted, &states),
            indexed: self.len() as u64,
            since_ms: self.by_state.iter().filter_map(|order| order.keys().next()).map(|(first_seen_ms, _)| *first_seen_ms).min(),
        }
    }

    /// The first `max` tasks, in the order of lists, that pass the filter and whose end nobody asked for yet, and how many such there are; without those that are left out. One walk, however many
    /// have been asked to end before.
    #[must_use]
    pub fn to_cancel(&self, filter: &TaskFilter, max: usize, now_ms: u64, is_left_out: impl Fn(&TaskId) -> bool) -> (Vec<TaskId>, u64) {
        let wanted = Wanted::of(filter, now_ms);
        let newest = Newest::of(places_of(filter).into_iter().map(|state| self.by_state[state].iter().rev()));
        let records = newest.filter_map(|(_, slot)| self.record_at(*slot));
        let (mut first, mut matching) = (Vec::new(), 0);
        for record in records.filter(|record| !record.cancel_asked && wanted.passes(record) && !is_left_out(&record.id)) {
            matching += 1;
            if first.len() < max {
                first.push(TaskId::clone(&record.id));
            }
        }
        (first, matching)
    }

    /// The ids of all tasks that pass the filter.
    #[must_use]
    pub fn ids(&self, filter: &TaskFilter, now_ms: u64) -> BTreeSet<TaskId> {
        let wanted = Wanted::of(filter, now_ms);
        let slots = places_of(filter).into_iter().flat_map(|state| self.by_state[state].values());
        let passing = slots.filter_map(|slot| self.record_at(*slot)).filter(|record| wanted.passes(record));
        passing.map(|record| TaskId::clone(&record.id)).collect()
    }

    fn matching(&self, wanted: &Wanted<'_>, states: &[usize]) -> u64 {
        if wanted.asks_for_states_only() {
            let hidden = |state: usize| if wanted.filter.slices { 0 } else { self.slices[state] };
            return states.iter().map(|state| self.by_state[*state].len() as u64 - hidden(*state)).sum();
        }
        let passing = states.iter().flat_map(|state| self.by_state[*state].values()).filter_map(|slot| self.record_at(*slot));
        passing.filter(|record| wanted.passes(record)).count() as u64
    }
}
