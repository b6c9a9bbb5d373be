//! What the index holds of one task, and what each step changes of it.
//!
//! Steps of one task come from several processes: late, twice, with gaps, by clocks that differ a little. What counts is the attempt first, and the time only between steps of one attempt. A task
//! that ended stays ended, unless somebody publishes it anew: then a new life begins, and what is told of the old one afterwards changes nothing.

use std::{num::NonZeroU64, sync::Arc};

use protocol::{
    GpuId, GroupName, Kind, Needs, Outcome, PoolName, StepName, Strategy, TaskError, TaskId, TaskState, TaskStep, insight::TaskSummary,
};

use super::packed::{PackedStep, Shared};

/// How far the clocks of two processes may differ: by so much a step may seem to be later than it was.
const SKEW_MS: u64 = 2_000;
/// How many steps of a task are held.
const STEPS_MAX: usize = 40;
/// The first steps, which are not forgotten.
const FIRST_STEPS: usize = 8;

/// A task of the index.
pub(crate) struct Record {
    pub(super) id: Arc<TaskId>,
    /// Tells tasks apart that were first heard of in the same millisecond.
    pub(super) number: u64,
    pub(crate) state: TaskState,
    pub(crate) pool: Arc<PoolName>,
    pub(crate) kind: Option<Arc<Kind>>,
    pub(super) group: Option<Arc<GroupName>>,
    pub(crate) needs: Option<Box<Needs>>,
    pub(crate) only: Option<Arc<GpuId>>,
    pub(crate) gpu: Option<Arc<GpuId>>,
    pub(crate) priority: Option<u8>,
    items: Option<u32>,
    strategy: Option<Strategy>,
    pub(crate) attempt: u32,
    pub(super) cancel_asked: bool,
    /// It was a batch whose slices run in its place.
    pub(crate) is_split: bool,
    /// It went to a GPU that a claim chose, and did not begin yet.
    pub(crate) is_forwarded: bool,
    pub(super) is_slice: bool,
    pub(super) first_seen_ms: u64,
    pub(super) changed_ms: u64,
    /// When the step was told that gave it its state.
    state_ms: u64,
    published_ms: Option<NonZeroU64>,
    not_before_ms: Option<NonZeroU64>,
    /// When its next attempt is due.
    pub(crate) due_ms: Option<NonZeroU64>,
    pub(crate) began_ms: Option<NonZeroU64>,
    ended_ms: Option<NonZeroU64>,
    /// What was told at this time or before is of an earlier life.
    past_until_ms: u64,
    /// When it was submitted in this life.
    submitted_ms: Option<NonZeroU64>,
    buried_ms: Option<NonZeroU64>,
    requeued_ms: Option<NonZeroU64>,
    waited_ms: Option<f64>,
    run_ms: Option<f64>,
    outcome: Option<Outcome>,
    error: Option<Box<TaskError>>,
    waiting_for: Option<Box<str>>,
    /// That of its first step which has one.
    trace_id: Option<Box<str>>,
    steps: Vec<PackedStep>,
    forgotten: u32,
}

/// What a step meant, for those who count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Meant {
    /// A life of the task began.
    pub(super) arrived: bool,
    /// The task ended by it.
    pub(super) ended: bool,
}

impl Record {
    pub(super) fn new(id: TaskId, number: u64, step: &TaskStep, shared: &mut Shared) -> Self {
        Self {
            is_slice: id.slice().is_some(),
            id: Arc::new(id),
            number,
            state: TaskState::Waiting,
            pool: shared.pools.shared(&step.pool),
            kind: None,
            group: None,
            needs: None,
            only: None,
            gpu: None,
            priority: None,
            items: None,
            strategy: None,
            attempt: 0,
            cancel_asked: false,
            is_split: false,
            is_forwarded: false,
            first_seen_ms: step.at_ms,
            changed_ms: step.at_ms,
            state_ms: 0,
            published_ms: None,
            not_before_ms: None,
            due_ms: None,
            began_ms: None,
            ended_ms: None,
            past_until_ms: 0,
            submitted_ms: None,
            buried_ms: None,
            requeued_ms: None,
            waited_ms: None,
            run_ms: None,
            outcome: None,
            error: None,
            waiting_for: None,
            trace_id: None,
            steps: Vec::new(),
            forgotten: 0,
        }
    }

    /// Whether this very step is known.
    pub(super) fn has(&self, step: &TaskStep) -> bool {
        self.steps.iter().any(|known| known.is(step))
    }

