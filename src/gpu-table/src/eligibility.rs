//! Which GPUs may run which task: the one definition, for the table in memory and for a worker that decides about its own GPU.

use protocol::{ClaimRequest, GpuId, GpuRow, Kind, Needs, claim::Settings};

/// Whether this GPU could ever run the task: kind, total memory, compute capability, and the GPU that the task names, if it names one.
#[must_use]
pub fn fits(row: &GpuRow, settings: &Settings, request: &ClaimRequest) -> bool {
    has_all(row, settings.memory_threshold, (&request.kind, &request.needs), request.specific_gpu_id.as_ref())
}

/// As [`fits`], of what a task asks for.
pub(crate) fn has_all(row: &GpuRow, memory_threshold: f64, (kind, needs): (&Kind, &Needs), only: Option<&GpuId>) -> bool {
    row.kinds.contains(kind) && has_the_rest(row, memory_threshold, needs, only)
}

/// As [`has_all`], where the kind is down there and may come up again.
pub(crate) fn has_all_but_is_down(row: &GpuRow, memory_threshold: f64, (kind, needs): (&Kind, &Needs), only: Option<&GpuId>) -> bool {
    row.kinds_down.contains_key(kind) && has_the_rest(row, memory_threshold, needs, only)
}

/// All but the kind.
fn has_the_rest(row: &GpuRow, memory_threshold: f64, needs: &Needs, only: Option<&GpuId>) -> bool {
    needs.memory_mb.is_none_or(|memory_mb| memory_mb as f64 <= memory_for_tasks_mb(row, memory_threshold))
        && needs.compute_capability.is_none_or(|lowest| row.gpu.compute_capability >= lowest)
        && only.is_none_or(|only| *only == row.gpu.gpu_id)
}

/// Whether its worker takes tasks at all: healthy, not stopping, not drained. What else is in the way passes by waiting.
#[must_use]
pub fn is_ready(row: &GpuRow, settings: &Settings) -> bool {
    row.health.takes_tasks() && !row.stopping && !settings.draining.contains(&row.gpu.gpu_id)
}

/// Whether it is under the thresholds of memory and of utilisation by others.
#[must_use]
pub fn is_within_thresholds(row: &GpuRow, settings: &Settings) -> bool {
    let has_memory = (row.memory_in_the_way_mb() as f64) < usable_mb(row, settings);
    has_memory && row.foreign_utilization_percent / 100.0 < settings.utilization_threshold
}

/// Eligible, a free slot aside.
pub(crate) fn is_open(row: &GpuRow, settings: &Settings) -> bool {
    is_ready(row, settings) && row.consuming && is_within_thresholds(row, settings)
}

/// Whether the memory that the task needs is there right now, below the threshold: above it the GPU itself would refuse.
#[must_use]
pub fn has_memory_now(row: &GpuRow, needs: &Needs, settings: &Settings) -> bool {
    needs.memory_mb.is_none_or(|memory_mb| row.memory_in_the_way_mb().saturating_add(memory_mb) as f64 <= usable_mb(row, settings))
}

/// The memory up to which tasks may use the GPU, whoever uses it.
fn usable_mb(row: &GpuRow, settings: &Settings) -> f64 {
    memory_for_tasks_mb(row, settings.memory_threshold)
}

