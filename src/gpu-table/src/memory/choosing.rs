//! The strategies: which of the eligible GPUs a claim takes, and where a task waits if none is free.

use protocol::{Choice, ClaimRequest, GpuId, Strategy};

use super::pool::{Entry, Pool};
use crate::eligibility::{fits, is_open, is_ready};

/// Slots held are compared in steps of 1/1024, so that the order is one whole number everywhere.
const STEPS: u64 = 1_024;

/// Behind so many tasks that wait for a GPU nobody is sent to wait for its model.
const WAITING_MAX: u64 = 8;

impl Pool {
    /// The eligible GPU with a free slot that the task's strategy puts first.
    pub(super) fn choose(&self, request: &ClaimRequest) -> Option<GpuId> {
        let settings = self.settings();
        let choice = Choice::resolve(request.strategy.as_deref(), settings.default_strategy, &settings.strategies);
        let free = self.rows.iter().filter(|(gpu_id, _)| self.is_free(request, gpu_id));
        let first = free.min_by_key(|(gpu_id, entry)| (self.rank(choice.used, request, entry), *gpu_id));
        first.map(|(gpu_id, _)| gpu_id.clone())
    }

    /// Where a GPU stands in a strategy's order; the lowest is chosen. Ties go by id.
    fn rank(&self, strategy: Strategy, request: &ClaimRequest, entry: &Entry) -> [u64; 7] {
        let row = &entry.row;
        let share = self.load(&row.gpu.gpu_id) * STEPS / u64::from(row.slots);
        let elsewhere = u64::from(row.gpu.gpu_id != request.asker);
        let needs = &request.needs;
        let best_fit = if strategy == Strategy::TaskSpecific {
            let not_loaded = needs.model.as_ref().is_some_and(|model| !row.models.contains(model));
            let memory_mb = needs.memory_mb.map_or(0, |_| row.gpu.memory_total_mb);
            let capability = needs.compute_capability.map_or(0, |_| row.gpu.compute_capability.rank());
            [u64::from(not_loaded), memory_mb, u64::from(capability)]
        } else {
            [0; 3]
        };
        match strategy {
            Strategy::RoundRobin => [0, 0, 0, 0, 0, 0, entry.sequence],
            _ => [best_fit[0], best_fit[1], best_fit[2], share, elsewhere, memory_percent(entry), entry.sequence],
        }
    }

    /// The fitting GPU that works through its tasks soonest: least claimed, waiting and sent there for its slots.
    pub(super) fn least_work(&self, request: &ClaimRequest) -> Option<GpuId> {
        let settings = self.settings();
        let can_wait = |entry: &Entry| is_ready(&entry.row, &settings) && entry.row.consuming && fits(&entry.row, &settings, request);
        let fitting = self.rows.iter().filter(|(_, entry)| can_wait(entry));
        let first = fitting.min_by_key(|(gpu_id, entry)| (self.work(gpu_id, entry), entry.sequence, *gpu_id));
        first.map(|(gpu_id, _)| gpu_id.clone())
    }

    /// The busy GPU that has the task's model and comes free soon enough that to wait for it is clearly better than to load the model on `free`, the best of the free ones: in less than half the time
    /// that a cold load is known to take. `None` where `free` has the model, where none is asked for, and where anything is not known.
    pub(super) fn better_waited_for(&self, request: &ClaimRequest, free: &GpuId) -> Option<GpuId> {
        let settings = self.settings();
        let choice = Choice::resolve(request.strategy.as_deref(), settings.default_strategy, &settings.strategies);
        let model = request.needs.model.as_ref().filter(|_| choice.used == Strategy::TaskSpecific)?;
        let free = &self.rows.get(free)?.row;
        if free.models.contains(model) {
            return None;
        }
        let is_busy = |gpu_id: &GpuId, entry: &Entry| {
            let row = &entry.row;
            let is_full = is_open(row, &settings) && self.load(gpu_id) >= u64::from(row.slots);
            is_full && row.models.contains(model) && fits(row, &settings, request)
        };
        let busy = self.rows.iter().filter(|(gpu_id, entry)| is_busy(gpu_id, entry));
        let (gpu_id, entry) = busy.min_by_key(|(gpu_id, entry)| (self.work(gpu_id, entry), entry.sequence, *gpu_id))?;
        let load_ms = free.model_state.load_ms.get(model).or_else(|| entry.row.model_state.load_ms.get(model))?;
        let run_ms = entry.row.run_ms.get(&request.kind)?;
        let waiting = u64::from(entry.row.waiting) + entry.sent_to_wait;
        let wait_ms = self.tasks(gpu_id, entry) as f64 * run_ms / f64::from(entry.row.slots.max(1));
        (waiting < WAITING_MAX && wait_ms * 2.0 < *load_ms).then(|| gpu_id.clone())
    }

    /// Tasks that are there, or on their way there.
    fn tasks(&self, gpu_id: &GpuId, entry: &Entry) -> u64 {
        self.load(gpu_id) + u64::from(entry.row.waiting) + entry.sent_to_wait
    }

    fn work(&self, gpu_id: &GpuId, entry: &Entry) -> u64 {
        let tasks = self.tasks(gpu_id, entry);
        // The bound keeps the Redis back end's score within a double.
        (tasks * STEPS / u64::from(entry.row.slots.max(1))).min((1 << 17) - 1)
    }
}

/// Whole percent of the memory in use, at most 100.
fn memory_percent(entry: &Entry) -> u64 {
    let (used_mb, total_mb) = (entry.row.memory_in_the_way_mb(), entry.row.gpu.memory_total_mb);
    used_mb.saturating_mul(100).checked_div(total_mb).map_or(100, |percent| percent.min(100))
}
