//! One case: what is sent. `tests/cases/README.md` states the format.
//!
//! Everything is read into types that take no key but their own, and what a case expects stays text: some names of keys mean something to the JSON library.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{envelope::HeaderValue, read_object};
use serde::Deserialize;
use tests::raw_amqp::{RawProperties, entry};

use super::expect::Expect;

/// What stands for the case's own reply queue.
const OWN_QUEUE: &str = "{own queue}";

/// One file of the folder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What went wrong, for people.
    pub about: String,
    /// What is published, in this order.
    pub amqp: Vec<Message>,
    /// What should come of it.
    pub expect: Expect,
}

impl Case {
    /// Reads a file; the error names the key that is at fault.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let case: Self = read_object(text).map_err(|unfit| format!("{}: {}", unfit.field, unfit.problem))?;
        if case.expect.names_no_reply() {
            return Err("expect: no reply is named, so every one would be right".to_owned());
        }
        Ok(case)
    }
}

/// A message to the pool's exchange.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    #[serde(default)]
    properties: Properties,
    body_hex: Hex,
    #[serde(default = "once")]
    times: usize,
}

const fn once() -> usize {
    1
}

impl Message {
    /// The body's bytes.
    pub fn body(&self) -> &[u8] {
        &self.body_hex.0
    }

    /// The properties of each copy.
    pub fn copies(&self, own_queue: &str) -> Vec<RawProperties> {
        let properties = self.properties.raw(own_queue);
        if self.times == 1 || self.properties.message_id.is_some() {
            return vec![properties; self.times];
        }
        let fresh = || uuid::Uuid::new_v4().to_string();
        (0..self.times).map(|_| properties.clone().text(RawProperties::MESSAGE_ID, fresh().as_bytes())).collect()
    }
}

/// Properties by their AMQP names.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Properties {
    content_type: Option<String>,
    content_encoding: Option<String>,
    headers: BTreeMap<String, Header>,
    priority: Option<u8>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    expiration: Option<String>,
    message_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    app_id: Option<String>,
}

impl Properties {
    fn raw(&self, own_queue: &str) -> RawProperties {
        let texts = [
            (RawProperties::CONTENT_TYPE, &self.content_type),
            (RawProperties::CONTENT_ENCODING, &self.content_encoding),
            (RawProperties::CORRELATION_ID, &self.correlation_id),
            (RawProperties::REPLY_TO, &self.reply_to),
            (RawProperties::EXPIRATION, &self.expiration),
            (RawProperties::MESSAGE_ID, &self.message_id),
            (RawProperties::TYPE, &self.kind),
            (RawProperties::APP_ID, &self.app_id),
        ];
        let mut raw = RawProperties::default();
        for (bit, text) in texts {
            if let Some(text) = text {
                raw = raw.text(bit, text.replace(OWN_QUEUE, own_queue).as_bytes());
            }
        }
        if let Some(priority) = self.priority {
            raw = raw.octet(RawProperties::PRIORITY, priority);
        }
        let headers: Vec<u8> = self.headers.iter().flat_map(|(name, header)| entry(name, &header.value())).collect();
        if headers.is_empty() { raw } else { raw.headers(&headers) }
    }
}

/// A header's value, under the letter of its AMQP type.
#[derive(Debug, Deserialize)]
enum Header {
    #[serde(rename = "S")]
    Text(String),
    #[serde(rename = "l")]
    Integer(i64),
    #[serde(rename = "t")]
    Bool(bool),
    #[serde(rename = "x")]
    Bytes(Hex),
    #[serde(rename = "V")]
    Void(()),
}

impl Header {
    fn value(&self) -> HeaderValue {
        match self {
            Self::Text(text) => HeaderValue::Text(text.clone()),
            Self::Integer(number) => HeaderValue::Integer(*number),
            Self::Bool(truth) => HeaderValue::Bool(*truth),
            Self::Bytes(bytes) => HeaderValue::Bytes(bytes.0.clone()),
            Self::Void(()) => HeaderValue::Other,
        }
    }
}

/// Bytes that are written in hexadecimal.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Hex(Vec<u8>);

impl TryFrom<String> for Hex {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits: Option<Vec<u8>> = text.chars().map(|letter| u8::try_from(letter.to_digit(16)?).ok()).collect();
        match digits {
            Some(digits) if digits.len() % 2 == 0 => Ok(Self(digits.chunks(2).map(|pair| (pair[0] << 4) | pair[1]).collect())),
            _ => Err(format!("{text:?} is no bytes in hexadecimal")),
        }
    }
}

fn case(more: &str, message: &str, expect: &str) -> String {
    format!(r#"{{"about": "", {more} "amqp": [{{{message} "body_hex": "7b7D"}}], "expect": {{{expect}}}}}"#)
}

fn message(text: &str) -> Message {
    let case = Case::read(case("", text, r#""reply": {}"#).as_bytes()).expect("a case");
    case.amqp.into_iter().next().expect("a message")
}

#[test]
fn a_key_that_is_not_known_is_named() {
    let any = r#""reply": {}"#;
    assert!(Case::read(case("", "", any).as_bytes()).is_ok());
    let cases = [
        (case(r#""prepare": [],"#, "", any), "prepare"),
        (case("", r#""exchange": "","#, any), "exchange"),
        (case("", r#""properties": {"user_id": "guest"},"#, any), "user_id"),
        (case("", r#""properties": {"headers": {"a": {"F": {}}}},"#, any), "`F`"),
        (case("", "", r#""reply": {"within_ms": 1}"#), "within_ms"),
        (case("", "", r#""reply": {}, "then_reply": {}"#), "then_reply"),
        (case("", "", r#""any_of": [{"reply": {}, "exit": 0}]"#), "exit"),
        (case("", "", r#""reply": {}, "or": "decoded""#), "expect.or"),
        (case("", "", ""), "no reply"),
        (case("", "", any).replace("7D", "7"), "body_hex"),
    ];
    for (text, named) in cases {
        let problem = Case::read(text.as_bytes()).expect_err(named);
        assert!(problem.contains(named), "{problem:?} does not name {named:?}");
    }
}

#[test]
fn a_message_is_sent_as_its_case_writes_it() {
    let message = message(
        r#""properties": {"type": "echo", "reply_to": "{own queue}", "priority": 7, "headers":
            {"a": {"S": "text"}, "b": {"l": -1}, "c": {"t": true}, "d": {"x": "ff00"}, "e": {"V": null}}},"#,
    );
    let headers = [
        ("a", HeaderValue::Text("text".to_owned())),
        ("b", HeaderValue::Integer(-1)),
        ("c", HeaderValue::Bool(true)),
        ("d", HeaderValue::Bytes(vec![0xff, 0])),
        ("e", HeaderValue::Other),
    ];
    let headers: Vec<u8> = headers.iter().flat_map(|(name, value)| entry(name, value)).collect();
    let texts = RawProperties::default().text(RawProperties::TYPE, b"echo").text(RawProperties::REPLY_TO, b"mine");
    let copies = message.copies("mine");
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].bytes(), texts.octet(RawProperties::PRIORITY, 7).headers(&headers).bytes());
    assert_eq!(message.body(), b"{}");
}

#[test]
fn copies_have_ids_of_their_own_unless_the_case_names_one() {
    let different = |text: &str| {
        let copies: BTreeSet<Vec<u8>> = message(text).copies("").iter().map(RawProperties::bytes).collect();
        copies.len()
    };
    assert_eq!(different(r#""times": 3,"#), 3);
    assert_eq!(different(r#""times": 3, "properties": {"message_id": "one"},"#), 1);
}
