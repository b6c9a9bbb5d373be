//! What the document says of each route.

use protocol::{GpuId, IndexedItem, ItemResults, Partial, Reply, TaskStatus, batch::ITEMS_MAX, gpu::GpuView};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{Operation, Optional, SchemaOf};
use crate::{
    events::HowFar,
    given::GivenId,
    gpus::GpuList,
    health::{Health, Ready},
    idempotency::{self, IDEMPOTENCY_KEY},
    predict::{
        PredictRequest,
        answer::{self, PredictedItem},
    },
    problem::ProblemDocument,
    tasks::{TaskAccepted, TaskCancelling, TaskRequest},
    unserved::UnservedList,
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
    /// A JSON value in each line, as in the request.
    Lines(Lines),
    /// The same, in answer to a request that may have segments beside its JSON.
    JsonToSegments(SchemaOf),
    /// JSON, or where a client asks for it, JSON with segments beside it.
    JsonWithSegments(SchemaOf),
    /// JSON, in answer to a request whose body is raw bytes.
    JsonToBytes(SchemaOf),
    /// Raw bytes.
    Bytes,
    /// Raw bytes, or where JSON alone is asked for, what is known of them.
    BytesOrJson(SchemaOf),
    JsonObject,
    /// A page for people, or an object where JSON is asked for.
    PageOrJson,
    /// What a page is made of beside itself.
    PartOfPage,
    Text,
}

/// An answer in lines.
#[derive(Clone, Copy)]
pub(crate) struct Lines {
    /// What each line of it is.
    pub(super) schema: SchemaOf,
    /// A request.
    pub(super) asked: &'static str,
    /// Its answer.
    pub(super) answered: &'static str,
}

/// The names of events, and the schemas of their data.
pub(crate) type Events = &'static [(&'static str, SchemaOf)];

pub(super) fn of<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Schema {
    schemas.subschema_for::<T>()
}

/// A whole number within bounds.
pub(super) fn from_to<const LEAST: usize, const MOST: usize>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "minimum": LEAST, "maximum": MOST})
}

pub(super) const fn ok(description: &'static str, content: Content) -> Answer {
    Answer { status: 200, description, content }
}

/// What makes a request that may be sent again.
const KEYED: &[Optional] = &[Optional {
    name: IDEMPOTENCY_KEY,
    place: "header",
    description: "Names this request, so that it can be sent again without harm: under the same key the same request runs nothing again and is answered with the same task; \
                  another request under it is refused (422). A key is remembered for as long as its task's record (store.outcome_retention_ms).",
    schema: idempotency::schema,
}];

const CANCEL_OPTIONS: &[Optional] = &[Optional {
    name: "ahead",
    place: "query",
    description: "true: where no task of this id has been seen, also those that are submitted later are cancelled, for as long as the fleet keeps the cancel \
                  (store.outcome_retention_ms). Default: false; the cancel counts for what was submitted before it.",
    schema: of::<bool>,
}];

pub(crate) const FRONT: Operation = Operation {
    id: "front",
    summary: "The dashboard, for a browser (Accept: text/html). For others what this is and where to go on; with Accept: application/json the links as JSON.",
    parameter: None,
    optional: &[],
    body: None,
    answer: ok("The page.", Content::PageOrJson),
    problems: &[],
};

fn file_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string"})
}

pub(crate) const UI_FILE: Operation = Operation {
    id: "dashboardFile",
    summary: "A part of the dashboard: a script or a style sheet. They belong to this version of the page alone.",
    parameter: Some(("file", file_name)),
    optional: &[],
    body: None,
    answer: ok("The file.", Content::PartOfPage),
    problems: &[404],
};

pub(crate) const PREDICT: Operation = Operation {
    id: "predict",
    summary: "Continue a text, or many: submits a task of the kind predict and waits for its result. Only text is required; a list of texts is one task, which may be split over \
              several GPUs, and is answered with a result for each. Answers 503 at once where no living GPU serves predict.",
    parameter: None,
    optional: KEYED,
    body: Some(of::<PredictRequest>),
    answer: ok(
        "The text that follows, and who ran it; of a list the results, in its order, also where some of its texts failed. With stream, events: accepted, then progress and partial (a \
         piece of the text) as they come, of a list item (the result of one text, each once, in the order in which they are there), and last reply, or problem.",
        Content::JsonOrEvents(answer::schema, PREDICT_EVENTS),
    ),
    problems: &[400, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504],
};

