//! What can go wrong before a GPU is in use.

use protocol::GpuId;

use super::cuda::CudaError;

/// Why a host's GPUs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NvidiaError {
    /// NVML, the driver's monitoring library, is not installed or does not load.
    #[error("load NVML (libnvidia-ml.so.1): {0}; is the NVIDIA driver installed here? `gpufleet doctor` shows what is missing")]
    NoNvml(String),
    /// NVML is there and refuses.
    #[error("start NVML: {0}; is the NVIDIA driver loaded (`nvidia-smi`)?")]
    Nvml(String),
    /// A question to NVML failed.
    #[error("ask NVML for {what}: {cause}")]
    Asked {
        /// What was asked for.
        what: String,
        /// NVML's words.
        cause: String,
    },
    /// NVML gave no answer.
    #[error("NVML gave no answer within {seconds} s to {what}; the driver may hang: see the kernel's log (`dmesg`) for Xid messages")]
    Hangs {
        /// What was asked for.
        what: String,
        /// For how long it was waited.
        seconds: u64,
    },
    /// The GPU is there, and CUDA cannot use it.
    #[error("open GPU {gpu_id} by CUDA: {source}")]
    Cuda {
        /// The GPU.
        gpu_id: GpuId,
        /// CUDA's words.
        source: CudaError,
    },
}

impl NvidiaError {
    pub(super) fn asked(what: impl Into<String>, cause: impl ToString) -> Self {
        Self::Asked { what: what.into(), cause: cause.to_string() }
    }
}
