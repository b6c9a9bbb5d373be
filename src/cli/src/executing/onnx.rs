//! The kinds on ONNX Runtime (`onnx`, `embed`, `classify`): offered where there is a folder of models, and the library is there and runs them where they are to run.

use std::sync::Arc;

use executors::{Executors, ModelCache};
use protocol::config::ModelsSection;

use crate::fault::Fault;

/// What models may take of a real GPU's memory, in MB. `None`: the GPU is simulated.
pub(super) type GpuMegabytes = Option<u64>;

/// Adds the kinds that can run here; of each other one the log and the GPU's row say why it is not offered. A model that is not in the folder, and that nobody named for its kind, is no fault.
#[cfg(feature = "onnx")]
pub(super) async fn offer(
    executors: Executors,
    section: &ModelsSection,
    cache: &Arc<ModelCache>,
    gpu_mb: GpuMegabytes,
) -> Result<Executors, Fault> {
    use executors::onnx::{self, OnnxError};

    use super::offering::not_offered;

    if section.directory.is_none() {
        return Ok(executors);
    }
    let models = match opened(section, gpu_mb).await {
        Ok(models) => models,
        Err(reason) => {
            let kinds = ["onnx", "embed", "classify"].map(named);
            return Ok(kinds.into_iter().fold(executors, |executors, kind| not_offered(executors, kind, &reason)));
        }
    };
    let embed = onnx::embed(Arc::clone(&models), Arc::clone(cache), section.embed.clone()).await;
    let classify = onnx::classify(Arc::clone(&models), Arc::clone(cache), section.classify.clone()).await;
    let mut executors = executors.with(onnx::onnx(models, Arc::clone(cache)));
    for (kind, offered, asked_for) in [("embed", embed, &section.embed), ("classify", classify, &section.classify)] {
        match offered {
            Ok(executor) => executors = executors.with(executor),
            Err(error @ OnnxError::Unknown { .. }) if asked_for.is_none() => {
                tracing::info!(kind, reason = error.to_string(), "this kind is not offered here");
            }
            Err(error) => executors = not_offered(executors, named(kind), &error.to_string()),
        }
    }
    Ok(executors)
}

#[cfg(feature = "onnx")]
async fn opened(section: &ModelsSection, gpu_mb: GpuMegabytes) -> Result<Arc<executors::onnx::OnnxModels>, String> {
    use executors::onnx::{OnnxModels, OnnxPlace};

    let place = OnnxPlace::of(section.provider, gpu_mb)?;
    // A simulated GPU's memory is taken too, so that what is bounded by it can be seen without a GPU.
    let is_on_device = gpu_mb.is_none() || matches!(place, OnnxPlace::Cuda { .. });
    let opening = OnnxModels::open(section, place, is_on_device);
    match tokio::time::timeout(super::TRIED_IN, opening).await {
        Ok(opened) => opened.map_err(|error| error.to_string()),
        Err(_) => Err(format!("its trial took longer than {} s", super::TRIED_IN.as_secs())),
    }
}

#[cfg(feature = "onnx")]
fn named(kind: &str) -> protocol::Kind {
    protocol::Kind::new(kind).expect("a literal that keeps the rule")
}

#[cfg(not(feature = "onnx"))]
pub(super) async fn offer(executors: Executors, section: &ModelsSection, _: &Arc<ModelCache>, _: GpuMegabytes) -> Result<Executors, Fault> {
    if section.directory.is_none() {
        return Ok(executors);
    }
    Err(Fault::Usage(
        "models.directory: this gpufleet was built without the kinds on ONNX Runtime; build it with the feature `onnx`, which is on by default".to_owned(),
    ))
}