/// The memory of a GPU that tasks may use, where that is this share of it.
pub(crate) fn memory_for_tasks_mb(row: &GpuRow, memory_threshold: f64) -> f64 {
    memory_threshold * row.gpu.memory_total_mb as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use protocol::{
        ClaimMode, GpuDescription, GpuId, GpuSample, Health, Holding, Incarnation, PoolName, TaskId, gpu::Hardware, task::ComputeCapability,
    };

    use super::*;

    fn gpu_id(name: &str) -> GpuId {
        GpuId::new(name).expect("a good id")
    }

    /// A healthy, idle GPU `a` of 80 GB and capability 8.6 that runs `echo`, with something changed.
    fn row_with(change: impl FnOnce(&mut GpuRow)) -> GpuRow {
        let mut row = GpuRow {
            gpu: GpuDescription {
                gpu_id: gpu_id("a"),
                name: "a GPU".to_owned(),
                memory_total_mb: 80_000,
                compute_capability: ComputeCapability { major: 8, minor: 6 },
                hardware: Hardware::default(),
            },
            sample: GpuSample::default(),
            pool: PoolName::default(),
            incarnation: Incarnation::new("a.1").expect("a good id"),
            host: "host".to_owned(),
            slots: 1,
            health: Health::Healthy,
            health_reason: String::new(),
            consuming: true,
            stopping: false,
            kinds: vec!["echo".parse().expect("a kind")],
            models: Vec::new(),
            model_state: Default::default(),
            data: Default::default(),
            servers: Default::default(),
            emptied: false,
            foreign_utilization_percent: 0.0,
            waiting: 0,
            running: Vec::new(),
            item_ms: BTreeMap::new(),
            kinds_down: BTreeMap::new(),
            run_ms: BTreeMap::new(),
        };
        change(&mut row);
        row
    }

    fn row() -> GpuRow {
        row_with(|_| {})
    }

    fn request_with(change: impl FnOnce(&mut ClaimRequest)) -> ClaimRequest {
        let mut request = ClaimRequest {
            pool: PoolName::default(),
            task_id: TaskId::new("t").expect("a good id"),
            kind: "echo".parse().expect("a kind"),
            needs: Needs::default(),
            specific_gpu_id: None,
            strategy: None,
            asker: gpu_id("b"),
            incarnation: Incarnation::new("b.1").expect("a good id"),
            holding: Holding::default(),
            has_slot: false,
            mode: ClaimMode::Choose,
            data: None,
        };
        change(&mut request);
        request
    }

    fn fits_with(change: impl FnOnce(&mut ClaimRequest)) -> bool {
        fits(&row(), &Settings::default(), &request_with(change))
    }

    #[test]
    fn a_task_fits_where_its_kind_runs() {
        assert!(fits_with(|_| {}));
        assert!(!fits_with(|request| request.kind = "ech".parse().expect("a kind")));
    }

    #[test]
    fn a_task_fits_within_the_share_of_all_memory_that_the_threshold_leaves() {
        assert!(fits_with(|request| request.needs.memory_mb = Some(72_000)));
        assert!(!fits_with(|request| request.needs.memory_mb = Some(72_001)));
    }

    #[test]
    fn a_task_fits_from_its_compute_capability_upwards() {
        let fits_from = |major, minor| fits_with(|request| request.needs.compute_capability = Some(ComputeCapability { major, minor }));
        assert_eq!([fits_from(8, 0), fits_from(8, 6), fits_from(8, 9), fits_from(10, 0)], [true, true, false, false]);
    }

    #[test]
    fn a_task_that_names_a_gpu_fits_no_other() {
        assert!(fits_with(|request| request.specific_gpu_id = Some(gpu_id("a"))));
        assert!(!fits_with(|request| request.specific_gpu_id = Some(gpu_id("b"))));
    }

    #[test]
    fn a_worker_is_ready_unless_it_is_unhealthy_stopping_or_drained() {
        let settings = Settings::default();
        assert!(is_ready(&row(), &settings));
        assert!(is_ready(&row_with(|row| row.health = Health::Suspect), &settings));
        assert!(is_ready(&row_with(|row| row.consuming = false), &settings), "it takes what it has asked for");
        for health in [Health::Quarantined, Health::Probation] {
            assert!(!is_ready(&row_with(|row| row.health = health), &settings), "{health:?}");
        }
        assert!(!is_ready(&row_with(|row| row.stopping = true), &settings));
        assert!(!is_ready(&row(), &Settings { draining: vec![gpu_id("a")], ..settings }));
    }

    #[test]
    fn a_gpu_at_a_threshold_is_over_it() {
        let within = |used_mb, foreign_percent, used_by_all| {
            let row = row_with(|row| {
                row.sample.memory_used_mb = used_mb;
                row.foreign_utilization_percent = foreign_percent;
                row.sample.utilization_percent = used_by_all;
            });
            is_within_thresholds(&row, &Settings::default())
        };
        assert!(within(71_999, 94.9, 100.0), "how busy its own tasks keep it is no matter");
        assert!(!within(72_000, 0.0, 0.0));
        assert!(!within(0, 95.0, 0.0));
    }

    #[test]
    fn what_models_keep_that_nobody_uses_is_in_no_tasks_way() {
        let kept = row_with(|row| {
            row.sample.memory_used_mb = 72_000;
            row.model_state.evictable_mb = 62_000;
        });
        let has = |memory_mb| has_memory_now(&kept, &Needs { memory_mb: Some(memory_mb), ..Needs::default() }, &Settings::default());
        assert!(is_within_thresholds(&kept, &Settings::default()));
        assert_eq!([has(62_000), has(62_001)], [true, false]);
    }

    #[test]
    fn memory_is_there_now_up_to_the_threshold() {
        let used = row_with(|row| row.sample.memory_used_mb = 40_000);
        let has = |memory_mb| has_memory_now(&used, &Needs { memory_mb, ..Needs::default() }, &Settings::default());
        assert_eq!([has(None), has(Some(32_000)), has(Some(32_001)), has(Some(u64::MAX))], [true, true, false, false]);
    }
}
