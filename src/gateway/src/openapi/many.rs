//! What the document says of the routes for many tasks at once.

use protocol::Reply;

use super::{
    Operation, Optional,
    operations::{Content, Lines, of, ok},
};
use crate::{
    bulk::BulkAnswer,
    events::wait::{Tally, TimeOver, WaitRequest},
    idempotency::{self, IDEMPOTENCY_KEY},
    problem::ProblemDocument,
    tasks::TaskRequest,
};

pub(crate) const BULK: Operation = Operation {
    id: "submitTasks",
    summary: "Submit many tasks: one in each line, each as submitTask takes it, and no longer than a task's body may be. Answers flow while the request still comes; read them while you send. A line that is at fault is refused \
              alone; empty lines are skipped. Lines are submitted side by side: tasks of one priority may change places with their neighbours. What was accepted stays accepted, also where the client goes away. gateway.body_timeout_ms bounds the silence between two pieces of the body, not all of it.",
    parameter: None,
    optional: &[Optional {
        name: IDEMPOTENCY_KEY,
        place: "header",
        description: "Names this request, so that all of it can be sent again without harm: the key and the number of a line are the identity of its task, unless the line has a task_id of its own. A line \
                      that comes again with another task is refused (422). A key is remembered for as long as its tasks' records (store.outcome_retention_ms).",
        schema: idempotency::schema,
    }],
    body: Some(of::<TaskRequest>),
    answer: ok(
        "An answer for each line, in the order of the lines: its task_id, or its problem. Lines that find the queue full (429) or a server away (503) have retry_after_s in their problem, and the next ones are read; after 512 \
         of them in a row, and where the gateway stops or the body breaks off, the last answer is a problem for the first line that was not read, and the rest is not.",
        Content::Lines(Lines {
            schema: of::<BulkAnswer>,
            asked: "{\"kind\":\"echo\",\"payload\":1,\"task_id\":\"order-17\"}\n{\"kind\":\"echo\",\"prioritee\":9}\n",
            answered: "{\"line\":1,\"task_id\":\"order-17\"}\n{\"line\":2,\"problem\":{\"type\":\"urn:gpufleet:problem:invalid-field\",\"title\":\"a field is not valid\",\"status\":422,\"detail\":\"prioritee: is unknown; known are …\",\
                       \"field\":\"prioritee\"}}\n",
        }),
    ),
    problems: &[400, 408, 415, 500, 503],
};

pub(crate) const WAIT: Operation = Operation {
    id: "waitForTasks",
    summary: "Wait for the replies of many tasks. The stream may also end without end or timeout, where the gateway stops: ask again, there or elsewhere, for those that no event told of. A task that was published over AMQP is \
              unknown until a worker has looked at it.",
    parameter: None,
    optional: &[],
    body: Some(of::<WaitRequest>),
    answer: ok(
        "Server-sent events, in the order in which the tasks end: reply for each; problem where nobody knows the task (404), or its reply is no longer kept (410). The last one is end, with how many ended in which way, or timeout, with \
         how many are left.",
        Content::Events(&[("reply", of::<Reply>), ("problem", of::<ProblemDocument>), ("end", of::<Tally>), ("timeout", of::<TimeOver>)]),
    ),
    problems: &[400, 408, 413, 415, 422, 500, 503],
};
