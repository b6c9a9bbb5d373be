//! What comes from outside is read or refused with its field, whatever its bytes; what is written is read again.

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};
use protocol::{
    BodyHash, DeliveryId, Envelope, Json, ProgressMessage, Reply, Segments, TaskBody, TaskId, check_body,
    envelope::{self, HeaderValue, Headers},
    frame, identify,
    intake::{IntakeLimits, Message, read_body, read_task},
};
use serde_json::{Value, json};

const MEMBERS: [&str; 23] = [
    "payload",
    "gpu_options",
    "needs",
    "limits",
    "strategy",
    "specific_gpu_id",
    "batch_split",
    "memory_mb",
    "compute_capability",
    "model",
    "queue_deadline_ms",
    "attempt_timeout_ms",
    "total_deadline_ms",
    "max_attempts",
    "task_id",
    "outcome",
    "attempt",
    "timings",
    "error",
    "token",
    "ended_at_ms",
    "waited_ms",
    "run_ms",
];

/// JSON whose members are often, but not always, those of a task or a reply.
fn document() -> impl Strategy<Value = Value> {
    let name = prop_oneof![9 => prop::sample::select(&MEMBERS[..]).prop_map(str::to_owned), 1 => "\\PC{0,6}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u64..200).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,80}".prop_map(Value::from),
        prop::sample::select(&["9.0", "gpu-0", "round_robin", "succeeded"][..]).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let members = vec((name.clone(), inner.clone()), 0..6).prop_map(|members| Value::Object(members.into_iter().collect()));
        prop_oneof![3 => members, 1 => vec(inner, 0..4).prop_map(Value::from)]
    })
}

fn header_value() -> impl Strategy<Value = HeaderValue> {
    prop_oneof![
        "\\PC{0,20}".prop_map(HeaderValue::Text),
        Just(HeaderValue::Text("x".repeat(Headers::TEXT_MAX + 1))),
        Just(HeaderValue::Text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned())),
        any::<i64>().prop_map(HeaderValue::Integer),
        any::<bool>().prop_map(HeaderValue::Bool),
        vec(any::<u8>(), 0..40).prop_map(HeaderValue::Bytes),
        Just(HeaderValue::Other),
    ]
}

const NAMES: [&str; 30] = [
    envelope::TRACEPARENT,
    envelope::TRACESTATE,
    envelope::LINKS,
    envelope::ATTEMPT,
    envelope::HOPS,
    envelope::STRATEGY,
    envelope::START_BEFORE,
    envelope::END_BEFORE,
    envelope::USER,
    envelope::POOL,
    envelope::RETURNED,
    envelope::OUTCOME,
    envelope::TOKEN,
    envelope::REASON,
    envelope::HISTORY,
    envelope::MEMORY,
    envelope::COPY,
    envelope::PROGRESS,
    envelope::GROUP,
    envelope::UNREADABLE,
    envelope::PROPERTIES,
    envelope::TIMESTAMP_IN_MS,
    envelope::REPLY_TO,
    envelope::FIRST_TRY,
    envelope::UNSERVED_SINCE,
    envelope::DUE,
    envelope::NOT_BEFORE,
    envelope::DELAY,
    envelope::BATCH_HASH,
    envelope::PUBLISHED_BEFORE,
];

fn headers() -> impl Strategy<Value = Headers> {
    let name = prop_oneof![9 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned), 1 => "[a-z-]{0,9}"];
    vec((name, header_value()), 0..8).prop_map(Headers::read)
}

fn text() -> impl Strategy<Value = Option<String>> {
    let likely = prop::sample::select(&["echo", "order-1", "500", "", "9"][..]).prop_map(str::to_owned);
    option::of(prop_oneof![2 => likely, 1 => "\\PC{0,200}", 1 => vec(any::<char>(), 0..9).prop_map(String::from_iter)])
}

prop_compose! {
    fn any_envelope()(
        texts in prop::array::uniform6(text()),
        content_encoding in option::of(prop_oneof![9 => Just("UTF-8".to_owned()), 1 => "\\PC{0,20}"]),
        priority in option::of(any::<u8>()),
        timestamp in option::of(any::<u64>()),
        headers in headers(),
    ) -> Envelope {
        let [message_id, kind, reply_to, correlation_id, expiration, content_type] = texts;
        Envelope {
            message_id,
            kind,
            priority,
            reply_to,
            correlation_id,
            expiration,
            content_type,
            content_encoding,
            timestamp,
            user_id: None,
            headers,
        }
    }
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => document().prop_map(|document| document.to_string().into_bytes()),
        1 => (document(), any::<prop::sample::Index>()).prop_map(|(document, cut)| {
            let mut text = document.to_string().into_bytes();
            text.truncate(cut.index(text.len() + 1));
            text
        }),
        2 => frame_of(document()),
        1 => (frame_of(document()), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut frame, place, byte)| {
            let place = place.index(frame.len());
            frame[place] = byte;
            frame
        }),
        1 => vec(any::<u8>(), 0..60),
    ]
}

