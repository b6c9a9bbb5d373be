//! What a producer is told of a message that is no task: one row each, from what was sent to the field and the exact words.

use bytes::Bytes;
use protocol::{
    DeliveryId, Envelope, Refusal, TaskId,
    envelope::{ATTEMPT, DELAY, GROUP, HeaderValue, Headers, PROGRESS, START_BEFORE},
    intake::{IntakeLimits, Message, read_task},
};

fn echo() -> Envelope {
    Envelope { message_id: Some("m1".into()), kind: Some("echo".into()), ..Envelope::default() }
}

fn refused(envelope: &Envelope, body: &[u8]) -> (String, String) {
    let body = Bytes::copy_from_slice(body);
    let message = Message { envelope, body: &body, delivery: DeliveryId(1) };
    let fresh = || TaskId::new("fresh").expect("valid");
    let reading = read_task(message, IntakeLimits { body_bytes_max: 1_000 }, 1_800_000_000_000, fresh);
    let Refusal { field, problem } = reading.task.expect_err("refused");
    (field, problem)
}

fn with(change: fn(&mut Envelope)) -> Envelope {
    let mut envelope = echo();
    change(&mut envelope);
    envelope
}

fn all_refused(cases: &[(Envelope, &str, &str)]) {
    for (envelope, field, problem) in cases {
        assert_eq!(refused(envelope, b"{}"), ((*field).to_owned(), (*problem).to_owned()));
    }
}

