//! What the document says of the routes for groups.

use producer::Groups;
use protocol::{GroupCancelled, GroupCounts, GroupName, GroupStatus, Reply, TaskState};
use schemars::{Schema, SchemaGenerator, json_schema};
use task_store::MembersRequest;

use super::{
    Operation, Optional,
    operations::{Content, from_to, of, ok},
};
use crate::{
    given::GivenId,
    groups::{GroupList, GroupTasks},
};

/// The states that a group tells apart.
fn state(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": GroupCounts::STATES.map(TaskState::name)})
}

pub(crate) const LIST: Operation = Operation {
    id: "groups",
    summary: "The groups that the fleet knows, those that were made last first, with their counts.",
    parameter: None,
    optional: &[
        Optional {
            name: "after",
            place: "query",
            description: "Those that were made before the group of this name: next of the page before.",
            schema: of::<GroupName>,
        },
        Optional {
            name: "limit",
            place: "query",
            description: "How many at most, 1 to 100. Default: 50.",
            schema: from_to::<1, { Groups::LISTED_MAX as usize }>,
        },
    ],
    body: None,
    answer: ok("Some groups. One that was forgotten meanwhile is left out.", Content::Json(of::<GroupList>)),
    problems: &[400, 500, 503],
};

pub(crate) const SHOW: Operation = Operation {
    id: "group",
    summary: "How many tasks of a group are in which state, and whether all have ended. A group begins with its first task, and is forgotten store.outcome_retention_ms after \
              its last change.",
    parameter: Some(("group", of::<GroupName>)),
    optional: &[],
    body: None,
    answer: ok("The group.", Content::Json(of::<GroupStatus>)),
    problems: &[404, 500, 503],
};

pub(crate) const CANCEL: Operation = Operation {
    id: "cancelGroup",
    summary: "Ask for the end of all tasks of a group, whether they wait or run, also of those that were published over AMQP and that no worker has seen yet. What is submitted \
              afterwards is not cancelled. Of a large group it takes a while, and goes on where its client goes away; asking again changes nothing.",
    parameter: Some(("group", of::<GroupName>)),
    optional: &[],
    body: None,
    answer: ok("Every member was told; how many waited, ran and had ended.", Content::Json(of::<GroupCancelled>)),
    problems: &[404, 409, 500, 503],
};

pub(crate) const TASKS: Operation = Operation {
    id: "groupTasks",
    summary: "The tasks of a group, by id, with their states.",
    parameter: Some(("group", of::<GroupName>)),
    optional: &[
        Optional { name: "state", place: "query", description: "Only tasks in this state; a delayed task is waiting here.", schema: state },
        Optional { name: "after", place: "query", description: "Those after this id: next of the page before.", schema: of::<GivenId> },
        Optional {
            name: "limit",
            place: "query",
            description: "How many at most, 1 to 1000. Default: 100.",
            schema: from_to::<1, { MembersRequest::LIMIT_MAX as usize }>,
        },
    ],
    body: None,
    answer: ok("Some tasks; as long as there is a next, others may follow.", Content::Json(of::<GroupTasks>)),
    problems: &[400, 404, 500, 503],
};

pub(crate) const EVENTS: Operation = Operation {
    id: "groupEvents",
    summary: "Follow a group: its counts as they change, five times a second at most, until all its tasks have ended; with replies=true also each task's reply as it comes.",
    parameter: Some(("group", of::<GroupName>)),
    optional: &[Optional {
        name: "replies",
        place: "query",
        description: "true: also the replies, those of tasks that ended before included. Default: false.",
        schema: of::<bool>,
    }],
    body: None,
    answer: ok(
        "Server-sent events. A stream that ends before all tasks have ended can be taken up again, with Last-Event-ID for the replies.",
        Content::Events(&[("counts", of::<GroupStatus>), ("reply", of::<Reply>)]),
    ),
    problems: &[400, 404, 500, 503],
};