    /// Takes a step that is not known yet.
    pub(super) fn take(&mut self, step: &TaskStep, shared: &mut Shared) -> Meant {
        let is_first = self.steps.is_empty() && self.forgotten == 0;
        self.keep(step, shared);
        self.first_seen_ms = self.first_seen_ms.min(step.at_ms);
        self.changed_ms = self.changed_ms.max(step.at_ms);
        let begins_anew = self.begins_anew(step);
        if begins_anew {
            self.begin_anew(step);
        }
        self.learn(step, shared);
        let was_over = self.state.ended();
        if step.step == StepName::Requeued && !begins_anew {
            // What was told of the life before it may come yet.
            self.past_until_ms = self.past_until_ms.max(step.at_ms.saturating_sub(1));
        }
        if begins_anew || step.at_ms > self.past_until_ms {
            self.follow(step, shared);
        }
        if begins_anew {
            // Steps of this life that were told before its beginning was.
            let later: Vec<TaskStep> = self.steps().filter(|known| known.at_ms > step.at_ms).collect();
            later.iter().for_each(|known| self.follow(known, shared));
        }
        Meant { arrived: is_first || begins_anew, ended: self.state.ended() && !was_over }
    }

    fn keep(&mut self, step: &TaskStep, shared: &mut Shared) {
        if self.trace_id.is_none() {
            self.trace_id = step.trace_id.as_deref().map(Box::from);
        }
        let packed = PackedStep::new(step, shared, self.trace_id.as_deref());
        if self.steps.len() < FIRST_STEPS {
            // Most tasks have three or four steps, and there are many tasks.
            self.steps.reserve_exact(1);
        }
        let at = self.steps.partition_point(|known| known.at_ms <= step.at_ms);
        self.steps.insert(at, packed);
        if self.steps.len() > STEPS_MAX {
            self.steps.remove(FIRST_STEPS);
            self.forgotten = self.forgotten.saturating_add(1);
        }
    }

    /// Whether somebody published the task once more.
    fn begins_anew(&self, step: &TaskStep) -> bool {
        match step.step {
            StepName::Requeued => step.at_ms > self.past_until_ms && step.at_ms >= self.ended_ms.map_or(self.state_ms, NonZeroU64::get),
            // The submit that began this life may be told after its end, by a clock that is ahead.
            StepName::Submitted => self.ended_ms.is_some_and(|ended_ms| {
                let slack_ms = if self.submitted_ms.is_some() { 0 } else { SKEW_MS };
                step.at_ms > ended_ms.get().saturating_add(slack_ms)
            }),
            _ => false,
        }
    }

    fn begin_anew(&mut self, step: &TaskStep) {
        self.past_until_ms = self.ended_ms.map_or(step.at_ms.saturating_sub(1), NonZeroU64::get);
        self.state = TaskState::Waiting;
        self.state_ms = 0;
        (self.attempt, self.cancel_asked, self.is_split, self.is_forwarded) = (0, false, false, false);
        (self.published_ms, self.not_before_ms, self.due_ms, self.submitted_ms) = (NonZeroU64::new(step.at_ms), None, None, None);
        (self.began_ms, self.ended_ms, self.waited_ms, self.run_ms) = (None, None, None, None);
        (self.gpu, self.strategy, self.outcome, self.error, self.waiting_for) = (None, None, None, None, None);
    }

    /// What steps say of the task itself.
    fn learn(&mut self, step: &TaskStep, shared: &mut Shared) {
        if let Some(kind) = &step.kind {
            self.kind = Some(shared.kinds.shared(kind));
        }
        if let Some(group) = &step.group {
            self.group = Some(shared.groups.shared(group));
        }
        if let Some(only) = &step.specific_gpu_id {
            self.only = Some(shared.gpus.shared(only));
        }
        if let Some(needs) = &step.needs {
            self.needs = Some(Box::new(needs.clone()));
        }
        self.pool = shared.pools.shared(&step.pool);
        self.priority = step.priority.map(|priority| priority.min(9)).or(self.priority);
        self.items = step.items.or(self.items);
        if step.at_ms > self.past_until_ms {
            self.published_ms = step.published_ms.and_then(NonZeroU64::new).or(self.published_ms);
            self.not_before_ms = step.not_before_ms.and_then(NonZeroU64::new).or(self.not_before_ms);
        }
    }

    /// What a step of this life changes.
    fn follow(&mut self, step: &TaskStep, shared: &mut Shared) {
        match step.step {
            StepName::Submitted => self.submitted(step),
            StepName::Delayed | StepName::Waits | StepName::Forwarded => self.waits(step, shared),
            StepName::Began => self.began(step, shared),
            StepName::Retrying | StepName::Crashed => self.failed_once(step, shared),
            StepName::Split => self.split(step),
            StepName::Ended => self.ended(step, shared),
            StepName::CancelAsked => self.cancel(step),
            StepName::Buried => self.buried_ms = self.buried_ms.max(NonZeroU64::new(step.at_ms)),
            StepName::Requeued => self.requeued_ms = self.requeued_ms.max(NonZeroU64::new(step.at_ms)),
            StepName::ReplyWaits | StepName::Other => {}
        }
    }

