//! What executors that need CUDA share: getting at it, and its errors as failures.

use devices::{Cuda, CudaError, Device};
use serde_json::{Number, Value};

use crate::Failure;

/// CUDA on the attempt's GPU.
///
/// # Errors
/// A GPU without CUDA: another one may have it.
pub(crate) fn cuda_of(device: &dyn Device) -> Result<&Cuda, Failure> {
    device.cuda().ok_or_else(|| Failure::transient(format!("GPU {} has no CUDA", device.description().gpu_id)))
}

/// How an error of CUDA fails the attempt. `wanted_mb` is what it needed in all, where it is known.
pub(crate) fn failure(error: &CudaError, wanted_mb: Option<u64>) -> Failure {
    match error {
        CudaError::OutOfMemory { .. } => Failure { memory_mb: wanted_mb, ..Failure::out_of_memory(error.to_string()) },
        CudaError::Refused(why) => Failure::invalid("payload", why),
        CudaError::Missing { .. } | CudaError::Lost { .. } | CudaError::Failed { .. } => Failure::transient(error.to_string()),
    }
}

/// A number as JSON. JSON has no infinities and no NaN: they become `null`.
pub(crate) fn number(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// A `float`, with no more digits than it has.
pub(crate) fn short_number(value: f32) -> Value {
    if value.is_finite() { value.to_string().parse().map_or(Value::Null, number) } else { Value::Null }
}
