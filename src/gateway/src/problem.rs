//! Every error the gateway answers: a problem document (RFC 9457).

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use protocol::{Refusal, TaskId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::encoding::status_url;

/// The body of an error, `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "problem document (RFC 9457)")]
pub struct ProblemDocument {
    /// What kind of problem it is, for programs: `urn:gpufleet:problem:…`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem in words.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// What is wrong this time.
    pub detail: String,
    /// The field that is at fault, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The task, where there is one. It may still run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// Where the task's status is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_url: Option<String>,
    /// The task's error code, where it ended in one: see the reply's `error.code`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// After how many seconds a retry is worth trying, where the problem is a line or an event: an answer of its own says it in `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
}

/// A kind of problem: the end of its `type`, its status and its title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProblemKind {
    NotOperated,
    NotFound,
    MethodNotAllowed,
    UnsupportedMediaType,
    UnsupportedEncoding,
    BodyTooLarge,
    BodyTimeout,
    InvalidJson,
    InvalidField,
    InvalidParameter,
    TaskIdInUse,
    IdempotencyKeyInUse,
    GroupFull,
    QueueFull,
    Unavailable,
    Overloaded,
    NotReady,
    WaitTimeout,
    TaskRefused,
    TaskFailed,
    TaskCancelled,
    TaskTimeout,
    TaskExpired,
    TaskEnded,
    NoResults,
    NoSteps,
    ReplyNotKept,
    BulkStopped,
    Unserved,
    NoGpu,
    TensorMissing,
    TensorExists,
    TensorsFull,
    RangeNotSatisfiable,
    TransferFailed,
    Internal,
}

impl ProblemKind {
    const fn parts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::NotOperated => ("not-operated", StatusCode::FORBIDDEN, "the fleet is not operated from here"),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "there is no such thing"),
            Self::MethodNotAllowed => ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "the path does not take this method"),
            Self::UnsupportedMediaType => {
                ("unsupported-media-type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body is declared as something else")
            }
            Self::UnsupportedEncoding => {
                ("unsupported-encoding", StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must not be compressed or encoded otherwise")
            }
            Self::BodyTooLarge => ("body-too-large", StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
            Self::BodyTimeout => ("body-timeout", StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
            Self::InvalidJson => ("invalid-json", StatusCode::BAD_REQUEST, "the body cannot be read"),
            Self::InvalidField => ("invalid-field", StatusCode::UNPROCESSABLE_ENTITY, "a field is not valid"),
            Self::InvalidParameter => ("invalid-parameter", StatusCode::BAD_REQUEST, "a header or a query parameter is not valid"),
            Self::TaskIdInUse => ("task-id-in-use", StatusCode::CONFLICT, "the task_id belongs to another task"),
            Self::IdempotencyKeyInUse => {
                ("idempotency-key-in-use", StatusCode::UNPROCESSABLE_ENTITY, "the Idempotency-Key belongs to another request")
            }
            // No 429: to send the same again soon cannot help.
            Self::GroupFull => ("group-full", StatusCode::CONFLICT, "there is no room in the group, or for one more group"),
            Self::QueueFull => ("queue-full", StatusCode::TOO_MANY_REQUESTS, "the fleet is full"),
            Self::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE, "the fleet cannot be reached"),
            Self::Overloaded => ("overloaded", StatusCode::SERVICE_UNAVAILABLE, "the gateway has too much in hand"),
            Self::NotReady => ("not-ready", StatusCode::SERVICE_UNAVAILABLE, "the gateway is not ready"),
            Self::WaitTimeout => ("wait-timeout", StatusCode::GATEWAY_TIMEOUT, "the result did not come in time; the task goes on"),
            Self::TaskRefused => ("task-refused", StatusCode::UNPROCESSABLE_ENTITY, "the task was refused"),
            Self::TaskFailed => ("task-failed", StatusCode::BAD_GATEWAY, "the task failed"),
            Self::TaskCancelled => ("task-cancelled", StatusCode::CONFLICT, "the task was cancelled"),
            Self::TaskTimeout => ("task-timeout", StatusCode::GATEWAY_TIMEOUT, "the task ran out of time"),
            Self::TaskExpired => ("task-expired", StatusCode::GATEWAY_TIMEOUT, "the task's deadline passed"),
            Self::TaskEnded => ("task-ended", StatusCode::CONFLICT, "the task had ended already"),
            Self::NoResults => ("no-results", StatusCode::CONFLICT, "the task has no results of items"),
            Self::NoSteps => ("no-steps", StatusCode::CONFLICT, "the fleet keeps no steps of tasks"),
            Self::ReplyNotKept => ("reply-not-kept", StatusCode::GONE, "the task ended, and its reply is no longer kept"),
            Self::BulkStopped => ("bulk-stopped", StatusCode::SERVICE_UNAVAILABLE, "the rest of the lines was not read"),
            Self::Unserved => ("unserved", StatusCode::UNPROCESSABLE_ENTITY, "no living GPU can run such a task"),
            Self::NoGpu => ("no-gpu", StatusCode::SERVICE_UNAVAILABLE, "no living GPU can do this now"),
            Self::TensorMissing => ("tensor-missing", StatusCode::NOT_FOUND, "no GPU has the tensor"),
            Self::TensorExists => ("tensor-exists", StatusCode::CONFLICT, "the name of the tensor is taken"),
            Self::TensorsFull => ("tensors-full", StatusCode::INSUFFICIENT_STORAGE, "there is no room for the tensor"),
            Self::RangeNotSatisfiable => ("range-not-satisfiable", StatusCode::RANGE_NOT_SATISFIABLE, "there are no such bytes"),
            Self::TransferFailed => ("transfer-failed", StatusCode::BAD_GATEWAY, "the bytes of the tensor could not be moved"),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "the gateway is at fault"),
        }
    }
}

/// An error answer: a problem document, and a `Retry-After` where coming back helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    document: Box<ProblemDocument>,
    retry_after_s: Option<u64>,
    accepts: Option<(HeaderName, &'static str)>,
}

impl Problem {
    pub(crate) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        let (name, status, title) = kind.parts();
        let document = ProblemDocument {
            kind: format!("urn:gpufleet:problem:{name}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
            task_id: None,
            status_url: None,
            code: None,
            retry_after_s: None,
        };
        Self { status, document: Box::new(document), retry_after_s: None, accepts: None }
    }

    pub(crate) fn document(&self) -> &ProblemDocument {
        &self.document
    }

    /// As one line or event among others, which has no headers.
    pub(crate) fn into_document(self) -> ProblemDocument {
        let mut document = *self.document;
        document.retry_after_s = self.retry_after_s;
        document
    }

    pub(crate) fn field(mut self, field: impl Into<String>) -> Self {
        self.document.field = Some(field.into());
        self
    }

    pub(crate) fn task(mut self, task_id: &TaskId) -> Self {
        self.document.status_url = Some(status_url(task_id));
        self.document.task_id = Some(task_id.clone());
        self
    }

    pub(crate) fn code(mut self, code: impl Into<String>) -> Self {
        self.document.code = Some(code.into());
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// What would have been accepted, as the header of that name says it.
    pub(crate) fn accepts(mut self, name: HeaderName, value: &'static str) -> Self {
        self.accepts = Some((name, value));
        self
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        // The body as a whole is only refused for its size.
        let kind = if refusal.field == "body" { ProblemKind::BodyTooLarge } else { ProblemKind::InvalidField };
        Self::new(kind, refusal.to_string()).field(refusal.field)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.document)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some((name, value)) = self.accepts {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
