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
    /// A GPU does not answer.
    #[error("ask NVML for GPU {index}: {cause}")]
    Gpu {
        /// NVML's index of it.
        index: u32,
        /// NVML's words.
        cause: String,
    },
    /// A GPU is in MIG mode and has no instance: nothing can run on it.
    #[error(
        "GPU {index} ({gpu_id}) is in MIG mode and has no instance; make some (`nvidia-smi mig -i {index} -lgip` lists the profiles, \
         `nvidia-smi mig -i {index} -cgi <profile>,... -C` makes them), or turn MIG mode off (`nvidia-smi -i {index} -mig 0`)"
    )]
    NoInstance {
        /// NVML's index of it.
        index: u32,
        /// The GPU.
        gpu_id: GpuId,
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
    /// NVML's index of the GPU that cannot be used, where it is about one GPU.
    #[must_use]
    pub const fn index(&self) -> Option<u32> {
        match self {
            Self::Gpu { index, .. } | Self::NoInstance { index, .. } => Some(*index),
            _ => None,
        }
    }

    pub(super) fn asked(what: impl Into<String>, cause: impl ToString) -> Self {
        Self::Asked { what: what.into(), cause: cause.to_string() }
    }
}
