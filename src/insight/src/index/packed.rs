//! Steps as the index holds them: a fifth of what a [`TaskStep`] takes.

use std::{
    num::{NonZeroU32, NonZeroU64},
    sync::Arc,
};

use protocol::{GpuId, GroupName, Kind, Needs, Outcome, PoolName, StepName, Strategy, TaskError, TaskId, TaskStep};

use super::words::Words;

/// The words that the tasks of an index share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) kinds: Words<Kind>,
    pub(super) gpus: Words<GpuId>,
    pub(super) groups: Words<GroupName>,
    pub(super) pools: Words<PoolName>,
}

/// A step of a task, without the task's id.
pub(super) struct PackedStep {
    pub(super) at_ms: u64,
    published_ms: Option<NonZeroU64>,
    /// Of a begin how long it waited, of all else how long it ran; no number where that is not known.
    time_ms: f64,
    pool: Arc<PoolName>,
    kind: Option<Arc<Kind>>,
    group: Option<Arc<GroupName>>,
    gpu: Option<Arc<GpuId>>,
    rest: Option<Box<Rest>>,
    attempt: Option<NonZeroU32>,
    among: Option<NonZeroU32>,
    /// It has the trace of its task.
    has_trace: bool,
    step: StepName,
    strategy: Option<Strategy>,
    outcome: Option<Outcome>,
    priority: Option<u8>,
}

/// What few steps have.
#[derive(Default, PartialEq)]
struct Rest {
    items: Option<u32>,
    needs: Option<Box<Needs>>,
    specific_gpu_id: Option<Arc<GpuId>>,
    not_before_ms: Option<u64>,
    start_before_ms: Option<u64>,
    /// The other one of wait and run.
    other_time_ms: Option<f64>,
    load_ms: Option<f64>,
    transfer_ms: Option<f64>,
    error: Option<Box<TaskError>>,
    after_ms: Option<u64>,
    reason: Option<Box<str>>,
    /// Another trace than that of its task.
    trace_id: Option<Box<str>>,
}

impl PackedStep {
    /// `trace_id`: that of the task, which its steps have in common.
    pub(super) fn new(step: &TaskStep, shared: &mut Shared, trace_id: Option<&str>) -> Self {
        let has_trace = step.trace_id.is_some() && step.trace_id.as_deref() == trace_id;
        let (time_ms, other_time_ms) = times(step);
        let rest = Rest {
            items: step.items,
            needs: step.needs.clone().map(Box::new),
            specific_gpu_id: shared.gpus.shared_if_any(step.specific_gpu_id.as_ref()),
            not_before_ms: step.not_before_ms,
            start_before_ms: step.start_before_ms,
            other_time_ms,
            load_ms: step.load_ms,
            transfer_ms: step.transfer_ms,
            error: step.error.clone().map(Box::new),
            after_ms: step.after_ms,
            reason: step.reason.as_deref().map(Box::from),
            trace_id: step.trace_id.as_deref().filter(|_| !has_trace).map(Box::from),
        };
        Self {
            at_ms: step.at_ms,
            published_ms: step.published_ms.and_then(NonZeroU64::new),
            time_ms: time_ms.unwrap_or(f64::NAN),
            pool: shared.pools.shared(&step.pool),
            kind: shared.kinds.shared_if_any(step.kind.as_ref()),
            group: shared.groups.shared_if_any(step.group.as_ref()),
            gpu: shared.gpus.shared_if_any(step.gpu_id.as_ref()),
            rest: (rest != Rest::default()).then(|| Box::new(rest)),
            attempt: step.attempt.and_then(NonZeroU32::new),
            among: step.among.and_then(NonZeroU32::new),
            has_trace,
            step: step.step,
            strategy: step.strategy,
            outcome: step.outcome,
            priority: step.priority,
        }
    }

