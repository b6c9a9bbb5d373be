//! What happened in the last quarter of an hour, in slices of five seconds; and what runs take, over all that is known.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use protocol::{GpuId, Kind, Outcome, StepName, TaskStep};

use super::{
    histogram::Histogram,
    record::{Meant, Record},
};
use crate::{Activity, GpuNumbers, KindNumbers};

/// How long a slice of time is.
const SLICE_MS: u64 = 5_000;
/// How many slices are kept: a quarter of an hour, and a minute for those who ask late.
const SLICES_MAX: usize = 192;
/// What a clock may be ahead. What is told of a later time than this is forgotten with the next tidying.
const AHEAD_MAX_MS: u64 = 60_000;
/// Of how many kinds, and of how many GPUs, one slice tells; what others do counts in the sums.
const NAMES_MAX: usize = 512;
/// Of how many kinds is known what a run takes.
const LEARNT_MAX: usize = 2_048;
/// Over how many slices it is measured how fast tasks arrive: five minutes.
const ARRIVALS_SLICES: u64 = 60;
/// What an index has seen for less than a minute says little of a minute: it may be a burst.
const ARRIVALS_SLICES_MIN: u64 = 12;
/// A run counts for at least so much in what is learnt: the last fifty count most.
const LEARNT_SHARE_MIN: f64 = 0.02;
/// What is usual follows most of a change in this time.
const USUAL_OVER_MS: f64 = 3_600_000.0;
/// So many runs say what is usual at first.
const USUAL_RUNS: u64 = 10;

/// The last while, and what was learnt.
#[derive(Default)]
pub(super) struct Recent {
    slices: BTreeMap<u64, Slice>,
    learnt: HashMap<Arc<Kind>, Learnt>,
}

#[derive(Clone, Copy)]
struct Learnt {
    run_ms: f64,
    /// Smoothed by time, not by runs.
    usual_ms: f64,
    runs: u64,
    last_ms: u64,
}

/// What happened in one slice of time.
#[derive(Default)]
struct Slice {
    sums: Activity,
    kinds: HashMap<Arc<Kind>, OfKind>,
    gpus: HashMap<Arc<GpuId>, GpuNumbers>,
}

/// What one kind did in one slice of time.
#[derive(Default)]
struct OfKind {
    numbers: KindNumbers,
    wait: Histogram,
    run: Histogram,
    /// Tasks that arrived, by priority.
    arrived: [u32; 10],
}

/// How fast tasks of a kind arrive, in tasks per ms, by priority.
pub(crate) type Arrivals<'a> = (&'a Kind, [f64; 10]);

impl Recent {
    /// Counts a step that a task has just taken.
    pub(super) fn note(&mut self, step: &TaskStep, record: &Record, meant: Meant) {
        let slice = self.slices.entry(step.at_ms / SLICE_MS).or_default();
        slice.note_task(step, record, meant);
        if is_end_of_attempt(step.step) && !record.is_split {
            slice.note_run(step, record);
        }
        if self.slices.len() > SLICES_MAX {
            self.slices.pop_first();
        }
        self.learn(step, record);
    }

    fn learn(&mut self, step: &TaskStep, record: &Record) {
        let ran_through = !matches!(step.outcome, Some(Outcome::Cancelled | Outcome::Expired));
        let (Some(run_ms), Some(kind)) = (step.run_ms.filter(|ms| ms.is_finite() && *ms >= 0.0), &record.kind) else { return };
        if !is_end_of_attempt(step.step) || !ran_through || record.is_split {
            return;
        }
        if !self.learnt.contains_key(kind) && self.learnt.len() >= LEARNT_MAX {
            let oldest = self.learnt.iter().min_by_key(|(_, learnt)| learnt.last_ms).map(|(kind, _)| Arc::clone(kind));
            oldest.map(|kind| self.learnt.remove(&kind));
        }
        let learnt = self.learnt.entry(Arc::clone(kind)).or_insert(Learnt { run_ms, usual_ms: run_ms, runs: 0, last_ms: step.at_ms });
        learnt.runs += 1;
        let passed_ms = step.at_ms.saturating_sub(learnt.last_ms) as f64;
        // The first runs are all that is known, however close together they are.
        let share = if learnt.runs <= USUAL_RUNS { 1.0 / learnt.runs as f64 } else { 1.0 - (-passed_ms / USUAL_OVER_MS).exp() };
        learnt.usual_ms += (run_ms - learnt.usual_ms) * share;
        learnt.last_ms = learnt.last_ms.max(step.at_ms);
        learnt.run_ms += (run_ms - learnt.run_ms) * LEARNT_SHARE_MIN.max(1.0 / learnt.runs as f64);
    }

