//! From the bytes of a message to a [`Task`], or to a [`Refusal`] that names the field.

mod deadlines;
mod earliest;

use bytes::Bytes;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

pub use self::deadlines::first_published_ms;
use self::{deadlines::Deadlines, earliest::earliest_start_ms};
use crate::{
    BodyHash, DeliveryId, Envelope, GpuOptions, Json, KeepAs, Kind, Limits, Needs, OnError, OnMissing, Refusal, Segments, Task, TaskBody,
    TaskId, TaskIdentity,
    batch::{self, ITEMS_MAX},
    carried::{body_of, given_on_error, present},
    content,
    envelope::{DELAY, GROUP, NOT_BEFORE, PRIORITY_DEFAULT, PRIORITY_MAX, PROGRESS, SLICE},
    frame::{self, SEGMENTS_MAX},
    identify,
    reading::{Unfit, object, read_object},
    refusal::quoted,
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
    let body_hash = match (envelope.headers.slice, &envelope.headers.batch_hash) {
        (Some(_), Some(batch)) => BodyHash::of_slice(batch, body),
        _ => BodyHash::of(body),
    };
    let (task_id, id_problem) = match identify_slice(envelope).map_or_else(|| identify(envelope, &body_hash), Ok) {
        Ok(TaskIdentity::Stable(id)) => (id, None),
        Ok(TaskIdentity::Fresh) => (fresh_id(), None),
        Err(error) => (fresh_id(), Some(Refusal::new("message_id", error.to_string()))),
    };
    let task_id = envelope.headers.slice.map_or_else(|| task_id.clone(), |slice| task_id.of_slice(slice));
    let task = match id_problem {
        Some(refusal) => Err(refusal),
        None => read(envelope, body, limits).and_then(|(kind, priority, parsed)| {
            let earliest_ms = earliest_start_ms(envelope, now_ms)?;
            let deadlines = Deadlines::of(envelope, &parsed.limits, (earliest_ms, now_ms));
            Ok(Box::new(Task {
                id: task_id.clone(),
                body_hash: body_hash.clone(),
                kind,
                priority,
                attempt: envelope.headers.attempt.unwrap_or(1),
                hops: envelope.headers.hops.unwrap_or(0),
                memory_mb: envelope.headers.memory_mb,
                start_before_ms: deadlines.start,
                end_before_ms: deadlines.end,
                not_before_ms: earliest_ms.filter(|_| envelope.headers.due_ms.is_none()),
                body: parsed,
                delivery,
            }))
        }),
    };
    Reading { task_id, body_hash, task }
}

/// The batch of a slice, if the message is one. A slice travels under its own id, so that all slices of a batch can be on their way at once: a publisher has one message of an id
/// under way at a time. The header alone makes it a slice; an id with braces that does not say the same is none.
fn identify_slice(envelope: &Envelope) -> Option<TaskIdentity> {
    let task_id = TaskId::read(envelope.message_id.as_deref()?).ok()?;
    (task_id.slice().is_some() && task_id.slice() == envelope.headers.slice).then(|| TaskIdentity::Stable(task_id.batch()))
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
        return Err(unusable(header));
    }
    expiration_ms(envelope)?;
    if let Some(coding) = envelope.content_encoding.as_deref().filter(|coding| !content::is_uncoded(coding)) {
        return Err(Refusal::new("content_encoding", content::unknown_coding(coding)));
    }
    if body.len() > limits.body_bytes_max {
        return Err(Refusal::new(
            "body",
            format!("is {} bytes; the bound is {} (pass large inputs by reference)", body.len(), limits.body_bytes_max),
        ));
    }
    let read = read_body_of(body, envelope.content_type.as_deref())?;
    if let Some(slice) = envelope.headers.slice.filter(|slice| read.items.as_ref().map(Vec::len) != Some(slice.items() as usize)) {
        let problem = format!("says {slice}, and the body has {} items; it is written by workers alone, leave it out", read.payloads());
        return Err(Refusal::new(format!("headers.{SLICE}"), problem));
    }
    Ok((kind, priority, read))
}

/// A header whose value cannot be used, and without which the task would be another one.
fn unusable(header: &str) -> Refusal {
    let problem = match header {
        PROGRESS => "must be a boolean: true asks for progress messages before the reply",
        NOT_BEFORE => "must be a whole number (an AMQP integer): the time before which the task must not start, in Unix milliseconds",
        DELAY => {
            "must be a whole number (an AMQP integer), at least 0: how long after its publish the task must not start, in milliseconds"
        }
        GROUP => "must be text, the name of a group: 1 to 64 letters, digits, '-', '_', '.' or ':'",
        _ => "is written by workers alone, and its value has the wrong type or range; leave it out",
    };
    Refusal::new(format!("headers.{header}"), problem)
}

