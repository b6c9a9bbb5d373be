//! Which GPUs may run which task.

use protocol::{ClaimRequest, GpuRow, Needs, claim::Settings};

/// Whether this GPU could ever run the task: kind, total memory, compute capability, and the GPU that the task names, if it names one.
pub(super) fn fits(row: &GpuRow, settings: &Settings, request: &ClaimRequest) -> bool {
    let needs = &request.needs;
    row.kinds.contains(&request.kind)
        && needs.memory_mb.is_none_or(|memory_mb| memory_mb as f64 <= usable_mb(row, settings))
        && needs.compute_capability.is_none_or(|lowest| row.gpu.compute_capability >= lowest)
        && request.specific_gpu_id.as_ref().is_none_or(|only| *only == row.gpu.gpu_id)
}

/// Whether its worker takes tasks at all: healthy, not stopping, not drained. What else is in the way passes by waiting.
pub(super) fn is_ready(row: &GpuRow, settings: &Settings) -> bool {
    row.health.takes_tasks() && !row.stopping && !settings.draining.contains(&row.gpu.gpu_id)
}

/// Whether it is under the thresholds of memory and of utilisation by others.
pub(super) fn is_within_thresholds(row: &GpuRow, settings: &Settings) -> bool {
    let has_memory = (row.sample.memory_used_mb as f64) < usable_mb(row, settings);
    has_memory && row.foreign_utilization_percent / 100.0 < settings.utilization_threshold
}

/// Eligible, a free slot aside.
pub(super) fn is_open(row: &GpuRow, settings: &Settings) -> bool {
    is_ready(row, settings) && row.consuming && is_within_thresholds(row, settings)
}

/// Whether the memory that the task needs is there right now, below the threshold: above it the GPU itself would refuse.
pub(super) fn has_memory_now(row: &GpuRow, needs: &Needs, settings: &Settings) -> bool {
    needs.memory_mb.is_none_or(|memory_mb| row.sample.memory_used_mb.saturating_add(memory_mb) as f64 <= usable_mb(row, settings))
}

/// The memory up to which tasks may use the GPU, whoever uses it.
fn usable_mb(row: &GpuRow, settings: &Settings) -> f64 {
    settings.memory_threshold * row.gpu.memory_total_mb as f64
}
