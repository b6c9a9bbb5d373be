//! What a process's workers offer, and where they count.

mod offering;
mod onnx;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use devices::{CudaError, Device, NvidiaGpu, nvidia::cuda};
use executors::{
    Executor, Executors, ModelBounds, ModelCache,
    handlers::{self, HandlerPlace},
};
use gpu_worker::{WorkerMetrics, WorkerOptions};
use prometheus::Registry;
use protocol::{
    GpuDescription, Kind,
    config::{Configuration, PredictSection},
};

use self::{offering::not_offered, onnx::GpuMegabytes};
use crate::{fault::Fault, nvidia};

/// How long the trial of a kind may take: cuBLAS brings hundreds of megabytes of code to the GPU.
const TRIED_IN: Duration = Duration::from_secs(60);

/// What a worker offers.
pub(crate) struct OnOffer {
    pub(crate) executors: Executors,
    /// The kinds among them that handlers run.
    pub(crate) brought: Vec<Kind>,
}

/// What the worker of a simulated GPU offers: `predict` with the built-in model where none is configured, and what the configured handlers run.
pub(crate) async fn on_simulated(configuration: &Configuration, gpu: GpuDescription) -> Result<OnOffer, Fault> {
    let built_in = match &configuration.predict {
        section if section.model.is_some() => offer_predict(everywhere(configuration, None).await?, section).await?,
        section => offer_built_in(everywhere(configuration, None).await?, section).await?,
    };
    let built_in = with_data_kinds(built_in);
    let own = built_in.kinds();
    let executors = with_handlers(built_in, configuration, (gpu, true)).await?;
    let brought = executors.kinds().into_iter().filter(|kind| !own.contains(kind)).collect();
    Ok(OnOffer { executors, brought })
}

/// What a GPU keeps of models: one cache for all of its kinds.
fn cache(configuration: &Configuration) -> Arc<ModelCache> {
    let bounds = ModelBounds {
        memory_mb: configuration.models.memory_mb,
        memory_share: configuration.gpu.multi_gpu.memory_threshold,
        pinned: configuration.models.pinned.clone(),
    };
    Arc::new(ModelCache::new(bounds))
}

/// What the worker of an NVIDIA GPU offers: `predict` where a model is configured, since the built-in one is a toy; `matmul`, and `kernel` where there are modules; each where its library
/// is and works on this GPU.
pub(crate) async fn on_nvidia(configuration: &Configuration, gpu: &NvidiaGpu) -> Result<Executors, Fault> {
    let built_in = built_in_on_nvidia(configuration, gpu).await?;
    let built_in = if gpu.memory().is_some() { with_data_kinds(built_in) } else { built_in };
    with_handlers(built_in, configuration, (gpu.description().clone(), false)).await
}

/// The kinds that put tensors onto a GPU, read, copy, join and free them: where there is memory for tensors.
fn with_data_kinds(executors: Executors) -> Executors {
    executors::data_kinds().into_iter().fold(executors, Executors::with)
}

/// What every GPU offers. `gpu_mb`: what models may take of a real one's memory.
async fn everywhere(configuration: &Configuration, gpu_mb: GpuMegabytes) -> Result<Executors, Fault> {
    let models = cache(configuration);
    let simulate = executors::simulate_keeping(Arc::clone(&models), &configuration.models.simulated);
    let executors = Executors::new().with(executors::echo()).with(simulate);
    onnx::offer(executors, &configuration.models, &models, gpu_mb).await
}

async fn built_in_on_nvidia(configuration: &Configuration, gpu: &NvidiaGpu) -> Result<Executors, Fault> {
    let total_mb = gpu.description().memory_total_mb as f64;
    let models_mb = (total_mb * configuration.gpu.multi_gpu.memory_threshold) as u64;
    let built_in = everywhere(configuration, Some(models_mb)).await?;
    let mut executors = match &configuration.predict {
        section if section.model.is_some() => offer_predict(built_in, section).await?,
        _ => built_in,
    };
    executors = offer(executors, executors::matmul(), works(products_work(gpu)).await);
    let Some(directory) = &configuration.kernel.directory else { return Ok(executors) };
    nvidia::modules(directory)?;
    Ok(offer(executors, executors::kernel(directory.clone()), works(kernels_work(gpu)).await))
}

