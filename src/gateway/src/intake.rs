//! From the bytes of a request to a checked value, or to a problem that names the field.

use std::{future::poll_fn, pin::Pin, time::Duration};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header},
};
use protocol::{frame::FRAME, read_object};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use task_queue::BodyShare;
use tokio::time::timeout;
use tracing::debug;

use crate::{Gateway, Problem, explain, problem::ProblemKind, query};

/// Of a refused body nothing has come for so long: its client waits for the answer.
const STILL_SENT: Duration = Duration::from_millis(500);

/// A JSON body, and its share of the memory for bodies, which is to be kept until the task is published. Refused: another content type or a content coding (415), too
/// large (413), no memory for it (503), too slow (408), no JSON (400), a wrong field (422).
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T, pub(crate) BodyShare);

impl<T: DeserializeOwned + JsonSchema> FromRequest<Gateway> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, gateway: &Gateway) -> Result<Self, Problem> {
        check_headers(request.headers(), Media::Json)?;
        let (bytes, share) = gateway.take_in(request).await?;
        read(&bytes).map(|value| Self(value, share))
    }
}

impl Gateway {
    /// Takes the body of a request in, within its bounds in size, memory and time.
    pub(crate) async fn take_in(&self, request: Request) -> Result<(Bytes, BodyShare), Problem> {
        let (head, mut body) = request.into_parts();
        let body_timeout = self.options.body_timeout;
        let taken = match self.check_length(&head.headers) {
            Ok(()) => timeout(body_timeout, self.receive(&mut body)).await.unwrap_or_else(|_| {
                let detail = format!("body: took longer than {} ms (gateway.body_timeout_ms)", body_timeout.as_millis());
                Err(Problem::new(ProblemKind::BodyTimeout, detail).field("body"))
            }),
            Err(problem) => Err(problem),
        };
        // Whoever waits to be asked for the body sends none once it is refused.
        let is_sent = !head.headers.contains_key(header::EXPECT);
        if is_sent && taken.as_ref().is_err_and(|problem| problem.document().status == StatusCode::PAYLOAD_TOO_LARGE.as_u16()) {
            let _either_way = timeout(body_timeout, throw_away(&mut body, self.options.body_bytes_max)).await;
        }
        taken
    }

    /// Refuses a body that is announced to be too large, or larger than what is left of the memory, before any of it is read.
    fn check_length(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let bytes_max = self.options.body_bytes_max;
        match content_length(headers) {
            Some(bytes) if bytes > bytes_max => Err(too_large(bytes_max)),
            Some(bytes) if !self.ports.bodies.has_room_for(bytes) => Err(self.no_memory_for(bytes)),
            _ => Ok(()),
        }
    }

    /// Takes a body in. Its share of the memory grows with what has arrived: who announces much and sends nothing holds nothing.
    async fn receive(&self, body: &mut Body) -> Result<(Bytes, BodyShare), Problem> {
        let (bodies, bytes_max) = (&self.ports.bodies, self.options.body_bytes_max);
        let (mut share, mut bytes) = (bodies.empty_share(), Vec::new());
        while let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
            // What is no data are trailers.
            let Ok(data) = frame.map_err(|error| broken_off(&error))?.into_data() else { continue };
            let length = bytes.len() + data.len();
            if length > bytes_max {
                return Err(too_large(bytes_max));
            }
            if !bodies.try_grow(&mut share, length) {
                return Err(self.no_memory_for(length));
            }
            bytes.extend_from_slice(&data);
        }
        self.overloaded.accepted();
        Ok((bytes.into(), share))
    }

    pub(crate) fn no_memory_for(&self, bytes: usize) -> Problem {
        let (in_use, size) = (self.ports.bodies.in_use_bytes(), self.ports.bodies.size_bytes());
        let detail = format!("{in_use} of {size} bytes for bodies are in use (memory.bodies_mb), and this one takes {bytes} or more");
        Problem::new(ProblemKind::Overloaded, detail).retry_after(self.overloaded.refused())
    }
}

