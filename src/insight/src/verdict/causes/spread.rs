//! How the work is spread: over GPUs, over kinds, over priorities.

use std::cmp::Reverse;

use gpu_table::eligibility;
use protocol::{Kind, Needs, gpu::GpuView, insight::Holdup};

use super::{
    super::{
        CHEAPER, Found,
        words::{count, duration, limited, measured, percent, verb},
    },
    BUSY,
};
use crate::{
    Observed, PriorityNumbers,
    load::{self, Load},
};

/// A GPU with at most this share of its slots held is idle.
const IDLE: f64 = 0.25;
/// From this share of the slots on, idle ones are a cause.
const IDLE_SHARE: f64 = 0.2;
/// From this share of the slot time on a kind has most of it.
const ONE_KIND: f64 = 0.6;
/// From this share of the window's slot time on what ended says who used it; below, what runs now does.
const TOLD_SHARE: f64 = 0.3;
/// The longest waits of a starving priority are this multiple of the objective.
const STARVES_AFTER: u64 = 2;
/// From this share of the attempts on, higher priorities have them nearly all.
const HIGHER_SHARE: f64 = 0.8;

/// GPUs are full while others that waiting tasks fit are idle.
pub(in super::super) fn imbalance(observed: &Observed<'_>) -> Option<Found> {
    let (load, objective_ms) = (Load::of(observed), observed.scaling.wait_objective_ms);
    let full = observed.gpus.iter().filter(|view| view.eligible && view.held >= view.row.slots).count() as u64;
    if full == 0 || !load.is_late(objective_ms) {
        return None;
    }
    let idle: Vec<&GpuView> = observed.gpus.iter().filter(|view| is_idle(observed, view)).collect();
    let idle_slots: u64 = idle.iter().map(|view| load::slots(view) - u64::from(view.held).min(load::slots(view))).sum();
    let share = idle_slots as f64 / load.slots.max(1) as f64;
    if share < IDLE_SHARE {
        return None;
    }
    let (idle, named) = (idle.len() as u64, observed.activity.waiting_for_gpu.values().sum::<u64>());
    let advice = if named * 2 > load.waiting {
        format!(
            "{} {} the only GPU that {} may run on: leave specific_gpu_id out, or spread it",
            count(named, "task"),
            verb(named, "names", "name"),
            verb(named, "it", "they")
        )
    } else {
        "see which strategy the tasks name, and whether their models or tensors draw them to some GPUs".to_owned()
    };
    let sentence = format!(
        "{} {} full and {idle} idle while {} {}: {advice}.",
        count(full, "GPU"),
        verb(full, "is", "are"),
        count(load.waiting, "task"),
        verb(load.waiting, "waits", "wait")
    );
    let evidence = vec![
        limited("GPUs whose slots are all held", full as f64, "GPUs", 0.0),
        limited("free slots of idle GPUs that fit", share * 100.0, "%", IDLE_SHARE * 100.0),
        limited("waiting tasks", load.waiting as f64, "tasks", 0.0),
        measured("of them with a GPU that they name", named as f64, "tasks"),
        limited("age of the oldest waiting task", load.oldest_ms as f64, "ms", objective_ms as f64),
    ];
    Some(Found { holdup: Holdup::Imbalance, weight: share + CHEAPER, sentence, evidence })
}

/// Whether a GPU takes tasks, fits one that waits, and was idle for most of the window and is now.
fn is_idle(observed: &Observed<'_>, view: &GpuView) -> bool {
    let (slots, activity) = (f64::from(view.row.slots), observed.activity);
    let used_ms = activity.gpus.get(&view.row.gpu.gpu_id).map_or(0.0, |numbers| numbers.slot_ms);
    let was_idle = used_ms <= 0.5 * slots * activity.window_ms as f64;
    view.eligible && f64::from(view.held) <= IDLE * slots && was_idle && fits_a_waiting_task(observed, view)
}

fn fits_a_waiting_task(observed: &Observed<'_>, view: &GpuView) -> bool {
    load::waiting_by_kind(observed).into_iter().any(|(kind, waiting)| {
        let too_large: u64 =
            needs_of(observed, kind).filter(|(memory_mb, _)| !has_memory(observed, view, *memory_mb)).map(|(_, tasks)| tasks).sum();
        view.row.kinds.contains(kind) && too_large < waiting
    })
}

fn needs_of<'a>(observed: &Observed<'a>, kind: &Kind) -> impl Iterator<Item = (u64, u64)> + use<'a> {
    observed.activity.waiting_memory.range((kind.clone(), 0)..=(kind.clone(), u64::MAX)).map(|((_, memory_mb), tasks)| (*memory_mb, *tasks))
}

fn has_memory(observed: &Observed<'_>, view: &GpuView, memory_mb: u64) -> bool {
    let needs = Needs { memory_mb: Some(memory_mb), ..Needs::default() };
    eligibility::has_memory_now(&view.row, &needs, observed.settings)
}

