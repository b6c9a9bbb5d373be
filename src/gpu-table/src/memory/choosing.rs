//! The strategies: which of the eligible GPUs a claim takes, and where a task waits if none is free.

use protocol::{Choice, ClaimRequest, GpuId, Strategy};

use super::pool::{Entry, Pool};
use crate::{
    eligibility::{fits, is_ready},
    weights::{Weights, microseconds},
};

/// Slots held are compared in steps of 1/1024, so that the order is one whole number everywhere.
const STEPS: u64 = 1_024;

/// A strategy's order, for one task.
struct Order<'r> {
    strategy: Strategy,
    request: &'r ClaimRequest,
    weights: Weights,
    /// What it takes to load the task's model, in microseconds. `None`: it is not known, and counts for more than any data.
    load_us: Option<u64>,
}

impl Pool {
    /// The strategy that chooses for a task.
    pub(super) fn strategy(&self, request: &ClaimRequest) -> Strategy {
        let settings = self.settings();
        Choice::resolve(request.strategy.as_deref(), settings.default_strategy, &settings.strategies).used
    }

    /// The eligible GPU with a free slot that the task's strategy puts first.
    pub(super) fn choose(&self, request: &ClaimRequest) -> Option<GpuId> {
        let strategy = self.strategy(request);
        let load_us = if strategy == Strategy::TaskSpecific { self.load_us(request) } else { None };
        self.first(&Order { strategy, request, weights: Weights::of(request.data.as_ref()), load_us })
    }

    /// What a load of the task's model takes, in microseconds. `None`: that is not known, or no matter.
    fn load_us(&self, request: &ClaimRequest) -> Option<u64> {
        let model = request.needs.model.as_ref().filter(|_| request.data.is_some())?;
        // If any free GPU has the model, this one has, and knows what it takes to load it. If none has, that is the same for all.
        let without_data = Order { strategy: Strategy::TaskSpecific, request, weights: Weights::default(), load_us: None };
        let row = &self.rows.get(&self.first(&without_data)?)?.row;
        row.model_state.load_ms.get(model).copied().map(microseconds)
    }

    fn first(&self, order: &Order<'_>) -> Option<GpuId> {
        let free = self.rows.iter().filter(|(gpu_id, _)| self.is_free(order.request, gpu_id));
        let first = free.min_by_key(|(gpu_id, entry)| (self.rank(order, entry), *gpu_id));
        first.map(|(gpu_id, _)| gpu_id.clone())
    }

    /// Where a GPU stands in a strategy's order; the lowest is chosen. Ties go by id.
    fn rank(&self, order: &Order<'_>, entry: &Entry) -> [u64; 9] {
        let row = &entry.row;
        let data_us = order.weights.to(&row.gpu.gpu_id);
        let share = self.load(&row.gpu.gpu_id) * STEPS / u64::from(row.slots);
        let elsewhere = u64::from(row.gpu.gpu_id != order.request.asker);
        match order.strategy {
            Strategy::RoundRobin => [entry.sequence, data_us, 0, 0, 0, 0, 0, 0, 0],
            Strategy::LeastLoaded => [share, data_us, elsewhere, memory_percent(entry), entry.sequence, 0, 0, 0, 0],
            Strategy::TaskSpecific => {
                let [unknown, cost_us, not_loaded, memory_mb, capability] = best_fit(order, entry, data_us);
                let percent = memory_percent(entry);
                [unknown, cost_us, not_loaded, memory_mb, capability, share, elsewhere, percent, entry.sequence]
            }
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

    /// Tasks that are there, or on their way there.
    pub(super) fn tasks(&self, gpu_id: &GpuId, entry: &Entry) -> u64 {
        self.load(gpu_id) + u64::from(entry.row.waiting) + entry.sent_to_wait
    }

    pub(super) fn work(&self, gpu_id: &GpuId, entry: &Entry) -> u64 {
        let tasks = self.tasks(gpu_id, entry);
        // The bound keeps the Redis back end's score within a double.
        (tasks * STEPS / u64::from(entry.row.slots.max(1))).min((1 << 17) - 1)
    }
}

/// How well a GPU suits a task: what it takes until the task's data and its model are there, and how tightly it fits.
fn best_fit(order: &Order<'_>, entry: &Entry, data_us: u64) -> [u64; 5] {
    let (row, needs) = (&entry.row, &order.request.needs);
    let not_loaded = needs.model.as_ref().is_some_and(|model| !row.models.contains(model));
    let (unknown, cost_us) = match order.load_us {
        Some(load_us) if not_loaded => (false, data_us + load_us),
        None if not_loaded => (true, data_us),
        _ => (false, data_us),
    };
    let memory_mb = needs.memory_mb.map_or(0, |_| row.gpu.memory_total_mb);
    let capability = needs.compute_capability.map_or(0, |_| row.gpu.compute_capability.rank());
    [u64::from(unknown), cost_us, u64::from(not_loaded), memory_mb, u64::from(capability)]
}

/// Whole percent of the memory in use, at most 100.
fn memory_percent(entry: &Entry) -> u64 {
    let (used_mb, total_mb) = (entry.row.memory_in_the_way_mb(), entry.row.gpu.memory_total_mb);
    used_mb.saturating_mul(100).checked_div(total_mb).map_or(100, |percent| percent.min(100))
}
