//! The rows of the three tables: GPUs, kinds, running tasks.

use std::cmp::Reverse;

use protocol::{
    gpu::GpuView,
    insight::{KindActivity, TaskSummary},
};

use super::{screen::Shot, theme::Tone};
use crate::{
    gpus::{phase, state},
    harmless::harmless_line,
    words::{since, span},
};

/// A table of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Panel {
    Gpus,
    Kinds,
    Tasks,
}

impl Panel {
    pub(super) const ALL: [Self; 3] = [Self::Gpus, Self::Kinds, Self::Tasks];

    /// The one that `Tab` goes to.
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Gpus => Self::Kinds,
            Self::Kinds => Self::Tasks,
            Self::Tasks => Self::Gpus,
        }
    }

    /// The one that shift and `Tab` go to.
    pub(super) const fn previous(self) -> Self {
        self.next().next()
    }

    pub(super) const fn place(self) -> usize {
        match self {
            Self::Gpus => 0,
            Self::Kinds => 1,
            Self::Tasks => 2,
        }
    }

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Gpus => "GPUs",
            Self::Kinds => "Kinds, last 15 minutes",
            Self::Tasks => "Running tasks",
        }
    }

    /// By what its rows can be sorted; the first is how they come.
    pub(super) const fn orders(self) -> &'static [&'static str] {
        match self {
            Self::Gpus => &["number", "slots held", "memory", "utilisation", "temperature", "state"],
            Self::Kinds => &["slot time", "waiting", "failed", "wait p95", "run p95", "name"],
            Self::Tasks => &["longest first", "newest first", "kind", "GPU"],
        }
    }

    pub(super) const fn columns(self) -> &'static [Column] {
        match self {
            Self::Gpus => GPU_COLUMNS,
            Self::Kinds => KIND_COLUMNS,
            Self::Tasks => TASK_COLUMNS,
        }
    }
}

/// A column of a table.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Its letters; the least of them where it grows.
    pub(super) width: u16,
    /// Whether it takes what is left.
    pub(super) grows: bool,
    /// Shown on terminals that have at least so many columns of letters.
    pub(super) from: u16,
    pub(super) is_number: bool,
}

const fn text(title: &'static str, width: u16, from: u16) -> Column {
    Column { title, width, grows: false, from, is_number: false }
}

const fn number(title: &'static str, width: u16, from: u16) -> Column {
    Column { title, width, grows: false, from, is_number: true }
}

const fn growing(title: &'static str, width: u16) -> Column {
    Column { title, width, grows: true, from: 0, is_number: false }
}

const GPU_COLUMNS: &[Column] = &[
    number("#", 3, 0),
    text("GPU", 16, 0),
    text("HOST", 16, 130),
    growing("STATE", 12),
    number("SLOTS", 6, 0),
    number("HAND", 4, 100),
    number("MEM GB", 11, 60),
    number("UTIL%", 5, 60),
    number("W", 5, 70),
    number("°C", 4, 70),
    number("RUN", 4, 0),
    text("RUNS", 30, 160),
];

const KIND_COLUMNS: &[Column] = &[
    growing("KIND", 10),
    number("WAIT", 5, 0),
    number("RUN", 4, 0),
    number("ENDED", 6, 100),
    number("FAIL", 5, 0),
    number("RETRY", 5, 100),
    number("W.P50", 7, 0),
    number("W.P95", 7, 70),
    number("W.P99", 7, 0),
    number("R.P50", 7, 0),
    number("R.P95", 7, 70),
    number("R.P99", 7, 0),
];

const TASK_COLUMNS: &[Column] = &[
    growing("TASK", 16),
    text("KIND", 12, 0),
    number("PRIO", 4, 70),
    text("GPU", 16, 60),
    number("TRY", 3, 70),
    number("WAITED", 8, 90),
    number("RUNS FOR", 8, 0),
    text("GROUP", 16, 120),
];

/// A row of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// By which it is found again when there is a new shot.
    pub(super) id: String,
    pub(super) cells: Vec<String>,
    pub(super) tone: Tone,
}

/// The rows of a panel, sorted by its order of that number.
pub(super) fn rows(shot: &Shot, panel: Panel, order: usize) -> Vec<Row> {
    match panel {
        Panel::Gpus => gpu_rows(shot, order),
        Panel::Kinds => kind_rows(shot, order),
        Panel::Tasks => task_rows(shot, order),
    }
}

/// A number that sorts as its value does.
fn thousandths(value: f64) -> i64 {
    (value * 1_000.0) as i64
}

fn gpu_rows(shot: &Shot, order: usize) -> Vec<Row> {
    let mut views: Vec<(usize, &GpuView)> = shot.gpus.iter().enumerate().collect();
    match order {
        1 => views.sort_by_key(|(_, view)| Reverse(view.held)),
        2 => views.sort_by_key(|(_, view)| Reverse(view.row.sample.memory_used_mb)),
        3 => views.sort_by_key(|(_, view)| Reverse(thousandths(view.row.sample.utilization_percent))),
        4 => views.sort_by_key(|(_, view)| Reverse(thousandths(view.row.sample.temperature_celsius))),
        5 => views.sort_by_key(|(_, view)| (view.eligible, state(view))),
        _ => {}
    }
    views.into_iter().map(gpu_row).collect()
}

