//! Replies: their bodies, and their way to the queue that a delivery names.

use bytes::Bytes;
use protocol::{Envelope, ErrorCode, Json, Kind, Outcome, Reply, TaskError, TaskId, Token, envelope::Headers, reply::Timings};
use task_queue::{Outgoing, PublishError, Queue, Target};
use task_store::Stored;
use tokio::time::Instant;

use crate::disposition::{End, Ran};
use crate::{
    context::Context,
    delivery::{Identity, InHand},
    ports::{Abandoned, Sent},
};

/// A reply that is final: recorded in the store.
pub(super) struct Final {
    pub(super) copy: CopyOf,
    pub(super) outcome: Outcome,
    pub(super) body: Bytes,
    pub(super) attempt: u32,
    pub(super) token: Option<Token>,
}

/// Where a reply comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyOf {
    /// It is the first.
    None,
    /// The stored reply.
    Stored,
    /// The stored outcome: the reply is no longer kept.
    Outcome,
}

/// What became of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    /// It is there, nobody wants one, or nobody will ever take it.
    Done,
    /// Its queue exists and cannot be reached now.
    NotYet,
}

/// The reply's body, of an attempt that ran or of a task that ended without one.
pub(super) fn body(context: &Context, identity: &Identity, end: End, ran: Option<&Ran>) -> Bytes {
    Reply {
        task_id: identity.task_id.clone(),
        kind: identity.kind.clone(),
        outcome: end.outcome,
        result: end.result,
        error: end.error,
        gpu_id: ran.map(|_| context.me.gpu_id.clone()),
        attempt: identity.attempt,
        token: ran.map(|ran| ran.token),
        strategy: ran.map(|ran| ran.choice.clone()),
        timings: end.timings,
        ended_at_ms: context.ports.now_ms(),
    }
    .into_bytes()
}

/// The reply of a stored outcome: its own bytes while they are kept, else its outcome alone.
pub(super) fn kept(context: &Context, task_id: &TaskId, kind: Option<Kind>, stored: Stored) -> Final {
    let copy = if stored.body.is_some() { CopyOf::Stored } else { CopyOf::Outcome };
    let body = stored.body.unwrap_or_else(|| {
        let message = "the task ended before, and its reply is no longer kept; only its outcome is known";
        let error = TaskError::new(ErrorCode::ReplyNotKept, message);
        Reply {
            task_id: task_id.clone(),
            kind,
            outcome: stored.outcome,
            result: Json::null(),
            error: Some(error),
            gpu_id: None,
            attempt: stored.attempt,
            token: stored.token,
            strategy: None,
            timings: Timings::default(),
            ended_at_ms: context.ports.now_ms(),
        }
        .into_bytes()
    });
    Final { copy, outcome: stored.outcome, body, attempt: stored.attempt, token: stored.token }
}

/// Publishes a reply where the delivery asks for one. A reply whose queue is gone or cannot be reached is counted and parked; the stored reply remains, and is
/// sent again to a queue that can be reached later.
pub(super) async fn publish(context: &Context, in_hand: &InHand, task_id: &TaskId, reply: Final) -> Result<Answered, Abandoned> {
    let Some(reply_to) = in_hand.envelope.reply_to.clone().filter(|name| !name.is_empty()) else { return Ok(Answered::Done) };
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
    let outgoing = Outgoing::new(Target::ReplyTo(reply_to), envelope, reply.body);
    let started = Instant::now();
    let error = match context.ports.publish(&outgoing).await? {
        Sent::There => {
            context.pace.confirmed_after(started.elapsed());
            return Ok(Answered::Done);
        }
        Sent::NoQueue(error) | Sent::Unsendable(error) => error,
    };
    let later = matches!(error, PublishError::Inaccessible { .. }) && reply.copy != CopyOf::Outcome;
    // One reply is parked once, however often its copies come round.
    if !(later && reply.copy == CopyOf::Stored) {
        context.metrics.replies_returned.inc();
        tracing::info!(%task_id, %error, later, "nobody takes the reply; it is parked, and stays in the store");
        park(context, outgoing, &error).await?;
    }
    Ok(if later { Answered::NotYet } else { Answered::Done })
}

/// Keeps a reply that nobody took where an operator can find it.
async fn park(context: &Context, reply: Outgoing, error: &PublishError) -> Result<(), Abandoned> {
    let mut envelope = reply.envelope;
    // A text that is too long for a property was why it could not be sent.
    envelope.correlation_id = envelope.correlation_id.filter(|text| text.len() <= Outgoing::SHORT_TEXT_MAX);
    envelope.headers.reason = Some(error.to_string().chars().take(Headers::TEXT_MAX / 4).collect());
    context.ports.publish(&Outgoing::new(Target::Queue(Queue::Parked), envelope, reply.body)).await?;
    Ok(())
}
