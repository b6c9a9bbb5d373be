//! What NVML says, against what `nvidia-smi` and `gpufleet doctor` say.

use std::time::Duration;

use devices::{
    Device,
    nvidia::{Host, libraries as installed},
};
use tokio::process::Command;

use crate::{
    Fault,
    bench::Bench,
    finding::{Checked, Finding},
};

/// How far memory may lie apart, in MB: newer `nvidia-smi` leave out what the driver reserves, and another process may begin or end between the two looks.
const MEMORY_MB: f64 = 1_000.0;
const CELSIUS: f64 = 6.0;

pub async fn libraries(_: &Bench) -> Finding {
    let mut found = Vec::new();
    for library in tokio::task::spawn_blocking(installed::look).await? {
        let version = library.state.map_err(|problem| format!("{} (needed for {}): {problem}", library.name, library.needed_for))?;
        found.push(format!("{} {version}", library.name));
    }
    Ok(Checked::Passed(found.join(", ")))
}

/// Lines of values, or none without the program.
pub async fn nvidia_smi(query: &str) -> Result<Option<Vec<Vec<String>>>, Fault> {
    let arguments = [format!("--query-gpu={query}"), "--format=csv,noheader,nounits".to_owned()];
    let Ok(output) = Command::new("nvidia-smi").args(arguments).kill_on_drop(true).output().await else { return Ok(None) };
    if !output.status.success() {
        return Err(format!("nvidia-smi: {}", String::from_utf8_lossy(&output.stdout)).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let split = |line: &str| line.split(',').map(|value| value.trim().to_owned()).collect();
    Ok(Some(text.lines().map(split).collect()))
}

fn without_it() -> Finding {
    Ok(Checked::Unchecked("there is no `nvidia-smi` here".to_owned()))
}

pub async fn discovery(_: &Bench) -> Finding {
    let Some(listed) = nvidia_smi("uuid,name,memory.total,compute_cap").await? else { return without_it() };
    let (found, lost) = tokio::task::spawn_blocking(|| Host::open()?.gpus()).await??;
    if let Some(error) = lost.first() {
        return Err(format!("one does not answer: {error}").into());
    }
    if found.iter().any(|found| found.description.hardware.mig_of.is_some()) {
        return Ok(Checked::Unchecked(format!("with MIG, `nvidia-smi` lists GPUs and not their instances; {} found", found.len())));
    }
    if found.len() != listed.len() {
        return Err(format!("{} GPUs were found, and {} are listed", found.len(), listed.len()).into());
    }
    for found in &found {
        let gpu = &found.description;
        let listed = listed.iter().find(|listed| listed[0] == gpu.gpu_id.as_str());
        let listed = listed.ok_or_else(|| format!("{} is not listed", gpu.gpu_id))?;
        let [_, name, total_mib, capability] = listed.as_slice() else { return Err(format!("not understood: {listed:?}").into()) };
        let total_mb = total_mib.parse::<f64>()? * 1.048_576;
        let same = gpu.name == *name && String::from(gpu.compute_capability) == *capability;
        if !same || (gpu.memory_total_mb as f64 - total_mb).abs() > MEMORY_MB {
            return Err(format!("{gpu:?} is listed as {listed:?}").into());
        }
    }
    Ok(Checked::Passed(format!("{} found and listed, the same by UUID", found.len())))
}

pub async fn samples(bench: &Bench) -> Finding {
    if bench.gpu_id.as_str().starts_with("MIG-") {
        return Ok(Checked::Unchecked("`nvidia-smi` has no samples of a MIG instance".to_owned()));
    }
    let gpu = bench.open().await?;
    let Some(listed) = nvidia_smi("uuid,memory.used,temperature.gpu,power.draw,clocks.sm").await? else { return without_it() };
    let ours = listed.iter().find(|line| line[0] == bench.gpu_id.as_str()).ok_or("nvidia-smi does not list it")?;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let sample = gpu.sample();
    let (memory_mb, celsius): (f64, f64) = (ours[1].parse::<f64>()? * 1.048_576, ours[2].parse()?);
    if (sample.memory_used_mb as f64 - memory_mb).abs() > MEMORY_MB || (sample.temperature_celsius - celsius).abs() > CELSIUS {
        return Err(format!("sampled {sample:?}, nvidia-smi says {ours:?}").into());
    }
    if sample.power_watts <= 0.0 || sample.sm_clock_mhz <= 0.0 || sample.age_ms > 2_000 {
        return Err(format!("not plausible: {sample:?}").into());
    }
    Ok(Checked::Passed(format!(
        "{} MB ({memory_mb:.0}), {:.0} °C ({celsius:.0}), {:.0} W ({}), SM {:.0} MHz ({}); in brackets nvidia-smi's",
        sample.memory_used_mb, sample.temperature_celsius, sample.power_watts, ours[3], sample.sm_clock_mhz, ours[4]
    )))
}

pub async fn doctor(bench: &Bench) -> Finding {
    let program = std::env::current_exe()?.with_file_name("gpufleet");
    if !program.exists() {
        return Ok(Checked::Unchecked(format!("{} is not there", program.display())));
    }
    let output = Command::new(program).arg("doctor").kill_on_drop(true).output().await?;
    let text = String::from_utf8(output.stdout)?;
    let id = bench.gpu_id.as_str();
    let line = text.lines().find(|line| line.contains(id)).ok_or_else(|| format!("{id} is not in: {text}"))?;
    Ok(Checked::Passed(line.trim().to_owned()))
}
