//! Messages that no honest client sends, generated from a seed: each is refused for a known reason, or odd and allowed.

use protocol::{
    Envelope,
    envelope::{
        ATTEMPT, END_BEFORE, HOPS, HeaderValue, Headers, POOL, RETURNED, START_BEFORE, TIMESTAMP_IN_MS, TRACEPARENT, UNREADABLE, USER,
    },
};
use rand::{Rng, RngCore, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use crate::raw_amqp::{RawProperties, entry};

/// One message, and what must become of it.
#[derive(Debug, Clone)]
pub struct Hostile {
    /// The properties other than headers.
    pub properties: Envelope,
    /// Headers, whatever their types.
    pub headers: Vec<(String, HeaderValue)>,
    /// The body.
    pub body: Vec<u8>,
    /// The field that the refusal must name; `None`: it is odd but allowed, and ends somehow.
    pub field: Option<&'static str>,
}

impl Hostile {
    /// As a client library would show it.
    #[must_use]
    pub fn envelope(&self) -> Envelope {
        Envelope { headers: Headers::read(self.headers.iter().cloned()), ..self.properties.clone() }
    }

    /// As it stands on the wire.
    #[must_use]
    pub fn raw(&self) -> RawProperties {
        let Envelope { message_id, kind, priority, reply_to, correlation_id, expiration, .. } = &self.properties;
        let texts = [
            (RawProperties::MESSAGE_ID, message_id),
            (RawProperties::TYPE, kind),
            (RawProperties::REPLY_TO, reply_to),
            (RawProperties::CORRELATION_ID, correlation_id),
            (RawProperties::EXPIRATION, expiration),
        ];
        let mut raw = RawProperties::default();
        for (bit, text) in texts {
            if let Some(text) = text {
                raw = raw.text(bit, text.as_bytes());
            }
        }
        if let Some(priority) = priority {
            raw = raw.octet(RawProperties::PRIORITY, *priority);
        }
        let headers: Vec<u8> = self.headers.iter().flat_map(|(name, value)| entry(name, value)).collect();
        if headers.is_empty() { raw } else { raw.headers(&headers) }
    }
}

/// `count` messages; the same ones for the same seed. A third of them name `reply_to`'s queue, with `c-<n>` as correlation.
#[must_use]
pub fn messages(seed: u64, count: usize, reply_to: &str) -> Vec<Hostile> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|n| {
            let mut hostile = one(&mut random, n);
            hostile.properties.correlation_id = Some(format!("c-{n}"));
            match random.random_range(0..8) {
                0..5 => hostile.properties.reply_to = Some(reply_to.to_owned()),
                5 => hostile.properties.reply_to = Some("nobody-listens-here".to_owned()),
                6 => hostile.properties.reply_to = Some(String::new()),
                _ => {}
            }
            hostile
        })
        .collect()
}

fn one(random: &mut ChaCha8Rng, n: usize) -> Hostile {
    let mut hostile = Hostile {
        properties: Envelope { message_id: Some(format!("hostile-{n}")), kind: Some("echo".to_owned()), ..Envelope::default() },
        headers: Vec::new(),
        body: format!("{{\"payload\": {n}}}").into_bytes(),
        field: None,
    };
    match random.random_range(0..10) {
        0 => wrong_property(random, &mut hostile),
        1 => wrong_header(random, &mut hostile),
        2 => odd(random, &mut hostile),
        3 => nested(random, &mut hostile),
        4 => cut_or_garbled(random, &mut hostile),
        _ => wrong_body(random, n, &mut hostile),
    }
    if hostile.field.is_some() && random.random_ratio(1, 20) {
        // It expires at once, and is no better for it.
        hostile.properties.expiration = Some("0".to_owned());
    }
    hostile
}

fn text(random: &mut ChaCha8Rng, choices: &[&str]) -> String {
    (*choices.choose(random).expect("not empty")).to_owned()
}

fn wrong_property(random: &mut ChaCha8Rng, hostile: &mut Hostile) {
    let long = "x".repeat(255);
    match random.random_range(0..4) {
        0 => {
            hostile.properties.kind = Some(text(random, &["", "Echo", "{echo}", "ec ho", "écho", "echo\0", "\u{202e}", "../echo", &long]));
            hostile.field = Some("type");
        }
        1 => {
            hostile.properties.kind = None;
            hostile.field = Some("type");
        }
        2 => {
            hostile.properties.message_id = Some(text(random, &["{fleet}", "a b", "\r\n*3", "ünique", "\u{0}", &long]));
            hostile.field = Some("message_id");
        }
        _ => {
            hostile.properties.priority = Some(random.random_range(10..=255));
            hostile.field = Some("priority");
        }
    }
}

fn wrong_header(random: &mut ChaCha8Rng, hostile: &mut Hostile) {
    let texts = [HeaderValue::Integer(-1), HeaderValue::Bool(true), HeaderValue::Other, HeaderValue::Text("x".repeat(600))];
    let numbers = [HeaderValue::Integer(-1), HeaderValue::Integer(i64::MIN), HeaderValue::Text("9".to_owned()), HeaderValue::Other];
    let (name, value, field) = match random.random_range(0..6) {
        0 => (USER, texts.choose(random), "headers.x-gpufleet-user"),
        1 => (POOL, texts.choose(random), "headers.x-gpufleet-pool"),
        2 => (ATTEMPT, numbers.choose(random), "headers.x-gpufleet-attempt"),
        3 => (HOPS, numbers.choose(random), "headers.x-gpufleet-hops"),
        4 => (START_BEFORE, numbers.choose(random), "headers.x-gpufleet-start-before-ms"),
        _ => (RETURNED, texts.choose(random), "headers.x-gpufleet-returned"),
    };
    let value = value.cloned().unwrap_or(HeaderValue::Other);
    // A boolean is what this one is.
    let value = if name == RETURNED && value == HeaderValue::Bool(true) { HeaderValue::Integer(1) } else { value };
    hostile.headers.push((name.to_owned(), value));
    hostile.field = Some(field);
}

