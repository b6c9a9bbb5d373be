//! How many workers the fleet should have: as many as hold the objective of the wait, steadily.
//!
//! It goes up at once. Down it goes only after fewer workers have been enough for `scaling.down_after_ms`, to the most that were needed in that time, so that a noisy load does not make workers come and go.

mod reason;
#[cfg(test)]
mod simulation;

use protocol::{
    GpuId, PoolName,
    config::ScalingSection,
    gpu::{GpuView, WorkerPhase},
    insight::Scaling,
};

use crate::{
    Observed, expected_wait_ms,
    load::{self, Load},
};
use reason::Grounds;

/// How long it takes the smoothed work that comes to follow most of a change, in ms. More work than before counts at once where a backlog shows it.
const SMOOTHED_OVER_MS: f64 = 60_000.0;
/// Fewer workers are enough only where they are with this much to spare: between up and down lies a gap.
const TO_SPARE: f64 = 1.25;
/// Slots of a worker until one was seen: what `gpu.multi_gpu.max_concurrent_tasks_per_gpu` is by default.
const SLOTS_UNTIL_SEEN: f64 = 8.0;
/// After so long without a plan nothing is known of the time between, in ms.
const GAP_MS: u64 = 60_000;

/// Plans how many workers a pool should have. One that was just made knows nothing of the past, and desires no fewer workers than there are until fewer have been enough for long.
#[derive(Debug, Clone, Default)]
pub struct Planner {
    planned_ms: Option<u64>,
    arriving: f64,
    slots_per_worker: Option<f64>,
    desired: u32,
    /// Since when fewer have been enough, and the most that were needed since.
    fewer: Option<(u64, u32)>,
}

impl Planner {
    /// One that has planned nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many workers the pool should have now. To be called about every second, or whenever somebody asks.
    pub fn plan(&mut self, pool: &PoolName, observed: &Observed<'_>) -> Scaling {
        let section = observed.scaling;
        let mut load = Load::of(observed);
        self.begin(observed, &load);
        load.arriving = self.arriving;
        let is_blind = is_blind(observed);
        let slots_per_worker = self.slots_per_worker.unwrap_or(SLOTS_UNTIL_SEEN);
        let needed = needed(&load, section, slots_per_worker);
        self.desired = if is_blind { self.held(section, needed) } else { self.steady(observed.now_ms, section, needed) };
        let expected_wait_ms = lowest_waiting(observed).map_or(Some(0.0), |priority| expected_wait_ms(observed, priority, None));
        let grounds = Grounds { load: &load, section, needed, desired: self.desired, fewer: self.fewer, is_blind, now_ms: observed.now_ms };
        Scaling {
            pool: pool.clone(),
            desired_workers: self.desired,
            workers: u32::try_from(load.workers).unwrap_or(u32::MAX),
            wait_objective_ms: section.wait_objective_ms,
            expected_wait_ms: expected_wait_ms.unwrap_or(load.oldest_ms as f64),
            waiting: load.waiting,
            waiting_slot_seconds: load.waiting_slot_ms / 1_000.0,
            arriving_slot_seconds_per_second: load.arriving,
            slots_per_worker,
            reason: grounds.said(),
            remove_first: remove_first(observed.gpus),
            safe_to_delete: observed.gpus.iter().filter(|view| view.is_safe_to_delete()).map(id).collect(),
        }
    }

    /// Takes in what is observed: the work that comes, smoothed, and the slots of a worker.
    fn begin(&mut self, observed: &Observed<'_>, load: &Load) {
        let now_ms = observed.now_ms;
        let arriving = arriving(observed, load);
        let gap_ms = self.planned_ms.and_then(|planned_ms| now_ms.checked_sub(planned_ms)).filter(|gap_ms| *gap_ms <= GAP_MS);
        match gap_ms {
            Some(gap_ms) => self.arriving += (arriving - self.arriving) * (1.0 - (-(gap_ms as f64) / SMOOTHED_OVER_MS).exp()),
            None => {
                self.arriving = arriving;
                self.fewer = None;
            }
        }
        // At first, and as long as a server that would tell does not answer: no fewer than there are.
        if self.planned_ms.is_none() || is_blind(observed) {
            let serving = observed.gpus.iter().filter(|view| view.phase == WorkerPhase::Serving).count();
            self.desired = self.desired.max(u32::try_from(serving).unwrap_or(u32::MAX));
        }
        self.planned_ms = Some(now_ms);
        self.slots_per_worker = load::mean(observed.gpus.iter().map(|view| f64::from(view.row.slots))).or(self.slots_per_worker);
    }

