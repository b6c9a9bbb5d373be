//! What a caller hands in, and how it becomes a message.

use std::time::Duration;

use bytes::Bytes;
use protocol::{
    EarliestStart, Envelope, GroupName, Json, Kind, Limits, Refusal, TaskBody, TaskId, check_body,
    envelope::{Headers, PRIORITY_DEFAULT, PRIORITY_MAX},
    frame, is_traceparent, is_tracestate,
};

/// A task to submit. `NewTask { priority: 5, ..NewTask::new(kind, body) }` sets what differs from the defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// What to run.
    pub kind: Kind,
    /// 0 (lowest) to 9. Default: 0.
    pub priority: u8,
    /// Payload or items, GPU options, needs and limits.
    pub body: TaskBody,
    /// Its identity. A second submit under the same id, of the same kind and with the same body, runs nothing and gets the first one's reply; with another body or of
    /// another kind it is refused ([`SubmitError::OtherTask`](crate::SubmitError::OtherTask)), for as long as the store keeps the record. Default: a fresh id.
    pub task_id: Option<TaskId>,
    /// It must not start before this time, in Unix milliseconds, at most 30 days ahead; a time in the past means at once. It waits outside the pool's queue, its status is
    /// `delayed`, and its priority and its deadlines count from then. Cancelled meanwhile, it shows so at once; its reply comes when it is due at the latest. A second submit
    /// under the same id does not change it: what is due first runs. Default: at once.
    pub not_before_ms: Option<u64>,
    /// The same as a delay from its submit, in milliseconds, at most 30 days. Not together with `not_before_ms`. Default: none.
    pub delay_ms: Option<u64>,
    /// How long it may wait in queues before it expires, at most 30 days, from when it may start. Default: for ever.
    pub expiration: Option<Duration>,
    /// Where its reply goes, for a consumer of the caller's own. Default: nowhere (the store keeps it), or to this producer if it is waited for.
    pub reply_to: Option<ReplyTo>,
    /// Whether progress messages go where the reply goes, before it; see `schemas/progress.schema.json`. Default: no, the reply alone.
    pub progress: bool,
    /// The group in which it is counted, together with others. It is no part of its identity. Default: none.
    pub group: Option<GroupName>,
    /// W3C trace context. What [is none](is_traceparent) is left out: telemetry decides over no task. Default: none.
    pub traceparent: Option<String>,
    /// What vendors say of that trace. What [is none](is_tracestate), or comes without a trace context, is left out. Default: none.
    pub tracestate: Option<String>,
}

/// Where a reply goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    /// A queue that somebody has declared, by its name.
    pub queue: String,
    /// What comes back as the reply's `correlation_id`.
    pub correlation_id: String,
}

/// A task that the broker has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// Its identity, for its status.
    pub task_id: TaskId,
}

impl NewTask {
    /// A task with every default.
    #[must_use]
    pub const fn new(kind: Kind, body: TaskBody) -> Self {
        Self {
            kind,
            priority: PRIORITY_DEFAULT,
            body,
            task_id: None,
            not_before_ms: None,
            delay_ms: None,
            expiration: None,
            reply_to: None,
            progress: false,
            group: None,
            traceparent: None,
            tracestate: None,
        }
    }

    /// A batch with every default: one task with 1 to 10,000 items, each of which the kind's executor is given as it would be given one payload. The fleet may split it over
    /// several GPUs. Its one reply has a result for each item, in this order; an item that fails does so alone, unless [`TaskBody::on_error`] says otherwise.
    #[must_use]
    pub fn batch(kind: Kind, items: Vec<Json>) -> Self {
        Self::new(kind, TaskBody { items: Some(items), ..TaskBody::default() })
    }

    /// Its bytes, once everything that a worker would refuse was refused here.
    pub(crate) fn check(&self, body_bytes_max: usize) -> Result<Bytes, Refusal> {
        if self.priority > PRIORITY_MAX {
            return Err(Refusal::new("priority", format!("must be 0 to {PRIORITY_MAX}, not {}", self.priority)));
        }
        if self.expiration.is_some_and(|time| time.as_millis() > u128::from(Limits::LONGEST_MS)) {
            return Err(Refusal::new("expiration", format!("must be at most {} ms (30 days)", Limits::LONGEST_MS)));
        }
        check_body(&self.body)?;
        if self.task_id.as_ref().is_some_and(|task_id| task_id.slice().is_some()) {
            return Err(Refusal::new("task_id", "is that of a slice, which only the fleet gives"));
        }
        let bytes = self.body.to_bytes();
        if !self.body.segments.is_empty() && !frame::is_frame(&bytes) {
            let problem = format!("has more than {} bytes of JSON; beside segments there may be no more", frame::JSON_BYTES_MAX);
            return Err(Refusal::new("body", problem));
        }
        if bytes.len() > body_bytes_max {
            return Err(Refusal::new(
                "body",
                format!("is {} bytes; the bound is {body_bytes_max} (pass large inputs by reference)", bytes.len()),
            ));
        }
        Ok(bytes)
    }

    /// The time before which it must not start, in Unix milliseconds, where that is still to come.
    pub(crate) fn not_before(&self, now_ms: u64) -> Result<Option<u64>, Refusal> {
        let asked = EarliestStart { not_before_ms: self.not_before_ms, delay_ms: self.delay_ms };
        Ok(asked.at((now_ms, now_ms), EarliestStart::FIELDS)?.filter(|at_ms| *at_ms > now_ms))
    }

    /// Its properties.
    pub(crate) fn envelope(&self, task_id: &TaskId, reply_to: Option<&ReplyTo>, now_ms: u64) -> Envelope {
        let traceparent = self.traceparent.clone().filter(|text| is_traceparent(text));
        let tracestate = self.tracestate.clone().filter(|text| traceparent.is_some() && is_tracestate(text));
        Envelope {
            message_id: Some(task_id.to_string()),
            kind: Some(self.kind.to_string()),
            priority: Some(self.priority),
            reply_to: reply_to.map(|to| to.queue.clone()),
            correlation_id: reply_to.map(|to| to.correlation_id.clone()),
            expiration: self.expiration.map(|time| time.as_millis().to_string()),
            content_type: Some(if self.body.segments.is_empty() { frame::JSON } else { frame::FRAME }.to_owned()),
            content_encoding: None,
            // Without it nobody could tell how long the task has waited.
            timestamp: Some(now_ms / 1_000),
            user_id: None,
            headers: Headers { traceparent, tracestate, progress: self.progress, group: self.group.clone(), ..Headers::default() },
        }
    }
}