/// A frame whose JSON is a document, an object or not, with segments of any bytes.
fn frame_of(document: impl Strategy<Value = Value>) -> impl Strategy<Value = Vec<u8>> {
    (document, segments()).prop_map(|(mut document, segments)| {
        if let Some(members) = document.as_object_mut() {
            members.insert("segments".to_owned(), json!(segments.lengths()));
        }
        frame::write(document.to_string().as_bytes(), &segments).expect("a short one").to_vec()
    })
}

fn segments() -> impl Strategy<Value = Segments> {
    vec(vec(any::<u8>(), 0..9), 0..4).prop_map(|segments| Segments::of(segments.into_iter().map(Bytes::from).collect()))
}

/// The names that a refusal may say: a property, a header, or a member that is really there, also of a body that is cut off behind it.
fn is_a_field(field: &str, body: &[u8]) -> bool {
    let properties = ["body", "segments", "type", "message_id", "priority", "expiration", "content_encoding", "properties"];
    let text = frame::read(&Bytes::copy_from_slice(body)).map_or_else(|_| Bytes::copy_from_slice(body), |(json, _)| json);
    let of_body = || {
        serde_json::from_slice::<Value>(&text).is_ok_and(|document| {
            field.split('.').next().is_some_and(|first| document.get(first).is_some() || document.get(field).is_some())
        })
    };
    let of_cut_off_body =
        || field.split('.').all(|name| body.windows(name.len().max(1)).any(|part| part == name.as_bytes()) || name.is_empty());
    properties.contains(&field) || field.starts_with("headers.") || of_body() || of_cut_off_body()
}

