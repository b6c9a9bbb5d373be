//! Points of the fleet's history: when one is due, and what it says.

use std::{cmp::Reverse, collections::BTreeMap};

use protocol::{
    HistoryPoint, HistorySpan, Kind,
    insight::{Scaling, Verdict},
    journal::KindPoint,
};

use crate::{Activity, KindNumbers, Observed, load, overview::gpu_counts};

/// Knows which points were given out.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    /// The time of the latest point of each span.
    latest: BTreeMap<HistorySpan, u64>,
}

impl Recorder {
    /// One that has given none out: the latest point of every span is due.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The points that are due, each with its time: once for each multiple of its span's step. After a pause only the latest, for the others nobody measured.
    pub fn due(&mut self, now_ms: u64) -> Vec<(HistorySpan, u64)> {
        let multiples = HistorySpan::ALL.into_iter().map(|span| (span, now_ms - now_ms % span.step_ms()));
        // A clock that was set back gives no point a second time.
        let due: Vec<_> = multiples.filter(|(span, at_ms)| self.latest.get(span).is_none_or(|latest| at_ms > latest)).collect();
        self.latest.extend(due.iter().copied());
        due
    }
}

/// What a point says: counts of the activity of its step, the rest as it is now.
#[must_use]
#[expect(clippy::too_many_arguments, reason = "each is a source of its own, and a struct of them would be made for this call alone")]
pub fn point(at_ms: u64, of_step: &Activity, observed: &Observed<'_>, scaling: &Scaling, verdict: &Verdict, dead: u64) -> HistoryPoint {
    let gpus = gpu_counts(observed.gpus);
    HistoryPoint {
        at_ms,
        arrived: of_step.arrived,
        began: of_step.began,
        succeeded: of_step.succeeded,
        failed: of_step.failed,
        cancelled: of_step.cancelled,
        expired: of_step.expired,
        retried: of_step.retried,
        waiting: observed.ready.unwrap_or(observed.activity.states.waiting),
        running: observed.activity.states.running,
        dead,
        oldest_waiting_ms: load::oldest_ms(observed),
        slots: gpus.slots,
        held: gpus.held,
        gpus: gpus.living,
        desired_workers: u64::from(scaling.desired_workers),
        verdict: verdict.holdup.name().to_owned(),
        kinds: kinds(of_step),
    }
}

/// The kinds with the most ends; of those with as many, the ones that began most.
fn kinds(of_step: &Activity) -> BTreeMap<Kind, KindPoint> {
    let mut kinds: Vec<(&Kind, &KindNumbers)> =
        of_step.kinds.iter().filter(|(_, numbers)| numbers.began > 0 || numbers.ended > 0).collect();
    kinds.sort_by_key(|(_, numbers)| Reverse((numbers.ended, numbers.began)));
    kinds.into_iter().take(HistoryPoint::KINDS_MAX).map(|(kind, numbers)| (kind.clone(), kind_point(numbers))).collect()
}

fn kind_point(numbers: &KindNumbers) -> KindPoint {
    KindPoint {
        began: numbers.began,
        ended: numbers.ended,
        failed: numbers.failed,
        wait_p50_ms: numbers.wait.p50_ms,
        wait_p95_ms: numbers.wait.p95_ms,
        wait_p99_ms: numbers.wait.p99_ms,
        run_p50_ms: numbers.run.p50_ms,
        run_p95_ms: numbers.run.p95_ms,
        run_p99_ms: numbers.run.p99_ms,
        slot_seconds: numbers.slot_ms / 1_000.0,
    }
}

#[cfg(test)]
mod tests {
    use protocol::PoolName;

    use super::*;
    use crate::sketch::{Sketch, kind};

    const NOON: u64 = 1_767_225_600_000;

    #[test]
    fn each_multiple_of_a_step_is_due_once() {
        let mut recorder = Recorder::new();
        assert_eq!(recorder.due(NOON).len(), 3);
        let mut due: BTreeMap<HistorySpan, Vec<u64>> = BTreeMap::new();
        for second in 1..=3_600 {
            for (span, at_ms) in recorder.due(NOON + second * 1_000 + 300) {
                due.entry(span).or_default().push(at_ms);
            }
        }
        for span in HistorySpan::ALL {
            let expected: Vec<u64> = (1..=3_600_000 / span.step_ms()).map(|n| NOON + n * span.step_ms()).collect();
            assert_eq!(due[&span], expected, "{span:?}");
        }
    }

    #[test]
    fn after_a_pause_only_the_latest_is_due() {
        let mut recorder = Recorder::new();
        recorder.due(NOON + 100);
        assert_eq!(recorder.due(NOON + 61_234), [(HistorySpan::Minutes15, NOON + 60_000)]);
        assert_eq!(recorder.due(NOON + 61_300), []);
        assert_eq!(recorder.due(NOON + 20_000), [], "the clock was set back");
    }

    #[test]
    fn a_point_says_what_happened_in_its_step_and_how_it_is_now() {
        let sketch = {
            let mut sketch = Sketch::of(2, 4).flow("a", 60, 100.0);
            sketch.wait("a", 4, 7, 1_500);
            sketch.gpus[0].held = 3;
            sketch.ready = Some(6);
            sketch
        };
        let observed = sketch.observed();
        let scaling = crate::Planner::new().plan(&PoolName::default(), &observed);
        let of_step = Sketch::of(0, 1).flow("a", 5, 100.0).activity;
        let point = point(NOON, &of_step, &observed, &scaling, &Verdict::default(), 2);
        assert_eq!((point.at_ms, point.arrived, point.began, point.succeeded, point.dead), (NOON, 5, 5, 5, 2));
        assert_eq!((point.waiting, point.oldest_waiting_ms, point.gpus, point.slots, point.held), (6, 1_500, 2, 8, 3));
        assert_eq!((point.verdict.as_str(), point.desired_workers), ("nothing", u64::from(scaling.desired_workers)));
        assert_eq!((point.kinds[&kind("a")].ended, point.kinds[&kind("a")].run_p50_ms), (5, 100.0));
    }

    #[test]
    fn a_point_tells_of_the_kinds_with_the_most_ends() {
        let mut sketch = Sketch::of(1, 1);
        for n in 1..=HistoryPoint::KINDS_MAX as u64 + 4 {
            sketch = sketch.flow(&format!("kind-{n}"), n, 10.0);
        }
        let kinds = kinds(&sketch.activity);
        assert_eq!(kinds.len(), HistoryPoint::KINDS_MAX);
        assert!(!kinds.contains_key(&kind("kind-4")) && kinds.contains_key(&kind("kind-5")));
    }
}
