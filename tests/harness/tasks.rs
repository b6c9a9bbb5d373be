//! Tasks for tests, and the waiting for their replies.

use std::{num::NonZeroUsize, time::Duration};

use futures::StreamExt;
use producer::{Many, NewTask, Pending, Producer};
use protocol::{GpuOptions, Kind, Outcome, Reply, TaskBody, TaskState};
use serde_json::{Value, json};

use crate::until::until;

/// Longest wait for a reply. Generous: it bounds a hang.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// A task of `kind`.
#[must_use]
pub fn task(kind: &str, payload: Value) -> NewTask {
    NewTask::new(Kind::new(kind).expect("a valid kind"), TaskBody { payload: payload.into(), ..TaskBody::default() })
}

/// A task that gives its payload back.
#[must_use]
pub fn echo(payload: impl Into<Value>) -> NewTask {
    task("echo", payload.into())
}

/// A task that takes `ms` milliseconds and gives `result` back.
#[must_use]
pub fn simulate(ms: u64, result: impl Into<Value>) -> NewTask {
    task("simulate", json!({"duration_ms": ms, "result": result.into()}))
}

/// The same task with a strategy.
#[must_use]
pub fn by(strategy: &str, mut task: NewTask) -> NewTask {
    task.body.gpu_options = GpuOptions { strategy: Some(strategy.to_owned()), ..task.body.gpu_options };
    task
}

/// The same task for one GPU alone.
#[must_use]
pub fn on(gpu_id: &str, mut task: NewTask) -> NewTask {
    task.body.gpu_options.specific_gpu_id = Some(gpu_id.parse().expect("a valid id"));
    task
}

/// The same task with a priority.
#[must_use]
pub fn priority(priority: u8, task: NewTask) -> NewTask {
    NewTask { priority, ..task }
}

/// Submits one task and waits for its reply.
pub async fn reply(producer: &Producer, task: NewTask) -> Reply {
    producer.submit_and_wait(task, PATIENCE).await.expect("a reply")
}

/// Submits tasks, `in_flight` at once, and waits for their replies; in the order of `tasks`.
pub async fn replies(producer: &Producer, tasks: Vec<NewTask>, in_flight: usize) -> Vec<Reply> {
    let many = Many { in_flight: NonZeroUsize::new(in_flight).expect("at least one"), timeout: PATIENCE };
    let mut replies: Vec<(usize, Reply)> =
        producer.submit_and_wait_many(tasks, many).map(|(place, reply)| (place, reply.expect("a reply"))).collect().await;
    replies.sort_by_key(|(place, _)| *place);
    replies.into_iter().map(|(_, reply)| reply).collect()
}

/// Submits a task and waits until it runs. That a slot is held does not say so: it is held from the claim on, and the task may still be on its way there.
pub async fn started(producer: &Producer, task: NewTask) -> Pending {
    let pending = producer.pending(task, PATIENCE).await.expect("submitted");
    let state = async || producer.status(pending.task_id()).await.expect("the store answers").map(|status| status.state);
    until("the task runs", async || state().await == Some(TaskState::Running)).await;
    pending
}

/// Asserts that the reply tells of success, and gives its result.
pub fn result(reply: &Reply) -> Value {
    assert_eq!(reply.outcome, Outcome::Succeeded, "{reply:?}");
    reply.result.to().expect("JSON")
}
