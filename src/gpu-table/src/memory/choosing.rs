//! The strategies: which of the eligible GPUs a claim takes, and where a task waits if none is free.

use protocol::{Choice, ClaimRequest, GpuId, Strategy};

use super::pool::{Entry, Pool};
use crate::eligibility::{fits, is_ready};

/// Slots held are compared in steps of 1/1024, so that the order is one whole number everywhere.
const STEPS: u64 = 1_024;

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

    fn work(&self, gpu_id: &GpuId, entry: &Entry) -> u64 {
        let tasks = self.load(gpu_id) + u64::from(entry.row.waiting) + entry.sent_to_wait;
        // The bound keeps the Redis back end's score within a double.
        (tasks * STEPS / u64::from(entry.row.slots.max(1))).min((1 << 17) - 1)
    }
}

/// Whole percent of the memory in use, at most 100.
fn memory_percent(entry: &Entry) -> u64 {
    let (used_mb, total_mb) = (entry.row.sample.memory_used_mb, entry.row.gpu.memory_total_mb);
    used_mb.saturating_mul(100).checked_div(total_mb).map_or(100, |percent| percent.min(100))
}
