//! A day of arrivals, and workers that follow what is desired after a time to start.

use std::collections::VecDeque;

use protocol::{PoolName, insight::Scaling};

use super::Planner;
use crate::{
    Observed, Quantiles,
    sketch::{Sketch, view},
};

const DAY_S: u64 = 86_400;
/// From the wish for a worker to its first claim.
const STARTS_IN_S: u64 = 40;
/// How often the fleet asks how many it should be.
const ASKS_EVERY_S: u64 = 5;
const SLOTS: u32 = 4;
const RUN_S: u64 = 4;
/// Over how long activity is counted.
const WINDOW_S: usize = 300;

/// What decides how many workers there should be.
trait Decides {
    fn desired(&mut self, observed: &Observed<'_>) -> u32;
}

impl Decides for Planner {
    fn desired(&mut self, observed: &Observed<'_>) -> u32 {
        let Scaling { desired_workers, .. } = self.plan(&PoolName::default(), observed);
        desired_workers
    }
}

/// As many workers as have slots for the backlog: what a scaler does that knows the queue's length alone.
struct ByBacklog;

impl Decides for ByBacklog {
    fn desired(&mut self, observed: &Observed<'_>) -> u32 {
        let waiting = observed.ready.unwrap_or(0) as f64;
        ((waiting / f64::from(SLOTS)).ceil() as u32).clamp(observed.scaling.workers_min, observed.scaling.workers_max)
    }
}

/// Deterministic noise (splitmix64).
struct Noise(u64);

impl Noise {
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// How many come where so many come on average (Poisson).
    fn arrivals(&mut self, mean: f64) -> u64 {
        let (limit, mut product, mut count) = ((-mean).exp(), self.share(), 0);
        while product > limit {
            product *= self.share();
            count += 1;
        }
        count
    }
}

/// Tasks per second at a time of the day: a quiet night, a ramp in the morning, a busy day with bursts, an evening that fades.
fn rate(second: u64) -> f64 {
    let hour = second as f64 / 3_600.0;
    let base = match hour {
        hour if hour < 6.0 => 0.002,
        hour if hour < 9.0 => 5.0 * (hour - 6.0) / 3.0,
        hour if hour < 18.0 => 5.0 + 0.8 * (hour * 1.7).sin(),
        hour if hour < 22.0 => 5.0 * (22.0 - hour) / 4.0,
        _ => 0.002,
    };
    let bursts = (9.0..18.0).contains(&hour) && second % 5_400 < 60;
    if bursts { base + 6.0 } else { base }
}

/// How a day went.
#[derive(Debug)]
struct Day {
    waits_s: Vec<u64>,
    /// Each change of what is desired: when, from, to.
    changes: Vec<(u64, u32, u32)>,
    least_at_night: u32,
    worker_hours: f64,
    unfinished: usize,
}

impl Day {
    fn share_within(&self, objective_s: u64) -> f64 {
        self.waits_s.iter().filter(|wait_s| **wait_s <= objective_s).count() as f64 / (self.waits_s.len() + self.unfinished) as f64
    }

    fn most_changes_in_an_hour(&self) -> usize {
        self.changes
            .iter()
            .map(|(from_s, ..)| self.changes.iter().filter(|(at_s, ..)| (*from_s..from_s + 3_600).contains(at_s)).count())
            .max()
            .unwrap_or(0)
    }

    /// A change up, one down and one up again within a time.
    fn flaps_within(&self, time_s: u64) -> Option<[(u64, u32, u32); 3]> {
        let up = |change: &(u64, u32, u32)| change.2 > change.1;
        let downs = self.changes.iter().enumerate().filter(|(_, change)| !up(change));
        downs.into_iter().find_map(|(place, down)| {
            let before = self.changes[..place].iter().rev().find(|change| up(change))?;
            let after = self.changes[place + 1..].iter().find(|change| up(change))?;
            (after.0 - before.0 < time_s).then_some([*before, *down, *after])
        })
    }

    /// What a scaler promises.
    fn keeps_its_promises(&self, sketch: &Sketch) -> Result<(), String> {
        let share = self.share_within(sketch.scaling.wait_objective_ms / 1_000);
        if share < 0.95 {
            return Err(format!("{:.1} % of the tasks began in time", share * 100.0));
        }
        if let Some(flap) = self.flaps_within(sketch.scaling.down_after_ms / 1_000) {
            return Err(format!("up, down and up again: {flap:?}"));
        }
        if self.most_changes_in_an_hour() > 24 {
            return Err(format!("{} changes in an hour", self.most_changes_in_an_hour()));
        }
        if self.least_at_night > sketch.scaling.workers_min {
            return Err(format!("{} workers at night", self.least_at_night));
        }
        Ok(())
    }
}

/// A fleet, second by second.
struct Simulation {
    sketch: Sketch,
    /// When each waiting task came.
    queue: VecDeque<u64>,
    /// When each running task ends.
    running: VecDeque<u64>,
    /// When each ordered worker takes tasks.
    starting: Vec<u64>,
    /// Arrivals and begins of each of the last seconds.
    arrived: VecDeque<u64>,
    began: VecDeque<u64>,
    workers: usize,
    desired: u32,
}

impl Simulation {
    fn new() -> Self {
        let mut sketch = Sketch::of(1, SLOTS);
        sketch.scaling.workers_min = 1;
        sketch.activity.window_ms = WINDOW_S as u64 * 1_000;
        sketch.numbers("a").learnt_run_ms = (RUN_S * 1_000) as f64;
        Self {
            sketch,
            queue: VecDeque::new(),
            running: VecDeque::new(),
            starting: Vec::new(),
            arrived: VecDeque::from(vec![0; WINDOW_S]),
            began: VecDeque::from(vec![0; WINDOW_S]),
            workers: 1,
            desired: 1,
        }
    }