/// Starts the configured handlers beside this GPU, all at once. Where one of them cannot start, or runs a kind that is there already, those that have started end again.
async fn with_handlers(
    built_in: Executors,
    configuration: &Configuration,
    (gpu, is_simulated): (GpuDescription, bool),
) -> Result<Executors, Fault> {
    let sections = &configuration.handlers;
    if sections.is_empty() {
        return Ok(built_in);
    }
    let launcher = std::env::current_exe().map_err(|error| Fault::Failed(format!("find this program: {error}")))?;
    let slots = WorkerOptions::of(configuration, "").slots;
    let starting = sections.iter().map(|section| {
        let place = HandlerPlace { gpu: gpu.clone(), is_simulated, slots, launcher: launcher.clone() };
        async move {
            let started = handlers::start(section, place).await;
            // A supervisor tries again; and so may a person, once it is mended.
            started.map_err(|error| Fault::Unavailable(error.to_string()))
        }
    });
    let (mut started, mut first_fault) = (Vec::new(), None);
    for (section, outcome) in sections.iter().zip(futures::future::join_all(starting).await) {
        match outcome {
            Ok(executors) => started.extend(executors.into_iter().map(|executor| (section.name(), executor))),
            Err(fault) => _ = first_fault.get_or_insert(fault),
        }
    }
    match first_fault.map_or(Ok(()), Err).and_then(|()| each_kind_once(&built_in, &started)) {
        Ok(()) => Ok(started.into_iter().fold(built_in, |executors, (_, executor)| executors.with(executor))),
        Err(fault) => {
            futures::future::join_all(started.iter().map(|(_, executor)| executor.stop())).await;
            Err(fault)
        }
    }
}

/// A kind that two of them run would be run by whichever came last.
fn each_kind_once(built_in: &Executors, started: &[(String, Arc<dyn Executor>)]) -> Result<(), Fault> {
    let mut owners: BTreeMap<Kind, String> = built_in.kinds().into_iter().map(|kind| (kind, "gpufleet itself".to_owned())).collect();
    for (handler, executor) in started {
        let kind = executor.kind();
        if let Some(other) = owners.insert(kind.clone(), format!("handler {handler}")) {
            return Err(Fault::Usage(format!(
                "kind {kind}: {other} and handler {handler} both run it; give it another name in one of them, or take one of them out"
            )));
        }
    }
    Ok(())
}

/// Whether a kind works here, or why not.
async fn works(trial: impl Future<Output = Result<(), CudaError>>) -> Result<(), String> {
    match tokio::time::timeout(TRIED_IN, trial).await {
        Ok(Ok(())) => Ok(()),
        // Memory comes back: a task that finds none tries elsewhere.
        Ok(Err(error)) if error.is_out_of_memory() => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("its trial took longer than {} s", TRIED_IN.as_secs())),
    }
}

/// A kind whose library is missing or does not work would fail every task, and the GPU be blamed for it.
fn offer(executors: Executors, executor: Arc<dyn Executor>, works: Result<(), String>) -> Executors {
    match works {
        Ok(()) => executors.with(executor),
        Err(reason) => not_offered(executors, executor.kind(), &reason),
    }
}

/// A GPU that CUDA cannot use takes no tasks before a new process has proved it: until then it shows what is installed.
async fn products_work(gpu: &NvidiaGpu) -> Result<(), CudaError> {
    cuda::cublas_version()?;
    match gpu.cuda() {
        Some(cuda) => cuda.try_products().await,
        None => Ok(()),
    }
}

async fn kernels_work(gpu: &NvidiaGpu) -> Result<(), CudaError> {
    cuda::kernels_here()?;
    match gpu.cuda() {
        Some(cuda) => cuda.try_kernels(gpu.description().compute_capability).await,
        None => Ok(()),
    }
}

#[cfg(feature = "predict")]
async fn offer_predict(executors: Executors, section: &PredictSection) -> Result<Executors, Fault> {
    let predict = executors::Predict::load(section).await.map_err(|error| Fault::Usage(error.to_string()))?;
    Ok(executors.with(predict))
}

#[cfg(feature = "predict")]
async fn offer_built_in(executors: Executors, section: &PredictSection) -> Result<Executors, Fault> {
    let predict = executors::Predict::built_in(section).await.map_err(|error| Fault::Failed(error.to_string()))?;
    Ok(executors.with(predict))
}

#[cfg(not(feature = "predict"))]
async fn offer_built_in(executors: Executors, _: &PredictSection) -> Result<Executors, Fault> {
    Ok(executors)
}

#[cfg(not(feature = "predict"))]
async fn offer_predict(_: Executors, _: &PredictSection) -> Result<Executors, Fault> {
    Err(Fault::Usage(
        "predict.model: this gpufleet was built without the kind `predict`; build it with the feature `predict`, which is on by default"
            .to_owned(),
    ))
}

/// The metrics of this process's workers.
pub(crate) fn worker_metrics(registry: &Registry) -> Result<WorkerMetrics, Fault> {
    WorkerMetrics::new(registry).map_err(|error| Fault::Failed(format!("register metrics: {error}")))
}
