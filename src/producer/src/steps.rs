//! The steps of tasks that a producer and operators make, told to the journal for people. Nothing rests on them, and nobody waits for them.

use protocol::{Limits, Needs, PoolName, StepName, TaskId, TaskStep, trace_id_of};
use task_store::{Cancel, Journal, TaskStore};

use crate::NewTask;

/// The journal, where it keeps steps.
fn journal(store: &dyn TaskStore) -> Option<&dyn Journal> {
    Some(store.journal()).filter(|journal| journal.keeps_steps())
}

/// The broker has a task that was new to the store: it waits in its pool's queue, or until its time.
pub(crate) fn submitted(
    store: &dyn TaskStore,
    pool: &PoolName,
    (task_id, task, traceparent): (&TaskId, &NewTask, Option<&str>),
    (not_before_ms, now_ms): (Option<u64>, u64),
) {
    let Some(journal) = journal(store) else { return };
    let step = if not_before_ms.is_some() { StepName::Delayed } else { StepName::Submitted };
    let body = &task.body;
    journal.tell(TaskStep {
        kind: Some(task.kind.clone()),
        priority: Some(task.priority),
        group: task.group.clone(),
        items: body.items.as_ref().map(|items| u32::try_from(items.len()).unwrap_or(u32::MAX)),
        needs: Some(&body.needs).filter(|needs| **needs != Needs::default()).cloned(),
        specific_gpu_id: body.gpu_options.specific_gpu_id.clone(),
        not_before_ms,
        start_before_ms: start_before_ms(task, not_before_ms.unwrap_or(now_ms)),
        published_ms: Some(now_ms),
        trace_id: traceparent.and_then(trace_id_of).map(str::to_owned),
        ..TaskStep::new(step, task_id.clone(), pool.clone(), now_ms)
    });
}

/// When the task stops being worth starting: what of its limits passes first from when it may start.
fn start_before_ms(task: &NewTask, from_ms: u64) -> Option<u64> {
    let expiration_ms = task.expiration.and_then(|time| u64::try_from(time.as_millis()).ok());
    let Limits { queue_deadline_ms, total_deadline_ms, .. } = task.body.limits;
    [expiration_ms, queue_deadline_ms, total_deadline_ms].into_iter().flatten().min().map(|ms| from_ms.saturating_add(ms))
}

/// Tells people that somebody asked for the end of a task, as the store answered. Not of one that had ended, nor of one that nobody has seen: that one has no steps yet. For who cancels without
/// a [`Producer`](crate::Producer), which tells it itself.
pub fn cancel_asked(store: &dyn TaskStore, pool: &PoolName, task_id: &TaskId, (cancel, now_ms): (&Cancel, u64)) {
    let Some(journal) = journal(store) else { return };
    if let Cancel::Waiting | Cancel::Running(_) = cancel {
        journal.tell(TaskStep::new(StepName::CancelAsked, task_id.clone(), pool.clone(), now_ms));
    }
}

/// A dead letter was published to this pool again.
pub(crate) fn requeued(store: &dyn TaskStore, pool: &PoolName, task_id: &TaskId, now_ms: u64) {
    let Some(journal) = journal(store) else { return };
    journal.tell(TaskStep { published_ms: Some(now_ms), ..TaskStep::new(StepName::Requeued, task_id.clone(), pool.clone(), now_ms) });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::{Kind, TaskBody};

    use super::*;

    #[test]
    fn the_limit_that_passes_first_says_until_when_a_task_is_worth_starting() {
        let task = |expiration_s: Option<u64>, queue_deadline_ms, total_deadline_ms| {
            let limits = Limits { queue_deadline_ms, total_deadline_ms, ..Limits::default() };
            let new = NewTask::new(Kind::new("echo").expect("valid"), TaskBody { limits, ..TaskBody::default() });
            start_before_ms(&NewTask { expiration: expiration_s.map(Duration::from_secs), ..new }, 1_000)
        };
        assert_eq!([task(None, None, None), task(Some(9), None, None)], [None, Some(10_000)]);
        assert_eq!([task(Some(9), Some(5), Some(7)), task(None, None, Some(7))], [Some(1_005), Some(1_007)]);
    }
}