#[test]
fn a_property_that_is_wrong_is_named_with_what_would_be_right() {
    let cases: [(Envelope, &str, &str); 9] = [
        (with(|to| to.kind = None), "type", "is absent; set the AMQP property `type` to the kind to run"),
        (
            with(|to| to.kind = Some("Echo".into())),
            "type",
            r#"type must be a kind: 1 to 64 lower-case letters, digits, '-', '_' or '.', not "Echo""#,
        ),
        (
            with(|to| to.message_id = Some("a b".into())),
            "message_id",
            r#"message_id must be 1 to 128 visible ASCII characters other than braces, not "a b""#,
        ),
        (with(|to| to.priority = Some(12)), "priority", "must be 0 to 9, not 12"),
        (
            with(|to| to.expiration = Some("soon".into())),
            "expiration",
            r#"must be a number of milliseconds as text, like "60000", not "soon""#,
        ),
        (with(|to| to.expiration = Some("-1".into())), "expiration", r#"must be a number of milliseconds as text, like "60000", not "-1""#),
        (
            with(|to| to.content_encoding = Some("gzip".into())),
            "content_encoding",
            r#"must be absent or one of identity, utf-8, utf8, us-ascii, not "gzip"; send the JSON uncoded, as UTF-8"#,
        ),
        (
            with(|to| to.content_encoding = Some("utf-16".into())),
            "content_encoding",
            r#"must be absent or one of identity, utf-8, utf8, us-ascii, not "utf-16"; send the JSON uncoded, as UTF-8"#,
        ),
        (
            with(|to| to.content_encoding = Some("x".repeat(255))),
            "content_encoding",
            r#"must be absent or one of identity, utf-8, utf8, us-ascii, not "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" (cut); send the JSON uncoded, as UTF-8"#,
        ),
    ];
    all_refused(&cases);
}

#[test]
fn a_header_that_is_wrong_is_named_with_what_would_be_right() {
    let cases: [(Envelope, &str, &str); 6] = [
        (
            with(|to| to.headers = Headers::read([(ATTEMPT.to_owned(), HeaderValue::Text("two".into()))])),
            "headers.x-gpufleet-attempt",
            "is written by workers alone, and its value has the wrong type or range; leave it out",
        ),
        (
            with(|to| to.headers = Headers::read([(START_BEFORE.to_owned(), HeaderValue::Integer(-1))])),
            "headers.x-gpufleet-start-before-ms",
            "is written by workers alone, and its value has the wrong type or range; leave it out",
        ),
        (
            with(|to| to.headers = Headers::read([(PROGRESS.to_owned(), HeaderValue::Text("yes".into()))])),
            "headers.x-gpufleet-progress",
            "must be a boolean: true asks for progress messages before the reply",
        ),
        (
            with(|to| to.headers = Headers::read([(DELAY.to_owned(), HeaderValue::Integer(-1))])),
            "headers.x-gpufleet-delay-ms",
            "must be a whole number (an AMQP integer), at least 0: how long after its publish the task must not start, in milliseconds",
        ),
        (
            with(|to| to.headers.delay_ms = Some(2_592_000_001)),
            "headers.x-gpufleet-delay-ms",
            "must be at most 2592000000 ms (30 days), not 2592000001",
        ),
        (
            with(|to| to.headers = Headers::read([(GROUP.to_owned(), HeaderValue::Text("two words".into()))])),
            "headers.x-gpufleet-group",
            "must be text, the name of a group: 1 to 64 letters, digits, '-', '_', '.' or ':'",
        ),
    ];
    all_refused(&cases);
}

#[test]
fn a_message_whose_properties_cannot_be_read_is_told_which() {
    let mut envelope = echo();
    envelope.headers.unreadable = Some("headers: is nested deeper than 32 levels".into());
    assert_eq!(refused(&envelope, b"{}"), ("headers".to_owned(), "is nested deeper than 32 levels".to_owned()));
}

#[test]
fn a_body_that_begins_as_a_frame_and_is_none_is_told_so() {
    let no_frame = "is 1 bytes; a frame begins with the length of its JSON in 4 bytes";
    let begins = "begins with a zero byte, as frames do (schemas/frame.md) and no JSON does, and ";
    let named = |content_type: &str| format!("{begins}{no_frame}; its content_type is {content_type:?}");
    for (content_type, problem) in [
        ("", no_frame.to_owned()),
        ("application/x-gpufleet-frame", no_frame.to_owned()),
        ("application/octet-stream", named("application/octet-stream")),
        ("application/json", named("application/json")),
    ] {
        let envelope = Envelope { content_type: Some(content_type.to_owned()), ..echo() };
        assert_eq!(refused(&envelope, b"\x00"), ("body".to_owned(), problem), "{content_type}");
    }
    let with_items = protocol::frame::of(br#"{"items": [1]}"#.to_vec(), &protocol::Segments::of(vec![Bytes::from_static(b"abc")]));
    let (field, problem) = refused(&echo(), &with_items.expect("a short one"));
    assert_eq!(field, "segments");
    assert!(problem.starts_with("cannot go with items"), "{problem}");
    assert_eq!(refused(&echo(), br#"{"payload": 1, "segments": []}"#).0, "segments", "JSON has no list of segments");
}

#[test]
fn a_body_that_is_no_json_is_told_so_and_what_it_looks_like() {
    let no_value = "the body must be JSON (UTF-8): expected value at line 1 column 1";
    let cases: [(&[u8], &str, &str); 10] = [
        (b"eyJwYXlsb2FkIjoxfQ==", "text/plain", r#"; its content_type is "text/plain""#),
        (b"\x1f\x8b\x08\x00", "application/json", "; it looks like gzip; send the JSON uncoded"),
        (b"\x78\x9c\xab", "", "; it looks like zlib; send the JSON uncoded"),
        (b"\x28\xb5\x2f\xfd", "", "; it looks like zstd; send the JSON uncoded"),
        (b"\x80\x02}q", "", "; it looks like a Python pickle; send JSON instead"),
        (
            b"\x80\x04\x95",
            "application/x-python-serialize",
            r#"; its content_type is "application/x-python-serialize"; it looks like a Python pickle; send JSON instead"#,
        ),
        (b"\xff\xfe{\x00", "", "; it looks like UTF-16; send the JSON as UTF-8"),
        (b"\xfe\xff\x00{", "", "; it looks like UTF-16; send the JSON as UTF-8"),
        (b"\xef\xbb\xbf{}", "", "; it begins with a byte order mark; leave that out"),
        (b"gibberish", "\u{1F980}", "; its content_type is \"\u{1F980}\""),
    ];
    for (body, content_type, more) in cases {
        let envelope = Envelope { content_type: Some(content_type.to_owned()), ..echo() };
        let (field, problem) = refused(&envelope, body);
        assert_eq!((field.as_str(), problem), ("body", format!("{no_value}{more}")), "{body:?}");
    }
    assert_eq!(
        refused(&echo(), b""),
        (
            "body".to_owned(),
            "the body must be JSON (UTF-8): EOF while parsing a value at line 1 column 0; it is empty; the shortest task is {}".to_owned()
        )
    );
}

#[test]
fn a_body_that_is_wrong_is_told_where() {
    let too_long = format!(r#"{{"gpu_options":{{"strategy":"{}"}}}}"#, "x".repeat(65));
    let cases: [(&str, &str, &str); 15] = [
        ("{", "body", "the body must be JSON (UTF-8): EOF while parsing an object at line 1 column 1"),
        ("{} {}", "body", "the body must be JSON (UTF-8): trailing characters at line 1 column 4"),
        (r#"{"payload":NaN}"#, "body", "the body must be JSON (UTF-8): expected value at line 1 column 12"),
        (
            "[]",
            "body",
            r#"the body must be a JSON object, as {"payload": 1}: invalid type: sequence, expected an object at line 1 column 0"#,
        ),
        (
            r#"{"payload":1,"colour":2}"#,
            "colour",
            "unknown field `colour`, expected one of `payload`, `items`, `on_error`, `gpu_options`, `needs`, `limits`, `keep_as`, `on_missing`, `segments` at line 1 column 21",
        ),
        (
            r#"{"payload":1,"body":2}"#,
            "body",
            "unknown field `body`, expected one of `payload`, `items`, `on_error`, `gpu_options`, `needs`, `limits`, `keep_as`, `on_missing`, `segments` at line 1 column 19",
        ),
        (r#"{"payload":1,"payload":2}"#, "payload", "duplicate field `payload` at line 1 column 22"),
        (r#"{"needs":{"memory_mb":-1}}"#, "needs.memory_mb", "invalid value: integer `-1`, expected u64 at line 1 column 24"),
        (r#"{"needs":{"memory_mb":100000001}}"#, "needs.memory_mb", "must be at most 100000000 MB, not 100000001"),
        (r#"{"limits":{"max_attempts":0}}"#, "limits.max_attempts", "must be 1 to 100, not 0"),
        (r#"{"limits":{"max_attempts":101}}"#, "limits.max_attempts", "must be 1 to 100, not 101"),
        (r#"{"limits":{"queue_deadline_ms":0}}"#, "limits.queue_deadline_ms", "must be 1 to 2592000000 ms (30 days), not 0"),
        (
            r#"{"limits":{"total_deadline_ms":9999999999999}}"#,
            "limits.total_deadline_ms",
            "must be 1 to 2592000000 ms (30 days), not 9999999999999",
        ),
        (
            r#"{"limits":{"attempt_timeout_ms":2592000001}}"#,
            "limits.attempt_timeout_ms",
            "must be 1 to 2592000000 ms (30 days), not 2592000001",
        ),
        (&too_long, "gpu_options.strategy", "must be at most 64 characters, not 65"),
    ];
    for (body, field, problem) in cases {
        assert_eq!(refused(&echo(), body.as_bytes()), (field.to_owned(), problem.to_owned()), "{body}");
    }
    let deep = format!(r#"{{"payload":{}{}}}"#, "[".repeat(127), "]".repeat(127));
    assert_eq!(refused(&echo(), deep.as_bytes()), ("payload".to_owned(), "must not be nested deeper than 126 levels".to_owned()));
    assert_eq!(
        refused(&echo(), &[b' '; 1_001]),
        ("body".to_owned(), "is 1001 bytes; the bound is 1000 (pass large inputs by reference)".to_owned())
    );
}