pub(crate) const SUBMIT: Operation = Operation {
    id: "submitTask",
    summary: "Submit a task of any kind, with one payload, which may refer to raw bytes beside it, or with many items. Under the same task_id, or the same Idempotency-Key, the same request can be sent again without harm.",
    parameter: None,
    optional: KEYED,
    body: Some(of::<TaskRequest>),
    answer: Answer {
        status: 202,
        description: "The broker has the task; warnings say where no living GPU can run it now.",
        content: Content::JsonToSegments(of::<TaskAccepted>),
    },
    problems: &[400, 408, 409, 413, 415, 422, 429, 500, 503],
};

pub(crate) const STATUS: Operation = Operation {
    id: "taskStatus",
    summary: "What became of a task; with its reply once it ended and while that is kept. Raw bytes that its result refers to come along where Accept names one of the types that carry them.",
    parameter: Some(("task_id", of::<GivenId>)),
    optional: &[],
    body: None,
    answer: ok("The task's status.", Content::JsonWithSegments(of::<TaskStatus>)),
    problems: &[404, 500, 503],
};

const SEGMENT_OPTIONS: &[Optional] = &[Optional {
    name: "number",
    place: "path",
    description: "The number that stands in the result's {\"$segment\": number}.",
    schema: of::<u32>,
}];

pub(crate) const SEGMENT: Operation = Operation {
    id: "taskSegment",
    summary: "The raw bytes of one segment of a task's result.",
    parameter: Some(("task_id", of::<GivenId>)),
    optional: SEGMENT_OPTIONS,
    body: None,
    answer: ok(
        "The bytes. Where the result says of what type and shape they are, the headers x-gpufleet-dtype (f32) and x-gpufleet-shape (10,100) do too.",
        Content::Bytes,
    ),
    problems: &[404, 410, 500, 503],
};