/// A task's body as it is read: the payload is found, and not looked into.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BodyText<'a> {
    #[serde(default, borrow, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
    #[serde(default, borrow)]
    items: Option<Vec<&'a RawValue>>,
    #[serde(default, deserialize_with = "given_on_error")]
    on_error: Option<OnError>,
    #[serde(default, deserialize_with = "object")]
    gpu_options: GpuOptions,
    #[serde(default, deserialize_with = "object")]
    needs: Needs,
    #[serde(default, deserialize_with = "object")]
    limits: Limits,
    #[serde(default)]
    keep_as: Option<KeepAs>,
    #[serde(default)]
    on_missing: OnMissing,
    /// Of a frame; read by [`frame::read`].
    #[serde(default)]
    segments: Option<IgnoredAny>,
}

/// Reads the JSON body of a task alone, in one pass. Its payload is a part of `body`, without a copy.
///
/// # Errors
/// A [`Refusal`] with the path of the field.
pub fn read_body(body: &Bytes) -> Result<TaskBody, Refusal> {
    read_body_of(body, None)
}

/// Reads a body that says of itself that it is of this type.
fn read_body_of(body: &Bytes, content_type: Option<&str>) -> Result<TaskBody, Refusal> {
    let (json, segments) = frame::read(body).map_err(|refusal| no_frame(refusal, content_type))?;
    let text: BodyText<'_> = read_object(&json).map_err(|unfit| unread(unfit, &json, content_type))?;
    let BodyText { payload, items, on_error, gpu_options, needs, limits, keep_as, on_missing, segments: list } = text;
    if list.is_some() && !frame::is_frame(body) {
        return Err(Refusal::new("segments", "is there, and the body is no frame; schemas/frame.md says how one is written"));
    }
    let payload = payload.map(|part| Json::within(&json, part));
    let items = items.map(|items| items.into_iter().map(|item| Json::within(&json, item)).collect());
    let read = TaskBody { gpu_options, needs, limits, keep_as, on_missing, segments, ..body_of(payload, items, on_error)? };
    check_body(&read)?;
    Ok(read)
}

/// What is wrong with a frame; where its type says that it is something else, that too.
fn no_frame(refusal: Refusal, content_type: Option<&str>) -> Refusal {
    let Refusal { field, problem } = refusal;
    let other_type = content_type.filter(|content_type| !content_type.is_empty() && !frame::is_named(content_type));
    let Some(other_type) = other_type.filter(|_| field == "body") else { return Refusal { field, problem } };
    let begins = "begins with a zero byte, as frames do (schemas/frame.md) and no JSON does";
    Refusal::new(field, format!("{begins}, and {problem}; its content_type is {}", quoted(other_type)))
}

fn unread(unfit: Unfit, body: &[u8], content_type: Option<&str>) -> Refusal {
    let Unfit { field, problem, is_syntax } = unfit;
    let problem = if is_syntax {
        content::no_json(body, content_type, &problem)
    } else if field == "body" && problem.starts_with("invalid type") {
        format!("the body must be a JSON object, as {{\"payload\": 1}}: {problem}")
    } else {
        problem
    };
    Refusal::new(field, problem)
}

/// Checks what the types of a task's body cannot say: lengths and ranges, those of `schemas/task.schema.json`.
///
/// # Errors
/// A [`Refusal`] with the path of the field.
pub fn check_body(body: &TaskBody) -> Result<(), Refusal> {
    let texts = [
        ("gpu_options.strategy", &body.gpu_options.strategy, GpuOptions::STRATEGY_CHARACTERS_MAX),
        ("gpu_options.model", &body.gpu_options.model, Needs::MODEL_CHARACTERS_MAX),
        ("needs.model", &body.needs.model, Needs::MODEL_CHARACTERS_MAX),
    ];
    for (field, text, characters_max) in texts {
        let characters = text.as_ref().map_or(0, |text| text.chars().count());
        if characters > characters_max {
            return Err(Refusal::new(field, format!("must be at most {characters_max} characters, not {characters}")));
        }
    }
    if let Some(mb) = body.needs.memory_mb.filter(|mb| *mb > Needs::MEMORY_MB_MAX) {
        return Err(Refusal::new("needs.memory_mb", format!("must be at most {} MB, not {mb}", Needs::MEMORY_MB_MAX)));
    }
    if body.payload.depth() > Json::DEPTH_MAX {
        return Err(Refusal::new("payload", format!("must not be nested deeper than {} levels", Json::DEPTH_MAX)));
    }
    check_items(body)?;
    if let Some(keep_as) = &body.keep_as {
        keep_as.check(body.items.as_ref().map_or(0, Vec::len))?;
    }
    check_segments(&body.segments)?;
    check_limits(&body.limits)
}