    fn submitted(&mut self, step: &TaskStep) {
        self.submitted_ms = self.submitted_ms.or(NonZeroU64::new(step.at_ms));
        if self.published_ms.is_none() {
            self.published_ms = NonZeroU64::new(step.at_ms);
        }
        // All other steps come after it.
        if self.state_ms == 0 {
            self.wait_until_due(step.at_ms);
        }
    }

    fn wait_until_due(&mut self, at_ms: u64) {
        self.due_ms = self.not_before_ms.filter(|due_ms| due_ms.get() > at_ms);
        self.state = if self.due_ms.is_some() { TaskState::Delayed } else { TaskState::Waiting };
    }

    /// It does not run yet, or no longer.
    fn waits(&mut self, step: &TaskStep, shared: &mut Shared) {
        let from_ms = if self.state == TaskState::Running { self.state_ms.saturating_add(SKEW_MS) } else { self.state_ms };
        let is_of_earlier_attempt = step.attempt.is_some_and(|attempt| attempt < self.attempt);
        if self.state.ended() || step.at_ms < from_ms || is_of_earlier_attempt {
            return;
        }
        self.state_ms = step.at_ms;
        self.is_forwarded = step.step == StepName::Forwarded;
        self.waiting_for = step.reason.as_deref().map(Box::from);
        (self.state, self.due_ms) = (TaskState::Waiting, None);
        match step.step {
            // Until when may come later.
            StepName::Delayed if self.not_before_ms.is_none() => self.state = TaskState::Delayed,
            StepName::Delayed => self.wait_until_due(step.at_ms),
            StepName::Forwarded => {
                self.gpu = shared.gpus.shared_if_any(step.gpu_id.as_ref());
                self.strategy = step.strategy;
            }
            _ => {}
        }
    }

    fn began(&mut self, step: &TaskStep, shared: &mut Shared) {
        let attempt = step.attempt.unwrap_or(self.attempt.max(1));
        let is_first_of_it = attempt > self.attempt;
        // Of one attempt: it was begun anew after its worker died.
        let is_later = is_first_of_it || (attempt == self.attempt && step.at_ms >= self.state_ms);
        if attempt < self.attempt || (!is_later && self.began_ms.is_some()) {
            return;
        }
        self.began_ms = NonZeroU64::new(step.at_ms);
        self.waited_ms = step.waited_ms;
        self.strategy = step.strategy.or(self.strategy);
        if step.gpu_id.is_some() {
            self.gpu = shared.gpus.shared_if_any(step.gpu_id.as_ref());
        }
        if self.state.ended() || !is_later {
            return;
        }
        if is_first_of_it {
            (self.run_ms, self.error) = (None, None);
        }
        (self.attempt, self.state_ms, self.state) = (attempt, step.at_ms, TaskState::Running);
        (self.waiting_for, self.due_ms, self.is_forwarded) = (None, None, false);
    }

    fn failed_once(&mut self, step: &TaskStep, shared: &mut Shared) {
        let attempt = step.attempt.unwrap_or(self.attempt.max(1));
        let is_later = attempt > self.attempt || (attempt == self.attempt && step.at_ms >= self.state_ms);
        if self.state.ended() || !is_later {
            return;
        }
        if attempt > self.attempt {
            self.began_ms = None;
        }
        (self.attempt, self.state_ms, self.state) = (attempt, step.at_ms, TaskState::Retrying);
        self.due_ms = step.after_ms.and_then(|after_ms| NonZeroU64::new(step.at_ms.saturating_add(after_ms)));
        self.run_ms = step.run_ms;
        self.error = step.error.clone().map(Box::new);
        (self.waiting_for, self.is_forwarded) = (step.reason.as_deref().map(Box::from), false);
        if step.gpu_id.is_some() {
            self.gpu = shared.gpus.shared_if_any(step.gpu_id.as_ref());
        }
    }

    fn split(&mut self, step: &TaskStep) {
        self.is_split = true;
        if self.state.ended() {
            return;
        }
        self.attempt = step.attempt.unwrap_or(self.attempt).max(self.attempt).max(1);
        (self.state, self.state_ms) = (TaskState::Running, self.state_ms.max(step.at_ms));
        (self.waiting_for, self.due_ms, self.is_forwarded) = (None, None, false);
        self.began_ms = self.began_ms.or(NonZeroU64::new(step.at_ms));
    }