/// JSON texts as no writer of ours would write them, and texts that are no JSON.
fn text_of_json() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(
        &[
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
            " ",
            "\n",
            "\"a\"",
            "\"\\u00e9\"",
            "\"\\\"\"",
            "-0",
            "1e9",
            "0.10",
            "18446744073709551617",
            "true",
            "null",
            "\"$serde_json::private::RawValue\"",
        ][..],
    );
    let pieces = vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes());
    let mutated = (document(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(document, place, byte)| {
        let mut text = serde_json::to_string_pretty(&document).expect("JSON").into_bytes();
        let place = place.index(text.len());
        text[place] = byte;
        text
    });
    let whole = document().prop_map(|document| serde_json::to_string_pretty(&document).expect("JSON").into_bytes());
    prop_oneof![3 => pieces, 3 => mutated, 1 => whole, 1 => vec(any::<u8>(), 0..20)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_message_is_a_task_or_is_refused_with_its_field(envelope in any_envelope(), body in body(), now_ms in 0..u64::MAX / 4) {
        let body = Bytes::from(body);
        let message = Message { envelope: &envelope, body: &body, delivery: DeliveryId(1) };
        let fresh = || TaskId::new("fresh").expect("valid");
        let reading = read_task(message, IntakeLimits { body_bytes_max: 500 }, now_ms, fresh);
        match reading.task {
            Ok(task) => {
                prop_assert_eq!(check_body(&task.body), Ok(()));
                prop_assert!(task.priority <= 9 && task.attempt >= 1);
            }
            Err(refusal) => {
                let of_screen = envelope.headers.unreadable.as_deref().is_some_and(|text| text.starts_with(&refusal.field));
                prop_assert!(of_screen || is_a_field(&refusal.field, &body), "{}", refusal);
                prop_assert!(of_screen || !refusal.problem.is_empty(), "{}", refusal);
            }
        }
        prop_assert_eq!(reading.body_hash, BodyHash::of(&body));
        let _either = identify(&envelope, &BodyHash::of(&body));
    }

    #[test]
    fn a_body_that_was_read_is_written_and_read_the_same(document in document(), payload in document()) {
        let mut document = document;
        if let Some(members) = document.as_object_mut() {
            members.insert("payload".to_owned(), payload);
        }
        let body = Bytes::from(document.to_string());
        if let Ok(read) = read_body(&body) {
            prop_assert_eq!(read_body(&read.to_bytes()), Ok(read.clone()));
            let generic: TaskBody = serde_json::from_slice(&body).expect("what was read");
            prop_assert_eq!(read_body(&Json::of(&generic).as_bytes().clone()), Ok(read));
        }
    }

    #[test]
    fn a_body_with_raw_bytes_is_read_and_written_to_the_last_byte(payload in document(), segments in segments(), result in document()) {
        let body = TaskBody { payload: payload.into(), segments: segments.clone(), ..TaskBody::default() };
        let bytes = body.to_bytes();
        prop_assert_eq!(frame::is_frame(&bytes), !segments.is_empty());
        prop_assert_eq!(read_body(&bytes), Ok(body));
        let reply = json!({"task_id": "t", "outcome": "succeeded", "attempt": 1, "timings": {"waited_ms": 0.5, "run_ms": 1.0}, "ended_at_ms": 1});
        let reply = Reply { result: result.into(), segments, ..serde_json::from_value(reply).expect("a reply") };
        let again = Reply::read(&reply.clone().into_bytes()).expect("a reply");
        prop_assert_eq!(&again.segments, &reply.segments);
        prop_assert_eq!(again, reply);
    }

    #[test]
    fn headers_that_were_read_are_written_and_read_the_same(headers in headers()) {
        let written = headers.pairs().into_iter().map(|(name, value)| (name.to_owned(), value));
        let mut usable = Headers { invalid: Vec::new(), ..headers.clone() };
        usable.forget_findings();
        prop_assert_eq!(Headers::read(written), usable);
    }

    #[test]
    fn a_reply_is_read_or_refused_and_what_was_read_is_written_the_same(body in body(), result in document(), error in option::of(text())) {
        let _either = Reply::read(&Bytes::from(body.clone()));
        let _either = serde_json::from_slice::<ProgressMessage>(&body);
        let error = error.map(|code| json!({"code": code.unwrap_or_default(), "message": "m", "field": "f"}));
        let timings = json!({"waited_ms": 0.5, "run_ms": 1});
        let given = json!({"task_id": "t", "outcome": "failed", "result": result, "error": error, "attempt": 1, "timings": timings, "ended_at_ms": 1});
        let read: Reply = serde_json::from_value(given).expect("a reply");
        for text in [Json::of(&read).as_bytes().clone(), read.clone().into_bytes()] {
            prop_assert_eq!(&serde_json::from_slice::<Reply>(&text).expect("a reply"), &read);
        }
    }

    #[test]
    fn any_bytes_are_no_task_body_or_one(bytes in vec(any::<u8>(), 0..80)) {
        let bytes = Bytes::from(bytes);
        if let Err(refusal) = read_body(&bytes) {
            prop_assert!(is_a_field(&refusal.field, &bytes), "{}", refusal);
        }
        prop_assert_eq!(read_body(&Bytes::from("{}")), Ok(TaskBody::default()));
    }

    #[test]
    fn a_text_is_taken_as_it_is_exactly_if_it_is_json(text in text_of_json()) {
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok() && std::str::from_utf8(&text).is_ok();
        let taken = Json::parse(text.clone());
        prop_assert_eq!(taken.is_ok(), is_json);
        let Ok(taken) = taken else { return Ok(()) };
        prop_assert_eq!(taken.as_str(), std::str::from_utf8(&text).expect("JSON").trim());
        if let Ok(value) = serde_json::from_slice::<Value>(&text) {
            prop_assert_eq!(&taken, &value);
        }
        prop_assert_eq!(Json::of(&taken), taken.clone());
        let body = TaskBody { payload: taken.clone(), ..TaskBody::default() };
        prop_assert_eq!(read_body(&body.to_bytes()).map(|read| read.payload), Ok(taken));
    }
}

/// Names that mean something to the JSON library, wherever they stand, are names like any other.
#[test]
fn a_payload_comes_back_to_the_last_byte() {
    const PRIVATE: &str = "$serde_json::private";
    for payload in [
        "1234567890123456789012345678901234567890".to_owned(),
        "-0".to_owned(),
        "[ 1.0, 1.00, 1e0 ]".to_owned(),
        r#"{"b": 1, "a": 2, "a": 3}"#.to_owned(),
        format!(r#"{{"{PRIVATE}::RawValue": "not json"}}"#),
        format!(r#"[{{"{PRIVATE}::RawValue": "[[[1]]]"}}]"#),
        format!(r#"{{"{PRIVATE}::Number": "12"}}"#),
    ] {
        let body = Bytes::from(format!(" {{ \"payload\" :\n {payload}\t}} "));
        let read = read_body(&body).expect(&payload);
        assert_eq!(read.payload.as_str(), payload);
        assert_eq!(read_body(&read.to_bytes()).expect("a body").payload.as_str(), payload);
        let reply =
            json!({"task_id": "t", "outcome": "succeeded", "attempt": 1, "timings": {"waited_ms": 0.5, "run_ms": 1.0}, "ended_at_ms": 1});
        let reply = Reply { result: read.payload, ..serde_json::from_value(reply).expect("a reply") };
        let again: Reply = serde_json::from_slice(&reply.clone().into_bytes()).expect("a reply");
        assert_eq!(again.result.as_str(), payload);
        assert_eq!(again, reply);
    }
    for options in ["gpu_options", "needs", "limits"] {
        let body = Bytes::from(format!(r#"{{"{options}": {{"{PRIVATE}::RawValue": "{{}}"}}}}"#));
        assert_eq!(read_body(&body).expect_err("refused").field, format!("{options}.{PRIVATE}::RawValue"));
    }
}