/// One kind has most of the slot time, and others wait behind it.
pub(in super::super) fn one_kind(observed: &Observed<'_>) -> Option<Found> {
    let (load, objective_ms) = (Load::of(observed), observed.scaling.wait_objective_ms);
    let waiting = load::waiting_by_kind(observed);
    let (kind, share) = largest_kind(observed, &load)?;
    let others: u64 = waiting.iter().filter(|(other, _)| **other != kind).map(|(_, tasks)| tasks).sum();
    if share < ONE_KIND || others == 0 || load.busy() < BUSY || !load.is_late(objective_ms) {
        return None;
    }
    let own = waiting.get(kind).copied().unwrap_or(0);
    let sentence = format!(
        "Kind {kind} has {:.0} % of the slot time, and {} of other kinds {} behind it: give it a lower priority or a pool of its own, or send less of it.",
        share * 100.0,
        count(others, "task"),
        verb(others, "waits", "wait"),
    );
    let evidence = vec![
        limited(&format!("slot time of kind {kind}"), share * 100.0, "%", ONE_KIND * 100.0),
        limited("waiting tasks of other kinds", others as f64, "tasks", 0.0),
        measured("waiting tasks of it", own as f64, "tasks"),
        limited("age of the oldest waiting task", load.oldest_ms as f64, "ms", objective_ms as f64),
    ];
    Some(Found { holdup: Holdup::OneKind, weight: share + CHEAPER, sentence, evidence })
}

/// The kind with most of the slot time, and its share. Where little has ended in the window, by what runs now.
fn largest_kind<'a>(observed: &Observed<'a>, load: &Load) -> Option<(&'a Kind, f64)> {
    let activity = observed.activity;
    let slot_ms: f64 = activity.kinds.values().map(|numbers| numbers.slot_ms).sum();
    let told = slot_ms > 0.0 && slot_ms >= TOLD_SHARE * load.slots as f64 * activity.window_ms as f64;
    let used = activity.kinds.iter().map(|(kind, numbers)| (kind, if told { numbers.slot_ms } else { numbers.running as f64 }));
    let all: f64 = used.clone().map(|(_, used)| used).sum();
    let (kind, most) = used.max_by(|a, b| a.1.total_cmp(&b.1))?;
    (all > 0.0).then(|| (kind, most / all))
}

/// Low priorities wait while higher ones keep coming and begin.
pub(in super::super) fn starvation(observed: &Observed<'_>) -> Option<Found> {
    let (load, objective_ms) = (Load::of(observed), observed.scaling.wait_objective_ms);
    let after_ms = STARVES_AFTER * objective_ms;
    let numbers = observed.activity.priorities.iter().enumerate();
    // The highest that starves: those below it starve with it.
    let starving = |(_, numbers): &(usize, &PriorityNumbers)| numbers.waiting_tasks() > 0 && numbers.oldest_ms > after_ms;
    let (priority, low) = numbers.filter(starving).max_by_key(|(priority, _)| *priority)?;
    let higher = &observed.activity.priorities[priority + 1..];
    let (arrived, began) = higher.iter().fold((0, 0), |(arrived, began), numbers| (arrived + numbers.arrived, began + numbers.began));
    let all_began: u64 = observed.activity.priorities.iter().map(|numbers| numbers.began).sum();
    let share = began as f64 / all_began.max(1) as f64;
    let higher_late = higher.iter().any(|numbers| numbers.oldest_ms > objective_ms);
    if arrived == 0 || higher_late || share < HIGHER_SHARE || load.busy() < BUSY {
        return None;
    }
    let waiting = low.waiting_tasks();
    let kind = low.waiting.iter().max_by_key(|(kind, tasks)| (**tasks, Reverse(*kind))).map_or("", |(kind, _)| kind.as_str());
    let sentence = format!(
        "{} of priority {priority} {}, the oldest for {}, while higher priorities keep coming and take {:.0} % of the begins: raise it, lower the others, or add GPUs.",
        count(waiting, "task"),
        verb(waiting, "waits", "wait"),
        duration(low.oldest_ms as f64),
        share * 100.0,
    );
    let evidence = vec![
        limited(&format!("age of the oldest task of priority {priority}"), low.oldest_ms as f64, "ms", after_ms as f64),
        limited("share of the begins that higher priorities have", share * 100.0, "%", HIGHER_SHARE * 100.0),
        limited("tasks of higher priorities that arrived", arrived as f64, "tasks", 0.0),
        measured(&format!("waiting tasks of priority {priority}, most of them of kind {kind}"), waiting as f64, "tasks"),
        measured("share of the slots that is held", percent(load.held as f64, load.slots as f64), "%"),
    ];
    Some(Found { holdup: Holdup::Starvation, weight: share + CHEAPER, sentence, evidence })
}