    fn day(mut self, planner: &mut dyn Decides) -> Day {
        let mut noise = Noise(18);
        let mut day = Day { waits_s: Vec::new(), changes: Vec::new(), least_at_night: u32::MAX, worker_hours: 0.0, unfinished: 0 };
        let start_ms = self.sketch.now_ms;
        for second in 0..DAY_S {
            self.pass(second, noise.arrivals(rate(second)), &mut day);
            if second % ASKS_EVERY_S == 0 {
                self.sketch.now_ms = start_ms + second * 1_000;
                self.look(second);
                self.follow(second, planner, &mut day);
            }
            if (3 * 3_600..5 * 3_600).contains(&second) {
                day.least_at_night = day.least_at_night.min(self.workers as u32);
            }
            day.worker_hours += self.workers as f64 / 3_600.0;
        }
        day.unfinished = self.queue.len();
        day
    }

    /// One second: tasks end, come and begin, workers start.
    fn pass(&mut self, second: u64, arrivals: u64, day: &mut Day) {
        while self.running.front().is_some_and(|end| *end <= second) {
            self.running.pop_front();
        }
        let (started, starting) = self.starting.iter().partition::<Vec<u64>, _>(|at_s| **at_s <= second);
        self.workers += started.len();
        self.starting = starting;
        self.queue.extend((0..arrivals).map(|_| second));
        let free = (self.workers * SLOTS as usize).saturating_sub(self.running.len());
        let begins = free.min(self.queue.len());
        for came in self.queue.drain(..begins) {
            day.waits_s.push(second - came);
            self.running.push_back(second + RUN_S);
        }
        for (window, count) in [(&mut self.arrived, arrivals), (&mut self.began, begins as u64)] {
            window.pop_front();
            window.push_back(count);
        }
    }

    /// Puts into the sketch what would be observed now.
    fn look(&mut self, second: u64) {
        let waiting = self.queue.len() as u64;
        let began: u64 = self.began.iter().sum();
        let numbers = self.sketch.numbers("a");
        (numbers.waiting, numbers.began, numbers.ended) = (waiting, began, began);
        numbers.run = Quantiles { count: began, mean_ms: (RUN_S * 1_000) as f64, ..Quantiles::default() };
        let activity = &mut self.sketch.activity;
        (activity.arrived, activity.began) = (self.arrived.iter().sum(), began);
        activity.priorities[4].oldest_ms = self.queue.front().map_or(0, |came| (second - came) * 1_000);
        activity.priorities[4].waiting = [(crate::sketch::kind("a"), waiting)].into_iter().filter(|(_, tasks)| *tasks > 0).collect();
        self.sketch.ready = Some(waiting);
        let gpus = &mut self.sketch.gpus;
        gpus.truncate(self.workers);
        for number in gpus.len()..self.workers {
            gpus.push(view(number, SLOTS));
        }
        let mut held = self.running.len() as u32;
        for view in gpus {
            view.held = held.min(SLOTS);
            held -= view.held;
        }
    }

    /// Orders workers, or takes away those that are idle.
    fn follow(&mut self, second: u64, planner: &mut dyn Decides, day: &mut Day) {
        let desired = planner.desired(&self.sketch.observed());
        if desired != self.desired {
            day.changes.push((second, self.desired, desired));
            self.desired = desired;
        }
        let desired = desired as usize;
        let ordered = self.workers + self.starting.len();
        if desired >= ordered {
            self.starting.extend((ordered..desired).map(|_| second + STARTS_IN_S));
            return;
        }
        self.starting.truncate(desired.saturating_sub(self.workers));
        let in_use = self.running.len().div_ceil(SLOTS as usize);
        self.workers = self.workers.min(desired.max(in_use));
    }
}

#[test]
fn through_a_day_of_noise_ramps_and_bursts_tasks_begin_in_time_and_workers_do_not_flap() {
    let planned = Simulation::new().day(&mut Planner::new());
    let sketch = Simulation::new().sketch;
    planned.keeps_its_promises(&sketch).unwrap();
    assert!(planned.changes.len() < 120, "{} changes in a day of six bursts: {:?}", planned.changes.len(), planned.changes);
    // The work of the day alone, without headroom or anything that idles.
    let least = planned.waits_s.len() as f64 * RUN_S as f64 / f64::from(SLOTS) / 3_600.0;
    assert!(planned.worker_hours < 2.5 * least, "{:.0} worker-hours where {least:.0} would do", planned.worker_hours);
}

#[test]
fn a_scaler_that_knows_the_backlog_alone_keeps_not_these_promises() {
    let naive = Simulation::new().day(&mut ByBacklog);
    let broken = naive.keeps_its_promises(&Simulation::new().sketch);
    assert!(broken.is_err(), "the day is too easy to show anything");
    let planned = Simulation::new().day(&mut Planner::new());
    assert!(
        planned.changes.len() * 4 < naive.changes.len(),
        "{} changes, and {} by the backlog alone",
        planned.changes.len(),
        naive.changes.len()
    );
}

#[test]
fn nobody_works_through_an_empty_night_where_none_need_be_kept() {
    let mut planner = Planner::new();
    let mut sketch = Sketch::of(6, SLOTS);
    sketch.numbers("a").learnt_run_ms = 4_000.0;
    let mut desired = Vec::new();
    for _ in 0..200 {
        sketch.now_ms += 2_000;
        desired.push(planner.desired(&sketch.observed()));
    }
    desired.dedup();
    assert_eq!(desired, [6, 0]);
}
