//! What executors that need CUDA share: getting at it, and its errors as failures.

use devices::{Cuda, CudaError, Device};
use serde::{Serialize, Serializer};

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

/// A number that is written with no more digits than its type has. JSON has no infinities and no NaN: they are written as `null`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Finite<T>(pub(crate) T);

impl Serialize for Finite<f64> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() { serializer.serialize_f64(self.0) } else { serializer.serialize_unit() }
    }
}

impl Serialize for Finite<f32> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() { serializer.serialize_f32(self.0) } else { serializer.serialize_unit() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::Json;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_float_has_no_more_digits_than_it_has() {
        let numbers = [0.0, 3.0, -16_777_216.0, 16_777_218.0, 1e30, 0.1, -3.25e-5, f32::MIN_POSITIVE, f32::NAN, f32::INFINITY];
        let expected = json!([0.0, 3.0, -16_777_216.0, 16_777_218.0, 1e30, 0.1, -3.25e-5, 1.175_494_4e-38, null, null]);
        assert_eq!(Json::of(&numbers.map(Finite)), expected);
        assert_eq!(Json::of(&[1e300, f64::NAN].map(Finite)), json!([1e300, null]));
    }

    proptest! {
        #[test]
        fn every_float_comes_back(value in any::<f32>()) {
            let read = Json::of(&Finite(value)).to::<f64>().ok().map(|number| number as f32);
            prop_assert_eq!(read.map(f32::to_bits), value.is_finite().then_some(value.to_bits()));
        }
    }
}