    /// Whether this is the same step, told once more.
    pub(super) fn is(&self, step: &TaskStep) -> bool {
        (self.at_ms, self.step, self.attempt) == (step.at_ms, step.step, step.attempt.and_then(NonZeroU32::new))
            && self.gpu.as_deref() == step.gpu_id.as_ref()
    }

    /// The step as it was told. `trace_id`: that of its task.
    pub(super) fn unpacked(&self, task_id: &TaskId, trace_id: Option<&str>) -> TaskStep {
        let none = Rest::default();
        let rest = self.rest.as_deref().unwrap_or(&none);
        let time_ms = (!self.time_ms.is_nan()).then_some(self.time_ms);
        let (waited_ms, run_ms) = match self.step {
            StepName::Began => (time_ms, rest.other_time_ms),
            _ => (rest.other_time_ms, time_ms),
        };
        TaskStep {
            at_ms: self.at_ms,
            task_id: Some(task_id.clone()),
            step: self.step,
            pool: (*self.pool).clone(),
            kind: self.kind.as_deref().cloned(),
            priority: self.priority,
            group: self.group.as_deref().cloned(),
            items: rest.items,
            needs: rest.needs.as_deref().cloned(),
            specific_gpu_id: rest.specific_gpu_id.as_deref().cloned(),
            not_before_ms: rest.not_before_ms,
            start_before_ms: rest.start_before_ms,
            published_ms: self.published_ms.map(NonZeroU64::get),
            attempt: self.attempt.map(NonZeroU32::get),
            gpu_id: self.gpu.as_deref().cloned(),
            strategy: self.strategy,
            among: self.among.map(NonZeroU32::get),
            waited_ms,
            run_ms,
            load_ms: rest.load_ms,
            transfer_ms: rest.transfer_ms,
            outcome: self.outcome,
            error: rest.error.as_deref().cloned(),
            after_ms: rest.after_ms,
            reason: rest.reason.as_deref().map(str::to_owned),
            trace_id: trace_id.filter(|_| self.has_trace).or(rest.trace_id.as_deref()).map(str::to_owned),
        }
    }
}

/// The time that steps of this sort have, and the other one.
const fn times(step: &TaskStep) -> (Option<f64>, Option<f64>) {
    match step.step {
        StepName::Began => (step.waited_ms, step.run_ms),
        _ => (step.run_ms, step.waited_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told_of(step: StepName) -> TaskStep {
        TaskStep {
            kind: Some("echo".parse().unwrap()),
            priority: Some(3),
            group: Some("g".parse().unwrap()),
            items: Some(4),
            needs: Some(Needs { memory_mb: Some(5), ..Needs::default() }),
            specific_gpu_id: Some("only".parse().unwrap()),
            not_before_ms: Some(6),
            start_before_ms: Some(7),
            published_ms: Some(8),
            attempt: Some(9),
            gpu_id: Some("gpu".parse().unwrap()),
            strategy: Some(Strategy::RoundRobin),
            among: Some(10),
            waited_ms: Some(11.5),
            run_ms: Some(12.5),
            load_ms: Some(13.5),
            transfer_ms: Some(14.5),
            outcome: Some(Outcome::Failed),
            error: Some(TaskError { code: "c".to_owned(), message: "m".to_owned(), field: Some("f".to_owned()) }),
            after_ms: Some(15),
            reason: Some("because".to_owned()),
            trace_id: Some("trace".to_owned()),
            ..TaskStep::new(step, "t".parse().unwrap(), "pool".parse().unwrap(), 2)
        }
    }

    #[test]
    fn a_step_comes_back_as_it_was_told() {
        let mut shared = Shared::default();
        for step in [StepName::Began, StepName::Ended, StepName::Waits] {
            for told in [told_of(step), TaskStep::new(step, "t".parse().unwrap(), PoolName::default(), 1)] {
                for trace_id in [None, Some("trace"), Some("another")] {
                    assert_eq!(PackedStep::new(&told, &mut shared, trace_id).unpacked(&"t".parse().unwrap(), trace_id), told);
                }
            }
        }
    }
}
