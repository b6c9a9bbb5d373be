//! `gpufleet status`.

use std::{path::Path, process::ExitCode};

use protocol::{ItemCounts, Progress, SliceCounts, TaskId, TaskStatus};

use crate::{arguments::Common, fault::Fault, fleet::Fleet, output, results::how_many, segments};

/// Shows a task's status; with a directory, saves the raw bytes of its result there.
pub(crate) async fn run(common: &Common, task_id: &TaskId, save_segments: Option<&Path>) -> Result<ExitCode, Fault> {
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
    if let Some(directory) = save_segments {
        let reply =
            status.reply.as_ref().ok_or_else(|| Fault::Failed(format!("save segments: task {task_id} has no reply that is kept")))?;
        segments::save(reply, directory)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for each thing.
fn shown(status: &TaskStatus, now_ms: u64) -> String {
    let reply = status.reply.as_ref();
    let error = reply.and_then(|reply| reply.error.as_ref());
    let result = reply.filter(|reply| !reply.result.is_null());
    let items = status.items.or(reply.and_then(|reply| reply.items));
    let results = reply.filter(|reply| !reply.results.is_null());
    let lines = [
        ("task", Some(status.task_id.to_string())),
        ("state", Some(status.state.name().to_owned())),
        ("kind", status.kind.as_ref().map(ToString::to_string)),
        ("group", status.group.as_ref().map(ToString::to_string)),
        ("gpu", status.gpu_id.as_ref().map(ToString::to_string)),
        ("attempt", (status.attempt > 0).then(|| status.attempt.to_string())),
        ("not before", status.not_before_ms.map(|at_ms| not_before(at_ms, now_ms))),
        ("waits for", status.waiting_for.clone()),
        ("items", items.map(|items| how_many(&items))),
        ("slices", status.slices.as_ref().map(slices)),
        ("progress", status.progress.as_ref().map(|progress| described(progress, now_ms))),
        ("error", error.map(|error| format!("{}: {}", error.code, error.message))),
        ("result", result.map(|reply| output::in_one_line(reply.result.to_string()))),
        ("results", results.map(|reply| format!("gpufleet results {}", reply.task_id))),
    ];
    let segments = reply.map(segments::lines).unwrap_or_default().into_iter().map(|line| ("raw bytes", Some(line)));
    let lines = lines.into_iter().chain(segments).filter_map(|(name, value)| Some(format!("{name:<12} {}", value?)));
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

fn slices(counts: &SliceCounts) -> String {
    let SliceCounts { waiting, running, ended } = counts;
    format!("{waiting} waiting, {running} running, {ended} ended")
}

/// How far a task is; of a batch, whose items are counted, by their counts.
pub(crate) fn of_batch(items: Option<ItemCounts>, progress: Option<Progress>) -> Option<Progress> {
    let Some(items) = items else { return progress };
    let at_ms = progress.map_or(0, |progress| progress.at_ms);
    Some(Progress { fraction: items.fraction(), message: Some(how_many(&items)), at_ms })
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

    #[test]
    fn a_batch_shows_its_items_and_slices_and_where_its_results_are() {
        let reply = serde_json::json!({"task_id": "b", "outcome": "succeeded", "results": [], "attempt": 1, "timings": {"waited_ms": 1, "run_ms": 1}, "ended_at_ms": 1});
        let (items, slices) = (r#"{"of":64,"done":37,"failed":2}"#, r#"{"waiting":1,"running":3,"ended":4}"#);
        let text = format!(
            r#"{{"task_id":"b","state":"running","attempt":0,"items":{items},"slices":{slices},"first_seen_ms":1,"changed_ms":1,"reply":{reply}}}"#
        );
        let status: TaskStatus = serde_json::from_str(&text).expect("a status");
        let lines = shown(&status, 1);
        for line in
            ["items        37 of 64 items ended, 2 failed", "slices       1 waiting, 3 running, 4 ended", "results      gpufleet results b"]
        {
            assert!(lines.lines().any(|shown| shown == line), "{line}: {lines}");
        }
    }

    #[test]
    fn raw_bytes_show_as_a_line_for_each_segment() {
        let reply = serde_json::json!({"task_id": "t", "outcome": "succeeded", "result": {"$segment": 0, "dtype": "f32", "shape": [1]}, "attempt": 1,
            "timings": {"waited_ms": 1, "run_ms": 1}, "ended_at_ms": 1});
        let text =
            serde_json::json!({"task_id": "t", "state": "succeeded", "attempt": 1, "first_seen_ms": 1, "changed_ms": 1, "reply": reply})
                .to_string();
        let frame = protocol::frame::of(text.into_bytes(), &protocol::Segments::of(vec![vec![0; 4].into()])).expect("a short one");
        let status = TaskStatus::read(&frame).expect("a status");
        assert_eq!(shown(&status, 1).lines().last(), Some("raw bytes    segment 0: 4 bytes, f32 [1]"));
    }

    #[test]
    fn a_batch_is_as_far_as_its_items_are() {
        let items = ItemCounts { of: 4, done: 1, failed: None };
        let progress = of_batch(Some(items), None).expect("how far it is");
        assert_eq!(how_far(&progress), "25 % (1 of 4 items ended)");
        assert_eq!(of_batch(None, Some(progress.clone())), Some(progress));
    }
}
