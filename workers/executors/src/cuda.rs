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
    // Up to here every whole number is one; most lists hold many.
    const WHOLE_MAX: f32 = 16_777_216.0;
    if value.abs() <= WHOLE_MAX && value.trunc() == value {
        return number(value.into());
    }
    if !value.is_finite() {
        return Value::Null;
    }
    zmij::Buffer::new().format_finite(value).parse().map_or(Value::Null, number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_float_has_no_more_digits_than_it_has() {
        let whole = [0.0, 3.0, -16_777_216.0, 16_777_218.0, 1e30];
        assert_eq!(whole.map(short_number), [json!(0.0), json!(3.0), json!(-16_777_216.0), json!(16_777_218.0), json!(1e30)]);
        assert_eq!([0.1, -3.25e-5, f32::MIN_POSITIVE].map(short_number), [json!(0.1), json!(-3.25e-5), json!(1.175_494_4e-38)]);
        assert_eq!([f32::NAN, f32::INFINITY].map(short_number), [json!(null), json!(null)]);
    }

    proptest! {
        #[test]
        fn every_float_comes_back(value in any::<f32>()) {
            let read = short_number(value).as_f64().map(|number| number as f32);
            prop_assert_eq!(read.map(f32::to_bits), value.is_finite().then_some(value.to_bits()));
        }
    }
}
