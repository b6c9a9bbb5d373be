//! Processes that lose their GPU, or are killed with it.

use std::{process::Stdio, time::Duration};

use devices::Device;
use gpu_worker::{ChildPlan, LogSink, SUPERVISED, Stop, SupervisorOptions};
use service::system_environment;
use tokio::{process::Command, time::Instant};

use crate::{
    Bench, Fault, Finding,
    child::{HELD, NOTICED},
    report::Checked,
};

/// Longest wait for memory to come back, or a process to come up.
const LONGEST: Duration = Duration::from_secs(60);

async fn lost(bench: &Bench, role: &str) -> Finding {
    let started = Instant::now();
    let mut command = Command::new(std::env::current_exe()?);
    let running = command.arg(format!("--child={role}")).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(LONGEST * 2, running).await??;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let Some(reason) = said.strip_prefix(NOTICED) else {
        return Err(
            format!("the process ended with {} and said {said:?} {}", output.status, String::from_utf8_lossy(&output.stderr)).into()
        );
    };
    let took = started.elapsed().as_secs_f64();
    let gpu = bench.open().await?;
    gpu.probe().await?;
    Ok(Checked::Passed(format!("after {took:.1} s: {reason}; a new process's canary passes")))
}

pub async fn fault(bench: &Bench) -> Finding {
    lost(bench, "fault").await
}

pub async fn hang(bench: &Bench) -> Finding {
    lost(bench, "spin").await
}

pub async fn killed(bench: &Bench) -> Finding {
    let gpu = bench.open().await?;
    let used_mb = || gpu.sample().memory_used_mb;
    let before_mb = used_mb();
    let held_mb = (HELD / 1_000_000) as u64;
    let id = &bench.gpu.description.gpu_id;
    let plan = ChildPlan {
        gpu_id: id.clone(),
        program: std::env::current_exe()?,
        arguments: vec!["--child=hold".into()],
        variables: vec![("CUDA_VISIBLE_DEVICES".into(), id.as_str().into())],
    };
    let (stop, options) = (Stop::default(), SupervisorOptions::default());
    let supervising = tokio::spawn(gpu_worker::supervise(vec![plan], stop.clone(), options, LogSink::stderr(), system_environment()));
    until("the process holds its memory", || used_mb() >= before_mb + held_mb).await?;
    let first = children()?.pop().ok_or("the supervisor has no child")?;
    let killed = Instant::now();
    rustix::process::kill_process(first, rustix::process::Signal::KILL)?;
    until("memory comes back", || used_mb() < before_mb + held_mb).await?;
    let freed = killed.elapsed().as_secs_f64();
    until("a new process holds its memory", || used_mb() >= before_mb + held_mb).await?;
    let again = killed.elapsed().as_secs_f64();
    stop.gently.cancel();
    supervising.await??;
    until("memory comes back at the end", || used_mb() < before_mb + held_mb).await?;
    Ok(Checked::Passed(format!(
        "{held_mb} MB were free again {freed:.1} s after kill -9 (samples are taken twice a second), held again by a new process after {again:.1} s, and free at the end"
    )))
}

async fn until(what: &str, holds: impl Fn() -> bool) -> Result<(), Fault> {
    let deadline = Instant::now() + LONGEST;
    while !holds() {
        if Instant::now() > deadline {
            return Err(format!("waited {} s in vain until {what}", LONGEST.as_secs()).into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// The processes whose parent this is and that are supervised.
fn children() -> Result<Vec<rustix::process::Pid>, Fault> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        let ours = status.lines().any(|line| line.split_whitespace().eq(["PPid:", &std::process::id().to_string()]));
        let variables = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if ours && String::from_utf8_lossy(&variables).contains(SUPERVISED) {
            found.extend(rustix::process::Pid::from_raw(pid));
        }
    }
    Ok(found)
}
