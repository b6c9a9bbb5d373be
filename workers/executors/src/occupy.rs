//! Taking the GPU for an attempt, with its refusals as failures.

use devices::{Device, Use, WorkOn};

use crate::Failure;

/// Takes what `wanted` says for as long as the answer lives.
///
/// # Errors
/// `out_of_memory`; `executor_failed` where the GPU runs into a fault. Both may succeed elsewhere or later.
pub(crate) fn occupy(device: &dyn Device, wanted: Use) -> Result<WorkOn, Failure> {
    let work = device
        .begin(wanted)
        .map_err(|refused| Failure { memory_mb: Some(refused.wanted_mb), ..Failure::out_of_memory(refused.to_string()) })?;
    match device.take_fault() {
        None => Ok(work),
        Some(fault) => Err(Failure::transient(format!("the GPU failed: {fault}"))),
    }
}
