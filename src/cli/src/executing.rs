//! What a process's workers offer, and where they count.

use executors::{Executors, Predict};
use gpu_worker::WorkerMetrics;
use prometheus::Registry;
use protocol::config::{Configuration, PredictSection};

use crate::{fault::Fault, nvidia};

/// What workers of simulated GPUs offer: `predict` only where there is a model.
pub(crate) async fn on_simulated(configuration: &Configuration) -> Result<Executors, Fault> {
    with_model(Executors::new().with(executors::echo()).with(executors::simulate()), &configuration.predict).await
}

/// What workers of NVIDIA GPUs offer: also `matmul`, and `kernel` where there are modules.
pub(crate) async fn on_nvidia(configuration: &Configuration) -> Result<Executors, Fault> {
    let executors = on_simulated(configuration).await?.with(executors::matmul());
    let Some(directory) = &configuration.kernel.directory else { return Ok(executors) };
    nvidia::modules(directory)?;
    Ok(executors.with(executors::kernel(directory.clone())))
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
