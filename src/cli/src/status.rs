//! `gpufleet status`.

use std::process::ExitCode;

use protocol::{Progress, TaskId, TaskStatus};

use crate::{arguments::Common, fault::Fault, fleet::Fleet, output};

/// Shows a task's status.
pub(crate) async fn run(common: &Common, task_id: &TaskId) -> Result<ExitCode, Fault> {
    let status = Fleet::to_ask(common)?.status(task_id).await?.ok_or_else(|| {
        Fault::NotFound(format!(
            "the store has no task {task_id}: it was never submitted, nobody has looked at it yet, or its record has expired"
        ))
    })?;
    if common.json {
        output::json(&status)?;
    } else {
        output::line(&shown(&status, service::system_environment().clock.now_ms()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for each thing.
fn shown(status: &TaskStatus, now_ms: u64) -> String {
    let reply = status.reply.as_ref();
    let error = reply.and_then(|reply| reply.error.as_ref());
    let result = reply.filter(|reply| !reply.result.is_null());
    let lines = [
        ("task", Some(status.task_id.to_string())),
        ("state", Some(status.state.name().to_owned())),
        ("kind", status.kind.as_ref().map(ToString::to_string)),
        ("group", status.group.as_ref().map(ToString::to_string)),
        ("gpu", status.gpu_id.as_ref().map(ToString::to_string)),
        ("attempt", (status.attempt > 0).then(|| status.attempt.to_string())),
        ("not before", status.not_before_ms.map(|at_ms| not_before(at_ms, now_ms))),
        ("waits for", status.waiting_for.clone()),
        ("progress", status.progress.as_ref().map(|progress| described(progress, now_ms))),
        ("error", error.map(|error| format!("{}: {}", error.code, error.message))),
        ("result", result.map(|reply| output::in_one_line(reply.result.to_string()))),
    ];
    let lines = lines.into_iter().filter_map(|(name, value)| Some(format!("{name:<12} {}", value?)));
    lines.collect::<Vec<_>>().join("\n")
}

fn described(progress: &Progress, now_ms: u64) -> String {
    // The store's clock may run ahead of ours.
    let seconds_ago = now_ms.saturating_sub(progress.at_ms) as f64 / 1_000.0;
    format!("{}, {seconds_ago:.1} s ago", how_far(progress))
}

/// When a task may start, and how long that is from now, or ago.
pub(crate) fn not_before(at_ms: u64, now_ms: u64) -> String {
    let seconds = at_ms.abs_diff(now_ms) as f64 / 1_000.0;
    let when = if at_ms > now_ms { format!("in {seconds:.1} s") } else { format!("{seconds:.1} s ago") };
    format!("{at_ms} ({when})")
}

/// How far a task is, and what it does.
pub(crate) fn how_far(progress: &Progress) -> String {
    let message = progress.message.as_ref().map(|message| format!(" ({message})")).unwrap_or_default();
    format!("{:.0} %{message}", progress.fraction.get() * 100.0)
}

#[cfg(test)]
mod tests {
    use protocol::Fraction;

    use super::*;

    #[test]
    fn a_time_to_start_shows_with_how_long_that_is() {
        let shown = |at_ms| not_before(at_ms, 10_000);
        assert_eq!([12_340, 10_000, 7_000].map(shown), ["12340 (in 2.3 s)", "10000 (0.0 s ago)", "7000 (3.0 s ago)"]);
    }

    #[test]
    fn progress_shows_its_share_its_message_and_its_age() {
        let progress = Progress { fraction: Fraction::clamped(0.254), message: Some("16 of 63 tokens".to_owned()), at_ms: 10_000 };
        assert_eq!(described(&progress, 12_340), "25 % (16 of 63 tokens), 2.3 s ago");
        assert_eq!(described(&Progress { message: None, ..progress }, 9_000), "25 %, 0.0 s ago");
    }
}
