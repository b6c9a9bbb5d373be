//! The checks for a machine with an NVIDIA GPU: everything that fake libraries cannot show.
//!
//! It needs this program (and `gpufleet` beside it), the driver, NVRTC and cuBLAS; no broker, no Redis, no compiler. It takes one GPU, for a few minutes, and writes what it found as a
//! table, anew after each check. One list, [`checks::CHECKS`]: what is added later is added there.
//!
//! Whatever a GPU does, the report is there: every check runs in a [process of its own](own), which is killed when its time is up, and the process that writes the report loads neither NVML nor
//! CUDA.

mod arguments;
mod bare;
mod bare_copies;
mod bench;
mod beside;
mod checks;
mod child;
mod finding;
mod fleet;
mod handlers;
mod health;
mod host;
mod kept;
mod look;
mod memory;
mod neighbours;
mod numbers;
mod onnx;
mod own;
mod processes;
mod python;
mod report;
mod resident;
mod speed;
mod stamps;
mod torch;
mod work;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{
    arguments::{Asked, Run, USAGE},
    finding::{Checked, Verdict},
    look::Looked,
    report::Report,
};

/// How long the whole list may take. What it does not come to in time is not checked, and the report says so.
const LIST: Duration = Duration::from_secs(8 * 60);

/// Why a check did not pass.
type Fault = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    match Asked::read(std::env::args().skip(1)) {
        Ok(Asked::Report(run)) => written(every_check(&run).await),
        Ok(Asked::Help) => {
            report::line(USAGE);
            ExitCode::SUCCESS
        }
        Ok(Asked::Look) => own::answer(look::look()).await,
        Ok(Asked::Check { place, bench }) => own::answer(checks::one(place, &bench)).await,
        Ok(Asked::Role { role, bench }) => child::play(&role, &bench).await,
        Err(wrong) => {
            report::line(&format!("gpu-check: {wrong}\n{USAGE}"));
            ExitCode::from(2)
        }
    }
}

/// Runs them all, one after the other, each in a process of its own.
async fn every_check(run: &Run) -> Result<Report, Fault> {
    let Run { path, scale, limit } = run;
    let (started, seed) = (Instant::now(), numbers::fresh_seed());
    let looked = Looked::of(own::run(&[look::ARGUMENT.to_owned()], None, look::LIMIT).await);
    let mut report = Report::of(&looked, seed, *scale);
    let Ok(gpu_id) = &looked.gpu_id else {
        report.write(path)?;
        return Ok(report);
    };
    for (place, check) in checks::CHECKS.iter().enumerate() {
        let left = LIST.saturating_sub(started.elapsed());
        let ran = if left > checks::SHORTEST {
            check.in_its_process(&arguments::of_check(place, gpu_id, seed, *scale), gpu_id, left.min(*limit)).await
        } else {
            let late = format!("the {} minutes of the whole list were over", LIST.as_secs() / 60);
            (Verdict::of(Ok(Checked::Unchecked(late))), Duration::ZERO)
        };
        report.add(check.name, ran);
        report.write(path)?;
    }
    report::line(&format!("written to {}", path.display()));
    Ok(report)
}

fn written(report: Result<Report, Fault>) -> ExitCode {
    match report {
        Ok(report) if report.all_passed() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(fault) => {
            report::line(&format!("gpu-check: {fault}"));
            ExitCode::FAILURE
        }
    }
}
