//! What should come of a case, and what differs from it.

use protocol::{
    Json, Reply,
    envelope::{Headers, TRACEPARENT},
};
use serde::{Deserialize, Deserializer};

/// What should come of a case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    reply: Option<ExpectedReply>,
    #[serde(default)]
    any_of: Vec<Alternative>,
    or: Option<Alternative>,
    /// What is asked once the reply has come.
    pub http_after: Option<HttpAfter>,
}

/// Another right answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Alternative {
    reply: ExpectedReply,
}

/// A request to the gateway, and the status code of its answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpAfter {
    pub method: String,
    pub path: String,
    pub status: u16,
}

/// What a reply should say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedReply {
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
    /// Names of headers that the reply does not have.
    #[serde(default)]
    headers_without: Vec<String>,
}

/// Takes what is there for a value, `null` too.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(deserializer).map(Some)
}

impl Expect {
    /// Whether there is no reply that it asks for.
    pub fn names_no_reply(&self) -> bool {
        self.right_replies().next().is_none()
    }

    /// Why this reply is none of the right ones; nothing if it is one.
    pub fn difference(&self, reply: &Reply, headers: &Headers) -> Option<String> {
        let differences: Vec<Vec<String>> = self.right_replies().map(|right| right.differences(reply, headers)).collect();
        if differences.iter().any(Vec::is_empty) {
            return None;
        }
        let each: Vec<String> = differences.into_iter().map(|differences| differences.join(", ")).collect();
        Some(format!("{}; the reply is {reply:?}", each.join("; or else ")))
    }

    fn right_replies(&self) -> impl Iterator<Item = &ExpectedReply> {
        let others = self.any_of.iter().chain(&self.or).map(|other| &other.reply);
        self.reply.iter().chain(others)
    }
}

impl ExpectedReply {
    fn differences(&self, reply: &Reply, headers: &Headers) -> Vec<String> {
        let error = reply.error.as_ref();
        let found = [
            self.outcome.difference("outcome", Some(reply.outcome.name())),
            self.result.as_ref().filter(|right| !same(right, &reply.result)).map(|right| format!("result is not {right}")),
            self.result_text.difference("result_text", Some(reply.result.as_str())),
            self.error_code.difference("error_code", error.map(|error| error.code.as_str())),
            self.error_field.difference("error_field", error.and_then(|error| error.field.as_deref())),
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
struct OneOf(Option<Vec<String>>);

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
    fn difference(&self, what: &str, found: Option<&str>) -> Option<String> {
        let right = self.0.as_ref()?;
        let holds = found.is_some_and(|found| right.iter().any(|text| text == found));
        (!holds).then(|| format!("{what} is {found:?} and none of {right:?}"))
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

const PRIVATE: &str = r#"{"$serde_json::private::RawValue": "12"}"#;

fn expect(text: &str) -> Expect {
    serde_json::from_str(text).expect(text)
}

fn reply(says: &str) -> Reply {
    let rest = r#""task_id": "t", "attempt": 1, "timings": {"waited_ms": 0, "run_ms": 0}, "ended_at_ms": 1"#;
    serde_json::from_str(&format!("{{{rest}, {says}}}")).expect(says)
}

fn succeeded(result: &str) -> Reply {
    reply(&format!(r#""outcome": "succeeded", "result": {result}"#))
}

fn refused(field: &str) -> Reply {
    reply(&format!(r#""outcome": "failed", "error": {{"code": "invalid_task", "message": "no", "field": "{field}"}}"#))
}

#[test]
fn a_right_answer_is_one_of_those_that_the_case_names() {
    let number = r#"{"reply": {"outcome": "succeeded", "result_text": "10"}}"#;
    let refusal = r#"{"reply": {"outcome": "failed", "error_code": "invalid_task", "error_field": ["payload", "body"]}}"#;
    let either = [
        expect(&format!(r#"{{"any_of": [{number}, {refusal}]}}"#)),
        expect(&format!(r#"{{"reply": {{"outcome": "succeeded", "result_text": "10"}}, "or": {refusal}}}"#)),
    ];
    for expect in &either {
        for right in [succeeded("10"), refused("payload"), refused("body")] {
            assert_eq!(expect.difference(&right, &Headers::default()), None);
        }
        for (wrong, named) in [(succeeded("10.0"), "result_text"), (refused("type"), "error_field"), (succeeded("1e1"), "1e1")] {
            let difference = expect.difference(&wrong, &Headers::default()).expect(named);
            assert!(difference.contains(named), "{difference}");
        }
    }
}

#[test]
fn a_result_is_compared_as_a_value_whose_keys_are_only_keys() {
    let with_result = |result: &str| expect(&format!(r#"{{"reply": {{"result": {result}}}}}"#));
    for (right, found) in [(PRIVATE, PRIVATE), (r#"{"a": [1, "é"], "b": null}"#, r#"{"b":null,"a":[1,"\u00e9"]}"#), ("null", "null")] {
        assert_eq!(with_result(right).difference(&succeeded(found), &Headers::default()), None);
    }
    for (right, wrong) in [(PRIVATE, "12"), ("12", PRIVATE), ("1", "1.0"), ("[1]", "[1, 2]"), ("null", "0"), ("{}", "[]"), (r#""1""#, "1")]
    {
        assert!(with_result(right).difference(&succeeded(wrong), &Headers::default()).is_some(), "{right} and {wrong}");
    }
}

#[test]
fn a_header_that_should_not_be_there_is_found_also_if_it_cannot_be_read() {
    let without = expect(r#"{"reply": {"headers_without": ["traceparent"]}}"#);
    let headers = [
        (Headers::default(), true),
        (Headers { traceparent: Some("00".to_owned()), ..Headers::default() }, false),
        (Headers { traceparent_dropped: true, ..Headers::default() }, false),
    ];
    for (headers, right) in headers {
        assert_eq!(without.difference(&succeeded("1"), &headers).is_none(), right, "{headers:?}");
    }
}
