//! Two processes on one GPU: one reads the other's tensor where it lies, and what a process had is the GPU's again when it lets go of it or is killed.

use std::{process::Stdio, time::Duration};

use devices::{Device, HostBytes, MemoryError, PeerHandle};
use protocol::Checksum;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{Instant, timeout},
};

use crate::{
    Fault, arguments,
    bench::Bench,
    child::HELD,
    finding::{Checked, Finding},
    processes::{is_shared, until},
    report,
    resident::fresh,
};

/// The roles of the other process.
pub const EXPORTS: &str = "exports";
pub const KEEPS: &str = "keeps";
/// What stands before what it says, on a line of its own: libraries may print too.
const SAYS: &str = "says: ";
/// Longest wait for what it says.
const PATIENCE: Duration = Duration::from_secs(30);
/// Tensors among which it divides [`HELD`].
const TENSORS: usize = 4;
/// What it is told.
const TAKE: &str = "take";
const FREE: &str = "free";

/// The other process. It ends when this is dropped.
struct Other {
    child: Child,
    told: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(bench: &Bench, role: &str) -> Result<Self, Fault> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments::of_role(role, &bench.gpu_id)).arg(format!("--seed={}", bench.seed));
        command.args(bench.scale.of(None, Some("--quick"))).env("CUDA_VISIBLE_DEVICES", bench.gpu_id.as_str());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let told = child.stdin.take().ok_or("no standard input")?;
        let said = BufReader::new(child.stdout.take().ok_or("no standard output")?).lines();
        Ok(Self { child, told, said })
    }

    /// What it says next.
    async fn says(&mut self) -> Result<Value, Fault> {
        let saying = async {
            let mut last = String::new();
            while let Some(line) = self.said.next_line().await? {
                if let Some(said) = line.strip_prefix(SAYS) {
                    return Ok(serde_json::from_str(said)?);
                }
                last = line;
            }
            Err::<Value, Fault>(format!("the other process ended; it said {last:?}").into())
        };
        timeout(PATIENCE, saying).await.map_err(|_| format!("the other process said nothing for {} s", PATIENCE.as_secs()))?
    }

    /// Tells it, and waits until it has done so.
    async fn tell(&mut self, what: &str) -> Result<(), Fault> {
        self.told.write_all(format!("{what}\n").as_bytes()).await?;
        self.says().await.map(drop)
    }
}

/// How many bytes the exported tensor has: no whole number of words.
fn exported(bench: &Bench) -> usize {
    bench.scale.of((64 << 20) + 13, (1 << 20) + 13)
}

/// Is the process that has a tensor: says how to reach it, and keeps it until its input ends.
pub async fn export(bench: &Bench) -> Result<(), Fault> {
    let gpu = bench.open().await?;
    let memory = gpu.memory().ok_or("the GPU has no memory for tensors")?;
    let data = fresh(bench, exported(bench));
    let buffer = memory.allocate(data.len() as u64).await?;
    memory.write(&buffer, 0, HostBytes::Own(data)).await?;
    let sum = memory.checksum(&buffer, 0..buffer.len()).await?;
    let said = match memory.export(&buffer) {
        Ok(PeerHandle(handle)) => json!({"handle": handle, "sum": sum}),
        Err(refused @ MemoryError::Unsupported { .. }) => json!({"refused": refused.to_string()}),
        Err(error) => return Err(error.into()),
    };
    report::line(&format!("{SAYS}{said}"));
    gpu_host::supervisor_gone().await;
    Ok(())
}

