//! What the document says of each route.

use protocol::{GpuId, Partial, Progress, Reply, TaskId, TaskStatus, gpu::GpuView};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{Operation, SchemaOf};
use crate::{
    gpus::GpuList,
    health::Health,
    predict::{PredictRequest, PredictResponse},
    problem::ProblemDocument,
    tasks::{TaskAccepted, TaskCancelling, TaskRequest},
};

/// The answer to a request that went well.
pub(crate) struct Answer {
    pub(super) status: u16,
    pub(super) description: &'static str,
    pub(super) content: Content,
}

/// What an answer holds.
pub(crate) enum Content {
    Json(SchemaOf),
    /// Server-sent events: the name of each and its data.
    Events(Events),
    /// Either, as the request says.
    JsonOrEvents(SchemaOf, Events),
    JsonObject,
    Text,
}

/// The names of events, and the schemas of their data.
pub(crate) type Events = &'static [(&'static str, SchemaOf)];

fn of<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Schema {
    schemas.subschema_for::<T>()
}

const fn ok(description: &'static str, content: Content) -> Answer {
    Answer { status: 200, description, content }
}

pub(crate) const PREDICT: Operation = Operation {
    id: "predict",
    summary: "Continue a text: submits a task of the kind predict and waits for its result. Only text is required.",
    parameter: None,
    body: Some(of::<PredictRequest>),
    answer: ok(
        "The text that follows, and who ran it; with stream, events: accepted, then progress and partial (a piece of the text) as they come, and last \
         reply, or problem.",
        Content::JsonOrEvents(of::<PredictResponse>, PREDICT_EVENTS),
    ),
    problems: &[400, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504],
};

pub(crate) const SUBMIT: Operation = Operation {
    id: "submitTask",
    summary: "Submit a task of any kind. Under the same task_id the same request can be sent again without harm.",
    parameter: None,
    body: Some(of::<TaskRequest>),
    answer: Answer { status: 202, description: "The broker has the task.", content: Content::Json(of::<TaskAccepted>) },
    problems: &[400, 408, 413, 415, 422, 429, 500, 503],
};

pub(crate) const STATUS: Operation = Operation {
    id: "taskStatus",
    summary: "What became of a task; with its reply once it ended and while that is kept.",
    parameter: Some(("task_id", of::<TaskId>)),
    body: None,
    answer: ok("The task's status.", Content::Json(of::<TaskStatus>)),
    problems: &[404, 500, 503],
};

const PREDICT_EVENTS: Events = &[
    ("accepted", of::<TaskAccepted>),
    ("progress", of::<Progress>),
    ("partial", of::<Partial>),
    ("reply", of::<PredictResponse>),
    ("problem", of::<ProblemDocument>),
];

pub(crate) const EVENTS: Operation = Operation {
    id: "taskEvents",
    summary: "Follow a task: its status whenever that changes, its progress, parts of its output where this gateway submitted it with progress, and last its reply.",
    parameter: Some(("task_id", of::<TaskId>)),
    body: None,
    answer: ok(
        "Server-sent events, up to the event reply. A stream that ends before can be taken up again, with Last-Event-ID for the parts.",
        Content::Events(&[("status", of::<TaskStatus>), ("progress", of::<Progress>), ("partial", of::<Partial>), ("reply", of::<Reply>)]),
    ),
    problems: &[404, 500, 503],
};

pub(crate) const CANCEL: Operation = Operation {
    id: "cancelTask",
    summary: "Ask for a task's end, whether it waits or runs. Asking again changes nothing; a task that had ended is a conflict.",
    parameter: Some(("task_id", of::<TaskId>)),
    body: None,
    answer: Answer { status: 202, description: "It will end as cancelled.", content: Content::Json(of::<TaskCancelling>) },
    problems: &[404, 409, 500, 503],
};

pub(crate) const GPUS: Operation = Operation {
    id: "gpus",
    summary: "The living GPUs of the pool.",
    parameter: None,
    body: None,
    answer: ok("The GPUs, by id.", Content::Json(of::<GpuList>)),
    problems: &[500, 503],
};

pub(crate) const GPU: Operation = Operation {
    id: "gpu",
    summary: "One living GPU.",
    parameter: Some(("gpu_id", of::<GpuId>)),
    body: None,
    answer: ok("The GPU.", Content::Json(of::<GpuView>)),
    problems: &[404, 500, 503],
};

pub(crate) const HEALTH: Operation = Operation {
    id: "healthz",
    summary: "Whether the process lives.",
    parameter: None,
    body: None,
    answer: ok("It lives.", Content::Json(of::<Health>)),
    problems: &[],
};

pub(crate) const READY: Operation = Operation {
    id: "readyz",
    summary: "Whether broker, table and store can be reached; the problem says which cannot.",
    parameter: None,
    body: None,
    answer: ok("All can.", Content::Json(of::<Health>)),
    problems: &[503],
};

pub(crate) const METRICS: Operation = Operation {
    id: "metrics",
    summary: "Metrics of the gateway and of every worker in its process, in Prometheus's text format.",
    parameter: None,
    body: None,
    answer: ok("The metrics.", Content::Text),
    problems: &[500],
};

pub(crate) const OPENAPI: Operation = Operation {
    id: "openapi",
    summary: "This document.",
    parameter: None,
    body: None,
    answer: ok("The document.", Content::JsonObject),
    problems: &[],
};

/// What a problem's status code means here.
pub(super) const fn problem(status: u16) -> &'static str {
    match status {
        400 => "The body is no JSON.",
        404 => "There is no such thing, or the fleet has forgotten it.",
        408 => "The body did not arrive in time.",
        409 => "Somebody cancelled the task.",
        413 => "The body is larger than the workers take.",
        415 => "The body is not declared as JSON.",
        422 => "A field is not valid, found by the gateway or by the worker; field names it.",
        429 => "The pool's queue is full.",
        502 => "The task failed; code and detail say why.",
        503 => "The broker, the table or the store cannot be reached, the broker blocks publishers, or the gateway has too much in hand.",
        504 => "No result in time: the wait ended and the task goes on, or the task ran out of time. type tells the two apart.",
        _ => "The gateway is at fault.",
    }
}
