//! From the bytes of a message to a [`Task`], or to a [`Refusal`] that names the field.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    BodyHash, DeliveryId, Envelope, GpuOptions, Json, Kind, Limits, Needs, Refusal, Task, TaskBody, TaskId, TaskIdentity,
    envelope::{PRIORITY_DEFAULT, PRIORITY_MAX},
    identify,
    reading::{object, read_object},
};

/// The bounds on what is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntakeLimits {
    /// Largest body, in bytes. Default: 8 MiB.
    pub body_bytes_max: usize,
}

impl Default for IntakeLimits {
    fn default() -> Self {
        Self { body_bytes_max: 8 * 1024 * 1024 }
    }
}

/// A message's identity beside what could be made of it: a refusal is recorded and answered under the same id.
#[derive(Debug)]
pub struct Reading {
    /// The id: its own, derived, or made by the caller's `fresh_id`.
    pub task_id: TaskId,
    /// The body's hash.
    pub body_hash: BodyHash,
    /// The task, or why it is none.
    pub task: Result<Box<Task>, Refusal>,
}

/// A message as it arrived.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its properties.
    pub envelope: &'a Envelope,
    /// Its body. The task's payload shares its memory.
    pub body: &'a Bytes,
    /// The delivery that brought it.
    pub delivery: DeliveryId,
}

/// Reads a task from a message. `now_ms` (Unix milliseconds) turns relative limits into deadlines; `fresh_id` is called only where the
/// message cannot be identified.
pub fn read_task(message: Message<'_>, limits: IntakeLimits, now_ms: u64, fresh_id: impl Fn() -> TaskId) -> Reading {
    let Message { envelope, body, delivery } = message;
    let body_hash = BodyHash::of(body);
    let (task_id, id_problem) = match identify(envelope, &body_hash) {
        Ok(TaskIdentity::Stable(id)) => (id, None),
        Ok(TaskIdentity::Fresh) => (fresh_id(), None),
        Err(error) => (fresh_id(), Some(Refusal::new("message_id", error.to_string()))),
    };
    let task = match id_problem {
        Some(refusal) => Err(refusal),
        None => read(envelope, body, limits).map(|(kind, priority, parsed)| {
            let deadlines = Deadlines::of(envelope, &parsed.limits, now_ms);
            Box::new(Task {
                id: task_id.clone(),
                body_hash: body_hash.clone(),
                kind,
                priority,
                attempt: envelope.headers.attempt.unwrap_or(1),
                hops: envelope.headers.hops.unwrap_or(0),
                memory_mb: envelope.headers.memory_mb,
                start_before_ms: deadlines.start,
                end_before_ms: deadlines.end,
                body: parsed,
                delivery,
            })
        }),
    };
    Reading { task_id, body_hash, task }
}

fn read(envelope: &Envelope, body: &Bytes, limits: IntakeLimits) -> Result<(Kind, u8, TaskBody), Refusal> {
    if let Some(unreadable) = &envelope.headers.unreadable {
        let (property, problem) = unreadable.split_once(": ").unwrap_or(("properties", "cannot be read"));
        return Err(Refusal::new(property, problem));
    }
    let kind =
        envelope.kind.as_deref().ok_or_else(|| Refusal::new("type", "is absent; set the AMQP property `type` to the kind to run"))?;
    let kind = Kind::new(kind).map_err(|error| Refusal::new("type", error.to_string()))?;
    let priority = envelope.priority.unwrap_or(PRIORITY_DEFAULT);
    if priority > PRIORITY_MAX {
        return Err(Refusal::new("priority", format!("must be 0 to {PRIORITY_MAX}, not {priority}")));
    }
    if let Some(header) = envelope.headers.invalid.first() {
        return Err(Refusal::new(format!("headers.{header}"), "has a value of the wrong type or range; producers leave it out"));
    }
    expiration_ms(envelope)?;
    if body.len() > limits.body_bytes_max {
        return Err(Refusal::new(
            "body",
            format!("is {} bytes; the bound is {} (pass large inputs by reference)", body.len(), limits.body_bytes_max),
        ));
    }
    Ok((kind, priority, read_body(body)?))
}

/// A task's body as it is read: the payload is found, and not looked into.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BodyText<'a> {
    #[serde(default, borrow)]
    payload: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "object")]
    gpu_options: GpuOptions,
    #[serde(default, deserialize_with = "object")]
    needs: Needs,
    #[serde(default, deserialize_with = "object")]
    limits: Limits,
}

/// Reads the JSON body of a task alone, in one pass. Its payload is a part of `body`, without a copy.
///
/// # Errors
/// A [`Refusal`] with the path of the field.
pub fn read_body(body: &Bytes) -> Result<TaskBody, Refusal> {
    let text: BodyText<'_> = read_object(body).map_err(|unfit| Refusal::new(unfit.field, unfit.problem))?;
    let BodyText { payload, gpu_options, needs, limits } = text;
    let payload = payload.map(|part| Json::within(body, part)).unwrap_or_default();
    let read = TaskBody { payload, gpu_options, needs, limits };
    check_body(&read)?;
    Ok(read)
}