/// Lets a refused body come, and keeps nothing of it: a client that is cut off while it sends hears of a broken pipe, and not why it was refused. After `bytes_max` more, or once nothing
/// comes for a while, it is cut off all the same.
pub(crate) async fn throw_away(body: &mut Body, bytes_max: usize) {
    let mut left = bytes_max;
    while let Ok(Some(Ok(frame))) = timeout(STILL_SENT, poll_fn(|context| Pin::new(&mut *body).poll_frame(context))).await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// What a body is announced to have.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// What a body is declared as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    /// One JSON value.
    Json,
    /// A JSON value in each line.
    Lines,
    /// A task: one JSON value, or one with segments beside it.
    Task,
}

impl Media {
    /// As `Content-Type` says it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Lines => "application/x-ndjson",
            Self::Task => "application/json, application/x-gpufleet-frame, multipart/form-data",
        }
    }

    fn is_of(self, headers: &HeaderMap) -> bool {
        match self {
            Self::Json => is_json(headers),
            Self::Lines => content_type(headers).as_deref() == Some(self.name()),
            Self::Task => is_json(headers) || content_type(headers).is_some_and(|named| named == FRAME || named == "multipart/form-data"),
        }
    }
}

/// Refuses a body of another content type, and one with a content coding (415).
pub(crate) fn check_headers(headers: &HeaderMap, media: Media) -> Result<(), Problem> {
    check_coding(headers)?;
    if media.is_of(headers) {
        return Ok(());
    }
    let wanted = media.name();
    let one_of = if media == Media::Task { "one of " } else { "" };
    let given = headers.get(header::CONTENT_TYPE).map(|value| shortened(value.as_bytes()));
    let given = given.map_or_else(|| "is absent".to_owned(), |text| format!("is {text:?}"));
    let problem = Problem::new(ProblemKind::UnsupportedMediaType, format!("Content-Type: {given}; it must be {one_of}{wanted}"));
    Err(problem.field("Content-Type").accepts(header::ACCEPT, wanted))
}

/// Refuses a body with a content coding (415).
pub(crate) fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(coding) = content_coding(headers) else { return Ok(()) };
    let detail = format!("Content-Encoding: is {coding:?}; send the body as it is, without this header or with identity");
    let problem = Problem::new(ProblemKind::UnsupportedEncoding, detail).field("Content-Encoding");
    Err(problem.accepts(header::ACCEPT_ENCODING, "identity"))
}

/// The first content coding that is one.
fn content_coding(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut codings = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    codings.find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")).map(shortened)
}

