//! The checks for a machine with an NVIDIA GPU: everything that fake libraries cannot show.
//!
//! It needs this program (and `gpufleet` beside it), the driver, NVRTC and cuBLAS; no broker, no Redis, no compiler. It takes the first GPU, for a minute or two, and writes what it found as a
//! table. One list, [`CHECKS`]: what is added later is added there.

mod bare;
mod child;
mod fleet;
mod host;
mod numbers;
mod processes;
mod report;
mod speed;
mod work;

use std::{path::PathBuf, process::ExitCode};

use devices::nvidia::{Found, Host};
use futures::{FutureExt, future::BoxFuture};

use crate::report::{Checked, Report};

/// Why a check did not pass.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// What every check is given.
pub struct Bench {
    host: Host,
    gpu: Found,
    gpus: usize,
    seed: u64,
}

/// What a check found, in a sentence with its figures.
type Finding = Result<Checked, Fault>;
type Check = fn(&Bench) -> BoxFuture<'_, Finding>;

/// Every check, in the order in which they run. The last ones take processes down.
const CHECKS: [(&str, Check); 14] = [
    ("libraries are found, with versions", |bench| host::libraries(bench).boxed()),
    ("GPUs are those that `nvidia-smi` lists", |bench| host::discovery(bench).boxed()),
    ("samples agree with `nvidia-smi`", |bench| host::samples(bench).boxed()),
    ("`gpufleet doctor` describes the GPUs", |bench| host::doctor(bench).boxed()),
    ("canary passes, with many seeds", |bench| work::canary(bench).boxed()),
    ("matmul agrees with double precision on the CPU", |bench| work::products(bench).boxed()),
    ("kernel is compiled, launched, and right", |bench| work::kernels(bench).boxed()),
    ("compile errors and wrong arguments are refused", |bench| work::refusals(bench).boxed()),
    ("out of memory is an answer, and work goes on in pieces", |bench| work::out_of_memory(bench).boxed()),
    ("fleet overhead per task, one at a time", |bench| speed::overhead(bench).boxed()),
    ("fleet throughput of a small kernel against a bare loop", |bench| speed::throughput(bench).boxed()),
    ("a fault on the GPU is noticed and ends its process alone", |bench| processes::fault(bench).boxed()),
    ("a kernel that never ends is noticed", |bench| processes::hang(bench).boxed()),
    ("a killed process is started again, and memory is given back", |bench| processes::killed(bench).boxed()),
];

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    if let Some(role) = first.as_deref().and_then(|first| first.strip_prefix("--child=")) {
        return child::play(role).await;
    }
    let usage =
        "usage: gpu-check [REPORT.md]   checks this machine's first NVIDIA GPU, and writes the report there (default: docs/gpu-check.md)";
    if arguments.next().is_some() || first.as_deref().is_some_and(|first| first.starts_with('-')) {
        report::line(usage);
        return ExitCode::from(2);
    }
    let path = PathBuf::from(first.unwrap_or_else(|| "docs/gpu-check.md".to_owned()));
    match run().await.and_then(|report| report.write(&path).map(|()| report)) {
        Ok(report) if report.all_passed() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(fault) => {
            report::line(&format!("gpu-check: {fault}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<Report, Fault> {
    let host = tokio::task::spawn_blocking(Host::open).await??;
    let (gpus, lost) = host.gpus()?;
    lost.iter().for_each(|error| report::line(&format!("left out: {error}")));
    let gpu = gpus.first().cloned().ok_or("no GPU answers: these checks need one")?;
    let bench = Bench { host, gpu, gpus: gpus.len(), seed: u64::from(std::process::id()) << 32 | u64::from(numbers::now_ms() as u32) };
    let mut report = Report::of(&bench);
    for (name, check) in CHECKS {
        let finding = check(&bench).await;
        report.add(name, finding);
    }
    Ok(report)
}
