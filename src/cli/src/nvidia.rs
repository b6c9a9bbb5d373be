//! Workers for NVIDIA GPUs: one process per GPU, and the supervisor that keeps them alive.
//!
//! A process has one GPU, and sees no other (`CUDA_VISIBLE_DEVICES` is set before CUDA is loaded): a poisoned context, a crash in the driver or a leak costs
//! one GPU's work. The GPU is locked, so that a second worker for it is refused and not merely slow.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use devices::{
    NvidiaGpu,
    nvidia::{Found, Host, NvidiaError, NvidiaOptions},
};
use gpu_worker::{
    ChildPlan, GpuLock, GpuWorker, LogSink, Stop, SupervisorError, SupervisorOptions, WorkerError, WorkerOptions, WorkerParts,
};
use protocol::{GpuId, config::Configuration, gpu_named};

use crate::{
    arguments::{Common, Worker},
    configuration, executing,
    fault::Fault,
    output,
    roles::{Metrics, Program},
    servers::Servers,
    simulated,
};

/// The variable that hides the other GPUs from CUDA.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
/// Longest time for opening a GPU and its first probe. A cold one takes seconds.
const OPENED_IN: Duration = Duration::from_secs(90);
/// A UUID is no shorter.
const UUID_CHARACTERS: usize = 36;
/// How long a process that lost its GPU may take to end: the driver may hang in what it does at a process's end.
const LAST_BREATH: Duration = Duration::from_secs(15);

/// A process for each GPU of this host.
pub(crate) async fn all(common: &Common, worker: &Worker) -> Result<ExitCode, Fault> {
    let program = Program::start(configuration::load(common, &more(worker))?)?;
    let configuration = &program.configuration;
    // Said now, and not by each child.
    Servers::of_a_running_fleet(configuration.clone())?;
    let gpus = found(configuration).await?;
    let plans = plans(configuration, &gpus)?;
    let options = SupervisorOptions {
        stop_grace: Duration::from_millis(configuration.worker.drain_grace_ms),
        json: configuration.log.json,
        ..SupervisorOptions::default()
    };
    output::note(&format!("gpufleet serves {} NVIDIA GPUs, a process each", plans.len()));
    let supervised = gpu_worker::supervise(plans, program.stop.clone(), options, LogSink::stderr(), service::system_environment()).await;
    supervised.map(|()| ExitCode::SUCCESS).map_err(|error: SupervisorError| {
        if error.is_refused() { Fault::Usage(error.to_string()) } else { Fault::Failed(error.to_string()) }
    })
}

