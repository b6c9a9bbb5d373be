//! One case. `tests/cases/README.md` states the format.
//!
//! The keys of a case say of which kind it is. Everything is read into the types of that kind, which take no key but their own: a key that its kind does not look at is
//! an error, like one that nobody knows. What a case expects stays text: some names of keys mean something to the JSON library.

use protocol::{Json, read_object};
use serde::Deserialize;

use super::{amqp::AmqpCase, command::CommandCase, connection::ConnectionCase, request::RequestCase, signal::SignalCase, stage::Stage};

/// One file of the folder.
#[derive(Debug)]
pub enum Case {
    /// Messages.
    Amqp(Box<AmqpCase>),
    /// A request to the gateway.
    Request(Box<RequestCase>),
    /// Bytes on a connection to the gateway.
    Connection(Box<ConnectionCase>),
    /// A command that ends by itself.
    Command(Box<CommandCase>),
    /// A worker that is sent a signal.
    Signal(Box<SignalCase>),
}

impl Case {
    /// Reads a file; the error names the key that is at fault.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let fields = Json::parse(text.to_vec()).and_then(|json| json.fields()).map_err(|error| error.to_string())?;
        let is_raw = fields.get("http").is_some_and(|http| http.fields().is_ok_and(|http| http.contains_key("raw_hex")));
        let case = if fields.contains_key("command") && fields.contains_key("signal") {
            Self::Signal(read(text)?)
        } else if fields.contains_key("command") {
            Self::Command(read(text)?)
        } else if is_raw {
            Self::Connection(read(text)?)
        } else if fields.contains_key("http") {
            Self::Request(read(text)?)
        } else {
            Self::Amqp(read(text)?)
        };
        case.check()?;
        Ok(case)
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Amqp(case) => case.check(),
            Self::Request(case) => case.check(),
            // What it expects is one key, which must be there.
            Self::Connection(_) => Ok(()),
            Self::Command(case) => case.check(),
            Self::Signal(case) => case.check(),
        }
    }

    /// What went wrong, for people.
    pub fn about(&self) -> &str {
        match self {
            Self::Amqp(case) => &case.about,
            Self::Request(case) => &case.about,
            Self::Connection(case) => &case.about,
            Self::Command(case) => &case.about,
            Self::Signal(case) => &case.about,
        }
    }

    /// Plays it, on the stage that all share unless it would break that; what differs from what it expects.
    pub async fn run(&self, shared: &Stage) -> Vec<String> {
        match self {
            Self::Amqp(case) => case.run(shared).await,
            Self::Request(case) => case.run(shared).await,
            Self::Connection(case) => case.run().await,
            Self::Command(case) => case.run().await,
            Self::Signal(case) => case.run().await,
        }
    }
}

fn read<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<Box<T>, String> {
    read_object(text).map(Box::new).map_err(|unfit| format!("{}: {}", unfit.field, unfit.problem))
}

fn amqp(more: &str, message: &str, expect: &str) -> String {
    format!(r#"{{"about": "", {more} "amqp": [{{{message} "body_hex": "7b7D"}}], "expect": {{{expect}}}}}"#)
}

fn other(keys: &str, expect: &str) -> String {
    format!(r#"{{"about": "", {keys}, "expect": {{{expect}}}}}"#)
}

const GET: &str = r#""http": {"method": "GET", "path": "/"}"#;
const RAW: &str = r#""http": {"raw_hex": "00", "then": "silence"}"#;
const COMMAND: &str = r#""command": ["--help"]"#;
const SIGNAL: &str = r#""command": ["worker"], "amqp": [{"body_hex": ""}], "signal": {"name": "SIGHUP", "after_ms": 1}"#;

#[test]
fn the_keys_of_a_case_say_of_which_kind_it_is() {
    let read = |text: String| Case::read(text.as_bytes()).expect(&text);
    assert!(matches!(read(amqp("", "", r#""reply": {}"#)), Case::Amqp(_)));
    assert!(matches!(read(other(GET, r#""status": 200"#)), Case::Request(_)));
    assert!(matches!(read(other(RAW, r#""connection_ends_within_ms": 1"#)), Case::Connection(_)));
    assert!(matches!(read(other(COMMAND, r#""exit": 0"#)), Case::Command(_)));
    assert!(matches!(read(other(SIGNAL, r#""exit": [0, 1]"#)), Case::Signal(_)));
}

#[test]
fn a_key_that_is_not_known_is_named() {
    let any = r#""reply": {}"#;
    let cases = [
        (amqp(r#""prepare": [{"purge": "a"}],"#, "", any), "purge"),
        (amqp("", r#""exchange": "","#, any), "exchange"),
        (amqp("", r#""properties": {"user_id": "guest"},"#, any), "user_id"),
        (amqp("", r#""properties": {"headers": {"a": {"F": {}}}},"#, any), "`F`"),
        (amqp("", r#""times": 0,"#, any), "times"),
        (amqp("", "", any).replace("7D", "7"), "body_hex"),
        (amqp("", "", r#""reply": {"before_ms": 1}"#), "before_ms"),
        (amqp("", "", r#""any_of": [{"reply": {}, "exit": 0}]"#), "exit"),
        (amqp("", "", r#""reply": {}, "or": "decoded""#), "expect.or"),
        (amqp("", "", r#""reply": {}, "status": 200"#), "status"),
        (amqp(r#""stdout": "closed pipe","#, "", any), "stdout"),
        (other(GET, r#""status": 200, "exit": 0"#), "exit"),
        (other(GET, r#""status": 200, "connection_ends_within_ms": 1"#), "connection_ends_within_ms"),
        (other(RAW, r#""status": 200"#), "status"),
        (other(&RAW.replace("silence", "noise"), r#""connection_ends_within_ms": 1"#), "noise"),
        (other(COMMAND, r#""reply": {}"#), "reply"),
        (other(r#""command": ["--help"], "stdout": "a file""#, r#""exit": 0"#), "stdout"),
        (other(SIGNAL, r#""exit": "still running""#), "exit"),
    ];
    for (text, named) in cases {
        let problem = Case::read(text.as_bytes()).expect_err(&text);
        assert!(problem.contains(named), "{problem:?} does not name {named:?}");
    }
}

#[test]
fn a_case_that_would_hold_whatever_happened_is_none() {
    let then = r#""then": {"amqp": {"body_hex": ""}},"#;
    let cases = [
        (amqp("", "", ""), "every end would be right"),
        (amqp("", "", r#""queue_exists": "a""#), "every end would be right"),
        (amqp(then, "", r#""reply": {}"#), "then_reply"),
        (amqp("", "", r#""then_reply": {}"#), "then_reply"),
        (amqp("", "", r#""reply": {}, "of_the_dropped": {"message_without": "a"}"#), "replies"),
        (amqp("", "", r#""replies": 2, "of_the_dropped": {}"#), "of_the_dropped"),
        (amqp("", "", r#""status_of_the_first": "failed", "http_after": {"method": "GET", "path": "/", "status": 200}"#), "http_after"),
        (other(r#""amqp": []"#, r#""reply": {}"#), "no message"),
        (other(GET, ""), "every answer would be right"),
        (other(RAW, ""), "connection_ends_within_ms"),
        (other(COMMAND, ""), "every end would be right"),
        (other(SIGNAL, ""), "every end would be right"),
    ];
    for (text, named) in cases {
        let problem = Case::read(text.as_bytes()).expect_err(&text);
        assert!(problem.contains(named), "{problem:?} does not name {named:?}");
    }
}
