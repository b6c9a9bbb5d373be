//! Why a task has no reply yet.

use std::time::Duration;

use protocol::{Kind, TaskId, TaskState, TaskStatus};

use crate::{
    fault::Fault,
    fleet::{Fleet, Pool},
    status::{how_far, not_before, of_batch},
};

/// The wait for a task's reply is over and none has come: what it waits for, as far as the fleet knows, and what can be done.
pub(crate) async fn too_late(fleet: &Fleet, task_id: &TaskId, limit: Duration) -> Fault {
    let why = match fleet.status(task_id).await {
        Ok(Some(status)) => why(fleet, &status).await,
        Ok(None) => "the fleet knows nothing of it yet".to_owned(),
        Err(fault) => format!("why is not known ({fault})"),
    };
    let seconds = limit.as_secs();
    Fault::TimeLimit(format!(
        "wait for task {task_id}: no reply within {seconds} s: {why}; it goes on, `gpufleet status` tells of it and `gpufleet cancel` ends it"
    ))
}

async fn why(fleet: &Fleet, status: &TaskStatus) -> String {
    if status.state == TaskState::Running {
        let gpu = status.gpu_id.as_ref().map(|gpu_id| format!(" on GPU {gpu_id}")).unwrap_or_default();
        let progress = of_batch(status.items, status.progress.clone());
        let progress = progress.as_ref().map(|progress| format!(", {}", how_far(progress))).unwrap_or_default();
        return format!("it runs{gpu}, attempt {}{progress}", status.attempt);
    }
    if status.state == TaskState::Delayed {
        let now_ms = service::system_environment().clock.now_ms();
        let when = status.not_before_ms.map(|at_ms| not_before(at_ms, now_ms)).unwrap_or_default();
        return format!("it is delayed, and must not start before {when}");
    }
    if status.state.ended() {
        return format!("it {} just now", status.state.name());
    }
    if let Some(waits_for) = &status.waiting_for {
        return format!("it waits: {waits_for}");
    }
    match fleet.pool().await {
        Ok(pool) => nobody(&pool, status.kind.as_ref()),
        Err(fault) => format!("it waits, and the GPUs are not known ({fault})"),
    }
}

/// What is so of the pool's GPUs that a task may wait.
fn nobody(pool: &Pool, kind: Option<&Kind>) -> String {
    let Pool { name, gpus } = pool;
    if gpus.is_empty() {
        return format!("it waits: no GPU serves the pool {name} (`gpufleet worker` starts one)");
    }
    if let Some(kind) = kind.filter(|kind| !gpus.iter().any(|view| view.row.kinds.contains(kind))) {
        return format!("it waits: no living GPU of the pool {name} runs the kind {kind}");
    }
    if !gpus.iter().any(|view| view.eligible) {
        return format!("it waits: no GPU of the pool {name} takes tasks now (`gpufleet gpus` shows why)");
    }
    "it waits for its turn".to_owned()
}
