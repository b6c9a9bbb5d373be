//! A GPU's place for tests, and tensors on it.

use std::sync::Arc;

use bytes::Bytes;
use devices::{Device, HostBytes};
use protocol::{DType, GpuDescription, GpuId, IfExists, TensorName, TensorShape, gpu::Hardware, task::ComputeCapability};
use tensors::{Tensor, TensorAbout, TensorBounds, TensorStore};

use super::HandlerPlace;

/// A tensor of bytes that nobody else knows.
pub(super) async fn tensor(device: &Arc<dyn Device>, name: &str, content: &[u8]) -> Arc<Tensor> {
    let memory = device.memory().expect("a simulated GPU keeps data");
    let buffer = memory.allocate(content.len() as u64).await.expect("there is room");
    memory.write(&buffer, 0, HostBytes::Own(Bytes::copy_from_slice(content))).await.expect("written");
    let about = TensorAbout {
        name: TensorName::new(name).expect("valid"),
        version: 7,
        shape: TensorShape { dtype: DType::U8, shape: vec![content.len()] },
        owner: "task-1".to_owned(),
        made_ms: 0,
        ttl_ms: 1_000,
    };
    let bounds = TensorBounds { gpu_bytes: 1 << 20, host_bytes: 0, tensors: 8 };
    let store = Arc::new(TensorStore::new(Arc::clone(device), bounds, Arc::new(|| 0)));
    store.adopt(about, IfExists::Replace, buffer).await.expect("kept")
}

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
