//! Slots are free, and the memory that waiting tasks need is not.

use gpu_table::eligibility;
use protocol::{Kind, Needs, gpu::GpuView, insight::Holdup};

use super::super::{
    CHEAPER, Found,
    words::{count, limited, measured, verb},
};
use crate::{Observed, load::Load};

/// From this share of the slots on, or of the waiting tasks, it is a cause.
const SHARE: f64 = 0.2;

/// Tasks wait for memory while slots are free.
pub(in super::super) fn memory(observed: &Observed<'_>) -> Option<Found> {
    let load = Load::of(observed);
    if !load.is_late(observed.scaling.wait_objective_ms) {
        return None;
    }
    let free: Vec<&GpuView> = observed.gpus.iter().filter(|view| has_free_slots(observed, view)).collect();
    let free_count: u64 = free.iter().map(|view| free_slots(view)).sum();
    let kept_out = kept_out(observed, &free);
    let full_slots: u64 = free.iter().filter(|view| is_full_of_own(observed, view)).map(|view| free_slots(view)).sum();
    let all_slots: u64 = observed.gpus.iter().map(crate::load::slots).sum();
    let share_of_tasks = kept_out as f64 / load.waiting.max(1) as f64;
    let share_of_slots = full_slots as f64 / all_slots.max(1) as f64;
    let share = share_of_tasks.max(share_of_slots);
    if free_count == 0 || share < SHARE {
        return None;
    }
    let memory_free_mb = free.iter().map(|view| free_mb(observed, view)).max().unwrap_or(0);
    let most_mb = observed.activity.waiting_memory.keys().map(|(_, memory_mb)| *memory_mb).max().unwrap_or(0);
    let sentence = format!(
        "{} {} free and the memory for {} that {} is not, at most {memory_free_mb} MB on a GPU: fewer models or tensors kept, smaller tasks, or GPUs with more memory.",
        count(free_count, "slot"),
        verb(free_count, "is", "are"),
        count(if kept_out > 0 { kept_out } else { load.waiting }, "task"),
        verb(if kept_out > 0 { kept_out } else { load.waiting }, "waits", "wait"),
    );
    let evidence = vec![
        limited("free slots", free_count as f64, "slots", 0.0),
        limited("waiting tasks whose memory is free on no GPU with a free slot", kept_out as f64, "tasks", SHARE * load.waiting as f64),
        measured("most memory that is free on a GPU with a free slot", memory_free_mb as f64, "MB"),
        measured("most memory that a waiting task needs", most_mb as f64, "MB"),
        limited("free slots of GPUs that tasks' memory fills", full_slots as f64, "slots", SHARE * all_slots as f64),
    ];
    Some(Found { holdup: Holdup::Memory, weight: share + CHEAPER, sentence, evidence })
}

/// Whether a GPU would take a task but for memory.
fn has_free_slots(observed: &Observed<'_>, view: &GpuView) -> bool {
    eligibility::is_ready(&view.row, observed.settings) && view.row.consuming && !view.draining && free_slots(view) > 0
}

fn free_slots(view: &GpuView) -> u64 {
    u64::from(view.row.slots.saturating_sub(view.held))
}

/// Whether its own tasks, models and tensors fill its memory up to the threshold.
fn is_full_of_own(observed: &Observed<'_>, view: &GpuView) -> bool {
    view.held > 0 && free_mb(observed, view) == 0
}

/// The memory that a task could have now, in MB.
fn free_mb(observed: &Observed<'_>, view: &GpuView) -> u64 {
    let usable_mb = (view.row.gpu.memory_total_mb as f64 * observed.settings.memory_threshold) as u64;
    usable_mb.saturating_sub(view.row.memory_in_the_way_mb())
}

/// How many waiting tasks find a GPU with a free slot that has their kind, and none with their memory. Those that fit no GPU's memory at all wait for another one, not for memory.
fn kept_out(observed: &Observed<'_>, free: &[&GpuView]) -> u64 {
    let kept_out = |kind: &Kind, memory_mb: u64| {
        let needs = Needs { memory_mb: Some(memory_mb), ..Needs::default() };
        let serving = || free.iter().filter(|view| view.row.kinds.contains(kind));
        let ever = serving().any(|view| memory_mb as f64 <= view.row.gpu.memory_total_mb as f64 * observed.settings.memory_threshold);
        ever && !serving().any(|view| eligibility::has_memory_now(&view.row, &needs, observed.settings))
    };
    let needs = observed.activity.waiting_memory.iter();
    needs.filter(|((kind, memory_mb), _)| kept_out(kind, *memory_mb)).map(|(_, tasks)| tasks).sum()
}
