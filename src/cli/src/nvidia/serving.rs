//! The worker of one GPU: this process.

use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use devices::{
    NvidiaGpu,
    nvidia::{Found, Host, NvidiaOptions, leave},
};
use executors::handlers;
use gpu_host::GpuLock;
use gpu_worker::{GpuWorker, Stop, WorkerError, WorkerOptions, WorkerParts};
use protocol::{GpuId, gpu::PastTrouble};

use super::{VISIBLE, finding, more};
use crate::{
    arguments::{Common, Worker},
    configuration, executing,
    fault::{Fault, GPU_LOST},
    roles::{Metrics, Program},
    servers::Servers,
    simulated,
};

/// Longest time for opening a GPU and its first probe. A cold one takes seconds.
const OPENED_IN: Duration = Duration::from_secs(90);
/// The exit code of a process that was stopped, as of any that did what it was told.
const STOPPED: u8 = 0;
/// How long a process that lost its GPU may take to say so to its servers.
const LAST_BREATH: Duration = Duration::from_secs(15);

/// The worker of one GPU: this process.
pub(crate) async fn one(common: &Common, worker: &Worker, gpu: &str) -> Result<ExitCode, Fault> {
    let configuration = configuration::load_for_workers_and_log(common, more(worker), &worker.handlers)?;
    let found = finding::gpu_of(&configuration, gpu).await?;
    let gpu_id = found.description.gpu_id.clone();
    see_only(&gpu_id)?;
    let program = Program::start(configuration)?;
    // Not exit code 2: a child whose predecessor still drains is started again.
    let lock = GpuLock::take(&program.configuration.gpu.lock_folder, &gpu_id).map_err(|refused| Fault::Unavailable(refused.to_string()))?;
    let code = with_it(&program, found, &lock).await.err().map_or(STOPPED, |fault| fault.told());
    // Not in order: at an orderly exit NVIDIA's libraries wait for work that may never end, and may crash where a thread of this process still uses them. So nothing is dropped that would end
    // the handlers.
    handlers::kill_all();
    leave(code)
}

/// Takes the GPU, and works on it.
async fn with_it(program: &Program, found: Found, lock: &GpuLock) -> Result<(), Fault> {
    let Some(device) = open(program, found, lock).await? else { return Ok(()) };
    match serve(program, device, lock).await? {
        Err(lost @ WorkerError::Lost { .. }) => Err(Fault::GpuLost(lost.to_string())),
        Err(refused) => Err(Fault::Failed(refused.to_string())),
        Ok(()) => Ok(()),
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
async fn open(program: &Program, found: Found, lock: &GpuLock) -> Result<Option<NvidiaGpu>, Fault> {
    let gpu_id = found.description.gpu_id.clone();
    let options = NvidiaOptions { memory_threshold: program.configuration.gpu.multi_gpu.memory_threshold };
    let mut opening = Box::pin(async {
        let opened = tokio::task::spawn_blocking(move || NvidiaGpu::open(&Host::open()?, found, options)).await;
        let opened = opened.map_err(|error| Fault::Failed(format!("open the GPU: {error}")))?;
        Ok(opened.map_err(|error| Fault::Failed(error.to_string()))?.proved().await)
    });
    let stopped = match program.unless_stopped(tokio::time::timeout(OPENED_IN, opening.as_mut())).await {
        Some(Ok(opened)) => return opened.map(Some),
        Some(Err(_)) => {
            let seconds = OPENED_IN.as_secs();
            let reason = format!("it was not opened and probed within {seconds} s: see the kernel's log (`dmesg`) for Xid messages");
            lost(lock, &gpu_id, &PastTrouble { reason: reason.clone(), xid: None });
            Err(Fault::GpuLost(format!("GPU {gpu_id}: {reason}")))
        }
        None => Ok(None),
    };
    // The drop of what hangs may hang too.
    std::mem::forget(opening);
    stopped
}

/// Works until it is stopped, its supervisor is gone, or the GPU is lost.
async fn serve(program: &Program, device: NvidiaGpu, lock: &GpuLock) -> Result<Result<(), WorkerError>, Fault> {
    let configuration = &program.configuration;
    // Neither this nor the executors are ever dropped: giving back what a GPU holds waits for all that runs on it, for ever perhaps. The end of this process gives it back.
    let device = Arc::new(device);
    std::mem::forget(Arc::clone(&device));
    let servers = Servers::of_a_running_fleet(configuration.clone())?;
    program.show_bodies_and_spans(&servers)?;
    let metrics = Metrics::serve(program).await?;
    let offering = executing::on_nvidia(configuration, &device);
    let Some(executors) = program.unless_stopped(offering).await.transpose()? else { return Ok(Ok(())) };
    std::mem::forget(executors.clone());
    let Some(ports) = program.unless_stopped(servers.connect()).await.transpose()? else { return Ok(Ok(())) };
    let after_trouble = lock.trouble().cloned();
    let parts = WorkerParts {
        queue: ports.queue,
        table: ports.table,
        store: ports.store,
        device,
        executors,
        environment: servers.environment().clone(),
        options: WorkerOptions { after_trouble, ..WorkerOptions::of(configuration, simulated::host()) },
        metrics: Arc::new(executing::worker_metrics(&program.registry)?),
        bodies: ports.bodies,
    };
    let stop = Stop { gently: program.stop.gently.clone(), now: program.stop.now.child_token() };
    if gpu_host::supervised() {
        let gently = program.stop.gently.clone();
        tokio::spawn(async move {
            gpu_host::supervisor_gone().await;
            tracing::warn!("the supervisor is gone: this worker drains and ends");
            gently.cancel();
        });
    }
    let worker = GpuWorker::new(parts, stop);
    program.serves_once(worker.serves(), "serves an NVIDIA GPU".to_owned());
    let ended = worker.run().await;
    if let Err(WorkerError::Lost { gpu_id, reason, xid }) = &ended {
        lost(lock, gpu_id, &PastTrouble { reason: reason.clone(), xid: *xid });
    }
    program.stop.gently.cancel();
    let finished = metrics.finish(&program.stop).await;
    servers.close().await;
    if ended.is_ok() {
        finished?;
    }
    Ok(ended)
}

/// Leaves word for the GPU's next worker, and sees to it that this process ends.
fn lost(lock: &GpuLock, gpu_id: &GpuId, trouble: &PastTrouble) {
    if let Err(error) = lock.leave_trouble(trouble) {
        tracing::warn!(%gpu_id, %error, "the next worker will not know what was wrong");
    }
    // The next process waits for this one's end, whatever still hangs here.
    std::thread::spawn(|| {
        std::thread::sleep(LAST_BREATH);
        handlers::kill_all();
        leave(GPU_LOST);
    });
}
