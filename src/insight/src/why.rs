//! Why a task waits, and until when.

mod obstacles;
mod sentence;
#[cfg(test)]
mod tests;
mod words;

use gpu_table::Wanted;
use protocol::{GpuId, Kind, Needs, TaskError, TaskId, TaskState, TaskStatus, insight::TaskSummary, insight::Why};

use self::{
    obstacles::{Asked, obstacles},
    sentence::sentence,
};
use crate::{Observed, begins_in_ms, expected_wait_ms, index::TaskIndex};

/// Why a task waits, until when, and what keeps each GPU from taking it; or what became of it. What the store says of it counts above the index. `None`: neither knows it.
#[must_use]
pub fn why(observed: &Observed<'_>, index: &TaskIndex, task_id: &TaskId, status: Option<&TaskStatus>) -> Option<Why> {
    let case = Case::of(index, task_id, status)?;
    let asked = Asked { kind: case.kind.as_ref(), needs: &case.needs, only: case.only.as_ref() };
    let waits = matches!(case.state, TaskState::Waiting | TaskState::Delayed | TaskState::Retrying);
    let mut gpus = if waits { obstacles(observed, &asked) } else { Vec::new() };
    let (ahead, first_ahead) = index.ahead_of(task_id, Why::AHEAD_MAX).filter(|_| case.state == TaskState::Waiting).unzip();
    let begins_in_ms = if waits { begins(observed, index, &case) } else { None };
    let sentence = sentence(observed, index, &case, (&gpus, ahead));
    let forecast = if waits { forecast(observed, index, &case, begins_in_ms) } else { String::new() };
    let more_gpus = gpus.len().saturating_sub(Why::GPUS_MAX) as u64;
    gpus.truncate(Why::GPUS_MAX);
    let first_ahead = first_ahead.unwrap_or_default();
    Some(Why { task_id: task_id.clone(), state: case.state, sentence, ahead, first_ahead, begins_in_ms, forecast, gpus, more_gpus })
}

/// What store and index know of a task.
struct Case {
    task_id: TaskId,
    state: TaskState,
    kind: Option<Kind>,
    needs: Needs,
    only: Option<GpuId>,
    gpu_id: Option<GpuId>,
    attempt: u32,
    error: Option<TaskError>,
    waiting_for: Option<String>,
    not_before_ms: Option<u64>,
    changed_ms: u64,
    /// What the index knows of it.
    indexed: Option<TaskSummary>,
    /// It went to its GPU, and did not begin yet.
    is_forwarded: bool,
    is_split: bool,
    /// When its next attempt is due.
    due_ms: Option<u64>,
}

impl Case {
    fn of(index: &TaskIndex, task_id: &TaskId, status: Option<&TaskStatus>) -> Option<Self> {
        let (record, indexed) = (index.record(task_id), index.get(task_id));
        let state = status.map(|status| status.state).or(indexed.as_ref().map(|known| known.state))?;
        let known = indexed.as_ref();
        // What the index says of an attempt that is over by now says nothing of this one.
        let is_same = known.is_some_and(|known| known.state == state);
        let reply_error = status.and_then(|status| status.reply.as_ref()).and_then(|reply| reply.error.clone());
        Some(Self {
            task_id: task_id.clone(),
            state,
            kind: status.and_then(|status| status.kind.clone()).or_else(|| known.and_then(|known| known.kind.clone())),
            needs: known.and_then(|known| known.needs.clone()).unwrap_or_default(),
            only: known.and_then(|known| known.specific_gpu_id.clone()),
            gpu_id: status.and_then(|status| status.gpu_id.clone()).or_else(|| known.and_then(|known| known.gpu_id.clone())),
            attempt: status.map_or(0, |status| status.attempt).max(known.map_or(0, |known| known.attempt)),
            error: reply_error.or_else(|| known.and_then(|known| known.error.clone())),
            waiting_for: status.and_then(|status| status.waiting_for.clone()).or_else(|| known.and_then(|known| known.waiting_for.clone())),
            not_before_ms: status.and_then(|status| status.not_before_ms).or_else(|| known.and_then(|known| known.not_before_ms)),
            changed_ms: status.map_or_else(|| known.map_or(0, |known| known.changed_ms), |status| status.changed_ms),
            is_forwarded: is_same && record.is_some_and(|record| record.is_forwarded),
            is_split: record.is_some_and(|record| record.is_split) || status.is_some_and(|status| status.slices.is_some()),
            due_ms: record.filter(|_| is_same).and_then(|record| record.due_ms).map(std::num::NonZeroU64::get),
            indexed,
        })
    }

    fn wanted(&self) -> Option<Wanted> {
        Some(Wanted { kind: self.kind.clone()?, needs: self.needs.clone(), specific_gpu_id: self.only.clone() })
    }

    /// When it was last known to be due, in Unix ms.
    fn is_due_ms(&self) -> Option<u64> {
        if self.state == TaskState::Delayed { self.not_before_ms } else { self.due_ms }
    }
}

/// In how many ms it begins. Where the index does not know it, it is behind all that wait.
fn begins(observed: &Observed<'_>, index: &TaskIndex, case: &Case) -> Option<f64> {
    if case.indexed.as_ref().is_some_and(|known| !known.state.ended() && known.state != TaskState::Running) {
        return begins_in_ms(observed, index, &case.task_id);
    }
    let due_ms = case.is_due_ms().map_or(0.0, |due_ms| due_ms.saturating_sub(observed.now_ms) as f64);
    expected_wait_ms(observed, 0, case.kind.as_ref()).map(|wait_ms| wait_ms.max(due_ms))
}

/// On what that rests, or why it cannot be told.
fn forecast(observed: &Observed<'_>, index: &TaskIndex, case: &Case, begins_in_ms: Option<f64>) -> String {
    let learnt = case.kind.as_ref().and_then(|kind| Some((kind, index.learnt_run_ms(kind)?)));
    match (begins_in_ms, learnt, index.mean_run_ms()) {
        (Some(_), _, _) if case.indexed.is_none() => {
            "as for a task that comes now with priority 0: the index does not know this one, so that its place in the line is not known"
                .to_owned()
        }
        (Some(_), Some((kind, run_ms)), _) => {
            format!("by what the fleet learnt of run times: a run of kind {kind} takes {}", words::duration(run_ms))
        }
        (Some(_), None, Some(mean_ms)) => format!("no run of its kind has ended yet; a run of any kind takes {}", words::duration(mean_ms)),
        (Some(_), None, None) => "a slot is free for it".to_owned(),
        (None, _, _) if !has_taker(observed, case) => "no GPU that could run it takes tasks now, so that no time can be told".to_owned(),
        (None, _, None) => "no run of any task has ended yet that is known, so that no time can be told".to_owned(),
        (None, _, Some(_)) => "when cannot be told: what it waits for has no known end".to_owned(),
    }
}

/// Whether a GPU that could run it takes tasks.
fn has_taker(observed: &Observed<'_>, case: &Case) -> bool {
    use gpu_table::eligibility::{is_ready, is_within_thresholds};
    let settings = observed.settings;
    let wanted = case.wanted();
    observed.gpus.iter().map(|view| &view.row).any(|row| {
        let fits = wanted.as_ref().is_none_or(|wanted| wanted.fits(row, settings.memory_threshold));
        fits && row.consuming && is_ready(row, settings) && is_within_thresholds(row, settings)
    })
}
