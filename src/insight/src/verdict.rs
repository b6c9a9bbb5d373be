//! What holds the fleet back: every cause is looked for, and the heaviest is the verdict.
//!
//! A cause is a function of what was observed. It gives nothing unless its figures pass their limits, and weighs as much as the share of the slots that tasks need which it takes away or leaves
//! lacking, so that what is cheap to mend and costs as much comes before new GPUs.

mod causes;
#[cfg(test)]
mod tests;
mod words;

use protocol::insight::{Evidence, Holdup, Verdict};

use crate::{Observed, load::Load};
use words::{duration, limited, measured, percent, rounded};

/// What the cheaper cure weighs more: to mend what wastes slots comes before adding slots.
const CHEAPER: f64 = 0.15;

/// A cause that was found.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    /// The cause.
    holdup: Holdup,
    /// The share of what tasks need that it takes away, 0 to about 1; above that where nothing works at all.
    weight: f64,
    /// The cause, its figure, and what to do.
    sentence: String,
    /// The figures.
    evidence: Vec<Evidence>,
}

/// What holds the fleet back, with its evidence. `nothing` where tasks begin within the objective of the wait, and where no cause stands out.
#[must_use]
pub fn verdict(observed: &Observed<'_>) -> Verdict {
    let mut found: Vec<Found> = causes::ALL.iter().filter_map(|cause| cause(observed)).collect();
    // Stable: of two that weigh the same, the first of the list.
    found.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    let mut found = found.into_iter();
    let main = found.next().unwrap_or_else(|| nothing(observed));
    Verdict {
        holdup: main.holdup,
        sentence: main.sentence,
        evidence: main.evidence,
        also: found.map(|other| other.sentence).collect(),
        window_ms: observed.activity.window_ms,
    }
}

fn nothing(observed: &Observed<'_>) -> Found {
    let (load, objective_ms) = (Load::of(observed), observed.scaling.wait_objective_ms);
    let oldest = duration(load.oldest_ms as f64);
    let sentence = match (load.waiting, load.is_late(objective_ms)) {
        (0, _) => "Nothing holds the fleet back: no task waits.".to_owned(),
        (_, false) => format!(
            "Nothing holds the fleet back: the oldest task waits for {oldest}, and tasks begin within {}.",
            duration(objective_ms as f64)
        ),
        (_, true) => format!(
            "Tasks wait longer than {}, the oldest for {oldest}, and no cause stands out yet: look again in a minute.",
            duration(objective_ms as f64)
        ),
    };
    let evidence = vec![
        limited("age of the oldest waiting task", load.oldest_ms as f64, "ms", objective_ms as f64),
        measured("slots held", rounded(percent(load.held as f64, load.slots as f64)), "%"),
    ];
    Found { holdup: Holdup::Nothing, weight: 0.0, sentence, evidence }
}
