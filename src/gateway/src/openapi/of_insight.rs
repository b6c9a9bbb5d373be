//! What the document says of the routes for people who run the fleet: lists of tasks, why they wait, what the fleet is at.

use protocol::{
    GpuId, GroupName, HistorySpan, Kind, TaskState,
    envelope::PRIORITY_MAX,
    insight::{Overview, Scaling, TaskFilter, TaskLog, TaskPage, Verdict, Why},
};
use schemars::{Schema, SchemaGenerator, json_schema};

use super::{
    Operation, Optional,
    operations::{Content, from_to, of, ok},
};
use crate::{
    actions::{self, ActionList},
    filter,
    given::GivenId,
    gpus::GpuList,
    insights::History,
    task_list::{TasksCancelled, TasksRequeued},
};

fn states(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"type": "string", "enum": TaskState::ALL.map(TaskState::name)}})
}

fn priorities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": PRIORITY_MAX}})
}

fn milliseconds(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "minimum": 0})
}

/// A parameter of a query.
const fn asked(name: &'static str, description: &'static str, schema: super::SchemaOf) -> Optional {
    Optional { name, place: "query", description, schema }
}

const FILTER: &[Optional] = &[
    asked("state", "Any of these states; repeat it for several.", states),
    asked("kind", "Any of these kinds; repeat it for several.", of::<Vec<Kind>>),
    asked("priority", "Any of these priorities; repeat it for several.", priorities),
    asked("group", "This group.", of::<GroupName>),
    asked("gpu_id", "The GPU of the latest attempt.", of::<GpuId>),
    asked("id_prefix", "Its id begins with this.", of::<String>),
    asked("error", "This text is in its error's code or message, whatever the case.", of::<String>),
    asked("older_than_ms", "First heard of at least so long ago, in ms.", milliseconds),
    asked("newer_than_ms", "First heard of at most so long ago, in ms.", milliseconds),
    asked("dead", "Only those with (true) or without (false) their bytes among the dead letters.", of::<bool>),
    asked("slices", "true: also the slices of batches. Default: false.", of::<bool>),
    asked("after", "The next of the page before.", of::<String>),
    asked("limit", "How many at most, 1 to 1000. Default: 100.", from_to::<1, { filter::LISTED_MAX }>),
];

const ALL: &[Optional] =
    &[asked("all", "Must be true where the filter is empty, so that a request that has lost its filter reaches nothing.", of::<bool>)];

pub(crate) const LIST: Operation = Operation {
    id: "tasks",
    summary: "The tasks that pass a filter, those that were heard of last first. It is what the journal says, bounded in number and age (journal); the status of a task is what counts.",
    parameter: None,
    optional: FILTER,
    body: None,
    answer: ok("Some tasks, about a second old.", Content::Json(of::<TaskPage>)),
    problems: &[400, 403, 409, 500, 503],
};

pub(crate) const LOG: Operation = Operation {
    id: "taskLog",
    summary: "The steps of a task's life, as those told them who saw them; also when the log lines of the fleet are long gone.",
    parameter: Some(("task_id", of::<GivenId>)),
    optional: &[],
    body: None,
    answer: ok("Its steps, the oldest first.", Content::Json(of::<TaskLog>)),
    problems: &[403, 404, 409, 500, 503],
};

pub(crate) const WHY: Operation = Operation {
    id: "whyTask",
    summary: "Why a task waits: what it waits for, which tasks are before it, what keeps each GPU from taking it now, and when it will probably begin.",
    parameter: Some(("task_id", of::<GivenId>)),
    optional: &[],
    body: None,
    answer: ok("Why it waits, or what became of it.", Content::Json(of::<Why>)),
    problems: &[404, 500, 503],
};

pub(crate) const CANCEL: Operation = Operation {
    id: "cancelTasks",
    summary: "Ask for the end of all open tasks that pass a filter, at most 1000 at once; those that were heard of last first. It goes on where its client goes away.",
    parameter: None,
    optional: ALL,
    body: Some(of::<TaskFilter>),
    answer: ok("How many will end as cancelled.", Content::Json(of::<TasksCancelled>)),
    problems: &[400, 403, 408, 409, 413, 415, 422, 500, 503],
};

pub(crate) const REQUEUE: Operation = Operation {
    id: "requeueTasks",
    summary: "Publish the dead letters of all tasks that pass a filter to their pools again, among the first 1000: a second life, with a second reply.",
    parameter: None,
    optional: ALL,
    body: Some(of::<TaskFilter>),
    answer: ok("How many are tasks again.", Content::Json(of::<TasksRequeued>)),
    problems: &[400, 403, 408, 409, 413, 415, 422, 500, 503],
};

pub(crate) const OVERVIEW: Operation = Operation {
    id: "overview",
    summary: "The fleet at a glance: what holds it back, the oldest waiting tasks, rates, GPUs, kinds. Where servers are away it says so, and has what they last said.",
    parameter: None,
    optional: &[],
    body: None,
    answer: ok("The overview, about a second old.", Content::Json(of::<Overview>)),
    problems: &[500, 503],
};

pub(crate) const HISTORY: Operation = Operation {
    id: "history",
    summary: "What the fleet did over the last 15 minutes, 6 hours or 48 hours. It is kept in the store: it survives restarts, and every gateway shows the same.",
    parameter: None,
    optional: &[asked("span", "How far back. Default: 15m.", of::<HistorySpan>)],
    body: None,
    answer: ok("Its points.", Content::Json(of::<History>)),
    problems: &[400, 409, 500, 503],
};

pub(crate) const BOTTLENECK: Operation = Operation {
    id: "bottleneck",
    summary: "What holds the fleet back, with the figures that it rests on.",
    parameter: None,
    optional: &[],
    body: None,
    answer: ok("The verdict.", Content::Json(of::<Verdict>)),
    problems: &[500, 503],
};

pub(crate) const SCALING: Operation = Operation {
    id: "scaling",
    summary: "How many workers would hold the objective of the wait (scaling.wait_objective_ms), and which can be stopped without any cost. For autoscalers: desired_workers goes up at once, and down \
              only after a quiet time. Answers 503 where the table is away: nobody should scale by what is old.",
    parameter: None,
    optional: &[],
    body: None,
    answer: ok("The number, and why it is that.", Content::Json(of::<Scaling>)),
    problems: &[500, 503],
};

pub(crate) const LIVE: Operation = Operation {
    id: "live",
    summary: "Follow the fleet: its overview and its GPUs, every two seconds.",
    parameter: None,
    optional: &[],
    body: None,
    answer: ok(
        "Server-sent events. A stream ends after an hour, and when the gateway stops; connect again.",
        Content::Events(&[("overview", of::<Overview>), ("gpus", of::<GpuList>)]),
    ),
    problems: &[503],
};

pub(crate) const ACTIONS: Operation = Operation {
    id: "actions",
    summary: "What operators did: who changed what, and when, over HTTP or by a command. Bounded in number (journal.actions_max).",
    parameter: None,
    optional: &[asked("limit", "How many at most, 1 to 1000. Default: 100.", from_to::<1, { actions::SHOWN_MAX }>)],
    body: None,
    answer: ok("The actions, the latest first.", Content::Json(of::<ActionList>)),
    problems: &[400, 403, 500, 503],
};
