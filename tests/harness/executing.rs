//! An executor by itself, without a fleet: a task for it, and the GPU beside which it runs.

use std::{path::Path, sync::Arc};

use devices::{Device, SimulatedGpu, SimulatedOptions};
use executors::{BatchMember, Executor, Failure, Report, Run, RunTensors, Usage, handlers::HandlerPlace};
use protocol::{BodyHash, DeliveryId, Framed, Kind, Segments, Task, TaskBody, TaskId};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// A simulated GPU with the defaults.
#[must_use]
pub fn simulated_gpu() -> Arc<dyn Device> {
    Arc::new(SimulatedGpu::new(SimulatedOptions::default()))
}

/// The place of a handler beside such a GPU, which holds four tasks at once. `launcher`: the `gpufleet` binary.
#[must_use]
pub fn place(launcher: &Path) -> HandlerPlace {
    HandlerPlace { gpu: simulated_gpu().description().clone(), is_simulated: true, slots: 4, launcher: launcher.to_owned() }
}

/// The first attempt of a task.
///
/// # Panics
/// If `kind` is no name of a kind.
#[must_use]
pub fn task(kind: &str, payload: Value, segments: Segments) -> Task {
    Task {
        id: TaskId::new("task-1").expect("a literal that keeps the rule"),
        body_hash: BodyHash::of(b""),
        kind: Kind::new(kind).expect("a valid kind"),
        priority: 0,
        attempt: 1,
        hops: 0,
        memory_mb: None,
        start_before_ms: None,
        end_before_ms: None,
        not_before_ms: None,
        body: TaskBody { payload: payload.into(), segments, ..TaskBody::default() },
        delivery: DeliveryId(1),
    }
}

/// A run that nobody listens to.
#[must_use]
pub fn run_of<'a>(task: &'a Task, device: &'a Arc<dyn Device>) -> Run<'a> {
    let (cancel, report, usage) = (CancellationToken::new(), Report::to_nobody(), Usage::default());
    Run { task, payload: &task.body.payload, device, cancel, report, pieces: 1, usage, tensors: RunTensors::none() }
}

/// A member of a run batch that nobody listens to.
#[must_use]
pub fn member_of(task: &Task) -> BatchMember<'_> {
    let (cancel, report, usage) = (CancellationToken::new(), Report::to_nobody(), Usage::default());
    BatchMember { task, payload: &task.body.payload, cancel, report, usage }
}

/// Runs a payload by itself.
///
/// # Errors
/// That of the executor.
pub async fn run(executor: &Arc<dyn Executor>, device: &Arc<dyn Device>, payload: Value) -> Result<Framed, Failure> {
    executor.run(run_of(&task(executor.kind().as_str(), payload, Segments::none()), device)).await
}
