//! Workers for NVIDIA GPUs: one process per GPU, and the supervisor that keeps them alive.
//!
//! A process has one GPU, and sees no other (`CUDA_VISIBLE_DEVICES` is set before CUDA is loaded): a poisoned context, a crash in the driver or a leak costs
//! one GPU's work. The GPU is locked, so that a second worker for it is refused and not merely slow.

mod finding;
mod serving;

use std::{ffi::OsString, path::Path, process::ExitCode, time::Duration};

use devices::nvidia::Found;
use gpu_host::{ChildPlan, GpuLock, LogSink, Stop, SupervisorError, SupervisorOptions};
use protocol::config::Configuration;
use service::FlagSetting;

pub(crate) use self::serving::one;
use crate::{
    arguments::{Common, Worker, set},
    configuration,
    fault::Fault,
    output,
    roles::Program,
    servers::Servers,
};

/// The variable that hides the other GPUs from CUDA.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// A process for each GPU of this host.
pub(crate) async fn all(common: &Common, worker: &Worker) -> Result<ExitCode, Fault> {
    let program = Program::start(configuration::load_for_workers_and_log(common, more(worker), &worker.handlers)?)?;
    let configuration = &program.configuration;
    // Said now, and not by each child.
    Servers::of_a_running_fleet(configuration.clone())?;
    let gpus = finding::every_gpu(configuration).await?;
    let plans = plans(configuration, &gpus)?;
    let options = SupervisorOptions {
        stop_grace: Duration::from_millis(configuration.worker.drain_grace_ms),
        json: configuration.log.json,
        ..SupervisorOptions::default()
    };
    output::note(&format!("gpufleet serves {} NVIDIA GPUs, a process each", plans.len()));
    // Of its children nobody hears when they serve: each takes its GPU in its own time, and some may never.
    program.serves_once(std::future::ready(()), format!("keeps a worker for each of {} NVIDIA GPUs", plans.len()));
    let stop = Stop { gently: program.stop.gently.clone(), now: program.stop.now.clone() };
    let supervised = gpu_host::supervise(plans, stop, options, LogSink::stderr(), service::system_environment()).await;
    supervised.map(|()| ExitCode::SUCCESS).map_err(|error: SupervisorError| {
        if error.is_refused() { Fault::Usage(error.to_string()) } else { Fault::Failed(error.to_string()) }
    })
}

fn more(worker: &Worker) -> Vec<FlagSetting> {
    set("--model", "predict.model", worker.model.as_ref().map(|path| path.display())).into_iter().collect()
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

/// Whether a folder of modules is one: said at the start, not by the first task.
pub(crate) fn modules(directory: &Path) -> Result<(), Fault> {
    if directory.is_dir() {
        return Ok(());
    }
    Err(Fault::Usage(format!("kernel.directory: {} is no folder; make it, or take the key out", directory.display())))
}