    /// Never down: what does not come may only not be heard of.
    fn held(&mut self, section: &ScalingSection, needed: Needed) -> u32 {
        self.fewer = None;
        bounded(section, self.desired.max(needed.workers))
    }

    /// Up at once, down once fewer have been enough for long.
    fn steady(&mut self, now_ms: u64, section: &ScalingSection, needed: Needed) -> u32 {
        let (up, down) = (bounded(section, needed.workers), bounded(section, needed.with_spare));
        let desired = bounded(section, self.desired);
        if up >= desired || down >= desired {
            self.fewer = None;
            return up.max(desired);
        }
        let (since_ms, most) = self.fewer.map_or((now_ms, down), |(since_ms, most)| (since_ms, most.max(down)));
        if now_ms.saturating_sub(since_ms) < section.down_after_ms {
            self.fewer = Some((since_ms, most));
            return desired;
        }
        self.fewer = None;
        most
    }
}

/// Whether a server does not answer, without which less work may only seem to come.
const fn is_blind(observed: &Observed<'_>) -> bool {
    observed.broker_ms.is_none() || observed.store_ms.is_none() || observed.table_ms.is_none()
}

/// The work that comes, in slots. Where no steps are told, as much comes as is served, and that is as many slots as are held.
fn arriving(observed: &Observed<'_>, load: &Load) -> f64 {
    let is_told = observed.activity.arrived > 0 || observed.activity.began > 0;
    if is_told { load.arriving } else { load.held_anywhere as f64 }
}

/// How many workers are needed, before bounds and steadiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Needed {
    workers: u32,
    /// With something to spare: when there may be fewer.
    with_spare: u32,
    /// Whether it rests on learnt run times.
    learnt: bool,
}

fn bounded(section: &ScalingSection, workers: u32) -> u32 {
    workers.min(section.workers_max).max(section.workers_min)
}

fn needed(load: &Load, section: &ScalingSection, slots_per_worker: f64) -> Needed {
    let least = u32::from(load.waiting > 0 || load.held_anywhere > 0);
    match load.needed_slots(section.wait_objective_ms) {
        Some(slots) => {
            let workers = |slots: f64| ((slots / slots_per_worker - 1e-9).ceil() as u32).max(least);
            Needed { workers: workers(slots), with_spare: workers(slots * TO_SPARE), learnt: true }
        }
        // Nothing has ended yet that tells how long such tasks take. Where those that are there do not keep up, twice as many, but never more slots than tasks.
        None => {
            let late = load.oldest_ms > section.wait_objective_ms;
            let there = u32::try_from(load.workers).unwrap_or(u32::MAX);
            let wanted = if late { there.saturating_mul(2) } else { there };
            let useful = ((load.servable + load.held_anywhere) as f64 / slots_per_worker).ceil() as u32;
            let workers = wanted.min(useful).max(least);
            Needed { workers, with_spare: workers, learnt: false }
        }
    }
}

/// The lowest priority of which a task waits.
fn lowest_waiting(observed: &Observed<'_>) -> Option<u8> {
    (0_u8..).zip(&observed.activity.priorities).find(|(_, numbers)| numbers.waiting_tasks() > 0).map(|(priority, _)| priority)
}

/// All workers, those that would be missed least first: drained, idle, then by how many tasks they have.
fn remove_first(gpus: &[GpuView]) -> Vec<GpuId> {
    let mut views: Vec<&GpuView> = gpus.iter().collect();
    views.sort_by_key(|view| (!view.is_safe_to_delete(), tasks(view), view.phase == WorkerPhase::Serving, &view.row.gpu.gpu_id));
    views.into_iter().map(id).collect()
}

/// The tasks that a worker has: those that hold slots or run, and those in its hand.
fn tasks(view: &GpuView) -> u64 {
    u64::from(view.held).max(view.row.running.len() as u64) + u64::from(view.row.waiting)
}

