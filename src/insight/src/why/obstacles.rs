//! What keeps each GPU from taking a task.

use gpu_table::eligibility::{has_memory_now, is_ready, is_within_thresholds};
use protocol::{
    GpuId, GpuRow, Health, Kind, Needs,
    claim::Settings,
    gpu::GpuView,
    insight::{GpuObstacle, Obstacle},
};

use super::words::{count, is_or_are, number};
use crate::Observed;

/// How many kinds of a GPU are named.
const KINDS_NAMED: usize = 8;

/// What a task asks for.
pub(super) struct Asked<'a> {
    /// `None`: it is not known, and in nobody's way.
    pub(super) kind: Option<&'a Kind>,
    pub(super) needs: &'a Needs,
    pub(super) only: Option<&'a GpuId>,
}

/// What keeps each living GPU from taking the task: those first that fit, and of them those first that take it.
pub(super) fn obstacles(observed: &Observed<'_>, asked: &Asked<'_>) -> Vec<GpuObstacle> {
    let mut found: Vec<GpuObstacle> = observed.gpus.iter().map(|view| of_gpu(view, observed.settings, asked)).collect();
    found.sort_by(|one, other| {
        let rank = |gpu: &GpuObstacle| (!gpu.fits, gpu.obstacle != Obstacle::None);
        rank(one).cmp(&rank(other)).then_with(|| one.gpu_id.cmp(&other.gpu_id))
    });
    found
}

fn of_gpu(view: &GpuView, settings: &Settings, asked: &Asked<'_>) -> GpuObstacle {
    let never = never(&view.row, settings, asked);
    let fits = never.is_none();
    let (obstacle, words) =
        never.or_else(|| now(view, settings, asked)).unwrap_or((Obstacle::None, "takes it as soon as it is delivered there".to_owned()));
    GpuObstacle { gpu_id: view.row.gpu.gpu_id.clone(), fits, obstacle, words }
}

/// Why it could not run the task, whatever happens.
fn never(row: &GpuRow, settings: &Settings, asked: &Asked<'_>) -> Option<(Obstacle, String)> {
    if let Some(only) = asked.only.filter(|only| **only != row.gpu.gpu_id) {
        return Some((Obstacle::OtherGpu, format!("the task names GPU {only}")));
    }
    if let Some(kind) = asked.kind.filter(|kind| !row.kinds.contains(kind) && !row.kinds_down.contains_key(*kind)) {
        return Some((Obstacle::Kind, format!("its worker does not run kind {kind}; it runs {}", kinds(row))));
    }
    let usable_mb = usable_mb(row, settings);
    if let Some(memory_mb) = asked.needs.memory_mb.filter(|memory_mb| *memory_mb as f64 > usable_mb) {
        let (needed, usable, total) = (number(memory_mb), number(usable_mb as u64), number(row.gpu.memory_total_mb));
        return Some((Obstacle::TooSmall, format!("needs {needed} MB, and tasks may use {usable} MB of its {total} MB")));
    }
    let lowest = asked.needs.compute_capability.filter(|lowest| row.gpu.compute_capability < *lowest)?;
    let has = String::from(row.gpu.compute_capability);
    Some((Obstacle::Capability, format!("needs compute capability {}, and it has {has}", String::from(lowest))))
}

/// What is in the way now, and may pass.
fn now(view: &GpuView, settings: &Settings, asked: &Asked<'_>) -> Option<(Obstacle, String)> {
    let row = &view.row;
    if let Some((kind, reason)) =
        asked.kind.filter(|kind| !row.kinds.contains(kind)).and_then(|kind| Some((kind, row.kinds_down.get(kind)?)))
    {
        return Some((Obstacle::KindDown, format!("kind {kind} is down there: {reason}")));
    }
    if !is_ready(row, settings) {
        return Some(not_ready(row));
    }
    if !row.consuming {
        return Some((Obstacle::NotConsuming, "its worker does not reach the broker".to_owned()));
    }
    if view.held >= row.slots {
        let (slots, held) = (u64::from(row.slots), u64::from(view.held));
        return Some((
            Obstacle::Full,
            format!("{} of its {} {} busy", number(held.min(slots)), count(slots, "slot"), is_or_are(held.min(slots))),
        ));
    }
    if !is_within_thresholds(row, settings) {
        return Some((Obstacle::Threshold, over(row, settings)));
    }
    let memory_mb = asked.needs.memory_mb.filter(|_| !has_memory_now(row, asked.needs, settings))?;
    let free_mb = (usable_mb(row, settings) as u64).saturating_sub(row.memory_in_the_way_mb());
    let (needed, free, total) = (number(memory_mb), number(free_mb), number(row.gpu.memory_total_mb));
    Some((Obstacle::Memory, format!("needs {needed} MB, {free} MB are free of {total} MB")))
}

/// Why its worker takes no tasks at all.
fn not_ready(row: &GpuRow) -> (Obstacle, String) {
    if row.stopping {
        return (Obstacle::Stopping, "its worker is stopping".to_owned());
    }
    if row.health.takes_tasks() {
        return (Obstacle::Draining, "an operator drains it".to_owned());
    }
    let state = if row.health == Health::Probation { "on probation" } else { row.health.name() };
    let reason = if row.health_reason.is_empty() { String::new() } else { format!(": {}", row.health_reason) };
    (Obstacle::Health, format!("it is {state}{reason}"))
}

/// Which threshold it is over.
fn over(row: &GpuRow, settings: &Settings) -> String {
    let (used_mb, total_mb) = (row.memory_in_the_way_mb(), row.gpu.memory_total_mb);
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    if used_mb as f64 >= usable_mb(row, settings) {
        let threshold = percent(settings.memory_threshold);
        return format!("{} MB of its {} MB are in use, and the threshold is {threshold}", number(used_mb), number(total_mb));
    }
    let (foreign, threshold) = (percent(row.foreign_utilization_percent / 100.0), percent(settings.utilization_threshold));
    format!("others use {foreign} of its time, and the threshold is {threshold}")
}

/// The memory of a GPU that tasks may use.
pub(super) fn usable_mb(row: &GpuRow, settings: &Settings) -> f64 {
    settings.memory_threshold * row.gpu.memory_total_mb as f64
}

fn kinds(row: &GpuRow) -> String {
    let named: Vec<&str> = row.kinds.iter().take(KINDS_NAMED).map(Kind::as_str).collect();
    let more = if row.kinds.len() > named.len() { ", …" } else { "" };
    if named.is_empty() { "none now".to_owned() } else { format!("{}{more}", named.join(", ")) }
}
