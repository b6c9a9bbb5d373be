//! Whether there are GPUs for the work: any, usable ones, fitting ones, enough.

use std::collections::BTreeMap;

use protocol::{Health, Kind, claim::Settings, gpu::GpuView, insight::Holdup};

use super::{
    super::{
        CHEAPER, Found,
        words::{count, duration, limited, measured, names, percent, verb},
    },
    BUSY,
};
use crate::{
    Observed,
    load::{self, Load},
};

/// What weighs more than anything that only slows the fleet down.
const NOTHING_RUNS: f64 = 5.0;

/// Tasks wait, and no GPU lives that takes any.
pub(in super::super) fn no_gpus(observed: &Observed<'_>) -> Option<Found> {
    let load = Load::of(observed);
    // A table that does not answer says nothing of GPUs.
    if load.waiting == 0 || load.workers > 0 || observed.table_ms.is_none() {
        return None;
    }
    let wait = format!("{} {}", count(load.waiting, "task"), verb(load.waiting, "waits", "wait"));
    let sentence = if observed.gpus.is_empty() {
        format!("No GPU lives while {wait}: start workers, or look at why they ended.")
    } else {
        let living = observed.gpus.len() as u64;
        let obstacles = said(&obstacles(observed));
        format!(
            "None of the {living} living {} takes tasks while {wait} ({obstacles}): undrain or mend them, or start others.",
            verb(living, "GPU", "GPUs")
        )
    };
    let evidence = vec![
        limited("GPUs that take tasks", 0.0, "GPUs", 1.0),
        measured("living GPUs", observed.gpus.len() as f64, "GPUs"),
        limited("waiting tasks", load.waiting as f64, "tasks", 0.0),
    ];
    Some(Found { holdup: Holdup::NoGpus, weight: NOTHING_RUNS, sentence, evidence })
}

/// GPUs live that would help and take no tasks.
pub(in super::super) fn unusable_gpus(observed: &Observed<'_>) -> Option<Found> {
    let (load, objective_ms) = (Load::of(observed), observed.scaling.wait_objective_ms);
    let unusable: Vec<&GpuView> = unusable(observed).collect();
    if unusable.is_empty() || !load.is_late(objective_ms) {
        return None;
    }
    let slots: u64 = unusable.iter().map(|view| load::slots(view)).sum();
    let (all, needed) = ((slots + load.slots) as f64, load.needed_slots(objective_ms).unwrap_or(0.0));
    let gpus = unusable.len() as u64;
    let sentence = format!(
        "{} of {} {} no tasks while the oldest task waits for {} ({}): undrain or mend {}.",
        gpus,
        count(observed.gpus.len() as u64, "GPU"),
        verb(gpus, "takes", "take"),
        duration(load.oldest_ms as f64),
        said(&obstacles(observed)),
        verb(gpus, "it", "them"),
    );
    let evidence = vec![
        limited("GPUs that take no tasks", gpus as f64, "GPUs", 0.0),
        measured("share of the fleet's slots that they have", percent(slots as f64, all), "%"),
        limited("age of the oldest waiting task", load.oldest_ms as f64, "ms", objective_ms as f64),
        limited("waiting tasks", load.waiting as f64, "tasks", 0.0),
    ];
    Some(Found { holdup: Holdup::UnusableGpus, weight: slots as f64 / all.max(needed) + CHEAPER, sentence, evidence })
}

/// Tasks that no GPU of the fleet can ever run.
pub(in super::super) fn unserved(observed: &Observed<'_>) -> Option<Found> {
    let (load, by_kind) = (Load::of(observed), load::waiting_by_kind(observed));
    let serves = |kind: &Kind| observed.gpus.iter().any(|view| view.row.kinds.contains(kind) || view.row.kinds_down.contains_key(kind));
    let without: Vec<(&Kind, u64)> = by_kind.into_iter().filter(|(kind, _)| !serves(kind)).collect();
    // A worker that has the kind may be about to start: before tasks are late, only what workers say of a task counts.
    let may_be_told = !observed.gpus.is_empty() && observed.table_ms.is_some() && load.is_late(observed.scaling.wait_objective_ms);
    let by_rows = if may_be_told { without.iter().map(|(_, tasks)| tasks).sum() } else { 0 };
    let unserved = observed.activity.unserved.max(by_rows);
    if unserved == 0 {
        return None;
    }
    let waiting = load.waiting.max(unserved);
    let kinds: Vec<String> = without.iter().map(|(kind, _)| kind.as_str().to_owned()).collect();
    let what =
        if kinds.is_empty() { "what they need (memory, capability, a GPU by name)".to_owned() } else { format!("kind {}", names(&kinds)) };
    let sentence = format!(
        "{} {} for {what}, which no living GPU has: start workers that have it, or cancel {}.",
        count(unserved, "task"),
        verb(unserved, "waits", "wait"),
        verb(unserved, "it", "them"),
    );
    let evidence = vec![
        limited("waiting tasks that no living GPU can run", unserved as f64, "tasks", 0.0),
        measured("share of all waiting tasks", percent(unserved as f64, waiting as f64), "%"),
    ];
    Some(Found { holdup: Holdup::Unserved, weight: unserved as f64 / waiting as f64 + CHEAPER / 2.0, sentence, evidence })
}

