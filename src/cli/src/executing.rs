//! What a process's workers offer, and where they count.

use devices::{CudaError, nvidia::cuda};
use executors::{Executors, Predict};
use gpu_worker::WorkerMetrics;
use prometheus::Registry;
use protocol::config::{Configuration, PredictSection};

use crate::{fault::Fault, nvidia};

/// What workers of simulated GPUs offer: `predict` only where there is a model.
pub(crate) async fn on_simulated(configuration: &Configuration) -> Result<Executors, Fault> {
    with_model(Executors::new().with(executors::echo()).with(executors::simulate()), &configuration.predict).await
}

/// What workers of NVIDIA GPUs offer: also `matmul`, and `kernel` where there are modules; each where its library is.
pub(crate) async fn on_nvidia(configuration: &Configuration) -> Result<Executors, Fault> {
    let mut executors = on_simulated(configuration).await?;
    if is_there("matmul", cuda::cublas_version()) {
        executors = executors.with(executors::matmul());
    }
    let Some(directory) = &configuration.kernel.directory else { return Ok(executors) };
    nvidia::modules(directory)?;
    if is_there("kernel", cuda::kernels_here()) {
        executors = executors.with(executors::kernel(directory.clone()));
    }
    Ok(executors)
}

/// A kind without its library would fail every task, and the GPU be blamed for it.
fn is_there(kind: &str, version: Result<String, CudaError>) -> bool {
    version.map_err(|error| tracing::warn!(kind, %error, "this kind is not offered here")).is_ok()
}

async fn with_model(executors: Executors, section: &PredictSection) -> Result<Executors, Fault> {
    if section.model.is_none() {
        return Ok(executors);
    }
    let predict = Predict::load(section).await.map_err(|error| Fault::Usage(error.to_string()))?;
    Ok(executors.with(predict))
}

/// The metrics of this process's workers.
pub(crate) fn worker_metrics(registry: &Registry) -> Result<WorkerMetrics, Fault> {
    WorkerMetrics::new(registry).map_err(|error| Fault::Failed(format!("register metrics: {error}")))
}
