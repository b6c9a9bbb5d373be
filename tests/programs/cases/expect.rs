//! What a reply and the end of a program should be, and what differs from it.

use std::time::Duration;

use protocol::{
    Json,
    envelope::{Headers, TRACEPARENT},
};
use serde::{Deserialize, Deserializer};

use super::{mailbox::Received, stage::limit};

/// What a reply should say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedReply {
    #[serde(default)]
    outcome: OneOf,
    #[serde(default, deserialize_with = "present")]
    result: Option<Json>,
    #[serde(default)]
    result_text: OneOf,
    #[serde(default)]
    error_code: OneOf,
    #[serde(default)]
    error_field: OneOf,
    attempt: Option<u32>,
    /// Names of headers that the reply does not have.
    #[serde(default)]
    headers_without: Vec<String>,
    within_ms: Option<u64>,
}

/// Takes what is there for a value, `null` too.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(deserializer).map(Some)
}

impl ExpectedReply {
    /// How long it is waited for.
    pub fn limit(&self) -> Duration {
        limit(self.within_ms)
    }

    /// What is not as it should be; nothing if this is the right reply.
    pub fn differences(&self, received: &Received) -> Vec<String> {
        let Received { reply, headers } = received;
        let error = reply.error.as_ref();
        let attempt = self.attempt.filter(|attempt| *attempt != reply.attempt);
        let found = [
            self.outcome.difference("outcome", Some(reply.outcome.name())),
            self.result.as_ref().filter(|right| !same(right, &reply.result)).map(|right| format!("result is not {right}")),
            self.result_text.difference("result_text", Some(reply.result.as_str())),
            self.error_code.difference("error_code", error.map(|error| error.code.as_str())),
            self.error_field.difference("error_field", error.and_then(|error| error.field.as_deref())),
            attempt.map(|attempt| format!("attempt is {} and not {attempt}", reply.attempt)),
        ];
        let present = names(headers);
        let unwanted =
            self.headers_without.iter().filter(|name| present.contains(&name.as_str())).map(|name| format!("it has the header {name}"));
        found.into_iter().flatten().chain(unwanted).collect()
    }
}

/// The headers that a reply has, as far as the fleet knows them.
fn names(headers: &Headers) -> Vec<&'static str> {
    // What is no trace context is left behind by this reader too.
    let unusable = headers.traceparent_dropped.then_some(TRACEPARENT);
    headers.pairs().into_iter().map(|(name, _)| name).chain(unusable).collect()
}

/// A text, or a list of which each is right. Absent: whatever comes is right.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "Written")]
pub struct OneOf(Option<Vec<String>>);

/// As it stands in a case.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    One(String),
    Any(Vec<String>),
}

impl From<Written> for OneOf {
    fn from(written: Written) -> Self {
        match written {
            Written::One(text) => Self(Some(vec![text])),
            Written::Any(texts) => Self(Some(texts)),
        }
    }
}

impl OneOf {
    /// Why what was found is none of the right ones.
    pub fn difference(&self, what: &str, found: Option<&str>) -> Option<String> {
        let right = self.0.as_ref()?;
        let holds = found.is_some_and(|found| right.iter().any(|text| text == found));
        (!holds).then(|| format!("{what} is {found:?} and none of {right:?}"))
    }
}

/// An exit code, or a list of which each is right.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum ExitCodes {
    One(i32),
    Any(Vec<i32>),
}

impl ExitCodes {
    /// Why this exit code is none of the right ones. None: a signal ended the program.
    pub fn difference(&self, found: Option<i32>) -> Option<String> {
        let right = match self {
            Self::One(code) => std::slice::from_ref(code),
            Self::Any(codes) => codes,
        };
        let holds = found.is_some_and(|found| right.contains(&found));
        (!holds).then(|| format!("the exit code is {found:?} and none of {right:?}"))
    }
}

/// Whether two values are the same, whatever the white space and the order of keys. Never by the JSON library's own values: those take some keys
/// for something else, and round long numbers.
fn same(one: &Json, other: &Json) -> bool {
    if let (Ok(one), Ok(other)) = (one.fields(), other.fields()) {
        return one.len() == other.len() && one.iter().all(|(name, value)| other.get(name).is_some_and(|found| same(value, found)));
    }
    if let (Ok(one), Ok(other)) = (one.elements(), other.elements()) {
        return one.len() == other.len() && one.iter().zip(&other).all(|(one, other)| same(one, other));
    }
    match (one.to::<String>(), other.to::<String>()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one.as_str() == other.as_str(),
    }
}

/// A reply that says this, for the tests of what is expected of one.
pub fn received(says: &str) -> Received {
    let rest = r#""task_id": "t", "attempt": 1, "timings": {"waited_ms": 0, "run_ms": 0}, "ended_at_ms": 1"#;
    Received { reply: serde_json::from_str(&format!("{{{rest}, {says}}}")).expect(says), headers: Headers::default() }
}

/// The reply of a task that gave this.
pub fn succeeded(result: &str) -> Received {
    received(&format!(r#""outcome": "succeeded", "result": {result}"#))
}

const PRIVATE: &str = r#"{"$serde_json::private::RawValue": "12"}"#;

fn expected(text: &str) -> ExpectedReply {
    serde_json::from_str(text).expect(text)
}

#[test]
fn a_result_is_compared_as_a_value_whose_keys_are_only_keys() {
    let with_result = |result: &str| expected(&format!(r#"{{"result": {result}}}"#));
    for (right, found) in [(PRIVATE, PRIVATE), (r#"{"a": [1, "é"], "b": null}"#, r#"{"b":null,"a":[1,"\u00e9"]}"#), ("null", "null")] {
        assert_eq!(with_result(right).differences(&succeeded(found)), [""; 0]);
    }
    for (right, wrong) in [(PRIVATE, "12"), ("12", PRIVATE), ("1", "1.0"), ("[1]", "[1, 2]"), ("null", "0"), ("{}", "[]"), (r#""1""#, "1")]
    {
        assert!(!with_result(right).differences(&succeeded(wrong)).is_empty(), "{right} and {wrong}");
    }
}

#[test]
fn a_header_that_should_not_be_there_is_found_also_if_it_cannot_be_read() {
    let without = expected(r#"{"headers_without": ["traceparent"]}"#);
    let headers = [
        (Headers::default(), true),
        (Headers { traceparent: Some("00".to_owned()), ..Headers::default() }, false),
        (Headers { traceparent_dropped: true, ..Headers::default() }, false),
    ];
    for (headers, right) in headers {
        let reply = Received { headers, ..succeeded("1") };
        assert_eq!(without.differences(&reply).is_empty(), right, "{reply:?}");
    }
}

#[test]
fn an_attempt_and_an_exit_code_are_compared() {
    assert_eq!(expected(r#"{"attempt": 1}"#).differences(&succeeded("1")), [""; 0]);
    assert_eq!(expected(r#"{"attempt": 2}"#).differences(&succeeded("1")), ["attempt is 1 and not 2"]);
    let codes = |text: &str| -> ExitCodes { serde_json::from_str(text).expect(text) };
    for (text, found, right) in [("0", Some(0), true), ("[0, 141]", Some(141), true), ("[0, 141]", Some(1), false), ("0", None, false)] {
        assert_eq!(codes(text).difference(found).is_none(), right, "{text} and {found:?}");
    }
}

#[test]
fn nothing_is_waited_for_less_long_than_a_busy_machine_may_need() {
    assert_eq!(expected("{}").limit(), expected(r#"{"within_ms": 5}"#).limit());
    assert_eq!(expected(r#"{"within_ms": 100000}"#).limit(), Duration::from_secs(100));
}
