//! Open tasks of which nothing was heard for long. Steps may get lost: without a look into the store, tasks of workers that died would seem to run for days.

use std::collections::BTreeSet;

use protocol::{
    Outcome, StepName, TaskId, TaskState, TaskStatus, TaskStep,
    insight::{TaskFilter, TaskSummary},
};

use super::state::State;

/// An open task of which nothing was heard for so long is looked up.
const SILENT_MS: u64 = 600_000;
/// So many are in one round.
const CHECKED_AT_ONCE: usize = 32;
/// The states of each round, in turn: what seems to run comes as often as all that waits.
const ROUNDS: [[TaskState; 2]; 2] = [[TaskState::Running, TaskState::Retrying], [TaskState::Waiting, TaskState::Delayed]];

/// How far the look at silent tasks is.
#[derive(Debug, Default)]
pub(super) struct Audit {
    turn: usize,
    /// Where the next page of each round begins.
    after: [Option<String>; 2],
}

impl State {
    /// The next tasks to look up.
    pub(super) fn silent(&mut self, now_ms: u64) -> Vec<TaskSummary> {
        let turn = self.audit.turn;
        self.audit.turn = (turn + 1) % ROUNDS.len();
        let filter = TaskFilter { state: ROUNDS[turn].to_vec(), older_than_ms: Some(SILENT_MS), ..TaskFilter::default() };
        let page = self.index.list(&filter, self.audit.after[turn].as_deref(), CHECKED_AT_ONCE, now_ms);
        self.audit.after[turn] = page.next;
        let running: BTreeSet<&TaskId> = self.seen.gpus.iter().flat_map(|view| &view.row.running).collect();
        let is_silent = |task: &TaskSummary| {
            let is_confirmed = task.state == TaskState::Running && running.contains(&task.task_id);
            !is_confirmed && task.changed_ms.saturating_add(SILENT_MS) <= now_ms
        };
        page.tasks.into_iter().filter(is_silent).collect()
    }
}

/// The step that is missing, where the store knows better; `None`: the index is right.
pub(super) fn correction(summary: &TaskSummary, status: Option<&TaskStatus>, now_ms: u64) -> Option<TaskStep> {
    let step =
        |name: StepName, at_ms: u64| TaskStep::new(name, summary.task_id.clone(), summary.pool.clone(), at_ms.max(summary.changed_ms));
    let Some(status) = status else {
        // What began has a record until long after its end. What only waits may have lost its own, and its message waits all the same.
        if !matches!(summary.state, TaskState::Running | TaskState::Retrying) {
            return None;
        }
        let reason = Some("the store has no record of it any more".to_owned());
        return Some(TaskStep { outcome: Some(Outcome::Expired), reason, ..step(StepName::Ended, now_ms) });
    };
    if status.state == summary.state {
        return None;
    }
    let known = |name: StepName| TaskStep {
        attempt: Some(status.attempt).filter(|attempt| *attempt > 0),
        gpu_id: status.gpu_id.clone(),
        ..step(name, status.changed_ms)
    };
    Some(match status.state {
        TaskState::Delayed => TaskStep { not_before_ms: status.not_before_ms, ..known(StepName::Delayed) },
        // Of now: it is later than whatever was told.
        TaskState::Waiting => TaskStep { at_ms: now_ms, reason: status.waiting_for.clone(), ..known(StepName::Waits) },
        TaskState::Running => known(StepName::Began),
        TaskState::Retrying => known(StepName::Retrying),
        TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled | TaskState::Expired => {
            let error = status.reply.as_ref().and_then(|reply| reply.error.clone());
            TaskStep { outcome: status.state.outcome(), error, ..known(StepName::Ended) }.bounded()
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn summary(state: &str) -> TaskSummary {
        let of = json!({"task_id": "t", "state": state, "pool": "default", "attempt": 1, "first_seen_ms": 1, "changed_ms": 5});
        serde_json::from_value(of).expect("a summary")
    }

    fn status(state: &str) -> TaskStatus {
        let of = json!({"task_id": "t", "state": state, "gpu_id": "g", "attempt": 2, "first_seen_ms": 1, "changed_ms": 9});
        serde_json::from_value(of).expect("a status")
    }

    #[test]
    fn what_the_store_knows_better_becomes_a_step() {
        assert_eq!(correction(&summary("running"), Some(&status("running")), 20), None);
        let ended = correction(&summary("running"), Some(&status("failed")), 20).expect("a step");
        assert_eq!((ended.step, ended.outcome, ended.at_ms, ended.attempt), (StepName::Ended, Some(Outcome::Failed), 9, Some(2)));
        let began = correction(&summary("waiting"), Some(&status("running")), 20).expect("a step");
        assert_eq!((began.step, began.gpu_id.map(|id| id.to_string()).as_deref()), (StepName::Began, Some("g")));
        assert_eq!(correction(&summary("waiting"), None, 20), None, "its message may wait in its queue");
        let gone = correction(&summary("running"), None, 20).expect("a step");
        assert_eq!((gone.step, gone.outcome, gone.at_ms), (StepName::Ended, Some(Outcome::Expired), 20));
    }
}