    /// One that has not begun never will: it is cancelled from now on, as its status says too, although its reply goes out only when its turn comes.
    fn cancel(&mut self, step: &TaskStep) {
        self.cancel_asked = true;
        if matches!(self.state, TaskState::Waiting | TaskState::Delayed | TaskState::Retrying) {
            (self.state, self.state_ms) = (TaskState::Cancelled, self.state_ms.max(step.at_ms));
            (self.waiting_for, self.due_ms, self.is_forwarded) = (None, None, false);
        }
    }

    fn ended(&mut self, step: &TaskStep, shared: &mut Shared) {
        let attempt = step.attempt.unwrap_or(self.attempt);
        if self.ended_ms.is_some() && self.state.ended() && attempt <= self.attempt {
            return;
        }
        let Some(outcome) = step.outcome else { return };
        if attempt > self.attempt {
            self.began_ms = None;
        }
        (self.attempt, self.state_ms, self.state) = (attempt.max(self.attempt), step.at_ms, outcome.into());
        (self.outcome, self.ended_ms) = (Some(outcome), NonZeroU64::new(step.at_ms));
        self.run_ms = step.run_ms.or(self.run_ms.filter(|_| attempt == 0));
        self.waited_ms = step.waited_ms.or(self.waited_ms);
        self.error = step.error.clone().map(Box::new);
        (self.waiting_for, self.due_ms, self.is_forwarded) = (None, None, false);
        if step.gpu_id.is_some() {
            self.gpu = shared.gpus.shared_if_any(step.gpu_id.as_ref());
        }
    }

    /// It was delayed, and its time has come.
    pub(super) fn become_due(&mut self) {
        (self.state, self.due_ms) = (TaskState::Waiting, None);
    }

    /// Whether its original bytes are among the dead letters.
    pub(super) fn is_dead(&self) -> bool {
        self.buried_ms > self.requeued_ms
    }

    /// Whether it waits, and no GPU of the fleet could ever run it.
    pub(crate) fn is_unserved(&self) -> bool {
        self.state == TaskState::Waiting && self.waiting_for.as_deref().is_some_and(|reason| reason.starts_with(TaskStep::UNSERVED))
    }

    /// Since when it waits its turn, in Unix ms: since it was published, or was due.
    pub(crate) fn waits_since_ms(&self) -> u64 {
        let published_ms = self.published_ms.map_or(self.first_seen_ms, NonZeroU64::get);
        published_ms.max(self.not_before_ms.map_or(0, NonZeroU64::get))
    }

    /// Where it stands among those that wait: what is smaller comes first.
    pub(crate) fn turn(&self) -> Turn {
        Turn { below_top: 9 - self.priority.unwrap_or(0).min(9), since_ms: self.waits_since_ms(), number: self.number }
    }

    pub(crate) fn task_id(&self) -> &TaskId {
        &self.id
    }

    /// Why it, or its latest attempt, did not succeed.
    pub(crate) fn error(&self) -> Option<&TaskError> {
        self.error.as_deref()
    }

    pub(super) fn steps(&self) -> impl Iterator<Item = TaskStep> {
        self.steps.iter().map(|step| step.unpacked(&self.id, self.trace_id.as_deref()))
    }

    pub(super) const fn forgotten(&self) -> u64 {
        self.forgotten as u64
    }

    pub(super) fn summary(&self) -> TaskSummary {
        let known = |at_ms: Option<NonZeroU64>| at_ms.map(NonZeroU64::get);
        TaskSummary {
            task_id: (*self.id).clone(),
            state: self.state,
            pool: (*self.pool).clone(),
            kind: self.kind.as_deref().cloned(),
            priority: self.priority,
            group: self.group.as_deref().cloned(),
            items: self.items,
            needs: self.needs.as_deref().cloned(),
            specific_gpu_id: self.only.as_deref().cloned(),
            gpu_id: self.gpu.as_deref().cloned(),
            strategy: self.strategy,
            attempt: self.attempt,
            cancel_asked: self.cancel_asked,
            dead: self.is_dead(),
            first_seen_ms: self.first_seen_ms,
            published_ms: known(self.published_ms),
            not_before_ms: known(self.not_before_ms),
            began_ms: known(self.began_ms),
            ended_ms: known(self.ended_ms),
            changed_ms: self.changed_ms,
            waited_ms: self.waited_ms,
            run_ms: self.run_ms,
            outcome: self.outcome,
            error: self.error.as_deref().cloned(),
            waiting_for: self.waiting_for.as_deref().map(str::to_owned),
        }
    }
}

/// A place in the line of those that wait: the higher priority first, then who waits longer. An unknown priority counts as 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    /// 9 minus the priority.
    pub(crate) below_top: u8,
    pub(crate) since_ms: u64,
    pub(crate) number: u64,
}
