//! The kinds on ONNX Runtime (`onnx`, `embed`, `classify`): offered where there is a folder of models, and the library is there and runs them where they are to run.

use std::sync::Arc;

use executors::{Executors, ModelCache};
use protocol::config::ModelsSection;

use crate::fault::Fault;

/// What models may take of a real GPU's memory, in MB. `None`: the GPU is simulated.
pub(super) type GpuMegabytes = Option<u64>;

/// Adds the kinds that can run here; of each other one the log says why it is not offered.
#[cfg(feature = "onnx")]
pub(super) async fn offer(
    executors: Executors,
    section: &ModelsSection,
    cache: &Arc<ModelCache>,
    gpu_mb: GpuMegabytes,
) -> Result<Executors, Fault> {
    use executors::onnx;

    if section.directory.is_none() {
        return Ok(executors);
    }
    let models = match opened(section, gpu_mb).await {
        Ok(models) => models,
        Err(reason) => {
            ["onnx", "embed", "classify"].iter().for_each(|kind| not_offered(kind, &reason));
            return Ok(executors);
        }
    };
    let embed = onnx::embed(Arc::clone(&models), Arc::clone(cache), section.embed.clone()).await;
    let classify = onnx::classify(Arc::clone(&models), Arc::clone(cache), section.classify.clone()).await;
    let mut executors = executors.with(onnx::onnx(models, Arc::clone(cache)));
    for (kind, offered) in [("embed", embed), ("classify", classify)] {
        match offered {
            Ok(executor) => executors = executors.with(executor),
            Err(error) => not_offered(kind, &error.to_string()),
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
fn not_offered(kind: &str, reason: &str) {
    tracing::warn!(kind, reason, "this kind is not offered here");
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