const PREDICT_EVENTS: Events = &[
    ("accepted", of::<TaskAccepted>),
    ("progress", of::<HowFar>),
    ("partial", of::<Partial>),
    ("item", of::<PredictedItem<'static>>),
    ("reply", answer::schema),
    ("problem", of::<ProblemDocument>),
];

pub(crate) const EVENTS: Operation = Operation {
    id: "taskEvents",
    summary: "Follow a task: its status whenever that changes, its progress, parts of its output where this gateway submitted it with progress, of a batch the result of each item, and \
              last its reply.",
    parameter: Some(("task_id", of::<GivenId>)),
    optional: &[],
    body: None,
    answer: ok(
        "Server-sent events, up to the event reply. A stream that ends before can be taken up again, with Last-Event-ID for the parts. An item's result comes as soon as it is there \
         where this gateway submitted the batch with progress, and otherwise, or where it was lost on the way, once the batch has ended, before reply; in each stream every item once. What \
         stands in reply counts, where an item ran twice. A batch whose reply was too large has no further items here; see its results.",
        Content::Events(&[
            ("status", of::<TaskStatus>),
            ("progress", of::<HowFar>),
            ("partial", of::<Partial>),
            ("item", of::<IndexedItem>),
            ("reply", of::<Reply>),
        ]),
    ),
    problems: &[404, 500, 503],
};

const RESULTS_OPTIONS: &[Optional] = &[
    Optional {
        name: "from",
        place: "query",
        description: "The first item, counted from 0, at most 10000. Default: 0.",
        schema: from_to::<0, ITEMS_MAX>,
    },
    Optional {
        name: "limit",
        place: "query",
        description: "How many results at most, 1 to 10000. Default: 1000. An answer ends before that once its results have 8 MiB together.",
        schema: from_to::<1, ITEMS_MAX>,
    },
];

pub(crate) const RESULTS: Operation = Operation {
    id: "taskResults",
    summary: "The results of a batch's items in pieces, while it runs and afterwards, also of one whose reply was too large (reply_too_large). Ask again from next on until there is none.",
    parameter: Some(("task_id", of::<GivenId>)),
    optional: RESULTS_OPTIONS,
    body: None,
    answer: ok(
        "The results from the wanted item on, without a gap: of a batch that was split and runs, those of the slices that have ended, up to the first item that has not; of a batch that runs \
         whole, none before it has ended. Where next is the item that was asked for, nothing is new yet.",
        Content::Json(of::<ItemResults>),
    ),
    problems: &[400, 404, 409, 410, 500, 503],
};

pub(crate) const CANCEL: Operation = Operation {
    id: "cancelTask",
    summary: "Ask for a task's end, whether it waits or runs. Asking again changes nothing; a task that had ended is a conflict.",
    parameter: Some(("task_id", of::<GivenId>)),
    optional: CANCEL_OPTIONS,
    body: None,
    answer: Answer {
        status: 202,
        description: "It will end as cancelled; where no task of this id has been seen, note says which ones will.",
        content: Content::Json(of::<TaskCancelling>),
    },
    problems: &[400, 404, 409, 500, 503],
};

pub(crate) const GPUS: Operation = Operation {
    id: "gpus",
    summary: "The living GPUs of the pool.",
    parameter: None,
    optional: &[],
    body: None,
    answer: ok("The GPUs, by id.", Content::Json(of::<GpuList>)),
    problems: &[500, 503],
};

pub(crate) const GPU: Operation = Operation {
    id: "gpu",
    summary: "One living GPU.",
    parameter: Some(("gpu_id", of::<GpuId>)),
    optional: &[],
    body: None,
    answer: ok("The GPU.", Content::Json(of::<GpuView>)),
    problems: &[404, 500, 503],
};

pub(crate) const UNSERVED: Operation = Operation {
    id: "unserved",
    summary: "What tasks of the pool ask for and no living GPU has: kinds that nobody serves, needs that nobody fulfils.",
    parameter: None,
    optional: &[],
    body: None,
    answer: ok("What workers found in the last three minutes.", Content::Json(of::<UnservedList>)),
    problems: &[500, 503],
};

pub(crate) const HEALTH: Operation = Operation {
    id: "healthz",
    summary: "Whether the process lives.",
    parameter: None,
    optional: &[],
    body: None,
    answer: ok("It lives.", Content::Json(of::<Health>)),
    problems: &[],
};

pub(crate) const READY: Operation = Operation {
    id: "readyz",
    summary: "Whether broker, table and store take what work writes to them; the problem says which do not.",
    parameter: None,
    optional: &[],
    body: None,
    answer: ok("All do. A kind that no GPU can run now is named in `down`; the gateway is ready all the same.", Content::Json(of::<Ready>)),
    problems: &[503],
};

pub(crate) const METRICS: Operation = Operation {
    id: "metrics",
    summary: "Metrics of the gateway and of every worker in its process, in Prometheus's text format.",
    parameter: None,
    optional: &[],
    body: None,
    answer: ok("The metrics.", Content::Text),
    problems: &[500],
};

pub(crate) const OPENAPI: Operation = Operation {
    id: "openapi",
    summary: "This document, with the payload of each kind that the fleet serves now.",
    parameter: None,
    optional: &[],
    body: None,
    answer: ok("The document.", Content::JsonObject),
    problems: &[],
};

/// What a problem's status code means here.
pub(super) const fn problem(status: u16) -> &'static str {
    match status {
        400 => {
            "The body is no JSON, or no frame or form where it is declared as one, or a header or a query parameter is not valid; field names it."
        }
        403 => "Operators' requests are not served here, as gateway.operate says.",
        404 => "There is no such thing, or the fleet has forgotten it.",
        408 => "The body did not arrive in time.",
        409 => {
            "Somebody cancelled the task, it had ended already, it has no results of items, its task_id belongs to another task, no steps of tasks are kept (journal.steps_max), there is no room in its group or for one more group, or the name of the tensor is taken; type tells them apart."
        }
        410 => "The task ended, and what was asked for is no longer kept.",
        413 => "The body is larger than the workers take, or the tensor than the memory of a GPU.",
        415 => {
            "The body is not declared as what it must be, JSON, lines of it or what carries raw bytes beside it, or is compressed or encoded otherwise."
        }
        416 => "The tensor has no byte of the range; Content-Range says how many it has.",
        422 => {
            "A field is not valid, found by the gateway or by the worker, or the payload does not fit its kind's schema (gateway.check_payloads), or no living GPU can run the task and gateway.unserved is refuse, or the Idempotency-Key belongs to another request; field names it."
        }
        429 => "The pool's queue is full.",
        502 => "The task failed, or the bytes of the tensor could not be moved; code and detail say why.",
        503 => {
            "The broker, the table or the store cannot be reached or refuses to write, the broker blocks publishers, the gateway has too much in hand, no living GPU serves predict, or no data port of a GPU is reached."
        }
        504 => "No result in time: the wait ended and the task goes on, or the task ran out of time. type tells the two apart.",
        507 => "There is no room for the tensor: a quota (data), or the memory of the GPU and its host.",
        _ => "The gateway is at fault.",
    }
}
