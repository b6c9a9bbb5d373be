//! What the log says of tasks: one line for each end and each retry, with all that leads from a task to its trace, its GPU and its error.
//!
//! At `info` only what did not go well is said, so that a busy fleet writes nothing. `log.level: info,gpu_worker::settle=debug` has the good ends too. The fields stand in
//! the event and not in a span, which would cost every good task something.

use protocol::{Kind, Outcome, TaskError};

use super::{carry_out::Settling, history};
use crate::disposition::{End, Retrying};

/// How a task ended, for the log.
#[derive(Debug)]
pub(super) struct Ending {
    outcome: Outcome,
    error: Option<TaskError>,
    run_ms: f64,
}

impl Ending {
    pub(super) fn of(end: &End) -> Self {
        Self { outcome: end.outcome, error: end.error.clone(), run_ms: end.timings.run_ms }
    }

    /// Says that the task of this delivery ended so.
    pub(super) fn tell(&self, Settling { context, in_hand, identity, .. }: &Settling<'_>) {
        let Self { outcome, error, run_ms } = self;
        let outcome = outcome.name();
        let (task_id, kind, attempt) = (identity.task_id.as_str(), identity.kind.as_ref().map(Kind::as_str), identity.attempt);
        let gpu_id = context.me.gpu_id.as_str();
        let Some(TaskError { code, message, field }) = error else {
            tracing::debug!(task_id, trace_id = in_hand.trace_id(), kind, outcome, attempt, gpu_id, run_ms, "task ended");
            return;
        };
        let (code, field, error) = (history::code(code), field.as_deref(), history::message(message));
        tracing::info!(task_id, trace_id = in_hand.trace_id(), kind, outcome, code, field, attempt, gpu_id, run_ms, error, "task ended");
    }
}

/// Says that a slice ended so. Its batch has a line of its own.
pub(super) fn tell_slice(Settling { context, in_hand, identity, .. }: &Settling<'_>, outcome: Outcome, items_failed: u32) {
    let (task_id, outcome, gpu_id) = (identity.task_id.as_str(), outcome.name(), context.me.gpu_id.as_str());
    tracing::debug!(task_id, trace_id = in_hand.trace_id(), outcome, attempt = identity.attempt, gpu_id, items_failed, "slice ended");
}

/// Says that an attempt failed and another one follows after this pause.
pub(super) fn tell_retry(Settling { context, in_hand, .. }: &Settling<'_>, retrying: &Retrying<'_>, after_ms: u64) {
    let Retrying { task, error, run_ms, .. } = retrying;
    let (task_id, kind, attempt, gpu_id) = (task.id.as_str(), task.kind.as_str(), task.attempt, context.me.gpu_id.as_str());
    let (code, error) = (history::code(&error.code), history::message(&error.message));
    tracing::info!(
        task_id,
        trace_id = in_hand.trace_id(),
        kind,
        code,
        attempt,
        gpu_id,
        run_ms,
        error,
        after_ms,
        "attempt failed; another one follows"
    );
}
