//! What CUDA answers instead of doing what was asked.

use cudarc::driver::{DriverError, sys::CUresult};

/// Why work on the GPU did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// A library is not installed, or not where the dynamic loader looks.
    #[error(
        "load {library}: not found; install {package}, or add its folder to LD_LIBRARY_PATH (`gpufleet doctor` shows what is missing for what)"
    )]
    Missing {
        /// The library, such as `libnvrtc.so`.
        library: &'static str,
        /// What brings it.
        package: &'static str,
    },
    /// The GPU has no memory left for it.
    #[error("{operation}: out of memory")]
    OutOfMemory {
        /// What was tried.
        operation: &'static str,
    },
    /// What was asked for cannot be: wrong arguments, sizes or names. The caller's fault; the GPU is well.
    #[error("{0}")]
    Refused(String),
    /// The context is of no more use: this process must end to use the GPU again.
    #[error("{operation}: {cause}: the CUDA context is lost")]
    Lost {
        /// What was tried when it showed. The fault may be of any work before.
        operation: &'static str,
        /// CUDA's name for it.
        cause: String,
        /// Whether a task may have done it. Failing memory, for one, is no task's fault.
        by_a_task: bool,
    },
    /// Anything else.
    #[error("{operation}: {cause}")]
    Failed {
        /// What was tried.
        operation: &'static str,
        /// CUDA's words.
        cause: String,
    },
}

impl CudaError {
    pub(super) fn of(operation: &'static str, error: DriverError) -> Self {
        let DriverError(code) = error;
        match code {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Self::OutOfMemory { operation },
            code if is_broken(code) => Self::Lost { operation, cause: name(code), by_a_task: false },
            code if is_poisoned(code) => Self::Lost { operation, cause: name(code), by_a_task: true },
            code => Self::Failed { operation, cause: name(code) },
        }
    }

    /// Whether the GPU ran out of memory.
    #[must_use]
    pub const fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::OutOfMemory { .. })
    }

    /// Whether this process can use the GPU no more.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }
}

/// Errors of the hardware after which a context answers nothing else.
const fn is_broken(code: CUresult) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUresult::CUDA_ERROR_CONTAINED
            | CUresult::CUDA_ERROR_EXTERNAL_DEVICE
            | CUresult::CUDA_ERROR_MPS_CLIENT_TERMINATED
    )
}

/// Errors of what ran after which a context answers nothing else.
const fn is_poisoned(code: CUresult) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | CUresult::CUDA_ERROR_DEINITIALIZED
            | CUresult::CUDA_ERROR_UNKNOWN
    )
}

/// The code as CUDA's header has it, such as `CUDA_ERROR_ILLEGAL_ADDRESS`, with its number.
fn name(code: CUresult) -> String {
    format!("{code:?} ({})", code as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_the_context_of_the_caller_and_of_memory_are_told_apart() {
        let of = |code| CudaError::of("launch a kernel", DriverError(code));
        assert!(of(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS).is_lost());
        assert!(of(CUresult::CUDA_ERROR_OUT_OF_MEMORY).is_out_of_memory());
        assert!(matches!(of(CUresult::CUDA_ERROR_CONTAINED), CudaError::Lost { by_a_task: false, .. }));
        let failed = of(CUresult::CUDA_ERROR_NOT_READY);
        assert_eq!(failed.to_string(), "launch a kernel: CUDA_ERROR_NOT_READY (600)");
    }
}
