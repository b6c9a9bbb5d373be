//! How the producer's and the store's errors look over HTTP.
//!
//! A client is told what failed and what it can do. What the servers behind said, and where they are, stays in the log.

use std::fmt::Display;

use producer::{SubmitError, WaitError};
use protocol::TaskId;
use task_queue::PublishError;
use task_store::StoreError;
use tracing::{debug, error, warn};

use crate::{
    Gateway, Problem,
    problem::ProblemKind,
    retry::{Refusals, seconds_within_bounds},
};

/// What a client is told of a fault that it cannot mend.
pub(crate) const SEE_THE_LOG: &str = "the gateway could not make sense of what a server behind it said; its log has the details";

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
        if let SubmitError::NoRoomInGroup { task_id, group, bound } = cause {
            let detail = format!("group {group}: {bound}; nothing was submitted");
            return Problem::new(ProblemKind::GroupFull, detail).field("group").task(task_id);
        }
        let problem = if cause.is_full() {
            Problem::new(ProblemKind::QueueFull, told(cause)).retry_after(self.come_back_after(&self.full))
        } else if cause.is_unavailable() {
            self.unreachable(cause, told(cause))
        } else {
            error!(error = %cause, "submit a task");
            Problem::new(ProblemKind::Internal, SEE_THE_LOG)
        };
        // The id matters where the task may have been submitted after all: a retry under it is harmless.
        match cause.task_id() {
            Some(task_id) => problem.task(task_id),
            None => problem,
        }
    }

    pub(crate) fn not_answered(&self, cause: &WaitError) -> Problem {
        let problem = match cause {
            WaitError::Submit(cause) => return self.not_submitted(cause),
            WaitError::Timeout { .. } => Problem::new(ProblemKind::WaitTimeout, cause.to_string()),
            WaitError::ReplyGone { .. } => Problem::new(ProblemKind::TaskFailed, cause.to_string()),
            WaitError::Unreadable { .. } => {
                error!(error = %cause, "read a reply");
                Problem::new(ProblemKind::TaskFailed, "the task ended, and its reply is none that this version of the gateway can read")
            }
            WaitError::Closed { .. } => self.unreachable(cause, "the gateway is stopping; the task goes on"),
        };
        match cause.task_id() {
            Some(task_id) => problem.task(task_id),
            None => problem,
        }
    }

    pub(crate) fn store_failed(&self, cause: &StoreError) -> Problem {
        if cause.is_transient() {
            return self.unreachable(cause, "the task store does not answer, or refuses to write");
        }
        error!(error = %cause, "ask the store");
        Problem::new(ProblemKind::Internal, SEE_THE_LOG)
    }

    /// After how many seconds a task that is refused now has a chance: when one that comes now would begin, by the learnt run times, where that is known.
    fn come_back_after(&self, refusals: &Refusals) -> u64 {
        let by_refusals = refusals.refused();
        self.observatory.expected_wait_ms().map_or(by_refusals, seconds_within_bounds)
    }

    /// A server behind does not do its part. The first time after all went well is a warning in the log; what follows is the same trouble.
    pub(crate) fn unreachable(&self, cause: &dyn Display, told: impl Into<String>) -> Problem {
        if self.unavailable.are_under_way() {
            debug!(error = %cause, "answered 503 again");
        } else {
            warn!(error = %cause, "answered 503");
        }
        Problem::new(ProblemKind::Unavailable, told).retry_after(self.unavailable.refused())
    }
}

/// A `task_id` that another task has. Its status is the other task's.
fn in_use(task_id: &TaskId) -> Problem {
    let detail = format!(
        "task_id {task_id} belongs to a task with another body or of another kind: give this one an id of its own, or repeat the first request unchanged"
    );
    Problem::new(ProblemKind::TaskIdInUse, detail).field("task_id").task(task_id)
}

/// What a client is told of a task that was not submitted, or may not have been.
fn told(cause: &SubmitError) -> String {
    match cause {
        SubmitError::Refused(refusal) => refusal.to_string(),
        SubmitError::Prepare { .. } | SubmitError::PrepareTimeout { .. } => {
            "the broker cannot be reached; nothing was submitted".to_owned()
        }
        SubmitError::Note { .. } => "the task store does not answer, or refuses to write; nothing was submitted".to_owned(),
        SubmitError::Publish { source, .. } => not_published(source).to_owned(),
        SubmitError::NotConfirmed { after_ms, .. } => format!("the broker did not confirm the task within {after_ms} ms; {MAY_HAVE_IT}"),
        SubmitError::OtherTask { .. } | SubmitError::NoRoomInGroup { .. } => cause.to_string(),
        SubmitError::TooManyWaiting { bound } => format!("the gateway waits for {bound} results already; nothing was submitted"),
        SubmitError::Closed => "the gateway is stopping; nothing was submitted".to_owned(),
    }
}

const fn not_published(cause: &PublishError) -> &'static str {
    match cause {
        PublishError::Full { .. } => {
            "the queue is full: the pool's (amqp.queue_length_max), or for a delayed task one of those (amqp.delayed_max); nothing was submitted"
        }
        PublishError::Blocked { .. } => "the broker blocks publishers, since it is low on memory or disk; nothing was submitted",
        PublishError::Timeout { .. } | PublishError::Disconnected { .. } => {
            "the connection to the broker is down, or it did not confirm in time; it may have the task: submit it again under the same task_id"
        }
        PublishError::Inaccessible { .. } => "the node of the broker that has the pool's queue is down; nothing was submitted",
        PublishError::Unroutable { .. } | PublishError::Refused { .. } => SEE_THE_LOG,
    }
}

const MAY_HAVE_IT: &str = "it may have it: submit it again under the same task_id, which runs nothing twice";
