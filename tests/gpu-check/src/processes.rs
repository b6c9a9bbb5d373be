//! Processes that lose their GPU, or are killed with it.

use std::{
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use devices::{Device, NvidiaGpu, nvidia::xid::Xid};
use gpu_host::{ChildPlan, LogSink, SUPERVISED, Stop, SupervisorOptions};
use service::system_environment;
use tokio::{process::Command, time::Instant};

use crate::{
    Fault,
    arguments::{self, Scale},
    bench::Bench,
    child::{HELD, NOTICED},
    finding::{Checked, Finding},
    host,
};

/// Longest wait for memory to come back, or a process to come up.
const LONGEST: Duration = Duration::from_secs(30);
/// Longest life of a process that loses its GPU.
const LOSES: Duration = Duration::from_secs(80);
/// How long after the fault its Xid event may come.
const XID_FOLLOWS: Duration = Duration::from_secs(5);

/// Plays a role that loses the GPU, and says why it was lost and after how many seconds.
async fn lost(bench: &Bench, role: &str) -> Result<String, Fault> {
    let started = Instant::now();
    let mut command = Command::new(std::env::current_exe()?);
    let running = command.args(arguments::of_role(role, &bench.gpu_id)).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(LOSES, running).await.map_err(|_| format!("it noticed nothing within {} s", LOSES.as_secs()))??;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let Some(reason) = said.strip_prefix(NOTICED) else {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the process ended with {} and said {said:?} {errors}", output.status).into());
    };
    Ok(format!("after {:.1} s: {reason}", started.elapsed().as_secs_f64()))
}

/// Whether two processes may use the GPU at once, as far as `nvidia-smi` says.
pub async fn is_shared() -> bool {
    let Ok(Some(modes)) = host::nvidia_smi("compute_mode").await else { return true };
    modes.iter().flatten().all(|mode| mode == "Default")
}

pub async fn fault(bench: &Bench) -> Finding {
    let neighbour = if is_shared().await { Some(bench.open().await?) } else { None };
    let reason = lost(bench, "fault").await?;
    let Some(neighbour) = neighbour else {
        bench.open().await?.probe().await?;
        return Ok(Checked::Passed(format!("{reason}; the canary of a new process passes; one process at a time may use this GPU")));
    };
    neighbour.probe().await?;
    Ok(Checked::Passed(format!("{reason}; the canary of a process that had the GPU at that time passes")))
}

pub async fn hang(bench: &Bench) -> Finding {
    if bench.scale == Scale::Quick {
        return Ok(Checked::Unchecked("a quick run does without: it takes half a minute".to_owned()));
    }
    let reason = lost(bench, "spin").await?;
    bench.open().await?.probe().await?;
    Ok(Checked::Passed(format!("{reason}; the canary of a new process passes")))
}

/// The events are heard by a process that has the GPU at that time and did nothing wrong.
pub async fn xid(bench: &Bench) -> Finding {
    if !is_shared().await {
        return Ok(Checked::Unchecked("one process at a time may use this GPU: nobody else can listen".to_owned()));
    }
    let (neighbour, heard) = (bench.open().await?, Mutex::new(Vec::new()));
    let lost = async {
        let lost = lost(bench, "fault").await;
        let _none = tokio::time::timeout(bench.scale.of(XID_FOLLOWS, Duration::from_millis(100)), first(&heard)).await;
        lost
    };
    tokio::select! {
        lost = lost => lost?,
        () = listen(&neighbour, &heard) => String::new(),
    };
    let heard = heard.into_inner().unwrap_or_else(PoisonError::into_inner);
    if heard.is_empty() {
        return Ok(Checked::Unchecked("no Xid event came: a container often lacks the right to hear of them".to_owned()));
    }
    let described: Vec<String> = heard.into_iter().map(|number| Xid::of(number).describe()).collect();
    Ok(Checked::Passed(format!("a neighbour heard: {}", described.join(", "))))
}

async fn listen(gpu: &NvidiaGpu, heard: &Mutex<Vec<u64>>) {
    loop {
        let xid = gpu.trouble().await.xid;
        heard.lock().unwrap_or_else(PoisonError::into_inner).extend(xid);
    }
}

async fn first(heard: &Mutex<Vec<u64>>) {
    while heard.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn killed(bench: &Bench) -> Finding {
    let gpu = bench.watch().await?;
    let used_mb = || gpu.sample().memory_used_mb;
    let before_mb = used_mb();
    let held_mb = (HELD / 1_000_000) as u64;
    // The next process's context takes some hundred MB at once.
    let (holds, free) = (|| used_mb() >= before_mb + held_mb, || used_mb() < before_mb + held_mb / 2);
    let id = &bench.gpu_id;
    let plan = ChildPlan {
        gpu_id: id.clone(),
        program: std::env::current_exe()?,
        arguments: arguments::of_role("hold", id).into_iter().map(Into::into).collect(),
        variables: vec![("CUDA_VISIBLE_DEVICES".into(), id.as_str().into())],
    };
    let (stop, options) = (Stop::default(), SupervisorOptions::default());
    let supervising = tokio::spawn(gpu_host::supervise(vec![plan], stop.clone(), options, LogSink::stderr(), system_environment()));
    until("the process holds its memory", holds).await?;
    let first = children()?.pop().ok_or("the supervisor has no child")?;
    let killed = Instant::now();
    rustix::process::kill_process(first, rustix::process::Signal::KILL)?;
    until("memory comes back", free).await?;
    let freed = killed.elapsed().as_secs_f64();
    until("a new process holds its memory", holds).await?;
    let again = killed.elapsed().as_secs_f64();
    stop.gently.cancel();
    supervising.await??;
    until("memory comes back at the end", free).await?;
    Ok(Checked::Passed(format!(
        "{held_mb} MB were free again {freed:.1} s after kill -9 (samples are taken twice a second), held again by a new process after {again:.1} s, and free at the end"
    )))
}

/// Waits until this holds.
pub async fn until(what: &str, holds: impl Fn() -> bool) -> Result<(), Fault> {
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
