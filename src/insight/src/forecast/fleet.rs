//! The slots that take tasks, and when each will be free.

use std::collections::{HashMap, HashSet};

use gpu_table::eligibility::{has_memory_now, is_ready, is_within_thresholds};
use protocol::{GpuId, TaskId, TaskState, claim::Settings, gpu::GpuView};

use super::{Class, costs::Costs};
use crate::{
    Observed,
    index::{Record, TaskIndex},
};

/// A row may be so old: what the index says of a GPU's tasks and its row does not is believed for so long.
const ROW_AGE_MAX_MS: u64 = 5_000;
/// What is left of a run of which nothing is learnt: so long that nobody waits for it.
pub(super) const UNKNOWN_MS: f64 = 1e15;

/// The GPUs that take tasks.
pub(super) struct Fleet<'a> {
    pub(super) gpus: Vec<Gpu<'a>>,
    settings: &'a Settings,
}

/// A GPU that takes tasks.
pub(super) struct Gpu<'a> {
    pub(super) view: &'a GpuView,
    /// In how many ms each of its slots is free.
    pub(super) free_in_ms: Vec<f64>,
}

impl<'a> Fleet<'a> {
    /// By what the index says of the tasks that run, each with its begin.
    pub(super) fn of_index(observed: &Observed<'a>, index: &TaskIndex, costs: &Costs<'_>) -> Self {
        let mut running: HashMap<&GpuId, Vec<&Record>> = HashMap::new();
        for record in index.in_state(TaskState::Running).filter(|record| !record.is_split) {
            if let Some(gpu_id) = record.gpu.as_deref() {
                running.entry(gpu_id).or_default().push(record);
            }
        }
        let left = |view: &GpuView| {
            let known = running.get(&view.row.gpu.gpu_id).map_or(&[][..], Vec::as_slice);
            left_ms(observed.now_ms, view, known, (index, costs))
        };
        Self::of(observed, left)
    }

    /// By the rows alone: what runs is on average half over.
    pub(super) fn of_rows(observed: &Observed<'a>, costs: &Costs<'_>) -> Self {
        let numbers = &observed.activity.kinds;
        let running: u64 = numbers.values().map(|numbers| numbers.running).sum();
        let of_all_ms: f64 =
            numbers.values().filter(|numbers| numbers.running > 0).map(|numbers| numbers.running as f64 * numbers.learnt_run_ms).sum();
        let run_ms = if running > 0 && of_all_ms > 0.0 { Some(of_all_ms / running as f64) } else { costs.mean_ms() };
        let busy = |view: &GpuView| view.held.max(view.row.running.len() as u32).min(view.row.slots);
        let all_busy: u32 = observed.gpus.iter().map(busy).sum();
        let mut begun = 0;
        Self::of(observed, |view| {
            let mut left = Vec::new();
            for _ in 0..busy(view) {
                // Not all at the same time: some have just begun, some are nearly over.
                let share = (f64::from(begun) + 0.5) / f64::from(all_busy);
                left.push(run_ms.map_or(UNKNOWN_MS, |run_ms| run_ms * share));
                begun += 1;
            }
            left
        })
    }

    /// `left`: what is left of each of the runs of a GPU.
    fn of(observed: &Observed<'a>, mut left: impl FnMut(&GpuView) -> Vec<f64>) -> Self {
        let settings = observed.settings;
        let takes = |view: &&GpuView| is_ready(&view.row, settings) && view.row.consuming && is_within_thresholds(&view.row, settings);
        let gpus = observed.gpus.iter().filter(takes).map(|view| {
            let mut free_in_ms = left(view);
            free_in_ms.sort_by(|one, other| other.total_cmp(one));
            // Tasks that run together share a slot.
            free_in_ms.resize(view.row.slots.max(1) as usize, 0.0);
            Gpu { view, free_in_ms }
        });
        Self { gpus: gpus.collect(), settings }
    }

    pub(super) fn slots(&self) -> usize {
        self.gpus.iter().map(|gpu| gpu.free_in_ms.len()).sum()
    }

    /// Whether tasks of this class run on this GPU. Memory that is not free now will be, where tasks of ours use it.
    pub(super) fn fits(&self, gpu: &Gpu<'_>, class: &Class<'_>) -> bool {
        let row = &gpu.view.row;
        let Some(wanted) = class.wanted() else {
            return class.only.is_none_or(|only| *only == row.gpu.gpu_id);
        };
        let is_busy = gpu.free_in_ms.iter().any(|ms| *ms > 0.0);
        wanted.fits(row, self.settings.memory_threshold) && (is_busy || has_memory_now(row, &wanted.needs, self.settings))
    }
}

/// What is left of each of the runs of a GPU. `known`: those that the index knows there.
fn left_ms(now_ms: u64, view: &GpuView, known: &[&Record], (index, costs): (&TaskIndex, &Costs<'_>)) -> Vec<f64> {
    let row = &view.row;
    let named: HashSet<&TaskId> = row.running.iter().collect();
    let is_believed = |record: &&&Record| {
        let is_new = record.began_ms.is_some_and(|began_ms| now_ms.saturating_sub(began_ms.get()) <= ROW_AGE_MAX_MS);
        is_new || named.contains(record.task_id()) || named.len() >= protocol::GpuRow::RUNNING_MAX
    };
    let of_known = known.iter().filter(is_believed).map(|record| {
        let run_ms = costs.run_ms(record.kind.as_deref(), row).unwrap_or(UNKNOWN_MS);
        let elapsed_ms = record.began_ms.map_or(0, |began_ms| now_ms.saturating_sub(began_ms.get()));
        (run_ms - elapsed_ms as f64).max(0.0)
    });
    // Of the others nobody told: they are on average half over.
    let others = row.running.iter().filter(|task_id| index.record(task_id).is_none());
    let half_ms = costs.mean_ms().unwrap_or(UNKNOWN_MS) / 2.0;
    of_known.chain(others.map(|_| half_ms)).collect()
}