fn check_items(body: &TaskBody) -> Result<(), Refusal> {
    let Some(items) = &body.items else { return Ok(()) };
    if items.is_empty() || items.len() > ITEMS_MAX {
        return Err(Refusal::new("items", format!("must be 1 to {ITEMS_MAX} payloads, not {}", items.len())));
    }
    if !body.segments.is_empty() {
        return Err(Refusal::new(
            "segments",
            "cannot go with items; submit a task for each of them, or give the numbers of all in one segment",
        ));
    }
    if !body.payload.is_null() {
        return Err(Refusal::new("items", "stands in place of payload; leave one of the two out"));
    }
    // The list around them is one level.
    match items.iter().position(|item| item.depth() >= Json::DEPTH_MAX) {
        Some(index) => Err(Refusal::new(
            batch::item_field(u32::try_from(index).unwrap_or(u32::MAX), None),
            format!("must not be nested deeper than {} levels", Json::DEPTH_MAX - 1),
        )),
        None => Ok(()),
    }
}

fn check_segments(segments: &Segments) -> Result<(), Refusal> {
    match segments.len() {
        0..=SEGMENTS_MAX => Ok(()),
        many => Err(Refusal::new("segments", format!("has {many} entries; a frame carries at most {SEGMENTS_MAX}"))),
    }
}

fn check_limits(limits: &Limits) -> Result<(), Refusal> {
    let times = [
        ("limits.queue_deadline_ms", limits.queue_deadline_ms),
        ("limits.attempt_timeout_ms", limits.attempt_timeout_ms),
        ("limits.total_deadline_ms", limits.total_deadline_ms),
    ];
    for (field, value) in times {
        if let Some(ms) = value.filter(|ms| *ms == 0 || *ms > Limits::LONGEST_MS) {
            return Err(Refusal::new(field, format!("must be 1 to {} ms (30 days), not {ms}", Limits::LONGEST_MS)));
        }
    }
    match limits.max_attempts {
        Some(n) if n == 0 || n > 100 => Err(Refusal::new("limits.max_attempts", format!("must be 1 to 100, not {n}"))),
        _ => Ok(()),
    }
}

