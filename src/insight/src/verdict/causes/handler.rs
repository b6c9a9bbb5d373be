//! Kinds whose handler is down, or takes much longer than it used to.

use protocol::{Kind, insight::Holdup};

use super::super::{
    CHEAPER, Found,
    words::{count, duration, excerpt, limited, measured, percent, verb},
};
use crate::{
    KindNumbers, Observed,
    load::{self, Load},
};

/// From this multiple of its usual run time on a kind is slow.
const SLOWER: f64 = 3.0;
/// Of fewer runs than these nothing is concluded.
const RUNS_MIN: u64 = 5;
/// What is shorter than this, in ms, is slow for other reasons than its handler.
const RUN_MS_MIN: f64 = 100.0;

/// The handler that costs most: one that is down before one that is slow.
pub(in super::super) fn handler(observed: &Observed<'_>) -> Option<Found> {
    let kinds = || load::waiting_by_kind(observed).into_iter();
    let down = kinds().filter_map(|(kind, waiting)| down(observed, kind, waiting));
    let slow = observed.activity.kinds.iter().filter_map(|(kind, numbers)| slow(observed, kind, numbers));
    down.chain(slow).max_by(|a, b| a.weight.total_cmp(&b.weight))
}

/// A kind that waits and is down on GPUs that have it.
fn down(observed: &Observed<'_>, kind: &Kind, waiting: u64) -> Option<Found> {
    let load = Load::of(observed);
    let reasons: Vec<&String> = observed.gpus.iter().filter_map(|view| view.row.kinds_down.get(kind)).collect();
    let reason = excerpt(reasons.first()?);
    let up = observed.gpus.iter().filter(|view| view.eligible && view.row.kinds.contains(kind)).count();
    // Where others run it, it is no cause before tasks wait too long.
    if up > 0 && !load.is_late(observed.scaling.wait_objective_ms) {
        return None;
    }
    let gpus = reasons.len() as u64;
    let sentence = format!(
        "The handler of kind {kind} is down on {} while {} of it {} ({reason}): see its worker's log and restart it.",
        count(gpus, "GPU"),
        count(waiting, "task"),
        verb(waiting, "waits", "wait"),
    );
    let evidence = vec![
        limited("GPUs on which it is down", gpus as f64, "GPUs", 0.0),
        measured("GPUs on which it runs", up as f64, "GPUs"),
        limited("tasks of it that wait", waiting as f64, "tasks", 0.0),
        measured("share of all waiting tasks", percent(waiting as f64, load.waiting as f64), "%"),
    ];
    let share = waiting as f64 / load.waiting.max(1) as f64 * gpus as f64 / (gpus as f64 + up as f64);
    Some(Found { holdup: Holdup::Handler, weight: share + CHEAPER, sentence, evidence })
}

/// A kind that takes a multiple of what it used to, while tasks wait too long.
fn slow(observed: &Observed<'_>, kind: &Kind, numbers: &KindNumbers) -> Option<Found> {
    let (run_ms, usual_ms) = (numbers.run.p50_ms, usual_run_ms(numbers));
    let enough = numbers.run.count >= RUNS_MIN && usual_ms > 0.0 && run_ms >= RUN_MS_MIN && run_ms >= SLOWER * usual_ms;
    if !enough || !Load::of(observed).is_late(observed.scaling.wait_objective_ms) {
        return None;
    }
    let slot_ms: f64 = observed.activity.kinds.values().map(|numbers| numbers.slot_ms).sum();
    let share = if slot_ms > 0.0 { numbers.slot_ms / slot_ms } else { 0.0 };
    let sentence =
        format!("Kind {kind} takes {} where it used to take {}: see what its handler waits for.", duration(run_ms), duration(usual_ms));
    let evidence = vec![
        limited("median run time in the window", run_ms, "ms", SLOWER * usual_ms),
        measured("usual run time", usual_ms, "ms"),
        measured("runs in the window", numbers.run.count as f64, "runs"),
        measured("share of the slot time", share * 100.0, "%"),
    ];
    Some(Found { holdup: Holdup::Handler, weight: share * (1.0 - usual_ms / run_ms) + CHEAPER, sentence, evidence })
}

/// What a run of the kind took before. What was learnt last follows a change within some fifty runs, and would hide it.
const fn usual_run_ms(numbers: &KindNumbers) -> f64 {
    if numbers.usual_run_ms > 0.0 { numbers.usual_run_ms } else { numbers.learnt_run_ms }
}
