//! Where models run, and how a session is told so.

use ort::{
    ep::{ArenaExtendStrategy, CUDA},
    session::{Session, builder::SessionBuilder},
};
use protocol::config::ModelProvider;

use super::OnnxRuntime;

/// Where models run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnnxPlace {
    /// On the host's cores.
    Cpu,
    /// On this process's GPU, with at most so much of its memory for each model, in MB (10^6 bytes).
    Cuda {
        /// Bound on the memory that ONNX Runtime takes for one model.
        memory_mb: u64,
    },
}

impl OnnxPlace {
    /// What the configuration asks for. `gpu_mb`: the memory of the process's GPU that models may take, where it is a real one.
    ///
    /// # Errors
    /// CUDA without a real GPU, as a sentence.
    pub fn of(provider: ModelProvider, gpu_mb: Option<u64>) -> Result<Self, String> {
        match (provider, gpu_mb) {
            (ModelProvider::Cpu, _) | (ModelProvider::Auto, None) => Ok(Self::Cpu),
            (ModelProvider::Auto | ModelProvider::Cuda, Some(memory_mb)) => Ok(Self::Cuda { memory_mb }),
            (ModelProvider::Cuda, None) => Err("models.provider is cuda, and a simulated GPU has no CUDA".to_owned()),
        }
    }

    /// Its name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda { .. } => "cuda",
        }
    }

    /// A session's settings. Threads do not spin while there is nothing to do: the cores belong to others too.
    pub(super) fn builder(self, runtime: &OnnxRuntime) -> Result<SessionBuilder, String> {
        let plain = |error: &dyn ToString| error.to_string();
        let builder = Session::builder(runtime.environment()).map_err(|error| plain(&error))?;
        let builder = builder.with_intra_op_spinning(false).map_err(|error| plain(&error))?;
        match self {
            Self::Cpu => Ok(builder),
            Self::Cuda { memory_mb } => {
                let bytes = usize::try_from(memory_mb.saturating_mul(1_000_000)).unwrap_or(usize::MAX);
                let cuda = CUDA::default()
                    .with_device_id(0)
                    .with_memory_limit(bytes)
                    .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
                    .build()
                    .error_on_failure();
                builder.with_execution_providers([cuda]).map_err(|error| plain(&error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_is_never_taken_for_the_cpu() {
        let cuda = OnnxPlace::Cuda { memory_mb: 9 };
        assert_eq!(OnnxPlace::of(ModelProvider::Auto, Some(9)), Ok(cuda));
        assert_eq!(OnnxPlace::of(ModelProvider::Cuda, Some(9)), Ok(cuda));
        assert_eq!(OnnxPlace::of(ModelProvider::Cpu, Some(9)), Ok(OnnxPlace::Cpu));
        assert_eq!(OnnxPlace::of(ModelProvider::Auto, None), Ok(OnnxPlace::Cpu));
        assert!(OnnxPlace::of(ModelProvider::Cuda, None).unwrap_err().contains("simulated"));
    }
}
