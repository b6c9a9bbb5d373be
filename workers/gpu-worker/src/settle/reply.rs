//! Replies: their bodies, and their way to the queue that a delivery names.

use bytes::Bytes;
use protocol::{Envelope, ErrorCode, Kind, Outcome, Reply, TaskError, TaskId, Token, envelope::Headers};
use task_store::Stored;
use tokio::time::Instant;

use crate::disposition::{End, Ran};
use crate::{
    context::Context,
    delivery::{Identity, InHand},
    ports::Abandoned,
    replies::Became,
};

/// A reply that is final: recorded in the store.
pub(super) struct Final {
    /// Whether it was sent before, or may have been.
    pub(super) is_copy: bool,
    pub(super) outcome: Outcome,
    pub(super) body: Bytes,
    pub(super) attempt: u32,
    pub(super) token: Option<Token>,
}

/// The reply's body, of an attempt that ran or of a task that ended without one.
pub(super) fn body(context: &Context, identity: &Identity, end: End, ran: Option<&Ran>) -> Bytes {
    Reply {
        kind: identity.kind.clone(),
        result: end.result,
        results: end.results,
        error: end.error,
        gpu_id: ran.map(|_| context.me.gpu_id.clone()),
        attempt: identity.attempt,
        token: ran.map(|ran| ran.token),
        strategy: ran.map(|ran| ran.choice.clone()),
        timings: end.timings,
        ..Reply::ended(identity.task_id.clone(), end.outcome, context.ports.now_ms())
    }
    .into_bytes()
}

/// The reply of a stored outcome: its own bytes while they are kept, else its outcome alone.
pub(super) fn kept(context: &Context, task_id: &TaskId, kind: Option<Kind>, stored: Stored) -> Final {
    let body = stored.body.unwrap_or_else(|| {
        let message = "the task ended before, and its reply is no longer kept; only its outcome is known";
        let error = TaskError::new(ErrorCode::ReplyNotKept, message);
        Reply {
            kind,
            error: Some(error),
            attempt: stored.attempt,
            token: stored.token,
            ..Reply::ended(task_id.clone(), stored.outcome, context.ports.now_ms())
        }
        .into_bytes()
    });
    Final { is_copy: true, outcome: stored.outcome, body, attempt: stored.attempt, token: stored.token }
}

/// Sends a reply where the delivery asks for one. Once this returns it is with its queue, or kept where the fleet goes on with it.
pub(super) async fn send(context: &Context, in_hand: &InHand, task_id: &TaskId, reply: Final) -> Result<(), Abandoned> {
    let Some(reply_to) = in_hand.envelope.reply_to.clone().filter(|name| !name.is_empty()) else { return Ok(()) };
    let correlation_id = in_hand.envelope.correlation_id.clone().unwrap_or_else(|| task_id.to_string());
    let headers = Headers {
        traceparent: in_hand.envelope.headers.traceparent.clone(),
        outcome: Some(reply.outcome.name().to_owned()),
        attempt: Some(reply.attempt),
        token: reply.token.map(|token| token.0),
        ..Headers::default()
    };
    let envelope = Envelope {
        message_id: Some(task_id.to_string()),
        correlation_id: Some(correlation_id),
        content_type: Some("application/json".to_owned()),
        timestamp: Some(context.ports.now_ms() / 1_000),
        headers,
        ..Envelope::default()
    };
    let started = Instant::now();
    if context.replies.send(reply_to, envelope, reply.body).await? == Became::Taken {
        context.pace.confirmed_after(started.elapsed());
    }
    Ok(())
}
