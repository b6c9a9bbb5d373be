//! What workers and producers of version 0.1.0 wrote on the wire, to the byte: a newer one that joins their fleet reads it as they meant it.

use bytes::Bytes;
use protocol::{
    DeliveryId, Envelope, Outcome, Reply, SliceResults, Task, TaskId,
    envelope::{HeaderValue, Headers},
    intake::{IntakeLimits, Message, first_published_ms, read_task},
};

const NOW_MS: u64 = 1_767_225_700_000;

fn text(name: &str, value: &str) -> (String, HeaderValue) {
    (name.to_owned(), HeaderValue::Text(value.to_owned()))
}

fn number(name: &str, value: i64) -> (String, HeaderValue) {
    (name.to_owned(), HeaderValue::Integer(value))
}

fn read(id: &str, headers: Vec<(String, HeaderValue)>, body: &'static str) -> Task {
    let envelope = Envelope {
        message_id: Some(id.to_owned()),
        kind: Some("simulate".to_owned()),
        priority: Some(7),
        reply_to: Some("answers".to_owned()),
        correlation_id: Some("c-1".to_owned()),
        content_type: Some("application/json".to_owned()),
        timestamp: Some(NOW_MS / 1_000 - 60),
        headers: Headers::read(headers),
        ..Envelope::default()
    };
    assert_eq!(envelope.headers.invalid, Vec::<String>::new());
    assert_eq!(first_published_ms(&envelope, NOW_MS), Some(NOW_MS - 60_000 + 999));
    let body = Bytes::from_static(body.as_bytes());
    let message = Message { envelope: &envelope, body: &body, delivery: DeliveryId(1) };
    let fresh = || TaskId::new("fresh").expect("valid");
    *read_task(message, IntakeLimits::default(), NOW_MS, fresh).task.expect("a task")
}

#[test]
fn a_retry_that_waited_goes_on_as_the_attempt_that_it_is() {
    let headers = vec![
        text("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        number("x-gpufleet-attempt", 2),
        number("x-gpufleet-hops", 0),
        number("x-gpufleet-memory-mb", 9_000),
        number("x-gpufleet-start-before-ms", (NOW_MS + 600_000) as i64),
        number("x-gpufleet-end-before-ms", (NOW_MS + 900_000) as i64),
        text("x-gpufleet-pool", "default"),
        text("x-gpufleet-group", "nightly"),
        text("x-gpufleet-history", "attempt 1 on gpu-0 failed at 2026-01-01T00:00:00Z: flaky: as asked"),
        ("x-gpufleet-returned".to_owned(), HeaderValue::Bool(true)),
    ];
    let task =
        read("order-17", headers, r#"{"gpu_options":{"strategy":"least_loaded"},"limits":{"max_attempts":3},"payload":{"duration_ms":5}}"#);
    assert_eq!((task.attempt, task.memory_mb, task.priority, task.body.limits.attempts_max()), (2, Some(9_000), 7, 3));
    assert_eq!((task.start_before_ms, task.end_before_ms), (Some(NOW_MS + 600_000), Some(NOW_MS + 900_000)));
    assert_eq!(task.body.payload.as_str(), r#"{"duration_ms":5}"#);
}

#[test]
fn a_slice_is_one_and_a_forwarded_task_knows_its_way() {
    let hash = protocol::BodyHash::of(b"the batch");
    let headers = vec![
        number("x-gpufleet-attempt", 1),
        text("x-gpufleet-slice", "16..18"),
        text("x-gpufleet-batch-hash", hash.as_str()),
        text("x-gpufleet-pool", "default"),
    ];
    let slice = read("order-17{16..18}", headers, r#"{"items":[{"duration_ms":1},{"duration_ms":2}]}"#);
    assert_eq!((slice.slice().map(|slice| slice.items()), slice.body.payloads()), (Some(2), 2));
    let headers = vec![number("x-gpufleet-hops", 1), text("x-gpufleet-strategy", "round_robin"), text("x-gpufleet-pool", "default")];
    assert_eq!(read("order-18", headers, r#"{"payload":null}"#).hops, 1);
}

#[test]
fn a_reply_and_what_was_kept_of_a_slice_are_read() {
    let reply: Reply = serde_json::from_str(
        r#"{"task_id":"order-17","kind":"simulate","outcome":"failed","error":{"code":"flaky","message":"as asked"},"gpu_id":"gpu-0","attempt":2,"token":7,
            "strategy":{"used":"round_robin"},"timings":{"waited_ms":1.5,"run_ms":20.0},"ended_at_ms":1767225700000}"#,
    )
    .expect("a reply");
    assert_eq!((reply.outcome, reply.attempt, reply.timings.run_ms), (Outcome::Failed, 2, 20.0));
    let kept = SliceResults::read(&Bytes::from_static(br#"{"gpu_id":"gpu-0","run_ms":20.5,"results":[{"result":1},{"result":2}]}"#))
        .expect("results");
    assert_eq!((kept.run_ms, kept.results.elements().expect("a list").len()), (20.5, 2));
}