/// Every slot is busy, and more work comes and waits than the slots can do in time.
pub(in super::super) fn too_few_gpus(observed: &Observed<'_>) -> Option<Found> {
    let (load, objective_ms) = (Load::of(observed), observed.scaling.wait_objective_ms);
    if load.workers == 0 || load.busy() < BUSY || !load.is_late(objective_ms) {
        return None;
    }
    let needed = load.needed_slots(objective_ms)?;
    let per_worker = load.slots as f64 / load.workers as f64;
    // What an operator can give back comes first, and is not bought.
    let lacking = needed - load.slots as f64 - unusable(observed).map(load::slots).sum::<u64>() as f64;
    if lacking <= 0.0 {
        return None;
    }
    let more = (lacking / per_worker).ceil() as u64;
    let sentence = format!(
        "Every slot is busy and {} {}, the oldest for {}: {} more {} would hold the wait under {}.",
        count(load.waiting, "task"),
        verb(load.waiting, "waits", "wait"),
        duration(load.oldest_ms as f64),
        more,
        verb(more, "GPU", "GPUs"),
        duration(objective_ms as f64),
    );
    let evidence = vec![
        limited("slots held", percent(load.held as f64, load.slots as f64), "%", BUSY * 100.0),
        limited("slots needed for what comes and what waits", needed, "slots", load.slots as f64),
        measured("work that comes, in slots", load.arriving, "slots"),
        limited("time until what waits now has begun", load.drained_in_ms().unwrap_or(0.0), "ms", objective_ms as f64),
        limited("age of the oldest waiting task", load.oldest_ms as f64, "ms", objective_ms as f64),
    ];
    Some(Found { holdup: Holdup::TooFewGpus, weight: lacking / needed, sentence, evidence })
}

/// The GPUs that take no tasks, and of which a waiting kind could make use. What a worker that stops has will not come back.
fn unusable<'a>(observed: &Observed<'a>) -> impl Iterator<Item = &'a GpuView> {
    let (waiting, settings) = (load::waiting_by_kind(observed), observed.settings);
    observed.gpus.iter().filter(move |view| {
        let serves = waiting.is_empty() || view.row.kinds.iter().any(|kind| waiting.contains_key(kind));
        !view.eligible && !view.row.stopping && serves && obstacle(view, settings).is_some()
    })
}

/// How many GPUs are kept from taking tasks by what.
fn obstacles(observed: &Observed<'_>) -> BTreeMap<&'static str, u64> {
    let mut by_obstacle = BTreeMap::new();
    for view in observed.gpus.iter().filter(|view| !view.eligible) {
        *by_obstacle.entry(obstacle(view, observed.settings).unwrap_or("full of tasks' memory")).or_insert(0) += 1;
    }
    by_obstacle
}

fn said(obstacles: &BTreeMap<&'static str, u64>) -> String {
    obstacles.iter().map(|(obstacle, gpus)| format!("{gpus} {obstacle}")).collect::<Vec<_>>().join(", ")
}

/// Why a GPU that is not eligible takes no tasks. `None`: its own tasks fill its memory.
fn obstacle(view: &GpuView, settings: &Settings) -> Option<&'static str> {
    let row = &view.row;
    match row.health {
        _ if view.draining => Some("drained"),
        _ if row.stopping => Some("stopping"),
        Health::Quarantined => Some("quarantined"),
        Health::Probation => Some("on probation"),
        _ if !row.consuming => Some("without the broker"),
        _ if row.foreign_utilization_percent / 100.0 >= settings.utilization_threshold => Some("kept busy by other programs"),
        _ if view.held == 0 => Some("over the memory threshold without a task"),
        _ => None,
    }
}
