//! A GPU's place for tests.

use protocol::{GpuDescription, GpuId, gpu::Hardware, task::ComputeCapability};

use super::HandlerPlace;

pub(super) fn place() -> HandlerPlace {
    HandlerPlace {
        gpu: GpuDescription {
            gpu_id: GpuId::new("sim-0").expect("valid"),
            name: "Simulated GPU".to_owned(),
            memory_total_mb: 80_000,
            compute_capability: ComputeCapability { major: 9, minor: 0 },
            hardware: Hardware::default(),
        },
        is_simulated: true,
        slots: 8,
        launcher: "/nowhere/gpufleet".into(),
    }
}
