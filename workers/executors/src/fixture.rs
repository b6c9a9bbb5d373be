//! Tasks and GPUs for tests.

use std::sync::Arc;

use devices::{Device, SimulatedGpu, SimulatedOptions};
use protocol::{BodyHash, DeliveryId, Json, Kind, Task, TaskBody, TaskId};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{Executor, Failure, Report, Run, RunTensors, Usage};

pub(crate) fn gpu() -> Arc<dyn Device> {
    Arc::new(SimulatedGpu::new(SimulatedOptions::default()))
}

pub(crate) fn task(kind: &str, payload: Value) -> Task {
    Task {
        id: TaskId::new("task-1").unwrap(),
        body_hash: BodyHash::of(b""),
        kind: Kind::new(kind).unwrap(),
        priority: 0,
        attempt: 1,
        hops: 0,
        memory_mb: None,
        start_before_ms: None,
        end_before_ms: None,
        not_before_ms: None,
        body: TaskBody { payload: payload.into(), ..TaskBody::default() },
        delivery: DeliveryId(1),
    }
}

/// A run that nobody listens to.
pub(crate) fn run_of<'a>(task: &'a Task, device: &'a Arc<dyn Device>) -> Run<'a> {
    Run {
        task,
        payload: &task.body.payload,
        device,
        cancel: CancellationToken::new(),
        report: Report::to_nobody(),
        pieces: 1,
        usage: Usage::default(),
        tensors: RunTensors::none(),
    }
}

pub(crate) async fn run_on(executor: &Arc<dyn Executor>, device: &Arc<dyn Device>, payload: Value) -> Result<Json, Failure> {
    run_reporting(executor, device, payload, Report::to_nobody()).await
}

pub(crate) async fn run_reporting(
    executor: &Arc<dyn Executor>,
    device: &Arc<dyn Device>,
    payload: Value,
    report: Report,
) -> Result<Json, Failure> {
    let task = task(executor.kind().as_str(), payload);
    executor.run(Run { report, ..run_of(&task, device) }).await.map(|framed| framed.json)
}