/// A header's value, for people.
fn shortened(value: &[u8]) -> String {
    query::shortened(&String::from_utf8_lossy(value))
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence = content_type(headers).unwrap_or_default();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// The content type without its parameters, in small letters.
fn content_type(headers: &HeaderMap) -> Option<String> {
    let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

pub(crate) fn broken_off(error: &axum::Error) -> Problem {
    debug!(%error, "a body broke off");
    Problem::new(ProblemKind::InvalidJson, "body: broke off before its end").field("body")
}

pub(crate) fn too_large(body_bytes_max: usize) -> Problem {
    let detail = format!("body: the bound is {body_bytes_max} bytes (worker.body_bytes_max); pass large inputs by reference");
    Problem::new(ProblemKind::BodyTooLarge, detail).field("body")
}

pub(crate) fn read<T: DeserializeOwned + JsonSchema>(bytes: &Bytes) -> Result<T, Problem> {
    read_object(bytes).map_err(|unfit| {
        let kind = if unfit.is_syntax { ProblemKind::InvalidJson } else { ProblemKind::InvalidField };
        let refusal = explain::refusal::<T>(unfit, bytes);
        Problem::new(kind, refusal.to_string()).field(refusal.field)
    })
}

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, response::IntoResponse};
    use serde_json::Value;

    use super::*;
    use crate::tasks::TaskRequest;

    async fn problem(body: &str) -> (u64, String) {
        let response = read::<TaskRequest>(&Bytes::copy_from_slice(body.as_bytes())).expect_err(body).into_response();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        let document: Value = serde_json::from_slice(&bytes).expect("JSON");
        (document["status"].as_u64().expect("a status"), document["field"].as_str().expect("a field").to_owned())
    }

    #[tokio::test]
    async fn a_problem_names_the_field_at_any_depth() {
        let cases = [
            ("", 400, "body"),
            ("{", 400, "body"),
            (r#"{"kind":"echo"} x"#, 400, "body"),
            ("[]", 422, "body"),
            (r#"["echo",1,null,null,{},{},{}]"#, 422, "body"),
            ("{}", 422, "kind"),
            (r#"{"kind":"Echo"}"#, 422, "kind"),
            (r#"{"kind":"echo","colour":1}"#, 422, "colour"),
            (r#"{"kind":"echo","priority":"high"}"#, 422, "priority"),
            (r#"{"kind":"echo","gpu_options":{"specific_gpu_id":7}}"#, 422, "gpu_options.specific_gpu_id"),
            (r#"{"kind":"echo","needs":{"hurry":true}}"#, 422, "needs.hurry"),
        ];
        for (body, status, field) in cases {
            assert_eq!(problem(body).await, (status, field.to_owned()), "{body}");
        }
    }

    #[test]
    fn json_is_told_by_its_content_type() {
        let of = |text: &str| is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, text.parse().expect("a value"))]));
        assert!(of("application/json") && of("Application/JSON; charset=utf-8") && of("application/vnd.api+json"));
        let lines = |text: &str| Media::Lines.is_of(&HeaderMap::from_iter([(header::CONTENT_TYPE, text.parse().expect("a value"))]));
        assert!(lines("application/x-ndjson") && lines("Application/X-NDJSON; charset=utf-8") && !lines("application/json"));
        assert!(!of("text/json") && !of("application/x-www-form-urlencoded") && !is_json(&HeaderMap::new()));
    }

    #[test]
    fn a_content_coding_is_found_in_any_header_and_any_place() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, value.parse().expect("a value"));
            }
            content_coding(&headers)
        };
        assert_eq!((of(&[]), of(&["identity"]), of(&["Identity, identity", ""])), (None, None, None));
        for values in [&["gzip"][..], &["identity, gzip"], &["identity", "gzip"], &["gzip,br"]] {
            assert_eq!(of(values).as_deref(), Some("gzip"), "{values:?}");
        }
    }

    mod outside {
        use proptest::{collection::vec, prelude::*};
        use serde_json::json;

        use super::*;

        fn document() -> impl Strategy<Value = Value> {
            const NAMES: [&str; 10] =
                ["kind", "priority", "task_id", "payload", "gpu_options", "needs", "limits", "memory_mb", "max_attempts", "strategy"];
            let name = prop_oneof![9 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned), 1 => "\\PC{0,6}"];
            let leaf = prop_oneof![
                Just(Value::Null),
                any::<i64>().prop_map(Value::from),
                any::<f64>().prop_map(Value::from),
                (0..12).prop_map(Value::from),
                "\\PC{0,20}".prop_map(Value::from),
                Just(json!("echo")),
            ];
            leaf.prop_recursive(3, 24, 5, move |inner| {
                let members = vec((name.clone(), inner.clone()), 0..6).prop_map(|members| Value::Object(members.into_iter().collect()));
                prop_oneof![4 => members, 1 => vec(inner, 0..3).prop_map(Value::from)]
            })
        }

        fn check(bytes: &[u8]) {
            let Err(problem) = read::<TaskRequest>(&Bytes::copy_from_slice(bytes)) else { return };
            let answered = async {
                let response = problem.into_response();
                (response.status(), to_bytes(response.into_body(), usize::MAX).await.expect("a body"))
            };
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let (status, bytes) = runtime.block_on(answered);
            let document: Value = serde_json::from_slice(&bytes).expect("JSON");
            assert!(status.is_client_error(), "{document}");
            assert!(document["field"].is_string(), "no field is named: {document}");
        }

        proptest! {
            #[test]
            fn any_document_is_a_request_or_a_problem_with_its_field(document in document()) {
                check(document.to_string().as_bytes());
            }

            #[test]
            fn any_bytes_are_a_request_or_a_problem(bytes in vec(any::<u8>(), 0..60)) {
                check(&bytes);
            }

            #[test]
            fn any_header_value_is_a_content_type_or_none(bytes in vec(32_u8..=255, 0..80)) {
                let Ok(value) = axum::http::HeaderValue::from_bytes(&bytes) else { return Ok(()) };
                let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value.clone()), ("traceparent".parse().expect("a name"), value)]);
                let _either = is_json(&headers);
                prop_assert!(crate::encoding::traceparent(&headers).is_none_or(|text| protocol::is_traceparent(&text)));
            }
        }
    }
}
