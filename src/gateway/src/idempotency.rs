//! `Idempotency-Key`: a request that can be sent again without harm, by a client that keeps no ids of tasks.
//!
//! The key names the task: its id is made of the key alone. So a request that comes again is known by the store, on whatever gateway it comes, and for as long as the store
//! keeps records; the gateway remembers nothing.

use axum::http::HeaderMap;
use producer::{SubmitError, WaitError};
use protocol::{TaskId, identify_by_key};
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::{Gateway, Problem, problem::ProblemKind};

/// The header's name.
pub(crate) const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// The longest key, in characters.
const LENGTH_MAX: usize = 255;

/// The header's schema.
pub(crate) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": LENGTH_MAX, "pattern": "^[!-~]+$"})
}

/// What a request says of the identity of its task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The task's id; `None`: a fresh one.
    pub(crate) task_id: Option<TaskId>,
    /// The id comes from a key, so that its client may come again with the same request.
    pub(crate) is_keyed: bool,
}

impl Identity {
    /// Of a request with these headers and, in its body, this `task_id`.
    ///
    /// # Errors
    /// 400: the key breaks its rule, or there is a `task_id` beside it.
    pub(crate) fn read(headers: &HeaderMap, task_id: Option<TaskId>) -> Result<Self, Problem> {
        let Some(key) = key(headers)? else { return Ok(Self { task_id, is_keyed: false }) };
        if task_id.is_some() {
            return Err(invalid("stands beside a task_id in the body, and the task can have only one identity: leave out one of the two"));
        }
        Ok(Self { task_id: Some(identify_by_key(key)), is_keyed: true })
    }

    /// Of line `line` of a request with this key. A line that names its task keeps that name. Otherwise the key and the line's number are its identity, so that the whole request can
    /// be sent again; no request's key can be the same, since a key has no spaces.
    pub(crate) fn of_line(key: Option<&str>, line: u64, task_id: Option<TaskId>) -> Self {
        match (task_id, key) {
            (None, Some(key)) => Self { task_id: Some(identify_by_key(&format!("{key} {line}"))), is_keyed: true },
            (task_id, _) => Self { task_id, is_keyed: false },
        }
    }

    /// How it looks that the task was not submitted. An id that is in use is the fault of what the client gave: its key, or its `task_id`.
    pub(crate) fn not_submitted(&self, gateway: &Gateway, cause: &SubmitError) -> Problem {
        match cause {
            SubmitError::OtherTask { task_id } if self.is_keyed => {
                let detail = "this key came before with another request: repeat that one unchanged, or give this one a key of its own";
                Problem::new(ProblemKind::IdempotencyKeyInUse, detail).field(IDEMPOTENCY_KEY).task(task_id)
            }
            cause => gateway.not_submitted(cause),
        }
    }

    /// How it looks that the task was not submitted, or was not answered.
    pub(crate) fn not_answered(&self, gateway: &Gateway, cause: &WaitError) -> Problem {
        match cause {
            WaitError::Submit(cause) => self.not_submitted(gateway, cause),
            cause => gateway.not_answered(cause),
        }
    }
}

/// The key of a request with these headers.
///
/// # Errors
/// 400: it breaks its rule.
pub(crate) fn key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid("was given more than once: give one key"));
    }
    let keeps_the_rule = |text: &&str| (1..=LENGTH_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    let text = value.to_str().ok().filter(keeps_the_rule);
    text.map(Some).ok_or_else(|| invalid(format!("must be 1 to {LENGTH_MAX} visible ASCII characters, without spaces")))
}

fn invalid(problem: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemKind::InvalidParameter, format!("{IDEMPOTENCY_KEY} {problem}")).field(IDEMPOTENCY_KEY)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value).expect("a value"));
        }
        headers
    }

    #[test]
    fn a_key_names_the_task_and_without_one_the_body_does() {
        let one = Identity::read(&headers(&[b"order-17"]), None).expect("a good key");
        assert!(one.is_keyed && one.task_id.is_some());
        assert_eq!(Identity::read(&headers(&[b"order-17"]), None), Ok(one.clone()));
        assert_ne!(Identity::read(&headers(&[b"order-18"]), None), Ok(one));
        assert!(Identity::read(&headers(&[&[b'x'; 255]]), None).is_ok());

        let task_id = TaskId::new("mine").expect("valid");
        let given = Identity::read(&HeaderMap::new(), Some(task_id.clone()));
        assert_eq!(given, Ok(Identity { task_id: Some(task_id), is_keyed: false }));
    }

    #[test]
    fn a_key_names_each_line_and_a_line_with_a_name_keeps_it() {
        let of = |key, line| Identity::of_line(key, line, None);
        let one = of(Some("order-17"), 1);
        assert!(one.is_keyed && one.task_id.is_some());
        assert_eq!(of(Some("order-17"), 1), one);
        assert_ne!(of(Some("order-17"), 2), one);
        assert_ne!(Identity::read(&headers(&[b"order-17"]), None), Ok(one));
        assert_eq!(of(None, 1), Identity { task_id: None, is_keyed: false });
        let task_id = TaskId::new("mine").expect("valid");
        let named = Identity::of_line(Some("order-17"), 1, Some(task_id.clone()));
        assert_eq!(named, Identity { task_id: Some(task_id), is_keyed: false });
    }

    #[test]
    fn what_breaks_the_rule_is_refused_and_the_header_named() {
        let task_id = TaskId::new("mine").expect("valid");
        let long = [b'x'; 256];
        let bad: [(&[&[u8]], Option<TaskId>); 6] = [
            (&[b""], None),
            (&[b"two words"], None),
            (&["\u{fc}".as_bytes()], None),
            (&[&long], None),
            (&[b"one", b"other"], None),
            (&[b"order-17"], Some(task_id)),
        ];
        for (values, task_id) in bad {
            let problem = Identity::read(&headers(values), task_id).expect_err("refused");
            let document = problem.document();
            assert_eq!((document.status, document.field.as_deref()), (400, Some(IDEMPOTENCY_KEY)), "{values:?}");
        }
    }
}
