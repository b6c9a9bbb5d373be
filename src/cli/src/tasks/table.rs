//! The table of `gpufleet tasks ls`, as wide as there is place for.

use protocol::{
    TaskState,
    insight::{TaskPage, TaskSummary},
};

use crate::{output, words};

const HEADER: [&str; 8] = ["TASK", "STATE", "KIND", "PRIO", "GPU", "TRY", "AGE", "WHAT"];
/// The longest id of a task where place is short.
const TASK_MAX: usize = 20;
/// The longest kind, and the longest id of a GPU, where place is short.
const NAME_MAX: usize = 10;
/// Below so many columns of letters there is no place for priorities and attempts.
const WIDE: usize = 100;
/// The least letters of the last column.
const WHAT_MIN: usize = 12;

/// The table of some tasks, and how many there are in all.
pub(super) fn of(page: &TaskPage, now_ms: u64, width: usize) -> String {
    let counts = counted(page, now_ms);
    if page.tasks.is_empty() {
        return counts;
    }
    let is_wide = width >= WIDE;
    let shown = |column: &usize| is_wide || !["PRIO", "TRY"].contains(&HEADER[*column]);
    let places: Vec<usize> = (0..HEADER.len()).filter(shown).collect();
    let header: Vec<&str> = places.iter().map(|place| HEADER[*place]).collect();
    let mut rows: Vec<Vec<String>> = page.tasks.iter().map(|task| row(task, now_ms)).collect();
    for row in &mut rows {
        if !is_wide {
            row[0] = output::cut(&row[0], TASK_MAX);
            row[2] = output::cut(&row[2], NAME_MAX);
            row[4] = output::cut(&row[4], NAME_MAX);
        }
        *row = places.iter().map(|place| std::mem::take(&mut row[*place])).collect();
    }
    cut_last(&mut rows, &header, width);
    format!("{}\n{counts}", output::table_of_sentences(&header, &rows))
}

fn cut_last(rows: &mut [Vec<String>], header: &[&str], width: usize) {
    let last = header.len() - 1;
    let widest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(header[column].len());
    let taken: usize = (0..last).map(widest).sum();
    // A frame, two spaces around each cell, and a line between two columns.
    let left = width.saturating_sub(taken + 2 * header.len() + last + 2).max(WHAT_MIN);
    for row in rows {
        row[last] = output::cut(&row[last], left);
    }
}

fn row(task: &TaskSummary, now_ms: u64) -> Vec<String> {
    vec![
        task.task_id.to_string(),
        task.state.name().to_owned(),
        task.kind.as_ref().map(ToString::to_string).unwrap_or_default(),
        task.priority.map(|priority| priority.to_string()).unwrap_or_default(),
        task.gpu_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        if task.attempt > 0 { task.attempt.to_string() } else { String::new() },
        words::since(task.first_seen_ms, now_ms),
        what(task, now_ms),
    ]
}

/// What is to be said of a task beside its state.
pub(super) fn what(task: &TaskSummary, now_ms: u64) -> String {
    let mut parts = Vec::new();
    if task.cancel_asked && !task.state.ended() {
        parts.push("its end was asked for".to_owned());
    }
    // What went wrong comes first: the end may be cut.
    parts.extend(task.error.as_ref().map(|error| format!("{}: {}", error.code, error.message)));
    match task.state {
        TaskState::Delayed => parts.extend(task.not_before_ms.map(|at| format!("due in {}", words::since(now_ms, at)))),
        TaskState::Waiting => parts.extend(task.waiting_for.clone()),
        TaskState::Running => parts.extend(task.began_ms.map(|at| format!("for {}", words::since(at, now_ms)))),
        _ => parts.extend(task.run_ms.map(|ms| format!("ran {}", words::span(ms)))),
    }
    if task.dead {
        parts.push("a dead letter".to_owned());
    }
    parts.join("; ")
}

/// How many tasks there are beyond those that are shown, and how far back the index reaches.
fn counted(page: &TaskPage, now_ms: u64) -> String {
    let since = page.since_ms.map(|since_ms| format!(" of the last {}", words::since(since_ms, now_ms))).unwrap_or_default();
    let indexed = words::count(page.indexed, "task");
    let shown = u64::try_from(page.tasks.len()).unwrap_or(u64::MAX);
    match page.matching {
        0 => format!("no task passes the filter; {indexed}{since} are remembered"),
        matching if matching > shown => {
            format!("{shown} of {matching} that pass the filter (--limit shows more); {indexed}{since} are remembered")
        }
        matching => format!("{} of {indexed}{since}", words::count(matching, "task")),
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Kind, TaskError, TaskId};
    use serde_json::json;

    use super::*;

    fn task(id: &str, state: &str) -> TaskSummary {
        let text = json!({"task_id": id, "state": state, "pool": "default", "attempt": 1, "first_seen_ms": 1_000, "changed_ms": 2_000});
        serde_json::from_value(text).expect("a summary")
    }

    fn page(tasks: Vec<TaskSummary>, matching: u64) -> TaskPage {
        TaskPage { tasks, next: None, matching, indexed: 500, since_ms: Some(1_000) }
    }

    #[test]
    fn the_table_is_no_wider_than_there_is_place_for() {
        let mut long = task(&"x".repeat(128), "failed");
        long.kind = Some("a-kind-with-a-long-name".parse::<Kind>().unwrap());
        long.error = Some(TaskError::new("broken", "it broke in a very long way ".repeat(5)));
        for width in [80, 100, 160] {
            let text = of(&page(vec![long.clone(), task("b", "running")], 2), 5_000, width);
            // An id stays whole where there is place for all columns.
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(width >= 100 || widest <= width, "{widest}: {text}");
            assert!(text.contains("failed") && text.contains("broken:"), "{text}");
        }
    }

    #[test]
    fn what_a_task_does_depends_on_its_state() {
        let mut running = task("a", "running");
        running.began_ms = Some(2_000);
        running.cancel_asked = true;
        assert_eq!(what(&running, 5_000), "its end was asked for; for 3.0 s");
        let mut delayed = task("a", "delayed");
        delayed.not_before_ms = Some(9_000);
        assert_eq!(what(&delayed, 5_000), "due in 4.0 s");
        let mut failed = task("a", "failed");
        (failed.run_ms, failed.dead, failed.error) = (Some(12.0), true, Some(TaskError::new("broken", "as asked")));
        assert_eq!(what(&failed, 5_000), "broken: as asked; ran 12 ms; a dead letter");
    }

    #[test]
    fn the_last_line_says_how_many_there_are() {
        let some = page(vec![task("a", "waiting")], 7);
        assert!(
            of(&some, 61_000, 80)
                .ends_with("1 of 7 that pass the filter (--limit shows more); 500 tasks of the last 60.0 s are remembered")
        );
        assert_eq!(of(&page(Vec::new(), 0), 61_000, 80), "no task passes the filter; 500 tasks of the last 60.0 s are remembered");
    }

    #[test]
    fn a_hostile_id_cannot_command_the_terminal() {
        let hostile = TaskId::read("a").unwrap();
        let mut shown = task(hostile.as_str(), "waiting");
        shown.waiting_for = Some("\x1b[2Jnothing\nat all".to_owned());
        let text = of(&page(vec![shown], 1), 5_000, 160);
        assert!(!text.contains('\x1b') && text.contains("\\u001b[2Jnothing at all"), "{text}");
    }
}