fn expiration_ms(envelope: &Envelope) -> Result<Option<u64>, Refusal> {
    let Some(text) = &envelope.expiration else { return Ok(None) };
    let number = text.parse::<u64>().map_err(|_| {
        Refusal::new("expiration", format!("must be a number of milliseconds as text, like \"60000\", not {}", quoted(text)))
    })?;
    Ok(Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{HeaderValue, Headers, TIMESTAMP_IN_MS, TRACEPARENT};

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
    fn the_raw_bytes_of_a_task_stay_where_they_arrived() {
        let segments = Segments::of(vec![Bytes::from_static(b"\0abc"), Bytes::from_static(b"defg")]);
        let body = TaskBody { payload: Json::of(&1), segments: segments.clone(), ..TaskBody::default() }.to_bytes();
        let message = Message { envelope: &echo(), body: &body, delivery: DeliveryId(1) };
        let read = read_task(message, IntakeLimits::default(), NOW, || TaskId::new("fresh").expect("valid")).task.expect("a task");
        assert_eq!(read.body.segments, segments);
        for part in read.body.segments.iter().chain([read.body.payload.as_bytes()]) {
            assert!(body.as_ptr_range().contains(&part.as_ptr()), "no part is a copy");
        }
    }

    #[test]
    fn a_refusal_names_the_field() {
        let cases: [(&[u8], &str); 24] = [
            (b"{\"items\":[]}", "items"),
            (b"{\"items\":{}}", "items"),
            (b"{\"items\":7}", "items"),
            (b"{\"items\":[1],\"payload\":1}", "items"),
            (b"{\"items\":[1],\"payload\":null}", "items"),
            (b"{\"items\":[1],\"items\":[1]}", "items"),
            (b"{\"on_error\":\"fail\"}", "on_error"),
            (b"{\"items\":[1],\"on_error\":\"panic\"}", "on_error"),
            (b"{\"items\":[1],\"on_error\":1}", "on_error"),
            (b"{\"items\":[1],\"on_error\":[\"fail\"]}", "on_error"),
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
        assert_eq!(refused(&Envelope { content_encoding: Some("gzip".into()), ..echo() }, b"{}").field, "content_encoding");
        assert_eq!(refused(&echo(), [b' '; 1_001]).field, "body");
        let mut unreadable = Envelope { kind: None, ..echo() };
        unreadable.headers.unreadable = Some("type: is not UTF-8 text".into());
        assert_eq!(refused(&unreadable, b"{}"), Refusal::new("type", "is not UTF-8 text"));
    }

    #[test]
    fn a_batch_has_its_items_and_a_slice_those_that_it_names() {
        let body = br#"{"items":[{"a": 1.0}, null ,"x"],"on_error":"fail"}"#;
        let batch = reading(&echo(), body).task.expect("a batch");
        let items = batch.body.items.as_ref().expect("items");
        assert_eq!(items.iter().map(Json::as_str).collect::<Vec<_>>(), [r#"{"a": 1.0}"#, "null", r#""x""#]);
        assert_eq!((batch.body.on_error, batch.slice(), batch.id.as_str()), (OnError::Fail, None, "m1"));
        let mut envelope = echo();
        envelope.headers.slice = "4..7".parse().ok();
        let slice = reading(&envelope, body).task.expect("a slice");
        assert_eq!((slice.id.as_str(), slice.slice()), ("m1{4..7}", envelope.headers.slice));
        envelope.message_id = Some("m1{4..7}".to_owned());
        assert_eq!(reading(&envelope, body).task_id, slice.id, "the id may name the slice as well");
        envelope.headers.batch_hash = Some(batch.body_hash.clone());
        assert_eq!(reading(&envelope, body).body_hash, BodyHash::of_slice(&batch.body_hash, body), "it says whose it is");
        for header in [None, "4..6".parse().ok()] {
            let mut other = envelope.clone();
            other.headers.slice = header;
            assert_eq!(refused(&other, body).field, "message_id");
        }
        envelope.message_id = Some("m1".to_owned());
        envelope.headers.slice = "4..8".parse().ok();
        assert_eq!(refused(&envelope, body).field, "headers.x-gpufleet-slice");
        assert_eq!(refused(&envelope, b"{\"payload\":1}").field, "headers.x-gpufleet-slice");
        let deep = |levels: usize| format!("{{\"items\":[1,{}{}]}}", "[".repeat(levels), "]".repeat(levels));
        assert!(reading(&echo(), deep(125)).task.is_ok());
        assert_eq!(refused(&echo(), deep(126)), Refusal::new("items[1]", "must not be nested deeper than 125 levels"));
        let many = format!("{{\"items\":[{}1]}}", "1,".repeat(ITEMS_MAX));
        assert_eq!(read_body(&Bytes::from(many)).expect_err("refused").problem, "must be 1 to 10000 payloads, not 10001");
        let written = TaskBody { items: Some(items.clone()), on_error: OnError::Fail, ..TaskBody::default() }.to_bytes();
        assert_eq!(read_body(&written).expect("its own text"), batch.body);
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
    fn telemetry_and_foreign_headers_fail_no_task() {
        let mut envelope = echo();
        envelope.headers = Headers::read([
            (TRACEPARENT.to_owned(), HeaderValue::Integer(7)),
            (TIMESTAMP_IN_MS.to_owned(), HeaderValue::Text("soon".into())),
            ("x-death".to_owned(), HeaderValue::Other),
        ]);
        assert!(reading(&envelope, b"{}").task.is_ok());
    }

    #[test]
    fn a_task_has_the_deadlines_of_its_message() {
        let envelope = Envelope { timestamp: Some(NOW / 1_000 - 10), expiration: Some("500".into()), ..echo() };
        let task = reading(&envelope, br#"{"limits":{"total_deadline_ms":60000}}"#).task.expect("valid");
        assert_eq!((task.start_before_ms, task.end_before_ms), (Some(NOW - 10_000 + 999 + 500), Some(NOW - 10_000 + 999 + 60_000)));
    }
}
