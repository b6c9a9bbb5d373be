//! The worker of one GPU: this process.

use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use devices::{
    NvidiaGpu,
    nvidia::{Found, Host, NvidiaOptions},
};
use gpu_worker::{GpuLock, GpuWorker, Stop, WorkerError, WorkerOptions, WorkerParts};
use protocol::GpuId;

use super::{VISIBLE, finding, more};
use crate::{
    arguments::{Common, Worker},
    configuration, executing,
    fault::Fault,
    roles::{Metrics, Program},
    servers::Servers,
    simulated,
};

/// Longest time for opening a GPU and its first probe. A cold one takes seconds.
const OPENED_IN: Duration = Duration::from_secs(90);
/// How long a process that lost its GPU may take to end: the driver may hang in what it does at a process's end.
const LAST_BREATH: Duration = Duration::from_secs(15);

/// The worker of one GPU: this process.
pub(crate) async fn one(common: &Common, worker: &Worker, gpu: &str) -> Result<ExitCode, Fault> {
    let configuration = configuration::load(common, &more(worker))?;
    let found = finding::gpu_of(&configuration, gpu).await?;
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
    let offering = executing::on_nvidia(configuration, &device);
    let Some(executors) = program.unless_stopped(offering).await.transpose()? else { return Ok(Ok(())) };
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
