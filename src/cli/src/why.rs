//! `gpufleet why`: what a task waits for, and when it will probably run.

use std::process::ExitCode;

use protocol::{
    TaskId,
    insight::{GpuObstacle, Why},
};

use crate::{arguments::Common, fault::Fault, fleet::Fleet, output, words};

/// The least letters of a sentence in the table, however narrow the terminal is.
const WORDS_MIN: usize = 24;
/// The longest id of a GPU in the table.
const GPU_MAX: usize = 20;

/// Says why a task is where it is.
pub(crate) async fn run(common: &Common, task_id: &TaskId) -> Result<ExitCode, Fault> {
    let fleet = Fleet::to_observe(common).await?;
    let why = fleet.why(task_id).await;
    fleet.close().await;
    let why = why?.ok_or_else(|| nobody_knows(task_id))?;
    if common.json {
        output::json(&why)?;
    } else {
        output::line(&told(&why, output::width()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What to say of a task that neither the store nor the journal has.
pub(crate) fn nobody_knows(task_id: &TaskId) -> Fault {
    Fault::NotFound(format!(
        "nobody knows of a task {task_id}: it was never submitted, waits in a queue where no worker has seen it yet, or was forgotten (journal.age_max_ms, journal.tasks_max)"
    ))
}

/// The sentence, who is before it, the forecast, and a row for each GPU.
fn told(why: &Why, width: usize) -> String {
    let mut text = lines(why).join("\n");
    if !why.gpus.is_empty() {
        text.push('\n');
        text.push_str(&output::table_of_sentences(&["GPU", "FITS", "WHAT KEEPS IT FROM TAKING IT NOW"], &rows(&why.gpus, width)));
    }
    if why.more_gpus > 0 {
        text.push_str(&format!("\nand {}", words::count(why.more_gpus, "more GPU")));
    }
    text
}

/// What is said of a task, but for the GPUs.
pub(crate) fn lines(why: &Why) -> Vec<String> {
    let Why { task_id, state, sentence, ahead, first_ahead, begins_in_ms, forecast, .. } = why;
    let mut lines = vec![format!("task {task_id} is {}: {sentence}", state.name())];
    if let Some(ahead) = ahead.filter(|ahead| *ahead > 0) {
        let named: Vec<&str> = first_ahead.iter().map(TaskId::as_str).collect();
        let more = if u64::try_from(named.len()).unwrap_or(u64::MAX) < ahead { ", …" } else { "" };
        let named = if named.is_empty() { String::new() } else { format!(": {}{more}", named.join(", ")) };
        lines.push(format!("before it: {}{named}", words::count(ahead, "task")));
    } else if *ahead == Some(0) {
        lines.push("before it: no task".to_owned());
    }
    match (begins_in_ms, forecast.as_str()) {
        (Some(ms), "") => lines.push(format!("begins: probably in {}", words::span(*ms))),
        (Some(ms), forecast) => lines.push(format!("begins: probably in {} ({forecast})", words::span(*ms))),
        (None, "") => {}
        (None, forecast) => lines.push(format!("begins: not known; {forecast}")),
    }
    lines
}

fn rows(gpus: &[GpuObstacle], width: usize) -> Vec<Vec<String>> {
    let id = |gpu: &GpuObstacle| output::cut(gpu.gpu_id.as_str(), GPU_MAX);
    let widest = gpus.iter().map(|gpu| id(gpu).chars().count()).max().unwrap_or(0).max("GPU".len());
    // A frame, two spaces around each cell, two lines between three columns, and the column of "FITS".
    let left = width.saturating_sub(widest + "FITS".len() + 2 + 3 * 2 + 2).max(WORDS_MIN);
    let fits = |fits: bool| if fits { "yes" } else { "no" };
    gpus.iter().map(|gpu| vec![id(gpu), fits(gpu.fits).to_owned(), output::cut(&gpu.words, left)]).collect()
}

#[cfg(test)]
mod tests {
    use protocol::{GpuId, TaskState, insight::Obstacle};

    use super::*;

    fn why() -> Why {
        let gpu = |id: &str, obstacle, words: &str| GpuObstacle {
            gpu_id: GpuId::new(id).unwrap(),
            fits: obstacle != Obstacle::TooSmall,
            obstacle,
            words: words.to_owned(),
        };
        Why {
            task_id: TaskId::new("order-17").unwrap(),
            state: TaskState::Waiting,
            sentence: "it waits for a slot".to_owned(),
            ahead: Some(12),
            first_ahead: vec![TaskId::new("a").unwrap(), TaskId::new("b").unwrap()],
            begins_in_ms: Some(4_200.0),
            forecast: "by the run times of embed".to_owned(),
            gpus: vec![
                gpu("GPU-1a2b3c4d-5566-7788-99aa-bbccddeeff00", Obstacle::Full, "8 of 8 slots are held"),
                gpu("sim-1", Obstacle::TooSmall, &"it has 24,000 MB and the task needs 80,000 MB, ".repeat(4)),
            ],
            more_gpus: 3,
        }
    }

    #[test]
    fn a_task_that_waits_is_told_with_who_is_before_it_and_when_it_begins() {
        let text = told(&why(), 80);
        for part in [
            "task order-17 is waiting: it waits for a slot",
            "before it: 12 tasks: a, b, …",
            "begins: probably in 4.2 s (by the run times of embed)",
            "8 of 8 slots are held",
            "and 3 more GPUs",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let bare = Why {
            ahead: None,
            first_ahead: Vec::new(),
            begins_in_ms: None,
            forecast: String::new(),
            gpus: Vec::new(),
            more_gpus: 0,
            ..why()
        };
        assert_eq!(told(&bare, 80), "task order-17 is waiting: it waits for a slot");
        let unsure = Why { ahead: Some(0), forecast: "no run of embed has ended yet".to_owned(), ..bare };
        assert_eq!(lines(&unsure)[1..], ["before it: no task", "begins: not known; no run of embed has ended yet"]);
    }
}
