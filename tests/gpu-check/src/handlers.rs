//! Handlers that are killed, or lose their GPU.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use devices::{Device, NvidiaGpu};
use protocol::Outcome;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    Fault,
    bench::Bench,
    child::HELD,
    finding::{Checked, Finding},
    fleet::Fleet,
    processes::until,
    python::{Place, Program},
    work::modules,
};

const HOLDS: &str = include_str!("../python/holds.py");
const FAULTS: &str = include_str!("../python/faults.py");
const STEADY: &str = include_str!("../python/steady.py");
/// Whether PyTorch is there, and sees the GPU.
const LOOK: &str = r#"
import sys
try:
    import torch
except Exception:
    sys.exit(3)
if not torch.cuda.is_available():
    sys.exit(4)
print('{"versions": "PyTorch %s"}' % torch.__version__, flush=True)
"#;
const CODES: [(i32, &str); 2] = [(3, "PyTorch cannot be imported here"), (4, "PyTorch finds no GPU: it may be built without CUDA")];

/// What these checks run with. Why there is nothing comes as a text.
async fn place(bench: &Bench) -> Result<Result<Place, String>, Fault> {
    let place = match Place::look(bench).await? {
        Ok(place) => place,
        Err(why) => return Ok(Err(why)),
    };
    Ok(Program::start(LOOK, place.folder.path(), &CODES).await?.map(|_| place))
}

/// The process that ran a task.
fn pid_of(result: &Value) -> Result<Pid, Fault> {
    let number = result["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    Ok(number.and_then(Pid::from_raw).ok_or_else(|| format!("no process in {result}"))?)
}

pub async fn killed(bench: &Bench) -> Finding {
    let place = match place(bench).await? {
        Ok(place) => place,
        Err(why) => return Ok(Checked::Unchecked(why)),
    };
    let modules = modules()?;
    let gpu = Arc::new(bench.open().await?);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let before_mb = gpu.sample().memory_used_mb;
    let held_mb = (HELD / 1_000_000) as u64;
    let (holds, free) = (|| gpu.sample().memory_used_mb >= before_mb + held_mb, || gpu.sample().memory_used_mb < before_mb + held_mb / 2);
    let section = place.written("holds.py", HOLDS, [("HELD".to_owned(), HELD.to_string())].into())?;
    let fleet = place.fleet(&gpu, modules.path(), &[section]).await?;
    let first = pid_of(&fleet.result("holds", json!({})).await?)?;
    until("the handler's memory shows", holds).await?;
    let killed = Instant::now();
    kill_process(first, Signal::KILL)?;
    until("memory comes back", free).await?;
    let freed = killed.elapsed().as_secs_f64();
    let second = pid_of(&fleet.result("holds", json!({})).await?)?;
    let again = killed.elapsed().as_secs_f64();
    fleet.end().await?;
    until("memory comes back at the end", free).await?;
    if first == second {
        return Err("the killed process has run another task".into());
    }
    let after_mb = gpu.sample().memory_used_mb;
    Ok(Checked::Passed(format!(
        "{held_mb} MB of a handler were free again {freed:.1} s after kill -9 (samples are taken twice a second); a new process ran its next task after {again:.1} s; {before_mb} MB were used before, and \
         {after_mb} after it was drained"
    )))
}

/// The result of a task that a neighbour runs, and its process.
async fn steady(fleet: &Fleet, number: u64) -> Result<Pid, Fault> {
    let result = fleet.result("steady", json!({"number": number})).await?;
    if result["sum"] != json!(number * (number - 1) / 2) {
        return Err(format!("the sum below {number} is wrong: {result}").into());
    }
    pid_of(&result)
}

pub async fn fault(bench: &Bench) -> Finding {
    let place = match place(bench).await? {
        Ok(place) => place,
        Err(why) => return Ok(Checked::Unchecked(why)),
    };
    let modules = modules()?;
    let gpu: Arc<NvidiaGpu> = Arc::new(bench.open().await?);
    let sections = [place.written("faults.py", FAULTS, BTreeMap::new())?, place.written("steady.py", STEADY, BTreeMap::new())?];
    let fleet = place.fleet(&gpu, modules.path(), &sections).await?;
    let neighbour = steady(&fleet, 1_000).await?;
    let first = pid_of(&fleet.result("picks", json!({"place": 3})).await?)?;
    // Far beyond the 16 numbers that there are.
    let reply = fleet.reply("picks", json!({"place": 1_000_000})).await?;
    let Some(error) = reply.error.filter(|_| reply.outcome == Outcome::Failed) else {
        return Err(format!("a kernel that reads out of bounds ended as {:?}: {:?}", reply.outcome, reply.result).into());
    };
    // The process says with its exit code that it has lost the GPU; the worker tells it to the task that it has convicted.
    if error.code != "quarantined" || !error.message.contains("exit code 86") {
        return Err(format!("the task that did it was told {}: {}", error.code, error.message).into());
    }
    let after = fleet.result("picks", json!({"place": 5})).await?;
    if pid_of(&after)? == first || after["picked"] != json!(5) {
        return Err(format!("after the fault: {after}, and before it process {first:?}").into());
    }
    if steady(&fleet, 2_000).await? != neighbour {
        return Err("the process of another handler has ended too".into());
    }
    gpu.probe().await?;
    fleet.end().await?;
    let told: String = error.message.lines().next().unwrap_or_default().chars().take(240).collect();
    Ok(Checked::Passed(format!(
        "the task failed with {}: {told}; the next one of its kind ran in a new process; the other handler kept its own, and the canary of the worker's process passes",
        error.code
    )))
}
