//! The port for the fleet's course, on memory.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{MutexGuard, PoisonError},
};

use async_trait::async_trait;
use protocol::{HistoryPoint, HistorySpan, OperatorAction, TaskStep};

use super::MemoryStore;
use crate::{
    Journal, JournalBounds, StepCursor, StepPage, StoreError,
    journal::{ACTIONS_KEPT_MS, PAGE_MAX, line_of, step_of},
};

/// What the lock protects.
#[derive(Debug)]
pub struct Course {
    bounds: JournalBounds,
    /// As lines: they take a third of what the steps would.
    steps: VecDeque<Told>,
    /// The number of the last step. It goes on after all are forgotten, so that no cursor is ahead.
    last: u64,
    points: BTreeMap<HistorySpan, BTreeMap<u64, HistoryPoint>>,
    /// The latest first.
    actions: VecDeque<OperatorAction>,
    /// Until when the actions are kept.
    actions_until_ms: u64,
}

/// One step.
#[derive(Debug)]
struct Told {
    number: u64,
    at_ms: u64,
    line: Box<[u8]>,
}

impl Course {
    pub const fn new(bounds: JournalBounds) -> Self {
        Self { bounds, steps: VecDeque::new(), last: 0, points: BTreeMap::new(), actions: VecDeque::new(), actions_until_ms: 0 }
    }

    pub fn clear(&mut self) {
        *self = Self { last: self.last, ..Self::new(self.bounds) };
    }

    fn tell(&mut self, line: Vec<u8>, now_ms: u64) {
        self.last += 1;
        self.steps.push_back(Told { number: self.last, at_ms: now_ms, line: line.into_boxed_slice() });
        while self.steps.len() as u64 > self.bounds.steps_max {
            self.steps.pop_front();
        }
        self.forget_old(now_ms);
    }

    fn forget_old(&mut self, now_ms: u64) {
        let too_old_ms = now_ms.saturating_sub(self.bounds.age_max_ms());
        while self.steps.front().is_some_and(|told| told.at_ms < too_old_ms) {
            self.steps.pop_front();
        }
    }

    fn steps_after(&self, cursor: &StepCursor, max: usize) -> StepPage {
        let after: u64 = cursor.0.parse().unwrap_or(0);
        let first = self.steps.partition_point(|told| told.number <= after);
        let page = self.steps.range(first..).take(max);
        let cursor = page.clone().next_back().map_or_else(|| cursor.clone(), |told| StepCursor(format!("{:020}", told.number)));
        let has_more = self.steps.len() - first > max;
        StepPage { steps: page.filter_map(|told| step_of(&told.line)).collect(), cursor, has_more }
    }

    fn note_point(&mut self, span: HistorySpan, point: &HistoryPoint, now_ms: u64) -> bool {
        let too_old_ms = now_ms.saturating_sub(span.length_ms());
        let points = self.points.entry(span).or_default();
        points.retain(|at_ms, _| *at_ms > too_old_ms);
        if point.at_ms <= too_old_ms || point.at_ms > now_ms + span.length_ms() || points.contains_key(&point.at_ms) {
            return false;
        }
        points.insert(point.at_ms, point.clone());
        while points.len() as u64 > span.points() {
            points.pop_first();
        }
        true
    }

    fn points(&self, span: HistorySpan, from_ms: u64, now_ms: u64) -> Vec<HistoryPoint> {
        let from_ms = from_ms.max(now_ms.saturating_sub(span.length_ms()) + 1);
        let points = self.points.get(&span).into_iter().flat_map(|points| points.range(from_ms..));
        points.map(|(_, point)| point.clone()).collect()
    }

    fn note_action(&mut self, action: OperatorAction, now_ms: u64) {
        self.forget_actions(now_ms);
        if self.actions.front() != Some(&action) {
            self.actions.push_front(action);
            self.actions.truncate(self.bounds.actions_max as usize);
        }
        self.actions_until_ms = now_ms + ACTIONS_KEPT_MS;
    }

    fn forget_actions(&mut self, now_ms: u64) {
        if self.actions_until_ms <= now_ms {
            self.actions.clear();
        }
    }
}

impl MemoryStore {
    /// The fleet's course, and the time.
    fn enter_course(&self) -> (MutexGuard<'_, Course>, u64) {
        (self.course.lock().unwrap_or_else(PoisonError::into_inner), self.clock.now_ms())
    }

    /// Forgets the fleet's course.
    pub(super) fn clear_course(&self) {
        self.enter_course().0.clear();
    }
}

#[async_trait]
impl Journal for MemoryStore {
    fn keeps_steps(&self) -> bool {
        self.enter_course().0.bounds.steps_max > 0
    }

    fn tell(&self, step: TaskStep) {
        if self.keeps_steps() {
            let line = line_of(&step.bounded());
            let (mut course, now_ms) = self.enter_course();
            course.tell(line, now_ms);
        }
    }

    fn steps_lost(&self) -> u64 {
        0
    }

    async fn flush(&self) {}

    async fn steps_after(&self, cursor: &StepCursor, max: usize) -> Result<StepPage, StoreError> {
        let (mut course, now_ms) = self.enter_course();
        course.forget_old(now_ms);
        Ok(course.steps_after(cursor, max.clamp(1, PAGE_MAX)))
    }

    async fn note_point(&self, span: HistorySpan, point: &HistoryPoint) -> Result<bool, StoreError> {
        let (mut course, now_ms) = self.enter_course();
        Ok(course.note_point(span, point, now_ms))
    }

    async fn points(&self, span: HistorySpan, from_ms: u64) -> Result<Vec<HistoryPoint>, StoreError> {
        let (course, now_ms) = self.enter_course();
        Ok(course.points(span, from_ms, now_ms))
    }

    async fn note_action(&self, action: &OperatorAction) -> Result<(), StoreError> {
        let (mut course, now_ms) = self.enter_course();
        course.note_action(action.clone().bounded(), now_ms);
        Ok(())
    }

    async fn actions(&self, max: usize) -> Result<Vec<OperatorAction>, StoreError> {
        let (mut course, now_ms) = self.enter_course();
        course.forget_actions(now_ms);
        Ok(course.actions.iter().take(max).cloned().collect())
    }
}
