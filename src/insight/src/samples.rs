//! GPUs and tasks for tests.

use protocol::{Kind, PoolName, StepName, TaskId, TaskStep, claim::Settings, config::ScalingSection, gpu::GpuView};
use serde_json::json;

use crate::{Activity, Observed};

/// A kind.
pub(crate) fn kind(name: &str) -> Kind {
    name.parse().expect("a kind")
}

/// The id of a task or of a slice.
pub(crate) fn id(name: &str) -> TaskId {
    TaskId::read(name).expect("a good id")
}

/// A healthy, idle GPU of 80 GB and capability 8.6.
pub(crate) fn gpu(name: &str, slots: u32, kinds: &[&str]) -> GpuView {
    let view = json!({
        "gpu": {"gpu_id": name, "name": "a GPU", "memory_total_mb": 80_000, "compute_capability": "8.6"},
        "sample": {"memory_used_mb": 0, "utilization_percent": 0.0, "temperature_celsius": 0.0, "power_watts": 0.0, "sm_clock_mhz": 0.0, "age_ms": 0},
        "pool": "default", "incarnation": format!("{name}.1"), "host": "host", "slots": slots, "health": "healthy", "consuming": true, "kinds": kinds,
        "held": 0, "draining": false, "eligible": true, "expires_in_ms": 5_000,
    });
    serde_json::from_value(view).expect("a view")
}

/// A step of a task of this kind.
pub(crate) fn step(name: &str, step: StepName, at_ms: u64, of_kind: &str) -> TaskStep {
    TaskStep { kind: Some(kind(of_kind)), ..TaskStep::new(step, id(name), PoolName::default(), at_ms) }
}

/// What is observed of a fleet, and may be changed before it is looked at.
pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) activity: Activity,
    pub(crate) gpus: Vec<GpuView>,
    pub(crate) settings: Settings,
    pub(crate) scaling: ScalingSection,
    pub(crate) ready: Option<u64>,
}

impl World {
    pub(crate) fn new(now_ms: u64, gpus: Vec<GpuView>) -> Self {
        let activity = Activity { at_ms: now_ms, window_ms: 60_000, ..Activity::default() };
        Self { now_ms, activity, gpus, settings: Settings::default(), scaling: ScalingSection::default(), ready: Some(0) }
    }

    pub(crate) fn observed(&self) -> Observed<'_> {
        Observed {
            now_ms: self.now_ms,
            activity: &self.activity,
            gpus: &self.gpus,
            settings: &self.settings,
            scaling: &self.scaling,
            ready: self.ready,
            broker_ms: Some(1.0),
            store_ms: Some(1.0),
            table_ms: Some(1.0),
            broker_blocked: false,
        }
    }
}
