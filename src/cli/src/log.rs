//! `gpufleet log`: the steps of a task's life.

mod told;

use std::process::ExitCode;

use protocol::{TaskId, TaskStep, insight::TaskLog};

use crate::{arguments::Common, fault::Fault, fleet::Fleet, output, why::nobody_knows, words};

/// Shows them, the oldest first.
pub(crate) async fn run(common: &Common, task_id: &TaskId) -> Result<ExitCode, Fault> {
    let log = Fleet::to_ask(common)?.log(task_id).await?.ok_or_else(|| nobody_knows(task_id))?;
    if common.json {
        output::json(&log)?;
    } else {
        output::line(&shown(&log))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each step: when, how long after the one before, and what happened.
fn shown(log: &TaskLog) -> String {
    let TaskLog { task_id, steps, forgotten } = log;
    let begun = steps.first().map(|step| format!(", from {} UTC", words::date_and_time(step.at_ms))).unwrap_or_default();
    let mut lines = vec![format!("task {task_id}: {}{begun}", words::count(u64::try_from(steps.len()).unwrap_or(u64::MAX), "step"))];
    if *forgotten > 0 {
        lines.push(format!("{:<12} {:>9}  {} before these were forgotten", "…", "", words::count(*forgotten, "step")));
    }
    let mut before: Option<&TaskStep> = None;
    for step in steps {
        let delta = before.map_or_else(String::new, |before| format!("+{}", words::since(before.at_ms, step.at_ms)));
        let of_slice = step.task_id.as_ref().filter(|id| *id != task_id).map(|id| format!("{id}: ")).unwrap_or_default();
        let words = told::in_words(step);
        lines.push(format!("{} {delta:>9}  {}", words::time_of_day(step.at_ms), output::cut(&format!("{of_slice}{words}"), usize::MAX)));
        before = Some(step);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use protocol::{PoolName, StepName};

    use super::*;

    #[test]
    fn each_step_shows_when_it_was_and_how_long_after_the_one_before() {
        let task_id = TaskId::new("order-17").unwrap();
        let step = |name, at_ms| TaskStep::new(name, task_id.clone(), PoolName::default(), at_ms);
        let slice = TaskStep { task_id: Some(TaskId::read("order-17{0..4}").unwrap()), ..step(StepName::Began, 1_777_896_186_512) };
        let log = TaskLog { task_id: task_id.clone(), steps: vec![step(StepName::Submitted, 1_777_896_184_512), slice], forgotten: 2 };
        let lines: Vec<String> = shown(&log).lines().map(ToOwned::to_owned).collect();
        assert_eq!(
            lines,
            [
                "task order-17: 2 steps, from 2026-05-04 12:03:04.512 UTC",
                "…                       2 steps before these were forgotten",
                "12:03:04.512            submitted",
                "12:03:06.512    +2.0 s  order-17{0..4}: began",
            ]
        );
    }
}
