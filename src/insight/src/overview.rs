//! The fleet at a glance, put together from what was observed and judged.

use std::cmp::Reverse;

use protocol::{
    Health, Kind, PoolName,
    gpu::{GpuView, WorkerPhase},
    insight::{GpuCounts, KindActivity, Overview, PriorityWait, Scaling, Verdict},
};

use crate::{Activity, KindNumbers, Observed};

/// What was judged of the fleet, and what only servers say.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// What holds it back.
    pub verdict: Verdict,
    /// How many workers it should have.
    pub scaling: Scaling,
    /// In how many ms a task would begin that comes now, by priority: see [`expected_waits_ms`](crate::expected_waits_ms).
    pub expected_waits_ms: [Option<f64>; 10],
    /// Dead letters; `None`: the broker does not say.
    pub dead: Option<u64>,
    /// Replies that could not be delivered; `None`: the broker does not say.
    pub parked_replies: Option<u64>,
    /// The servers that did not answer lately, in words.
    pub servers_away: Vec<String>,
}

/// The fleet at a glance. Rates and kinds are of the window of what was observed.
#[must_use]
pub fn overview(pool: &PoolName, observed: &Observed<'_>, judged: Judged) -> Overview {
    let activity = observed.activity;
    let per_s = |count: u64| if activity.window_ms == 0 { 0.0 } else { count as f64 * 1_000.0 / activity.window_ms as f64 };
    Overview {
        pool: pool.clone(),
        at_ms: observed.now_ms,
        verdict: judged.verdict,
        scaling: judged.scaling,
        ready: observed.ready,
        dead: judged.dead,
        parked_replies: judged.parked_replies,
        tasks: activity.states,
        oldest_waiting: oldest_waiting(activity, &judged.expected_waits_ms),
        arrived_per_s: per_s(activity.arrived),
        ended_per_s: per_s(activity.succeeded + activity.failed + activity.cancelled + activity.expired),
        retried_per_s: per_s(activity.retried),
        gpus: gpu_counts(observed.gpus),
        kinds: kind_activities(activity),
        servers_away: judged.servers_away,
    }
}

/// How many of these GPUs are in each state. Each is counted in one of them, and all as living.
#[must_use]
pub fn gpu_counts(gpus: &[GpuView]) -> GpuCounts {
    let mut counts = GpuCounts { living: gpus.len() as u64, ..GpuCounts::default() };
    for view in gpus {
        counts.slots += u64::from(view.row.slots);
        counts.held += u64::from(view.held);
        let state = match (view.phase, view.row.health) {
            (WorkerPhase::Drained, _) => &mut counts.drained,
            (WorkerPhase::Draining, _) => &mut counts.draining,
            (WorkerPhase::Serving, Health::Quarantined | Health::Probation) => &mut counts.quarantined,
            (WorkerPhase::Serving, _) if view.eligible => &mut counts.serving,
            (WorkerPhase::Serving, _) => &mut counts.blocked,
        };
        *state += 1;
    }
    counts
}

fn oldest_waiting(activity: &Activity, expected_waits_ms: &[Option<f64>; 10]) -> Vec<PriorityWait> {
    let waits = (0_u8..=9).zip(&activity.priorities).zip(expected_waits_ms).rev().map(|((priority, numbers), expected_wait_ms)| {
        PriorityWait { priority, waiting: numbers.waiting_tasks(), oldest_ms: numbers.oldest_ms, expected_wait_ms: *expected_wait_ms }
    });
    waits.filter(|wait| wait.waiting > 0).collect()
}

/// The kinds with the most slot time; of those with as much, the ones that wait most.
#[must_use]
pub fn kind_activities(activity: &Activity) -> Vec<KindActivity> {
    let mut kinds: Vec<(&Kind, &KindNumbers)> = activity.kinds.iter().collect();
    kinds.sort_by(|(_, a), (_, b)| b.slot_ms.total_cmp(&a.slot_ms).then(Reverse(a.waiting).cmp(&Reverse(b.waiting))));
    kinds.into_iter().take(Overview::KINDS_MAX).map(|(kind, numbers)| activity_of(kind, numbers)).collect()
}

fn activity_of(kind: &Kind, numbers: &KindNumbers) -> KindActivity {
    KindActivity {
        kind: kind.clone(),
        waiting: numbers.waiting,
        running: numbers.running,
        ended: numbers.ended,
        failed: numbers.failed,
        retried: numbers.retried,
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
    use super::*;
    use crate::sketch::{Sketch, kind};

    fn judged() -> Judged {
        let observed = Sketch::of(1, 1);
        let scaling = crate::Planner::new().plan(&PoolName::default(), &observed.observed());
        Judged {
            verdict: Verdict::default(),
            scaling,
            expected_waits_ms: [None; 10],
            dead: Some(3),
            parked_replies: None,
            servers_away: vec!["store".to_owned()],
        }
    }

    #[test]
    fn each_gpu_is_counted_in_one_state() {
        let mut sketch = Sketch::of(6, 4);
        sketch.drain(0);
        sketch.drain(1);
        sketch.gpus[1].held = 2;
        sketch.gpus[1].phase = WorkerPhase::Draining;
        sketch.quarantine(2);
        sketch.gpus[3].eligible = false;
        let counts = gpu_counts(&sketch.gpus);
        let expected = GpuCounts { living: 6, serving: 2, draining: 1, drained: 1, blocked: 1, quarantined: 1, slots: 24, held: 2 };
        assert_eq!(counts, expected);
    }

    #[test]
    fn rates_are_per_second_and_priorities_come_from_the_highest_down() {
        let mut sketch = Sketch::of(1, 1).flow("a", 60, 100.0);
        sketch.wait("a", 2, 5, 9_000);
        sketch.wait("a", 7, 1, 50);
        let judged = Judged { expected_waits_ms: crate::expected_waits_ms(&sketch.observed()), ..judged() };
        let glance = overview(&PoolName::default(), &sketch.observed(), judged);
        assert!((glance.arrived_per_s - 1.0).abs() < 1e-9 && (glance.ended_per_s - 1.0).abs() < 1e-9, "{glance:?}");
        let waits: Vec<_> = glance.oldest_waiting.iter().map(|wait| (wait.priority, wait.waiting, wait.oldest_ms)).collect();
        assert_eq!(waits, [(7, 1, 50), (2, 5, 9_000)]);
        let expected: Vec<f64> = glance.oldest_waiting.iter().map(|wait| wait.expected_wait_ms.unwrap()).collect();
        assert!(expected[0] < expected[1], "what waits with a lower priority is in nobody's way: {expected:?}");
        assert_eq!((glance.dead, glance.parked_replies, glance.servers_away.len()), (Some(3), None, 1));
    }

    #[test]
    fn the_kinds_with_the_most_slot_time_are_told_and_no_more_than_the_bound() {
        let mut sketch = Sketch::of(1, 1);
        for n in 0..Overview::KINDS_MAX as u32 + 5 {
            sketch = sketch.flow(&format!("kind-{n}"), 1, f64::from(n + 1));
        }
        let glance = overview(&PoolName::default(), &sketch.observed(), judged());
        assert_eq!(glance.kinds.len(), Overview::KINDS_MAX);
        assert_eq!(glance.kinds[0].kind, kind("kind-54"));
    }
}
