//! Replies: their bodies, and their way to the queue that a delivery names.

use bytes::Bytes;
use protocol::{
    Envelope, ErrorCode, GpuId, ItemCounts, Json, Kind, Outcome, Reply, Segments, TaskError, TaskId, Token, envelope::Headers, frame,
};
use task_store::Stored;
use tokio::time::Instant;

use super::carry_out::Settling;
use crate::{
    context::Context,
    delivery::InHand,
    disposition::{End, Ran},
    ports::Abandoned,
    replies::Became,
    traces,
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

/// An end and its reply's body, of an attempt that ran or of a task that ended without one. What no reply can carry is left out, a result or the results of items, and the task has
/// failed for that: a reply that is larger than the broker takes could not even be parked.
pub(super) fn of(settling: &Settling<'_>, end: End, ran: Option<&Ran>) -> (End, Bytes) {
    let (whole, bound) = (body(settling, &end, ran), settling.context.me.options.intake.body_bytes_max);
    // With more JSON than a frame may have it is none.
    let left_out = if frame::is_frame(&whole) { 0 } else { end.segments.bytes() };
    let bytes = whole.len() + left_out;
    let has_nothing_to_leave_out = end.results.is_null() && end.result.is_null() && end.segments.is_empty();
    if has_nothing_to_leave_out || (bytes <= bound && end.segments.is_empty() != frame::is_frame(&whole)) {
        return (end, whole);
    }
    let end = if end.results.is_null() {
        let how_on = how_to_have_less(settling.identity.kind.as_ref());
        without_result(end, (bytes, bound), how_on)
    } else {
        without_results(end, (bytes, bound), settling.identity.task_id.as_str(), Kept::of(ran))
    };
    let body = body(settling, &end, ran);
    (end, body)
}

/// What somebody can do whose result no reply carries.
fn how_to_have_less(kind: Option<&Kind>) -> &'static str {
    match kind.map(Kind::as_str) {
        Some("tensor.get") => {
            "read the tensor in parts (from, bytes), all of one version, or by GET /api/v1/tensors/{name}, which has no such bound"
        }
        _ => "ask for less at once, or let the result be put somewhere and referred to",
    }
}

/// The end of a task whose one result takes so many bytes in a reply, and so many are its bound.
fn without_result(end: End, (bytes, bound): (usize, usize), how_on: &str) -> End {
    let of_json = if end.segments.is_empty() { String::new() } else { format!(", {} of them JSON", frame::JSON_BYTES_MAX) };
    let message = format!(
        "the task ran, and its result takes {bytes} bytes in a reply, which may have {bound} (worker.body_bytes_max){of_json}; it is not kept: {how_on}"
    );
    let error = Some(TaskError::new(ErrorCode::ReplyTooLarge, message).at("result"));
    End { outcome: Outcome::Failed, result: Json::null(), segments: Segments::none(), error, ..end }
}

/// Whether results that a reply cannot carry are somewhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    InTheStore,
    /// The batch ran as one task, which has no place for them.
    Nowhere,
}

impl Kept {
    const fn of(ran: Option<&Ran>) -> Self {
        if ran.is_some() { Self::Nowhere } else { Self::InTheStore }
    }
}

/// The end of a batch whose results take so many bytes in one reply, and so many are its bound.
pub(super) fn without_results(end: End, (bytes, bound): (usize, usize), task_id: &str, kept: Kept) -> End {
    let how_on = match kept {
        Kept::InTheStore => format!("GET /api/v1/tasks/{task_id}/results gives them in pieces, as long as they are kept"),
        Kept::Nowhere => {
            "they are not kept, because the batch ran in one piece: submit fewer items at once, or let the batch be split (gpu_options.batch_split)".to_owned()
        }
    };
    let message = format!(
        "the items ran, and their results take {bytes} bytes in one reply, which may have {bound} (worker.body_bytes_max); {how_on}"
    );
    let error = Some(TaskError::new(ErrorCode::ReplyTooLarge, message));
    End { outcome: Outcome::Failed, results: Json::null(), error, ..end }
}

fn body(settling: &Settling<'_>, end: &End, ran: Option<&Ran>) -> Bytes {
    let Settling { context, identity, items, .. } = settling;
    // Of a batch that ended as a whole no more is known than how many items it has.
    let none_ended = items.map(|items| ItemCounts { of: items.count, done: 0, failed: None });
    Reply {
        kind: identity.kind.clone(),
        result: end.result.clone(),
        segments: end.segments.clone(),
        results: end.results.clone(),
        items: end.items.or(none_ended),
        error: end.error.clone(),
        gpu_id: ran.map(|_| context.me.gpu_id.clone()).or_else(|| the_only_one(&end.gpu_ids)),
        gpu_ids: end.gpu_ids.clone(),
        attempt: identity.attempt,
        token: ran.map(|ran| ran.token),
        strategy: ran.map(|ran| ran.choice.clone()),
        timings: end.timings,
        ..Reply::ended(identity.task_id.clone(), end.outcome, context.ports.now_ms())
    }
    .into_bytes()
}

fn the_only_one(gpu_ids: &[GpuId]) -> Option<GpuId> {
    match gpu_ids {
        [only] => Some(only.clone()),
        _ => None,
    }
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
        tracestate: in_hand.envelope.headers.tracestate.clone(),
        outcome: Some(reply.outcome.name().to_owned()),
        attempt: Some(reply.attempt),
        token: reply.token.map(|token| token.0),
        ..Headers::default()
    };
    let envelope = Envelope {
        message_id: Some(task_id.to_string()),
        correlation_id: Some(correlation_id),
        content_type: Some(frame::content_type(&reply.body).to_owned()),
        timestamp: Some(context.ports.now_ms() / 1_000),
        headers,
        ..Envelope::default()
    };
    let started = Instant::now();
    let publishing = traces::publishes(context, (task_id, in_hand)).map(|publishing| (publishing, reply_to.clone()));
    let became = context.replies.send(reply_to, envelope, reply.body).await?;
    if let Some((publishing, reply_to)) = &publishing {
        traces::replied(context, (task_id, in_hand), publishing, (reply_to, became));
    }
    if became == Became::Taken {
        context.pace.confirmed_after(started.elapsed());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_a_tensor_that_no_reply_carries_is_told_to_read_it_in_parts() {
        let told = |kind: &str| {
            let kind = Kind::new(kind).unwrap();
            let end = without_result(End::of(Outcome::Succeeded), (2_000, 1_000), how_to_have_less(Some(&kind)));
            assert_eq!(end.outcome, Outcome::Failed);
            end.error.unwrap().message
        };
        assert!(told("tensor.get").contains("in parts (from, bytes)"), "{}", told("tensor.get"));
        assert!(told("echo").contains("ask for less"), "{}", told("echo"));
    }
}
