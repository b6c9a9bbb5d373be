//! How the producer's and the store's errors look over HTTP.

use producer::{SubmitError, WaitError};
use protocol::TaskId;
use task_store::StoreError;
use tracing::error;

use crate::{Gateway, Problem, problem::ProblemKind};

impl Gateway {
    /// Notes that the fleet took a task.
    pub(crate) fn accepted(&self) {
        self.full.accepted();
        self.unavailable.accepted();
    }

    pub(crate) fn not_submitted(&self, cause: &SubmitError) -> Problem {
        if let Some(refusal) = cause.refusal() {
            return refusal.clone().into();
        }
        if let SubmitError::OtherTask { task_id } = cause {
            return in_use(task_id);
        }
        let problem = if cause.is_full() {
            Problem::new(ProblemKind::QueueFull, cause.to_string()).retry_after(self.full.refused())
        } else if cause.is_unavailable() {
            self.unreachable(cause)
        } else {
            error!(error = %cause, "submit a task");
            Problem::new(ProblemKind::Internal, cause.to_string())
        };
        // The id matters where the task may have been submitted after all: a retry under it is harmless.
        match cause.task_id() {
            Some(task_id) => problem.task(task_id),
            None => problem,
        }
    }

    pub(crate) fn not_answered(&self, cause: &WaitError) -> Problem {
        let kind = match cause {
            WaitError::Submit(cause) => return self.not_submitted(cause),
            WaitError::Timeout { .. } => ProblemKind::WaitTimeout,
            WaitError::ReplyGone { .. } | WaitError::Unreadable { .. } => ProblemKind::TaskFailed,
            WaitError::Closed { task_id } => return self.unreachable(cause).task(task_id),
        };
        let problem = Problem::new(kind, cause.to_string());
        match cause.task_id() {
            Some(task_id) => problem.task(task_id),
            None => problem,
        }
    }

    pub(crate) fn store_failed(&self, cause: &StoreError) -> Problem {
        if cause.is_transient() {
            return self.unreachable(cause);
        }
        error!(error = %cause, "ask the store");
        Problem::new(ProblemKind::Internal, cause.to_string())
    }

    pub(crate) fn unreachable(&self, cause: &dyn std::error::Error) -> Problem {
        Problem::new(ProblemKind::Unavailable, cause.to_string()).retry_after(self.unavailable.refused())
    }
}

/// A `task_id` that another task has. Its status is the other task's.
fn in_use(task_id: &TaskId) -> Problem {
    let detail = format!(
        "task_id {task_id} belongs to a task with another body or of another kind: give this one an id of its own, or repeat the first request unchanged"
    );
    Problem::new(ProblemKind::TaskIdInUse, detail).field("task_id").task(task_id)
}
