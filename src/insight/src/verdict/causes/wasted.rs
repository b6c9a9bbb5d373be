//! Slot time that goes into something else than the tasks' work.

use protocol::insight::Holdup;

use super::super::{
    CHEAPER, Found,
    words::{duration, limited, measured, percent},
};
use crate::{KindNumbers, Observed, load::Load};

/// From this share of the slot time on, loads and transfers are a cause.
const SHARE: f64 = 0.25;
/// From this share of the attempts on, repeated ones are a cause where tasks wait too long.
const REPEATED_SHARE: f64 = 0.2;
/// From this share on most of the work is repeated, whoever waits.
const REPEATED_MOST: f64 = 0.5;
/// Fewer repeated attempts than these are chance.
const REPEATED_MIN: u64 = 10;

/// Models are loaded for much of the time.
pub(in super::super) fn model_loads(observed: &Observed<'_>) -> Option<Found> {
    let (share, mut evidence) = wasted(observed, "slot time in which models were loaded", |numbers| numbers.load_ms)?;
    let (kind, of_kind) = worst(observed, |numbers| numbers.load_ms)?;
    evidence.push(measured(&format!("of it by kind {kind}"), percent(of_kind, total(observed, |numbers| numbers.load_ms)), "%"));
    let sentence = format!(
        "{:.0} % of the slot time goes into loading models, most of it for kind {kind}: pin its models, give them memory, or name the strategy task_specific, which chooses GPUs that have them.",
        share * 100.0
    );
    Some(Found { holdup: Holdup::ModelLoads, weight: share + CHEAPER, sentence, evidence })
}

/// Tensors are brought for much of the time.
pub(in super::super) fn transfers(observed: &Observed<'_>) -> Option<Found> {
    let (share, mut evidence) = wasted(observed, "slot time in which tensors were brought", |numbers| numbers.transfer_ms)?;
    let (kind, of_kind) = worst(observed, |numbers| numbers.transfer_ms)?;
    evidence.push(measured(&format!("of it by kind {kind}"), percent(of_kind, total(observed, |numbers| numbers.transfer_ms)), "%"));
    let sentence = format!(
        "{:.0} % of the slot time goes into bringing tensors to their GPU, most of it for kind {kind}: keep copies where they are used, or run its tasks where its tensors are.",
        share * 100.0
    );
    Some(Found { holdup: Holdup::Transfers, weight: share + CHEAPER, sentence, evidence })
}

/// Attempts fail or crash, and are made again.
pub(in super::super) fn retries(observed: &Observed<'_>) -> Option<Found> {
    let (activity, load) = (observed.activity, Load::of(observed));
    let repeated = activity.retried + activity.crashed;
    let share = repeated as f64 / activity.began.max(repeated).max(1) as f64;
    let late = load.is_late(observed.scaling.wait_objective_ms);
    let limit = if late { REPEATED_SHARE } else { REPEATED_MOST };
    if repeated < REPEATED_MIN || share < limit {
        return None;
    }
    let (kind, _) = worst(observed, |numbers| (numbers.retried + numbers.crashed) as f64)?;
    let sentence = format!(
        "{:.0} % of the attempts of the last {} failed or crashed and are made again, most of them of kind {kind}: see the errors of its tasks, and stop sending what cannot succeed.",
        share * 100.0,
        duration(activity.window_ms as f64),
    );
    let evidence = vec![
        limited("share of attempts that are made again", share * 100.0, "%", limit * 100.0),
        measured("attempts that failed and are made again", activity.retried as f64, "attempts"),
        measured("attempts whose worker or process died", activity.crashed as f64, "attempts"),
        measured("waiting tasks", load.waiting as f64, "tasks"),
    ];
    Some(Found { holdup: Holdup::Retries, weight: share + CHEAPER, sentence, evidence })
}

/// The share of the slot time that `part` is, where tasks wait too long and it is large, with its evidence.
fn wasted(observed: &Observed<'_>, what: &str, part: fn(&KindNumbers) -> f64) -> Option<(f64, Vec<protocol::insight::Evidence>)> {
    let (load, objective_ms) = (Load::of(observed), observed.scaling.wait_objective_ms);
    let (part, whole) = (total(observed, part), total(observed, |numbers| numbers.slot_ms));
    let share = if whole > 0.0 { (part / whole).min(1.0) } else { 0.0 };
    if share < SHARE || !load.is_late(objective_ms) {
        return None;
    }
    let evidence = vec![
        limited(what, share * 100.0, "%", SHARE * 100.0),
        limited("age of the oldest waiting task", load.oldest_ms as f64, "ms", objective_ms as f64),
        limited("waiting tasks", load.waiting as f64, "tasks", 0.0),
    ];
    Some((share, evidence))
}

fn total(observed: &Observed<'_>, of: fn(&KindNumbers) -> f64) -> f64 {
    observed.activity.kinds.values().map(of).sum()
}

/// The kind that has most of something, and how much.
fn worst(observed: &Observed<'_>, of: fn(&KindNumbers) -> f64) -> Option<(String, f64)> {
    let of_kinds = observed.activity.kinds.iter().map(|(kind, numbers)| (kind, of(numbers)));
    of_kinds.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(kind, most)| (kind.as_str().to_owned(), most))
}