/// Checks what the types of a task's body cannot say: lengths and ranges, those of `schemas/task.schema.json`.
///
/// # Errors
/// A [`Refusal`] with the path of the field.
pub fn check_body(body: &TaskBody) -> Result<(), Refusal> {
    let texts = [
        ("gpu_options.strategy", &body.gpu_options.strategy, GpuOptions::STRATEGY_CHARACTERS_MAX),
        ("needs.model", &body.needs.model, Needs::MODEL_CHARACTERS_MAX),
    ];
    for (field, text, characters_max) in texts {
        if text.as_ref().is_some_and(|text| text.chars().count() > characters_max) {
            return Err(Refusal::new(field, format!("must be at most {characters_max} characters")));
        }
    }
    if body.needs.memory_mb.is_some_and(|mb| mb > Needs::MEMORY_MB_MAX) {
        return Err(Refusal::new("needs.memory_mb", format!("must be at most {}", Needs::MEMORY_MB_MAX)));
    }
    if body.payload.depth() > Json::DEPTH_MAX {
        return Err(Refusal::new("payload", format!("must not be nested deeper than {} levels", Json::DEPTH_MAX)));
    }
    check_limits(&body.limits)
}

fn check_limits(limits: &Limits) -> Result<(), Refusal> {
    let times = [
        ("limits.queue_deadline_ms", limits.queue_deadline_ms),
        ("limits.attempt_timeout_ms", limits.attempt_timeout_ms),
        ("limits.total_deadline_ms", limits.total_deadline_ms),
    ];
    for (field, value) in times {
        if value.is_some_and(|ms| ms == 0 || ms > Limits::LONGEST_MS) {
            return Err(Refusal::new(field, format!("must be 1 to {} ms (30 days)", Limits::LONGEST_MS)));
        }
    }
    match limits.max_attempts {
        Some(n) if n == 0 || n > 100 => Err(Refusal::new("limits.max_attempts", format!("must be 1 to 100, not {n}"))),
        _ => Ok(()),
    }
}

fn expiration_ms(envelope: &Envelope) -> Result<Option<u64>, Refusal> {
    let Some(text) = &envelope.expiration else { return Ok(None) };
    let number =
        text.parse::<u64>().map_err(|_| Refusal::new("expiration", format!("must be a number of milliseconds as text, not {text:?}")))?;
    Ok(Some(number))
}

/// Absolute deadlines, from what earlier hops wrote or from this message's own limits.
struct Deadlines {
    start: Option<u64>,
    end: Option<u64>,
}

impl Deadlines {
    /// A clock that runs ahead of ours by more than this is not believed.
    const AHEAD_MS: u64 = 5_000;

    fn of(envelope: &Envelope, limits: &Limits, now_ms: u64) -> Self {
        // AMQP's timestamp is in whole seconds, rounded down: no deadline may come early by that.
        let published = envelope
            .timestamp
            .map(|s| s.saturating_mul(1_000).saturating_add(999))
            .filter(|ms| *ms <= now_ms + Self::AHEAD_MS && *ms + Limits::LONGEST_MS > now_ms)
            .map(|ms| ms.min(now_ms));
        let base = published.unwrap_or(now_ms);
        let expiration = expiration_ms(envelope).ok().flatten().map(|ms| Self::expires(published, now_ms, ms));
        let queue = limits.queue_deadline_ms.map(|ms| base.saturating_add(ms));
        let total = limits.total_deadline_ms.map(|ms| base.saturating_add(ms));
        let end = envelope.headers.end_before_ms.or(total);
        let start = envelope.headers.start_before_ms.or_else(|| earliest([expiration, queue]));
        Self { start: earliest([start, end]), end }
    }

    /// When a message of this `expiration` expires. It waited in its queue already; but the broker would not have delivered one whose time was over, so a timestamp that says so
    /// is of a clock that runs behind, and tells nothing.
    fn expires(published: Option<u64>, now_ms: u64, expiration_ms: u64) -> u64 {
        let since_publish = published.map(|published| published.saturating_add(expiration_ms)).filter(|expires| *expires > now_ms);
        since_publish.unwrap_or_else(|| now_ms.saturating_add(expiration_ms))
    }
}