fn gpu_row((place, view): (usize, &GpuView)) -> Row {
    let (row, sample) = (&view.row, &view.row.sample);
    let gb = |mb: u64| mb as f64 / 1_000.0;
    let running: Vec<&str> = row.running.iter().map(|task_id| task_id.as_str()).collect();
    let cells = vec![
        place.to_string(),
        row.gpu.gpu_id.to_string(),
        row.host.clone(),
        state(view),
        format!("{}/{}", view.held, row.slots),
        row.waiting.to_string(),
        format!("{:.1}/{:.1}", gb(sample.memory_used_mb), gb(row.gpu.memory_total_mb)),
        format!("{:.0}", sample.utilization_percent),
        format!("{:.0}", sample.power_watts),
        format!("{:.0}", sample.temperature_celsius),
        running.len().to_string(),
        running.join(" "),
    ];
    Row { id: row.gpu.gpu_id.to_string(), cells: safe(cells), tone: gpu_tone(view) }
}

fn gpu_tone(view: &GpuView) -> Tone {
    use protocol::gpu::WorkerPhase::Serving;
    match view {
        _ if !view.row.health.takes_tasks() || !view.row.consuming => Tone::Bad,
        _ if phase(view) != Serving => Tone::Warning,
        _ if !view.row.health_reason.is_empty() || !view.row.sample.throttled_by.is_empty() => Tone::Warning,
        _ => Tone::Plain,
    }
}

fn kind_rows(shot: &Shot, order: usize) -> Vec<Row> {
    let mut kinds: Vec<&KindActivity> = shot.overview.kinds.iter().collect();
    match order {
        1 => kinds.sort_by_key(|kind| Reverse(kind.waiting)),
        2 => kinds.sort_by_key(|kind| Reverse(kind.failed)),
        3 => kinds.sort_by_key(|kind| Reverse(thousandths(kind.wait_p95_ms))),
        4 => kinds.sort_by_key(|kind| Reverse(thousandths(kind.run_p95_ms))),
        5 => kinds.sort_by(|one, other| one.kind.cmp(&other.kind)),
        _ => {}
    }
    kinds.into_iter().map(kind_row).collect()
}

fn kind_row(kind: &KindActivity) -> Row {
    let quantiles = [kind.wait_p50_ms, kind.wait_p95_ms, kind.wait_p99_ms, kind.run_p50_ms, kind.run_p95_ms, kind.run_p99_ms].map(span);
    let counts = [kind.waiting, kind.running, kind.ended, kind.failed, kind.retried].map(|count| count.to_string());
    let cells: Vec<String> = [kind.kind.to_string()].into_iter().chain(counts).chain(quantiles).collect();
    let tone = if kind.failed > 0 { Tone::Warning } else { Tone::Plain };
    Row { id: kind.kind.to_string(), cells: safe(cells), tone }
}

fn task_rows(shot: &Shot, order: usize) -> Vec<Row> {
    let Ok(page) = &shot.running else { return Vec::new() };
    let mut tasks: Vec<&TaskSummary> = page.tasks.iter().collect();
    match order {
        1 => tasks.sort_by_key(|task| Reverse(task.began_ms)),
        2 => tasks.sort_by(|one, other| one.kind.cmp(&other.kind)),
        3 => tasks.sort_by(|one, other| one.gpu_id.cmp(&other.gpu_id)),
        _ => tasks.sort_by_key(|task| task.began_ms),
    }
    tasks.into_iter().map(|task| task_row(task, shot.overview.at_ms)).collect()
}

fn task_row(task: &TaskSummary, now_ms: u64) -> Row {
    let cells = vec![
        task.task_id.to_string(),
        task.kind.as_ref().map(ToString::to_string).unwrap_or_default(),
        task.priority.map(|priority| priority.to_string()).unwrap_or_default(),
        task.gpu_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        task.attempt.to_string(),
        task.waited_ms.map(span).unwrap_or_default(),
        task.began_ms.map(|at_ms| since(at_ms, now_ms)).unwrap_or_default(),
        task.group.as_ref().map(ToString::to_string).unwrap_or_default(),
    ];
    let tone = if task.cancel_asked || task.attempt > 1 { Tone::Warning } else { Tone::Plain };
    Row { id: task.task_id.to_string(), cells: safe(cells), tone }
}

fn safe(cells: Vec<String>) -> Vec<String> {
    cells.into_iter().map(|cell| harmless_line(&cell).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_fit_80_letters() {
        for panel in Panel::ALL {
            let shown: Vec<&Column> = panel.columns().iter().filter(|column| column.from <= 80).collect();
            let width: u16 = shown.iter().map(|column| column.width + 1).sum::<u16>() - 1;
            assert!(width <= 78, "{panel:?}: {width}");
        }
    }

    #[test]
    fn tab_goes_round() {
        assert!(Panel::ALL.iter().all(|panel| panel.next().previous() == *panel && panel.next() != *panel));
        assert_eq!(Panel::ALL.map(Panel::place), [0, 1, 2]);
    }
}