    /// What a run of this kind takes, as far as any ended.
    pub(super) fn learnt_run_ms(&self, kind: &Kind) -> Option<f64> {
        self.learnt.get(kind).map(|learnt| learnt.run_ms)
    }

    /// What a run takes, over all kinds, each by how often it ran.
    pub(super) fn mean_run_ms(&self) -> Option<f64> {
        let runs: u64 = self.learnt.values().map(|learnt| learnt.runs).sum();
        let all_ms: f64 = self.learnt.values().map(|learnt| learnt.run_ms * learnt.runs as f64).sum();
        (runs > 0).then(|| all_ms / runs as f64)
    }

    /// How fast tasks arrived lately, by kind. A burst counts little: that many came at once says not that so many come all the time.
    pub(super) fn arrivals(&self, now_ms: u64) -> Vec<Arrivals<'_>> {
        let last = now_ms / SLICE_MS;
        let Some((first, _)) = self.slices.range(last.saturating_sub(ARRIVALS_SLICES)..).next() else { return Vec::new() };
        let slices: Vec<&Slice> = self.slices.range(first..&last.max(first + 1)).map(|(_, slice)| slice).collect();
        let count = (last.max(first + 1) - first).max(ARRIVALS_SLICES_MIN) as f64;
        let mut cap = f64::INFINITY;
        for _ in 0..6 {
            let mean = slices.iter().map(|slice| cap.min(slice.sums.arrived as f64)).sum::<f64>() / count;
            cap = 3.0 * mean + 2.0;
        }
        let mut rates: HashMap<&Kind, [f64; 10]> = HashMap::new();
        for slice in slices {
            let share = (cap / (slice.sums.arrived as f64).max(1.0)).min(1.0);
            for (kind, of_kind) in &slice.kinds {
                let rate = rates.entry(kind).or_default();
                for (rate, arrived) in rate.iter_mut().zip(of_kind.arrived) {
                    *rate += f64::from(arrived) * share / (count * SLICE_MS as f64);
                }
            }
        }
        rates.into_iter().collect()
    }

    /// Forgets what is too old, and what a wrong clock told of times to come.
    pub(super) fn tidy(&mut self, now_ms: u64) {
        let last = now_ms.saturating_add(AHEAD_MAX_MS) / SLICE_MS;
        let first = (now_ms / SLICE_MS).saturating_sub(SLICES_MAX as u64);
        self.slices.retain(|slice, _| (first..=last).contains(slice));
    }

    /// Adds what happened in the window to an activity. A window begins and ends with slices: with those next to it.
    pub(super) fn add_to(&self, activity: &mut Activity) {
        let from = (activity.at_ms.saturating_sub(activity.window_ms) + SLICE_MS / 2) / SLICE_MS;
        let to = activity.at_ms.div_ceil(SLICE_MS).max(from + 1);
        let mut kinds: HashMap<&Arc<Kind>, OfKind> = HashMap::new();
        for (_, slice) in self.slices.range(from..to) {
            add_sums(activity, &slice.sums);
            // Of a kind whose tasks only arrived there is nothing to say, and whoever submits may make up thousands of kinds.
            for (kind, numbers) in slice.kinds.iter().filter(|(_, of_kind)| of_kind.numbers != KindNumbers::default()) {
                kinds.entry(kind).or_default().add(numbers);
            }
            for (gpu_id, numbers) in &slice.gpus {
                add_gpu(activity.gpus.entry((**gpu_id).clone()).or_default(), numbers);
            }
        }
        for (kind, of_kind) in kinds {
            let OfKind { numbers, wait, run, .. } = of_kind;
            let there = activity.kinds.entry((**kind).clone()).or_default();
            let (waiting, running) = (there.waiting, there.running);
            *there = KindNumbers { waiting, running, wait: wait.quantiles(), run: run.quantiles(), ..numbers };
        }
        for (kind, numbers) in &mut activity.kinds {
            numbers.learnt_run_ms = self.learnt_run_ms(kind).unwrap_or(0.0);
            numbers.usual_run_ms = self.learnt.get(kind).map_or(0.0, |learnt| learnt.usual_ms);
        }
    }
}

const fn is_end_of_attempt(step: StepName) -> bool {
    matches!(step, StepName::Ended | StepName::Retrying | StepName::Crashed)
}

