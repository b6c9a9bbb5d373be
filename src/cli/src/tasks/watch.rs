//! `gpufleet tasks watch`: the tasks again every second on a terminal; else a line for each change.

use std::{collections::HashMap, process::ExitCode, time::Duration};

use protocol::{
    TaskId, TaskState,
    insight::{TaskFilter, TaskPage, TaskSummary},
};
use tokio::time::sleep;

use super::{filter_of, some, table};
use crate::{
    arguments::{Common, TaskFilterFlags},
    fault::Fault,
    fleet::Fleet,
    output::{self, Printed},
    words,
};

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Rows of a terminal, where it does not tell.
const ROWS: usize = 24;
/// Rows of the table's frame and of the line below it.
const FRAME: usize = 6;

/// Shows or tells until it is interrupted, or nobody reads any more.
pub(super) async fn run(common: &Common, fleet: &Fleet, (flags, limit): (&TaskFilterFlags, u32)) -> Result<ExitCode, Fault> {
    let filter = filter_of(fleet, flags).await?;
    let is_shown = output::is_shown_to_a_person() && !common.json;
    let mut watched = Watched::new(&filter);
    let mut away = None;
    let mut is_first = true;
    loop {
        let asked = if is_shown { filter.clone() } else { watched.wider() };
        match some(fleet, &asked, limit).await {
            Ok(page) => {
                away = None;
                let printed = if is_shown { show(page) } else { tell(common, watched.changes(page)) };
                match printed {
                    // Nobody is there to tell more to, which is how this ends.
                    Err(unprinted) if unprinted.is_reader_gone() => return Ok(ExitCode::SUCCESS),
                    printed => printed?,
                }
            }
            // A server that is away for a while is told once, and ends nothing; at the start it ends it.
            Err(Fault::Unavailable(why)) if !is_first => {
                if away.as_ref() != Some(&why) {
                    output::note(&why);
                    away = Some(why);
                }
            }
            Err(fault) => return Err(fault),
        }
        is_first = false;
        sleep(LOOK_AGAIN).await;
    }
}

fn show(mut page: TaskPage) -> Printed {
    page.tasks.truncate(output::height().unwrap_or(ROWS).saturating_sub(FRAME).max(1));
    output::page(&table::of(&page, now_ms(), output::width()))
}

fn tell(common: &Common, changed: Vec<TaskSummary>) -> Printed {
    let now_ms = now_ms();
    for task in &changed {
        if common.json { output::json(task)? } else { output::line(&line(task, now_ms))? }
    }
    Ok(())
}

fn now_ms() -> u64 {
    service::system_environment().clock.now_ms()
}

/// What became of a task, in a line.
fn line(task: &TaskSummary, now_ms: u64) -> String {
    let kind = task.kind.as_ref().map(|kind| format!(" {kind}")).unwrap_or_default();
    let gpu = task.gpu_id.as_ref().map(|gpu_id| format!(" on {gpu_id}")).unwrap_or_default();
    let what = match table::what(task, now_ms) {
        what if what.is_empty() => what,
        what => format!(": {what}"),
    };
    let when = words::time_of_day(task.changed_ms);
    output::cut(&format!("{when} {} {}{kind}{gpu}{what}", task.task_id, task.state.name()), usize::MAX)
}

/// What was told of tasks. A task that leaves the states that are asked for is told once more.
struct Watched {
    filter: TaskFilter,
    told: HashMap<TaskId, Told>,
}

/// What of a task makes news.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    state: TaskState,
    attempt: u32,
    waiting_for: Option<String>,
    dead: bool,
    cancel_asked: bool,
}

impl Watched {
    fn new(filter: &TaskFilter) -> Self {
        Self { filter: filter.clone(), told: HashMap::new() }
    }

    /// The filter without states, so that a task is also seen when it leaves them.
    fn wider(&self) -> TaskFilter {
        TaskFilter { state: Vec::new(), ..self.filter.clone() }
    }

    /// Those of which there is news, in the order in which they changed. What is not looked at any more is forgotten.
    fn changes(&mut self, page: TaskPage) -> Vec<TaskSummary> {
        let mut seen = HashMap::new();
        let mut news = Vec::new();
        for task in page.tasks {
            let TaskSummary { state, attempt, dead, cancel_asked, .. } = task;
            let now = Told { state, attempt, waiting_for: task.waiting_for.clone(), dead, cancel_asked };
            let before = self.told.get(&task.task_id);
            let is_in = self.filter.state.is_empty() || self.filter.state.contains(&state);
            let was_in = before.is_some();
            let is_news = before != Some(&now) && (is_in || was_in);
            if is_in {
                seen.insert(task.task_id.clone(), now);
            }
            if is_news {
                news.push(task);
            }
        }
        self.told = seen;
        news.sort_by_key(|task| task.changed_ms);
        news
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(id: &str, state: &str, changed_ms: u64) -> TaskSummary {
        let text = json!({"task_id": id, "state": state, "pool": "default", "attempt": 0, "first_seen_ms": 1, "changed_ms": changed_ms});
        serde_json::from_value(text).expect("a summary")
    }

    fn told(watched: &mut Watched, tasks: Vec<TaskSummary>) -> Vec<String> {
        let page = TaskPage { tasks, ..TaskPage::default() };
        watched.changes(page).iter().map(|task| format!("{} {}", task.task_id, task.state.name())).collect()
    }

    #[test]
    fn a_change_is_told_once_and_the_earlier_one_first() {
        let mut watched = Watched::new(&TaskFilter::default());
        assert_eq!(told(&mut watched, vec![task("b", "waiting", 20), task("a", "waiting", 10)]), ["a waiting", "b waiting"]);
        assert!(told(&mut watched, vec![task("b", "waiting", 20), task("a", "waiting", 10)]).is_empty());
        assert_eq!(told(&mut watched, vec![task("b", "running", 30), task("a", "waiting", 10)]), ["b running"]);
    }

    #[test]
    fn a_task_that_leaves_the_states_that_are_asked_for_is_told_once_more() {
        let mut watched = Watched::new(&TaskFilter { state: vec![TaskState::Running], ..TaskFilter::default() });
        assert!(told(&mut watched, vec![task("a", "waiting", 10)]).is_empty());
        assert_eq!(told(&mut watched, vec![task("a", "running", 20)]), ["a running"]);
        assert_eq!(told(&mut watched, vec![task("a", "succeeded", 30)]), ["a succeeded"]);
        assert!(told(&mut watched, vec![task("a", "succeeded", 30)]).is_empty());
    }

    #[test]
    fn a_line_is_one_line_whatever_its_texts_hold() {
        let mut waiting = task("a", "waiting", 1_777_896_184_512);
        waiting.waiting_for = Some("line\none\x1b[31m".to_owned());
        assert_eq!(line(&waiting, 0), "12:03:04.512 a waiting: line one\\u001b[31m");
    }
}
