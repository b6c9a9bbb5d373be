//! What a payload's references stand for, for executors that compute on the GPU: raw bytes that came with the task, and tensors that are on the GPU.

use std::sync::Arc;

use devices::{Device, DeviceBuffer, DeviceMemory, MemoryError};
use protocol::{DType, Json, Segments, TensorRef, TensorShape};
use tensors::{Content, Tensor};

use crate::{Failure, Run, RunTensors};

/// What may be referred to.
pub(crate) struct Inputs<'a> {
    /// Raw bytes.
    pub(crate) segments: &'a Segments,
    tensors: RunTensors,
}

impl<'a> Inputs<'a> {
    /// Of a run.
    pub(crate) fn of(run: &Run<'a>) -> Self {
        Self { segments: &run.task.body.segments, tensors: run.tensors.clone() }
    }

    /// Of a run that has no tensors.
    pub(crate) const fn of_segments(segments: &'a Segments) -> Self {
        Self { segments, tensors: RunTensors::none() }
    }

    /// The tensor that a value refers to. `None`: it is no such reference.
    ///
    /// # Errors
    /// A [`Failure`] of the field `path`: it cannot be used here.
    pub(crate) fn tensor(&self, value: &Json, path: &str) -> Result<Option<Arc<Tensor>>, Failure> {
        let Some(reference) = TensorRef::read(value) else { return Ok(None) };
        self.tensors.input(&reference, path).map(|tensor| Some(Arc::clone(tensor)))
    }

    /// Whether outputs are to stay on the GPU.
    pub(crate) fn keeps(&self) -> bool {
        self.tensors.kept_outputs() > 0
    }

    /// Refuses names for outputs that there are not, and outputs without a name.
    ///
    /// # Errors
    /// A [`Failure`] of `keep_as`.
    pub(crate) fn keeps_as_many_as(&self, outputs: usize) -> Result<(), Failure> {
        match self.tensors.kept_outputs() {
            0 => Ok(()),
            names if names == outputs => Ok(()),
            names => Err(Failure::invalid("keep_as", format!("must have a name for each output: there are {outputs}, and {names} names"))),
        }
    }
}

/// The GPU's memory for what stays.
///
/// # Errors
/// It has none: another one may.
pub(crate) fn memory_of(device: &dyn Device) -> Result<&dyn DeviceMemory, Failure> {
    device.memory().ok_or_else(|| Failure::transient(format!("GPU {} keeps no tensors", device.description().gpu_id)))
}

/// Memory for an output that is to stay. Tensors that nobody uses make room for it.
///
/// # Errors
/// `out_of_memory`, with what is lacking; or what the GPU answers.
pub(crate) async fn room_for(run: &Run<'_>, bytes: u64) -> Result<DeviceBuffer, Failure> {
    let memory = memory_of(run.device.as_ref())?;
    let mut room = memory.allocate(bytes).await;
    if let Err(MemoryError::Full { free_bytes, .. }) = room
        && run.tensors.plane()?.make_room_for(bytes, free_bytes).await
    {
        room = memory.allocate(bytes).await;
    }
    room.map_err(|error| memory_failure(&error))
}

/// The bytes of memory that stays.
///
/// # Errors
/// What the GPU answers.
pub(crate) async fn bytes_of(device: &dyn Device, buffer: &DeviceBuffer) -> Result<bytes::Bytes, Failure> {
    let length = usize::try_from(buffer.len()).map_err(|_| Failure::transient("a tensor is too large for this host"))?;
    memory_of(device)?.read(buffer, 0, length).await.map_err(|error| memory_failure(&error))
}

/// Leaves an output on the GPU; gives what stands in its place in the result.
///
/// # Errors
/// As of [`RunTensors::keep`].
pub(crate) async fn keep(run: &Run<'_>, output: usize, shape: TensorShape, buffer: DeviceBuffer) -> Result<Json, Failure> {
    run.tensors.keep(output, shape, Content::Gpu(buffer)).await
}

/// What an output is that has a type and a shape, or that is bytes.
pub(crate) fn shape_of(dtype: Option<DType>, shape: Option<Vec<usize>>, bytes: usize) -> TensorShape {
    match dtype {
        None => TensorShape::of_bytes(bytes),
        Some(dtype) => TensorShape { dtype, shape: shape.unwrap_or_else(|| vec![bytes / dtype.size()]) },
    }
}

fn memory_failure(error: &MemoryError) -> Failure {
    match error {
        MemoryError::Full { wanted_bytes, .. } => {
            Failure { memory_mb: Some(wanted_bytes.div_ceil(1_000_000)), ..Failure::out_of_memory(error.to_string()) }
        }
        _ => Failure::transient(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tensor_that_is_not_here_is_refused_with_its_field_and_other_objects_are_none() {
        let segments = Segments::none();
        let inputs = Inputs::of_segments(&segments);
        let refused = inputs.tensor(&json!({"tensor": "x"}).into(), "payload.a").unwrap_err();
        assert_eq!(refused.field.as_deref(), Some("payload.a"));
        assert!(inputs.tensor(&json!({"$segment": 0}).into(), "payload.a").unwrap().is_none());
        assert!(!inputs.keeps() && inputs.keeps_as_many_as(3).is_ok());
    }

    #[test]
    fn what_has_no_type_is_kept_as_bytes() {
        assert_eq!(shape_of(None, None, 7), TensorShape::of_bytes(7));
        assert_eq!(shape_of(Some(DType::F64), None, 24), TensorShape { dtype: DType::F64, shape: vec![3] });
        assert_eq!(shape_of(Some(DType::F32), Some(vec![2, 3]), 24), TensorShape { dtype: DType::F32, shape: vec![2, 3] });
    }

    #[test]
    fn memory_that_lacks_is_told_with_how_much_was_wanted() {
        let full = memory_failure(&MemoryError::Full { wanted_bytes: 5_000_001, free_bytes: 3 });
        assert_eq!((full.code.as_str(), full.memory_mb, full.retry), ("out_of_memory", Some(6), true));
    }
}