pub async fn handles(bench: &Bench) -> Finding {
    if !is_shared().await {
        return Ok(Checked::Unchecked("one process at a time may use this GPU".to_owned()));
    }
    let mut other = Other::start(bench, EXPORTS)?;
    let said = other.says().await?;
    if let Some(refused) = said["refused"].as_str() {
        return Ok(Checked::Unchecked(format!("CUDA gives processes no handles here: {refused}")));
    }
    let handle = PeerHandle(serde_json::from_value(said["handle"].clone())?);
    let sum: Checksum = serde_json::from_value(said["sum"].clone())?;
    let (gpu, data) = (bench.open().await?, fresh(bench, exported(bench)));
    let memory = gpu.memory().ok_or("the GPU has no memory for tensors")?;
    let bytes = data.len() as u64;
    let opening = Instant::now();
    let opened = match memory.open(&handle, &bench.gpu_id, bytes).await {
        Ok(opened) => opened,
        Err(refused @ MemoryError::Unsupported { .. }) => {
            return Ok(Checked::Unchecked(format!("CUDA opens no memory of other processes here: {refused}")));
        }
        Err(error) => return Err(error.into()),
    };
    let opened_ms = opening.elapsed().as_secs_f64() * 1e3;
    let own = memory.allocate(bytes).await?;
    let copying = Instant::now();
    memory.copy((&opened, 0), (&own, 0), bytes).await?;
    let gb_s = bytes as f64 / 1e9 / copying.elapsed().as_secs_f64();
    drop(opened);
    let (there, here, expected) = (sum, memory.checksum(&own, 0..bytes).await?, Checksum::of(&data, 0));
    if there != expected || here != expected {
        return Err(format!("the sum of the bytes is {expected:?}; the GPU's is {there:?} in their process and {here:?} here").into());
    }
    if memory.read(&own, 0, data.len()).await? != data {
        return Err("the bytes are others, though their sums agree".into());
    }
    Ok(Checked::Passed(format!(
        "{bytes} bytes of another process, opened in {opened_ms:.1} ms and copied at {gb_s:.0} GB/s, are the same one by one; the GPU's sum over them is that of the processor, in both processes"
    )))
}

/// Is the process that keeps tensors: takes memory for some, or frees them, as its input says.
pub async fn keep(bench: &Bench) -> Result<(), Fault> {
    let gpu = bench.open().await?;
    let memory = gpu.memory().ok_or("the GPU has no memory for tensors")?;
    let mut held = Vec::new();
    while let Some(what) = tokio::task::spawn_blocking(|| std::io::stdin().lines().next().transpose()).await?? {
        match what.as_str() {
            TAKE => {
                for _ in 0..TENSORS {
                    held.push(memory.allocate((HELD / TENSORS) as u64).await?);
                }
            }
            FREE => held.clear(),
            other => return Err(format!("{other:?} is nothing to do").into()),
        }
        report::line(&format!("{SAYS}{}", json!({"done": what, "tensors": held.len()})));
    }
    Ok(())
}

pub async fn given_back(bench: &Bench) -> Finding {
    let gpu = bench.watch().await?;
    let used_mb = || gpu.sample().memory_used_mb;
    let (before_mb, held_mb) = (used_mb(), (HELD / 1_000_000) as u64);
    // The process's context takes some hundred MB as long as it lives.
    let (holds, free) = (|| used_mb() >= before_mb + held_mb, || used_mb() < before_mb + held_mb / 2);
    let mut other = Other::start(bench, KEEPS)?;
    other.tell(TAKE).await?;
    until("the tensors hold their memory", holds).await?;
    let freeing = Instant::now();
    other.tell(FREE).await?;
    until("the memory of freed tensors comes back", free).await?;
    let freed = freeing.elapsed().as_secs_f64();
    other.tell(TAKE).await?;
    until("tensors hold the memory again", holds).await?;
    let killing = Instant::now();
    other.child.kill().await?;
    until("the memory of a killed process comes back", free).await?;
    let killed = killing.elapsed().as_secs_f64();
    Ok(Checked::Passed(format!(
        "{held_mb} MB in {TENSORS} tensors were free again {freed:.1} s after they were freed, and, taken once more, {killed:.1} s after kill -9 of their process (samples are taken twice a second)"
    )))
}
