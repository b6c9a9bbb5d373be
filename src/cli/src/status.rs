//! `gpufleet status`.

use std::process::ExitCode;

use protocol::{TaskId, TaskStatus};

use crate::{arguments::Common, configuration, fault::Fault, output, servers::Servers};

/// Shows a task's status.
pub(crate) async fn run(common: &Common, task_id: &TaskId) -> Result<ExitCode, Fault> {
    let configuration = configuration::load(common, &[])?;
    let servers = Servers::redis_of_a_running_fleet(configuration)?;
    let store = servers.store().await?;
    let status = store.status(task_id).await?.ok_or_else(|| {
        Fault::NotFound(format!(
            "the store has no task {task_id}: it was never submitted, nobody has looked at it yet, or its record has expired"
        ))
    })?;
    if common.json {
        output::json(&status);
    } else {
        show(&status);
    }
    Ok(ExitCode::SUCCESS)
}

fn show(status: &TaskStatus) {
    let text = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            output::line(&format!("{name:<12} {value}"));
        }
    };
    text("task", Some(status.task_id.to_string()));
    text("state", Some(status.state.name().to_owned()));
    text("kind", status.kind.as_ref().map(ToString::to_string));
    text("gpu", status.gpu_id.as_ref().map(ToString::to_string));
    text("attempt", (status.attempt > 0).then(|| status.attempt.to_string()));
    text("waits for", status.waiting_for.clone());
    let reply = status.reply.as_ref();
    text("error", reply.and_then(|reply| reply.error.as_ref()).map(|error| format!("{}: {}", error.code, error.message)));
    text("result", reply.filter(|reply| !reply.result.is_null()).map(|reply| reply.result.to_string()));
}