fn earliest<const N: usize>(times: [Option<u64>; N]) -> Option<u64> {
    times.into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn reading(envelope: &Envelope, body: impl AsRef<[u8]>) -> Reading {
        let body = &Bytes::copy_from_slice(body.as_ref());
        let fresh = || TaskId::new("fresh").expect("valid");
        let message = Message { envelope, body, delivery: DeliveryId(1) };
        read_task(message, IntakeLimits { body_bytes_max: 1_000 }, NOW, fresh)
    }

    fn echo() -> Envelope {
        Envelope { message_id: Some("m1".into()), kind: Some("echo".into()), ..Envelope::default() }
    }

    fn refused(envelope: &Envelope, body: impl AsRef<[u8]>) -> Refusal {
        reading(envelope, body).task.expect_err("refused")
    }

    #[test]
    fn a_refusal_names_the_field() {
        let cases: [(&[u8], &str); 14] = [
            (b"{\"needs\":{\"memory_mb\":100000001}}", "needs.memory_mb"),
            (b"{\"payload\":1,\"colour\":2}", "colour"),
            (b"{\"gpu_options\":{\"specific_gpu_id\":7}}", "gpu_options.specific_gpu_id"),
            (b"{\"needs\":{\"memory_mb\":-1}}", "needs.memory_mb"),
            (b"{\"needs\":{\"compute_capability\":\"nine\"}}", "needs.compute_capability"),
            (b"{\"limits\":{\"max_attempts\":0}}", "limits.max_attempts"),
            (b"{\"limits\":{\"hurry\":true}}", "limits.hurry"),
            (b"{", "body"),
            (b"{} {}", "body"),
            (b"[null,{},{},{}]", "body"),
            (b"{\"gpu_options\":[null,null,null]}", "gpu_options"),
            (b"{\"payload\":1,\"payload\":2}", "payload"),
            (b"{\"needs\":{},\"needs\":{}}", "needs"),
            (b"{\"needs\":{\"memory_mb\":1,\"memory_mb\":2}}", "needs.memory_mb"),
        ];
        for (body, field) in cases {
            assert_eq!(refused(&echo(), body).field, field);
        }
        assert_eq!(refused(&Envelope { kind: None, ..echo() }, b"{}").field, "type");
        assert_eq!(refused(&Envelope { priority: Some(10), ..echo() }, b"{}").field, "priority");
        assert_eq!(refused(&Envelope { expiration: Some("soon".into()), ..echo() }, b"{}").field, "expiration");
        assert_eq!(refused(&Envelope { message_id: Some("a b".into()), ..echo() }, b"{}").field, "message_id");
        assert_eq!(refused(&echo(), [b' '; 1_001]).field, "body");
        let mut unreadable = Envelope { kind: None, ..echo() };
        unreadable.headers.unreadable = Some("type: is not UTF-8 text".into());
        assert_eq!(refused(&unreadable, b"{}"), Refusal::new("type", "is not UTF-8 text"));
    }

    #[test]
    fn deeply_nested_bodies_are_refused_and_do_not_overflow() {
        let deep = |levels: usize| format!("{{\"payload\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(reading(&echo(), deep(126)).task.is_ok());
        assert_eq!(refused(&echo(), deep(127)), Refusal::new("payload", "must not be nested deeper than 126 levels"));
        let bomb = Bytes::from("{\"payload\":".to_owned() + &"[".repeat(8 << 20));
        assert_eq!(read_body(&bomb).expect_err("refused").field, "body");
        assert_eq!(read_body(&Bytes::from(deep(4 << 20))).expect_err("refused").field, "payload");
    }

    #[test]
    fn deadlines_take_the_shorter_and_survive_hops() {
        let envelope = Envelope { expiration: Some("500".into()), ..echo() };
        let body = br#"{"limits":{"queue_deadline_ms":2000,"total_deadline_ms":9000}}"#;
        let task = reading(&envelope, body).task.expect("valid");
        assert_eq!((task.start_before_ms, task.end_before_ms), (Some(NOW + 500), Some(NOW + 9_000)));

        let mut hopped = envelope;
        hopped.headers.start_before_ms = Some(NOW + 100);
        hopped.headers.end_before_ms = Some(NOW + 200);
        let task = reading(&hopped, body).task.expect("valid");
        assert_eq!((task.start_before_ms, task.end_before_ms), (Some(NOW + 100), Some(NOW + 200)));
    }

    #[test]
    fn an_expiration_counts_from_the_publish_where_the_timestamp_can_be_believed() {
        let start = |seconds_ago: u64| {
            let envelope = Envelope { timestamp: Some(NOW / 1_000 - seconds_ago), expiration: Some("10000".into()), ..echo() };
            reading(&envelope, b"{}").task.expect("valid").start_before_ms
        };
        assert_eq!(start(9), Some(NOW - 9_000 + 999 + 10_000), "it has waited nine of its ten seconds");
        assert_eq!(start(60), Some(NOW + 10_000), "the broker would not have delivered it: the producer's clock is behind");
    }

    #[test]
    fn a_timestamp_from_the_future_is_not_believed() {
        let stamped = |seconds| Envelope { timestamp: Some(seconds), ..echo() };
        let body = br#"{"limits":{"queue_deadline_ms":60000}}"#;
        let start = |envelope| reading(&envelope, body).task.expect("valid").start_before_ms;
        assert_eq!(
            start(stamped(NOW / 1_000 - 10)),
            Some(NOW - 10_000 + 999 + 60_000),
            "whole seconds, rounded down, are no reason to be early"
        );
        assert_eq!(start(stamped(NOW / 1_000)), Some(NOW + 60_000));
        assert_eq!(start(stamped(NOW / 1_000 + 3_600)), Some(NOW + 60_000));
        assert_eq!(start(stamped(u64::MAX)), Some(NOW + 60_000));
    }
}