/// The worker of one GPU: this process.
pub(crate) async fn one(common: &Common, worker: &Worker, gpu: &str) -> Result<ExitCode, Fault> {
    let configuration = configuration::load(common, &more(worker))?;
    let found = found_one(&configuration, gpu).await?;
    let gpu_id = found.description.gpu_id.clone();
    see_only(&gpu_id)?;
    let program = Program::start(configuration)?;
    // Not exit code 2: a child whose predecessor still drains is started again.
    let lock = GpuLock::take(&program.configuration.gpu.lock_folder, &gpu_id).map_err(|refused| Fault::Unavailable(refused.to_string()))?;
    let after_trouble = lock.trouble().map(ToOwned::to_owned);
    let Some(device) = open(&program, found).await? else { return Ok(ExitCode::SUCCESS) };
    let ended = serve(&program, device, after_trouble).await?;
    match ended {
        Err(WorkerError::Lost { gpu_id, reason }) => {
            if let Err(error) = lock.leave_trouble(&reason) {
                tracing::warn!(%gpu_id, %error, "the next worker will not know what was wrong");
            }
            end_soon();
            Err(Fault::GpuLost(WorkerError::Lost { gpu_id, reason }.to_string()))
        }
        Err(refused) => Err(Fault::Failed(refused.to_string())),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

fn more(worker: &Worker) -> Vec<String> {
    worker.model.as_ref().map(|path| format!("predict.model={}", path.display())).into_iter().collect()
}

/// The GPUs that this host's workers serve: all, or with `gpu.multi_gpu.enabled: false` the first.
async fn found(configuration: &Configuration) -> Result<Vec<Found>, Fault> {
    if !configuration.gpu.enabled {
        return Err(Fault::Usage("gpu.enabled is false: no NVIDIA GPU is looked for; `--simulated N` serves simulated ones".to_owned()));
    }
    let looking = tokio::task::spawn_blocking(|| Host::open()?.gpus()).await;
    let looked = looking.map_err(|error| Fault::Failed(format!("look for GPUs: {error}")))?;
    let (mut gpus, lost) = looked.map_err(|error| Fault::Failed(format!("{error}; `--simulated N` serves simulated GPUs")))?;
    for error in &lost {
        output::note(&format!("a GPU is left out: {error}"));
    }
    if gpus.is_empty() {
        return Err(Fault::Failed("this host has no NVIDIA GPU that answers; `--simulated N` serves simulated ones".to_owned()));
    }
    if let Ok(visible) = std::env::var(VISIBLE) {
        gpus = only_visible(gpus, &visible)?;
    }
    if !configuration.gpu.multi_gpu.enabled {
        gpus.truncate(1);
    }
    Ok(gpus)
}

/// Those that the caller's `CUDA_VISIBLE_DEVICES` names: on a shared host the others belong to somebody else.
fn only_visible(gpus: Vec<Found>, visible: &str) -> Result<Vec<Found>, Fault> {
    let ids: Vec<GpuId> = gpus.iter().map(|found| found.description.gpu_id.clone()).collect();
    let names = visible.split(',').map(str::trim).filter(|name| !name.is_empty());
    let wanted: Result<Vec<&GpuId>, _> = names.map(|name| gpu_named(name, &ids)).collect();
    let wanted = wanted.map_err(|error| Fault::Usage(format!("{VISIBLE}={visible}: {error}")))?;
    if wanted.is_empty() {
        return Err(Fault::Usage(format!("{VISIBLE} is set and names no GPU: take it away, or name the GPUs to serve")));
    }
    Ok(gpus.into_iter().filter(|found| wanted.contains(&&found.description.gpu_id)).collect())
}

/// The GPU of this name. One that answers is found whatever its neighbours do; one that does not may come back.
async fn found_one(configuration: &Configuration, gpu: &str) -> Result<Found, Fault> {
    if !configuration.gpu.enabled {
        return Err(Fault::Usage("gpu.enabled is false: no NVIDIA GPU is looked for".to_owned()));
    }
    let name = gpu.to_owned();
    let asking = tokio::task::spawn_blocking(move || {
        let host = Host::open()?;
        match GpuId::new(name) {
            Ok(gpu_id) => Ok(host.gpu(&gpu_id)?.map_or_else(|| host.gpus().map(|(gpus, _)| gpus), |found| Ok(vec![found]))?),
            Err(_) => host.gpus().map(|(gpus, _)| gpus),
        }
    });
    let asked = asking.await.map_err(|error| Fault::Failed(format!("look for the GPU: {error}")))?;
    let gpus = asked.map_err(|error: NvidiaError| Fault::Failed(error.to_string()))?;
    let ids: Vec<GpuId> = gpus.iter().map(|found| found.description.gpu_id.clone()).collect();
    let gpu_id = gpu_named(gpu, &ids).map_err(|error| {
        // A whole id was right once: its GPU does not answer now.
        let whole = gpu.len() >= UUID_CHARACTERS;
        if whole { Fault::Unavailable(format!("GPU {gpu} does not answer: {error}")) } else { Fault::Usage(format!("--gpu: {error}")) }
    })?;
    gpus.iter().find(|found| found.description.gpu_id == *gpu_id).cloned().ok_or_else(|| Fault::NotFound(format!("GPU {gpu_id} is gone")))
}

/// A child for each GPU. One that has a worker now may only be waiting for a predecessor to drain: its child tries again.
fn plans(configuration: &Configuration, gpus: &[Found]) -> Result<Vec<ChildPlan>, Fault> {
    let program = std::env::current_exe().map_err(|error| Fault::Failed(format!("find this program: {error}")))?;
    let (mut plans, mut held) = (Vec::new(), Vec::new());
    for (number, gpu) in (0_u16..).zip(gpus) {
        let gpu_id = &gpu.description.gpu_id;
        if let Some(holder) = GpuLock::holder(&configuration.gpu.lock_folder, gpu_id) {
            held.push(format!("{gpu_id} ({holder})"));
        }
        let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        arguments.extend(["--gpu".into(), gpu_id.as_str().into()]);
        if let Some(listen) = metrics_of(configuration, number) {
            arguments.extend(["--set".into(), format!("worker.metrics_listen={listen}").into()]);
        }
        let variables = vec![(VISIBLE.into(), gpu_id.as_str().into())];
        plans.push(ChildPlan { gpu_id: gpu_id.clone(), program: program.clone(), arguments, variables });
    }
    let (taken, held) = (held.len(), held.join(", "));
    if taken == plans.len() {
        return Err(Fault::Unavailable(format!("every GPU of this host has a worker already: {held}; stop it first")));
    }
    if taken > 0 {
        output::note(&format!("these have a worker already, and are served once it has ended: {held}"));
    }
    Ok(plans)
}

/// The address for the metrics of a host's nth process: the ports follow each other.
fn metrics_of(configuration: &Configuration, number: u16) -> Option<String> {
    let (host, port) = configuration.worker.metrics_listen.as_deref()?.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    Some(format!("{host}:{}", if port == 0 { 0 } else { port.checked_add(number)? }))
}

/// Sees to it that CUDA shows this process the one GPU: where it would show others, the program starts once more in its own place.
fn see_only(gpu_id: &GpuId) -> Result<(), Fault> {
    if std::env::var(VISIBLE).is_ok_and(|visible| visible == gpu_id.as_str()) {
        return Ok(());
    }
    let program = std::env::current_exe().map_err(|error| Fault::Failed(format!("find this program: {error}")))?;
    let error = Command::new(program).args(std::env::args_os().skip(1)).env(VISIBLE, gpu_id.as_str()).exec();
    Err(Fault::Failed(format!("start again with {VISIBLE}={gpu_id}: {error}")))
}

/// Takes the GPU and probes it. `None`: a signal came first.
async fn open(program: &Program, found: Found) -> Result<Option<NvidiaGpu>, Fault> {
    let gpu_id = found.description.gpu_id.clone();
    let options = NvidiaOptions { memory_threshold: program.configuration.gpu.multi_gpu.memory_threshold };
    let opening = async {
        let opened = tokio::task::spawn_blocking(move || NvidiaGpu::open(&Host::open()?, found, options)).await;
        let opened = opened.map_err(|error| Fault::Failed(format!("open the GPU: {error}")))?;
        Ok(opened.map_err(|error| Fault::Failed(error.to_string()))?.proved().await)
    };
    match program.unless_stopped(tokio::time::timeout(OPENED_IN, opening)).await {
        Some(Ok(opened)) => opened.map(Some),
        Some(Err(_)) => {
            end_soon();
            let seconds = OPENED_IN.as_secs();
            Err(Fault::GpuLost(format!(
                "GPU {gpu_id} was not opened and probed within {seconds} s: see the kernel's log (`dmesg`) for Xid messages"
            )))
        }
        None => {
            end_soon();
            Ok(None)
        }
    }
}

/// Works until it is stopped, its supervisor is gone, or the GPU is lost.
async fn serve(program: &Program, device: NvidiaGpu, after_trouble: Option<String>) -> Result<Result<(), WorkerError>, Fault> {
    let configuration = &program.configuration;
    let servers = Servers::of_a_running_fleet(configuration.clone())?;
    let metrics = Metrics::serve(program).await?;
    let executors = executing::on_nvidia(configuration).await?;
    let Some(ports) = program.unless_stopped(servers.connect()).await.transpose()? else { return Ok(Ok(())) };
    let parts = WorkerParts {
        queue: ports.queue,
        table: ports.table,
        store: ports.store,
        device: Arc::new(device),
        executors,
        environment: servers.environment().clone(),
        options: WorkerOptions { after_trouble, ..WorkerOptions::of(configuration, simulated::host()) },
        metrics: Arc::new(executing::worker_metrics(&program.registry)?),
    };
    let stop = Stop { gently: program.stop.gently.clone(), now: program.stop.now.child_token() };
    if gpu_worker::supervised() {
        let gently = program.stop.gently.clone();
        tokio::spawn(async move {
            gpu_worker::supervisor_gone().await;
            tracing::warn!("the supervisor is gone: this worker drains and ends");
            gently.cancel();
        });
    }
    let ended = GpuWorker::new(parts, stop).run().await;
    program.stop.gently.cancel();
    metrics.finish(&program.stop).await?;
    servers.close().await;
    Ok(ended)
}

/// A driver may hang in what it does at the end of a process whose GPU is lost; the next process waits for this one's end.
fn end_soon() {
    std::thread::spawn(|| {
        std::thread::sleep(LAST_BREATH);
        std::process::abort();
    });
}

/// Whether a folder of modules is one: said at the start, not by the first task.
pub(crate) fn modules(directory: &Path) -> Result<(), Fault> {
    if directory.is_dir() {
        return Ok(());
    }
    Err(Fault::Usage(format!("kernel.directory: {} is no folder; make it, or take the key out", directory.display())))
}