/// What producers have no business to write, and may.
fn odd(random: &mut ChaCha8Rng, hostile: &mut Hostile) {
    let headers = [
        (ATTEMPT, HeaderValue::Integer(u32::MAX.into())),
        (HOPS, HeaderValue::Integer(u32::MAX.into())),
        (START_BEFORE, HeaderValue::Integer(i64::MAX)),
        (END_BEFORE, HeaderValue::Integer(i64::MAX)),
        (END_BEFORE, HeaderValue::Integer(1)),
        (POOL, HeaderValue::Text("{*}".to_owned())),
        (RETURNED, HeaderValue::Bool(true)),
        ("x-death", HeaderValue::Text("no table".to_owned())),
        (TRACEPARENT, HeaderValue::Other),
        (TRACEPARENT, HeaderValue::Text("x".repeat(600))),
        (TIMESTAMP_IN_MS, HeaderValue::Integer(i64::MAX)),
        (TIMESTAMP_IN_MS, HeaderValue::Text("now".to_owned())),
    ];
    let (name, value) = headers.choose(random).expect("not empty").clone();
    hostile.headers.push((name.to_owned(), value));
    let bodies = [
        r#"{"gpu_options": {"strategy": "*"}}"#,
        r#"{"needs": {"memory_mb": 0}}"#,
        r#"{"limits": {"total_deadline_ms": 1}}"#,
        r#"{"payload": 1e308, "gpu_options": {"specific_gpu_id": "no-such-gpu"}}"#,
        r#"{"payload": "\u0000\uffff"}"#,
    ];
    hostile.body = bodies.choose(random).expect("not empty").as_bytes().to_vec();
}

fn nested(random: &mut ChaCha8Rng, hostile: &mut Hostile) {
    let depth = random.random_range(130..20_000);
    let (open, close) = *[("[", "]"), ("{\"a\":", "}"), ("[{\"\":", "}]")].choose(random).expect("not empty");
    let closed = if random.random() { close.repeat(depth) } else { String::new() };
    hostile.body = format!("{{\"payload\":{}null{closed}", open.repeat(depth)).into_bytes();
    hostile.field = Some("body");
}

/// The rest of a good body, or no text at all. The braces no longer match, so it cannot be JSON by accident.
fn cut_or_garbled(random: &mut ChaCha8Rng, hostile: &mut Hostile) {
    if random.random() {
        hostile.body.truncate(random.random_range(0..hostile.body.len()));
    } else {
        hostile.body = vec![0; random.random_range(0..300)];
        random.fill_bytes(&mut hostile.body);
        hostile.body.insert(0, 0xff);
    }
    hostile.field = Some("body");
}

fn wrong_body(random: &mut ChaCha8Rng, n: usize, hostile: &mut Hostile) {
    let cases: [(&str, &str); 24] = [
        (r#"{"colour": 1}"#, "colour"),
        (r#"{"payload": 1, "payload ": 2}"#, "payload "),
        (r#"{"__proto__": {}}"#, "__proto__"),
        (r#"{"gpu_options": []}"#, "gpu_options"),
        (r#"{"gpu_options": {"specific_gpu_id": "{a}"}}"#, "gpu_options.specific_gpu_id"),
        (r#"{"gpu_options": {"specific_gpu_id": ""}}"#, "gpu_options.specific_gpu_id"),
        (r#"{"gpu_options": {"batch_split": "yes"}}"#, "gpu_options.batch_split"),
        (r#"{"gpu_options": {"strategy": 7}}"#, "gpu_options.strategy"),
        (r#"{"needs": {"memory_mb": -1}}"#, "needs.memory_mb"),
        (r#"{"needs": {"memory_mb": 1e3}}"#, "needs.memory_mb"),
        (r#"{"needs": {"memory_mb": 18446744073709551616}}"#, "needs.memory_mb"),
        (r#"{"needs": {"memory_mb": 18446744073709551615}}"#, "needs.memory_mb"),
        (r#"{"needs": {"compute_capability": "9.0.0"}}"#, "needs.compute_capability"),
        (r#"{"needs": {"model": null, "models": []}}"#, "needs.models"),
        (r#"{"limits": {"max_attempts": 4294967296}}"#, "limits.max_attempts"),
        (r#"{"limits": {"max_attempts": 0}}"#, "limits.max_attempts"),
        (r#"{"limits": {"queue_deadline_ms": 0}}"#, "limits.queue_deadline_ms"),
        (r#"{"limits": {"total_deadline_ms": 9999999999999}}"#, "limits.total_deadline_ms"),
        (r#"{"limits": {"attempt_timeout_ms": "soon"}}"#, "limits.attempt_timeout_ms"),
        (r#"{"payload": 1e}"#, "body"),
        (r#"{"payload": "\uZZZZ"}"#, "body"),
        ("{\"payload\": \"\u{1}\"}", "body"),
        ("\u{feff}{}", "body"),
        ("[]", "body"),
    ];
    let (body, field) = *cases.choose(random).expect("not empty");
    hostile.body = body.as_bytes().to_vec();
    hostile.field = Some(field);
    if n % 500 == 499 {
        hostile.body = vec![b' '; 8 * 1024 * 1024 + 1];
        hostile.field = Some("body");
    } else if random.random_ratio(1, 10) {
        // Marked as unreadable by its producer, not by the fleet: believed.
        hostile.headers.push((UNREADABLE.to_owned(), HeaderValue::Text("type: as I say".to_owned())));
        hostile.field = Some("type");
    }
}