fn id(view: &GpuView) -> GpuId {
    view.row.gpu.gpu_id.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sketch::{Sketch, gpu_id};

    fn plan(planner: &mut Planner, sketch: &Sketch) -> Scaling {
        planner.plan(&PoolName::default(), &sketch.observed())
    }

    /// What one that knows nothing of the past plans.
    fn first(sketch: &Sketch) -> Scaling {
        plan(&mut Planner::new(), sketch)
    }

    #[test]
    fn nothing_to_do_desires_the_least_that_is_allowed() {
        let mut sketch = Sketch::of(0, 8);
        assert_eq!(first(&sketch).desired_workers, 0);
        sketch.scaling.workers_min = 3;
        let scaling = first(&sketch);
        assert_eq!(scaling.desired_workers, 3);
        assert!(scaling.reason.contains("workers_min"), "{}", scaling.reason);
    }

    #[test]
    fn a_backlog_on_an_empty_table_desires_one_worker_and_more_when_that_one_does_not_keep_up() {
        let mut sketch = Sketch::of(0, 2).waiting("a", 100, 5_000);
        let mut planner = Planner::new();
        assert_eq!(plan(&mut planner, &sketch).desired_workers, 1);
        for (workers, desired) in [(1, 2), (2, 4), (4, 8)] {
            sketch.gpus = Sketch::of(workers, 2).full().gpus;
            sketch.activity.priorities[4].oldest_ms = 40_000;
            sketch.now_ms += 1_000;
            let scaling = plan(&mut planner, &sketch);
            assert_eq!(scaling.desired_workers, desired, "{}", scaling.reason);
        }
    }

    #[test]
    fn one_task_that_waits_or_runs_desires_a_worker() {
        assert_eq!(first(&Sketch::of(0, 8).waiting("a", 1, 0)).desired_workers, 1);
        let mut held = Sketch::of(1, 8);
        held.gpus[0].held = 1;
        held.gpus[0].phase = WorkerPhase::Draining;
        held.gpus[0].eligible = false;
        assert_eq!(first(&held).desired_workers, 1);
    }

    #[test]
    fn what_only_the_broker_knows_to_wait_counts() {
        let mut sketch = Sketch::of(1, 1).flow("a", 6, 1_000.0);
        sketch.ready = Some(300);
        let scaling = first(&sketch);
        assert_eq!((scaling.waiting, scaling.waiting_slot_seconds), (300, 300.0));
        assert!(scaling.desired_workers >= 20, "{scaling:?}");
    }

    #[test]
    fn tasks_that_no_gpu_can_ever_run_desire_no_more_of_the_same_gpus() {
        for run_ms in [Some(1_000.0), None] {
            let mut sketch = Sketch::of(2, 4).waiting("nobodys", 10_000, 900_000);
            if let Some(run_ms) = run_ms {
                sketch = sketch.flow("a", 60, run_ms);
            }
            sketch.activity.unserved = 10_000;
            sketch.activity.unserved_kinds.insert(crate::sketch::kind("nobodys"), 10_000);
            let mut planner = Planner::new();
            for _ in 0..5 {
                sketch.now_ms += 1_000;
                let scaling = plan(&mut planner, &sketch);
                assert_eq!((scaling.desired_workers, scaling.waiting), (2, 10_000), "{}", scaling.reason);
            }
            // Those that are served count all the same.
            assert!(plan(&mut planner, &sketch.waiting("a", 1_000, 40_000)).desired_workers > 2);
        }
    }

    #[test]
    fn what_comes_is_served_with_room_and_the_backlog_drained_in_time() {
        // 8 slots of work come each second.
        let busy = Sketch::of(1, 4).full().flow("a", 240, 2_000.0);
        let scaling = first(&busy);
        assert!((scaling.arriving_slot_seconds_per_second - 8.0).abs() < 1e-9, "{scaling:?}");
        assert_eq!(scaling.desired_workers, 3, "8 slots and headroom: {}", scaling.reason);
        // And 120 slot-seconds wait, for 30 s at most.
        let scaling = first(&busy.waiting("a", 60, 2_000));
        assert!((5..=6).contains(&scaling.desired_workers), "{scaling:?}");
    }

    #[test]
    fn a_long_task_desires_a_slot_and_not_its_time_over_the_window() {
        let hour = 3_600_000.0;
        let mut sketch = Sketch::of(1, 1).full();
        sketch.numbers("a").learnt_run_ms = hour;
        sketch.activity.arrived = 2;
        sketch.wait("a", 4, 1, 1_000);
        let scaling = first(&sketch);
        assert!((2..=5).contains(&scaling.desired_workers), "{scaling:?}");
    }

    #[test]
    fn the_bounds_hold_and_are_said() {
        let mut sketch = Sketch::of(1, 1).flow("a", 60, 1_000.0).waiting("a", 100_000, 1_000);
        sketch.scaling.workers_max = 7;
        let scaling = first(&sketch);
        assert_eq!(scaling.desired_workers, 7);
        assert!(scaling.reason.contains("workers_max"), "{}", scaling.reason);
    }

    #[test]
    fn it_goes_up_at_once_and_down_only_after_a_quiet_time_to_the_most_of_it() {
        let mut planner = Planner::new();
        let quiet = Sketch::of(2, 1).flow("a", 6, 1_000.0);
        let start_ms = quiet.now_ms;
        let mut at = |waiting: u64, second: u64| {
            let mut sketch = Sketch::of(2, 1).flow("a", 6, 1_000.0).waiting("a", waiting, 100);
            sketch.now_ms = start_ms + second * 1_000;
            plan(&mut planner, &sketch).desired_workers
        };
        assert_eq!(at(0, 0), 2, "no fewer than there are");
        let high = at(150, 1);
        assert!(high >= 10);
        for second in 2..200 {
            assert_eq!(at(0, second), high);
        }
        let low = (200..=302).map(|second| at(30, second)).max();
        assert_eq!(low, Some(high), "302 s after the peak, 300 s after it was lower: the next one may go down");
        let down = (303..=330).map(|second| at(0, second)).min().unwrap();
        assert!(down < high && down >= 3, "the most that was needed meanwhile: {down}");
    }

    #[test]
    fn after_a_gap_the_quiet_time_begins_anew() {
        let mut planner = Planner::new();
        let mut sketch = Sketch::of(5, 1);
        let mut at = |second: u64| {
            sketch.now_ms += second * 1_000;
            plan(&mut planner, &sketch).desired_workers
        };
        assert_eq!(at(0), 5);
        assert_eq!(at(400), 5, "nobody looked for longer than the quiet time");
        for _ in 0..29 {
            assert_eq!(at(10), 5);
        }
        assert_eq!(at(10), 0);
    }

    #[test]
    fn it_does_not_go_down_while_a_server_does_not_answer() {
        for (server, silence) in [("broker", 0), ("store", 1), ("table", 2)] {
            let mut planner = Planner::new();
            let mut sketch = Sketch::of(4, 1);
            if silence == 2 {
                sketch.gpus.clear();
            }
            let silent = [&mut sketch.broker_ms, &mut sketch.store_ms, &mut sketch.table_ms].into_iter().nth(silence).unwrap();
            *silent = None;
            plan(&mut planner, &sketch);
            sketch.gpus = Sketch::of(4, 1).gpus;
            for _ in 0..100 {
                sketch.now_ms += 10_000;
                assert_eq!(plan(&mut planner, &sketch).desired_workers, 4, "{server}");
            }
            (sketch.broker_ms, sketch.store_ms, sketch.table_ms) = (Some(1.0), Some(1.0), Some(1.0));
            for _ in 0..=31 {
                sketch.now_ms += 10_000;
                plan(&mut planner, &sketch);
            }
            assert_eq!(plan(&mut planner, &sketch).desired_workers, 0, "{server}");
        }
    }

    #[test]
    fn where_no_steps_are_told_the_slots_that_are_held_say_what_comes() {
        let mut sketch = Sketch::of(6, 4);
        for view in &mut sketch.gpus {
            view.held = 2;
            view.row.run_ms.insert(crate::sketch::kind("a"), 500.0);
        }
        let scaling = first(&sketch);
        assert!((scaling.arriving_slot_seconds_per_second - 12.0).abs() < 1e-9, "{scaling:?}");
        let mut planner = Planner::new();
        for _ in 0..=32 {
            sketch.now_ms += 10_000;
            plan(&mut planner, &sketch);
        }
        assert_eq!(plan(&mut planner, &sketch).desired_workers, 4, "12 slots and something to spare");
    }

    #[test]
    fn drained_workers_go_first_then_idle_ones_then_those_with_the_fewest_tasks() {
        let mut sketch = Sketch::of(5, 4);
        for (number, held) in [3, 0, 1, 0, 2].into_iter().enumerate() {
            sketch.gpus[number].held = held;
        }
        sketch.drain(3);
        let scaling = first(&sketch);
        assert_eq!(scaling.remove_first, [3, 1, 2, 4, 0].map(gpu_id));
        assert_eq!(scaling.safe_to_delete, [gpu_id(3)]);
    }

    #[test]
    fn the_expected_wait_is_that_of_the_lowest_waiting_priority() {
        let mut sketch = Sketch::of(1, 2).full().flow("a", 60, 1_000.0);
        sketch.wait("a", 8, 4, 100);
        let of_high = first(&sketch).expected_wait_ms;
        sketch.wait("a", 5, 10, 100);
        let of_low = first(&sketch).expected_wait_ms;
        assert!((1_500.0..=3_000.0).contains(&of_high), "4 tasks before it, over two slots: {of_high}");
        assert!((6_500.0..=8_000.0).contains(&of_low), "14 tasks before it, over two slots: {of_low}");
    }
}
