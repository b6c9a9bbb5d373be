//! What the log says of a task at the gateway: its id and its trace, by which its way goes on in the worker's log and in the producer's own.
//!
//! What goes well is said at `debug`, what does not at `info`, in one line each.

use axum::http::StatusCode;
use protocol::{TaskId, trace_id_of};
use tracing::{debug, info};

use crate::{Problem, ProblemDocument};

/// The trace of a request, for the log.
#[derive(Debug, Clone)]
pub(crate) struct Trail {
    trace_id: Option<String>,
}

impl Trail {
    /// Of the request with this `traceparent`.
    pub(crate) fn of(traceparent: Option<&str>) -> Self {
        Self { trace_id: traceparent.and_then(trace_id_of).map(str::to_owned) }
    }

    /// The broker has the task.
    pub(crate) fn submitted(&self, task_id: &TaskId) {
        debug!(%task_id, trace_id = self.trace_id.as_deref(), "task submitted");
    }

    /// The task's result is there.
    pub(crate) fn answered(&self, task_id: &TaskId) {
        debug!(%task_id, trace_id = self.trace_id.as_deref(), "task answered");
    }

    /// The task was not submitted, or has no good result. What only says that the request is wrong is for its client alone, and stays at `debug`.
    pub(crate) fn failed(&self, problem: Problem) -> Problem {
        let ProblemDocument { kind, status, detail, task_id, code, .. } = problem.document();
        let (task_id, trace_id, code) = (task_id.as_ref().map(TaskId::as_str), self.trace_id.as_deref(), code.as_deref());
        if task_id.is_none() && *status < 500 && *status != StatusCode::TOO_MANY_REQUESTS.as_u16() {
            debug!(trace_id, status, problem = kind.as_str(), detail = detail.as_str(), "request refused");
        } else {
            info!(task_id, trace_id, status, problem = kind.as_str(), code, detail = detail.as_str(), "task without a good result");
        }
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trail_has_the_id_of_a_trace_and_of_nothing_else() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let traceparent = format!("00-{trace}-b7ad6b7169203331-01");
        assert_eq!(Trail::of(Some(&traceparent)).trace_id.as_deref(), Some(trace));
        assert_eq!(Trail::of(Some("00-xyz")).trace_id, None);
        assert_eq!(Trail::of(None).trace_id, None);
    }
}
