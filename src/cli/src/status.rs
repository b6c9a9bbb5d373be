//! `gpufleet status`.

use std::process::ExitCode;

use protocol::{Progress, TaskId, TaskStatus};

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
        show(&status, servers.environment().clock.now_ms());
    }
    Ok(ExitCode::SUCCESS)
}

fn show(status: &TaskStatus, now_ms: u64) {
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
    text("progress", status.progress.as_ref().map(|progress| described(progress, now_ms)));
    let reply = status.reply.as_ref();
    text("error", reply.and_then(|reply| reply.error.as_ref()).map(|error| format!("{}: {}", error.code, error.message)));
    text("result", reply.filter(|reply| !reply.result.is_null()).map(|reply| output::in_one_line(reply.result.to_string())));
}

fn described(progress: &Progress, now_ms: u64) -> String {
    let message = progress.message.as_ref().map(|message| format!(" ({message})")).unwrap_or_default();
    // The store's clock may run ahead of ours.
    let seconds_ago = now_ms.saturating_sub(progress.at_ms) as f64 / 1_000.0;
    format!("{:.0} %{message}, {seconds_ago:.1} s ago", progress.fraction.get() * 100.0)
}

#[cfg(test)]
mod tests {
    use protocol::Fraction;

    use super::*;

    #[test]
    fn progress_shows_its_share_its_message_and_its_age() {
        let progress = Progress { fraction: Fraction::clamped(0.254), message: Some("16 of 63 tokens".to_owned()), at_ms: 10_000 };
        assert_eq!(described(&progress, 12_340), "25 % (16 of 63 tokens), 2.3 s ago");
        assert_eq!(described(&Progress { message: None, ..progress }, 9_000), "25 %, 0.0 s ago");
    }
}