impl Slice {
    /// What a step says of its task.
    fn note_task(&mut self, step: &TaskStep, record: &Record, meant: Meant) {
        let sums = &mut self.sums;
        let mut of_no_kind = OfKind::default();
        let of_kind = match &record.kind {
            Some(kind) if self.kinds.len() < NAMES_MAX || self.kinds.contains_key(kind) => self.kinds.entry(Arc::clone(kind)).or_default(),
            _ => &mut of_no_kind,
        };
        let priority = &mut sums.priorities[usize::from(record.priority.unwrap_or(0))];
        if meant.arrived {
            sums.arrived += 1;
            priority.arrived += 1;
            of_kind.arrived[usize::from(record.priority.unwrap_or(0))] += 1;
        }
        match step.step {
            StepName::Began => {
                sums.began += 1;
                of_kind.numbers.began += 1;
                priority.began += 1;
                if let Some(waited_ms) = step.waited_ms {
                    of_kind.wait.note(waited_ms);
                    priority.longest_wait_ms = priority.longest_wait_ms.max(waited_ms);
                }
            }
            StepName::Retrying => {
                sums.retried += 1;
                of_kind.numbers.retried += 1;
            }
            StepName::Crashed => {
                sums.crashed += 1;
                of_kind.numbers.crashed += 1;
            }
            StepName::Ended if meant.ended => {
                of_kind.numbers.ended += 1;
                match step.outcome {
                    Some(Outcome::Failed) => {
                        sums.failed += 1;
                        of_kind.numbers.failed += 1;
                    }
                    Some(Outcome::Cancelled) => sums.cancelled += 1,
                    Some(Outcome::Expired) => sums.expired += 1,
                    _ => sums.succeeded += 1,
                }
            }
            _ => {}
        }
        if step.step == StepName::Began
            && let Some(gpu) = self.gpu_of(record)
        {
            gpu.began += 1;
        }
    }

    /// What the end of an attempt says of its run. What never ran has no time.
    fn note_run(&mut self, step: &TaskStep, record: &Record) {
        let Some(run_ms) = step.run_ms.filter(|ms| ms.is_finite() && *ms >= 0.0) else { return };
        let (load_ms, transfer_ms) = (step.load_ms.unwrap_or(0.0), step.transfer_ms.unwrap_or(0.0));
        if let Some(of_kind) = record.kind.as_ref().and_then(|kind| self.kinds.get_mut(kind)) {
            of_kind.run.note(run_ms);
            let numbers = &mut of_kind.numbers;
            (numbers.slot_ms, numbers.load_ms) = (numbers.slot_ms + run_ms, numbers.load_ms + load_ms);
            numbers.transfer_ms += transfer_ms;
        }
        if let Some(gpu) = self.gpu_of(record) {
            gpu.ended += 1;
            gpu.failed += u64::from(step.step != StepName::Ended || step.outcome == Some(Outcome::Failed));
            (gpu.slot_ms, gpu.load_ms, gpu.transfer_ms) = (gpu.slot_ms + run_ms, gpu.load_ms + load_ms, gpu.transfer_ms + transfer_ms);
        }
    }

    fn gpu_of(&mut self, record: &Record) -> Option<&mut GpuNumbers> {
        let gpu_id = record.gpu.as_ref()?;
        let has_room = self.gpus.len() < NAMES_MAX || self.gpus.contains_key(gpu_id);
        has_room.then(|| self.gpus.entry(Arc::clone(gpu_id)).or_default())
    }
}

impl OfKind {
    fn add(&mut self, other: &Self) {
        let (sum, more) = (&mut self.numbers, &other.numbers);
        sum.began += more.began;
        sum.ended += more.ended;
        sum.failed += more.failed;
        sum.retried += more.retried;
        sum.crashed += more.crashed;
        sum.slot_ms += more.slot_ms;
        sum.load_ms += more.load_ms;
        sum.transfer_ms += more.transfer_ms;
        self.wait.merge(&other.wait);
        self.run.merge(&other.run);
    }
}

fn add_sums(sum: &mut Activity, more: &Activity) {
    sum.arrived += more.arrived;
    sum.began += more.began;
    sum.succeeded += more.succeeded;
    sum.failed += more.failed;
    sum.cancelled += more.cancelled;
    sum.expired += more.expired;
    sum.retried += more.retried;
    sum.crashed += more.crashed;
    for (sum, more) in sum.priorities.iter_mut().zip(&more.priorities) {
        sum.arrived += more.arrived;
        sum.began += more.began;
        sum.longest_wait_ms = sum.longest_wait_ms.max(more.longest_wait_ms);
    }
}

fn add_gpu(sum: &mut GpuNumbers, more: &GpuNumbers) {
    sum.began += more.began;
    sum.ended += more.ended;
    sum.failed += more.failed;
    sum.slot_ms += more.slot_ms;
    sum.load_ms += more.load_ms;
    sum.transfer_ms += more.transfer_ms;
}
