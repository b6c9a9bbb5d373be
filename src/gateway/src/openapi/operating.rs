//! What the document says of the routes for operators.

use producer::DeadLetters;
use protocol::{DeadLetter, GpuId, Requeued, claim::Settings};

use super::{
    Operation, Optional,
    operations::{Content, from_to, of, ok},
};
use crate::{
    dead::{DeadLetterList, Purged},
    given::GivenId,
    settings::{StrategyRequest, ThresholdsRequest},
};

pub(crate) const SETTINGS: Operation = Operation {
    id: "settings",
    summary: "The fleet's settings: the default strategy, the strategies that tasks may name, the thresholds, the GPUs that drain.",
    parameter: None,
    optional: &[],
    body: None,
    answer: ok("The settings in force.", Content::Json(of::<Settings>)),
    problems: &[403, 500, 503],
};

pub(crate) const SET_STRATEGY: Operation = Operation {
    id: "setStrategy",
    summary: "Change the strategy of tasks that name none, for the whole fleet, at once.",
    parameter: None,
    optional: &[],
    body: Some(of::<StrategyRequest>),
    answer: ok("The settings in force.", Content::Json(of::<Settings>)),
    problems: &[400, 403, 408, 413, 415, 422, 500, 503],
};

pub(crate) const SET_THRESHOLDS: Operation = Operation {
    id: "setThresholds",
    summary: "Change the thresholds above which GPUs take no tasks, one or both, for the whole fleet, at once.",
    parameter: None,
    optional: &[],
    body: Some(of::<ThresholdsRequest>),
    answer: ok("The settings in force.", Content::Json(of::<Settings>)),
    problems: &[400, 403, 408, 413, 415, 422, 500, 503],
};

pub(crate) const DRAIN: Operation = Operation {
    id: "drainGpu",
    summary: "Let a GPU take no new tasks: what runs there ends, what waits there goes elsewhere. It outlives the GPU's worker. Asking again changes nothing.",
    parameter: Some(("gpu_id", of::<GpuId>)),
    optional: &[],
    body: None,
    answer: ok("It drains; the settings in force.", Content::Json(of::<Settings>)),
    problems: &[403, 404, 500, 503],
};

pub(crate) const UNDRAIN: Operation = Operation {
    id: "undrainGpu",
    summary: "Let a drained GPU take tasks again. Asking again changes nothing.",
    parameter: Some(("gpu_id", of::<GpuId>)),
    optional: &[],
    body: None,
    answer: ok("It takes tasks; the settings in force.", Content::Json(of::<Settings>)),
    problems: &[403, 404, 500, 503],
};

pub(crate) const DEAD: Operation = Operation {
    id: "deadLetters",
    summary: "The oldest dead letters: messages that could not be tasks, and tasks that were given up. They stay where they are.",
    parameter: None,
    optional: &[Optional {
        name: "limit",
        place: "query",
        description: "How many at most, 0 to 1000. Default: 100.",
        schema: from_to::<0, { DeadLetters::IN_HAND_MAX }>,
    }],
    body: None,
    answer: ok("The letters, oldest first.", Content::Json(of::<DeadLetterList>)),
    problems: &[400, 403, 500, 503],
};

pub(crate) const REQUEUE_ALL: Operation = Operation {
    id: "requeueDeadLetters",
    summary: "Publish all dead letters, at most the first 1000, to their pools again: a second life, with a second reply.",
    parameter: None,
    optional: &[Optional {
        name: "requeue",
        place: "query",
        description: "Must be all, so that a request that has lost its task_id requeues nothing.",
        schema: of::<String>,
    }],
    body: None,
    answer: ok("How many are tasks again, and why the others stay.", Content::Json(of::<Requeued>)),
    problems: &[400, 403, 500, 503],
};

pub(crate) const PURGE_ALL: Operation = Operation {
    id: "purgeDeadLetters",
    summary: "Delete all dead letters that are there now, for ever.",
    parameter: None,
    optional: &[Optional {
        name: "all",
        place: "query",
        description: "Must be true, so that a request that has lost its task_id deletes nothing.",
        schema: of::<bool>,
    }],
    body: None,
    answer: ok("How many they were.", Content::Json(of::<Purged>)),
    problems: &[400, 403, 500, 503],
};

pub(crate) const DEAD_OF_TASK: Operation = Operation {
    id: "deadLettersOfTask",
    summary: "The dead letters of one task, most often one, among the first 1000. They stay where they are.",
    parameter: Some(("task_id", of::<GivenId>)),
    optional: &[],
    body: None,
    answer: ok("The letters.", Content::Json(of::<Vec<DeadLetter>>)),
    problems: &[403, 404, 500, 503],
};

pub(crate) const PURGE: Operation = Operation {
    id: "purgeDeadLettersOfTask",
    summary: "Delete the dead letters of one task, among the first 1000, for ever.",
    parameter: Some(("task_id", of::<GivenId>)),
    optional: &[],
    body: None,
    answer: ok("How many they were.", Content::Json(of::<Purged>)),
    problems: &[403, 404, 500, 503],
};

pub(crate) const REQUEUE: Operation = Operation {
    id: "requeueDeadLettersOfTask",
    summary: "Publish the dead letters of one task, among the first 1000, to their pool again, once what killed it is mended: a second life, with a second reply.",
    parameter: Some(("task_id", of::<GivenId>)),
    optional: &[],
    body: None,
    answer: ok("Whether it is a task again, or why it stays.", Content::Json(of::<Requeued>)),
    problems: &[403, 404, 500, 503],
};
