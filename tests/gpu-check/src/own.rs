//! This program once more, as a child with a time limit that gives one answer.
//!
//! A call of CUDA or NVML that hangs cannot be stopped in its process: here the process is killed, with its group. The order of its end is that of the worker's supervisor: a child is seen to have
//! ended, its group is killed, and only then is it reaped, so that no signal meets a stranger.

use std::{future::Future, process::Stdio, time::Duration};

use devices::nvidia::leave;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_current_process_group, kill_process_group, waitid};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStderr, ChildStdout, Command},
    time::{sleep, timeout},
};

use crate::{Fault, report};

/// What stands before the answer, on a line of its own: libraries may print too.
const MARK: &str = "answer: ";
/// The variable that decides which GPUs CUDA shows to a process.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
/// How long a process may take to end once it has answered: the kernel's driver takes back what it had of the GPU.
const EXIT: Duration = Duration::from_secs(20);
/// How long a killed process may take to be gone. One that hangs in the driver may never be.
const REAPED: Duration = Duration::from_secs(5);
/// How much of what a process says last is kept, in bytes.
const LAST_WORDS: usize = 1_500;

/// Runs this program with these arguments, and gives its answer. `visible` is what CUDA shows to it; `None`: what it shows to us.
pub async fn run(arguments: &[String], visible: Option<&str>, limit: Duration) -> Result<Value, Fault> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).envs(visible.map(|visible| (VISIBLE, visible)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    // Its input stays open as long as we live, and it ends when that closes.
    let mut child = command.kill_on_drop(true).spawn()?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).ok_or("the process has no id")?;
    let (stdout, stderr) = (child.stdout.take().ok_or("no standard output")?, child.stderr.take().ok_or("no standard error")?);
    let words = tokio::spawn(last_words(stderr));
    let heard = heard(stdout, group, limit).await;
    let patience = if matches!(heard, Heard::Answer(_)) { EXIT } else { Duration::ZERO };
    let status = end(&mut child, group, patience).await;
    let wrong = match heard {
        Heard::Answer(answer) => return Ok(answer),
        Heard::Nothing => format!("its process gave no answer: {status}"),
        Heard::TooLate => format!("no answer within {} s: its process was killed ({status})", limit.as_secs()),
    };
    let words = timeout(REAPED, words).await.map_or_else(|_| String::new(), Result::unwrap_or_default);
    let words = words.trim();
    Err(if words.is_empty() { wrong } else { format!("{wrong}; last words: {words}") }.into())
}

enum Heard {
    Answer(Value),
    Nothing,
    TooLate,
}

async fn heard(stdout: ChildStdout, group: Pid, limit: Duration) -> Heard {
    let heard = async {
        let mut answer = std::pin::pin!(answered(stdout));
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            // What it started may hold its output open for longer than it lives.
            () = ended(group) => timeout(REAPED, answer).await.unwrap_or(None),
        }
    };
    match timeout(limit, heard).await {
        Ok(Some(answer)) => Heard::Answer(answer),
        Ok(None) => Heard::Nothing,
        Err(_) => Heard::TooLate,
    }
}

async fn answered(stdout: ChildStdout) -> Option<Value> {
    let mut lines = BufReader::new(stdout).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let answer = line.strip_prefix(MARK.as_bytes()).and_then(|line| serde_json::from_slice(line).ok());
        if answer.is_some() {
            return answer;
        }
    }
    None
}

/// Waits until a child has ended, and leaves it to be reaped.
async fn ended(child: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while let Ok(None) = waitid(WaitId::Pid(child), options) {
        sleep(Duration::from_millis(20)).await;
    }
}

/// Lets it end by itself for so long, kills what is left of its group, and says how it ended.
async fn end(child: &mut Child, group: Pid, patience: Duration) -> String {
    let _late = timeout(patience, ended(group)).await;
    let _gone = kill_process_group(group, Signal::KILL);
    match timeout(REAPED, child.wait()).await {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "and it does not end, it hangs in the driver".to_owned(),
    }
}

async fn last_words(mut stderr: ChildStderr) -> String {
    let (mut kept, mut part) = (Vec::new(), [0; 4_096]);
    while let Ok(count @ 1..) = stderr.read(&mut part).await {
        kept.extend_from_slice(&part[..count]);
        kept.drain(..kept.len().saturating_sub(LAST_WORDS));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The child's side: finds its answer, says it, and ends as a worker does. Without a parent that waits for it, it ends at once, with all that it started.
pub async fn answer(finding: impl Future<Output = Value>) -> ! {
    tokio::select! {
        biased;
        answer = finding => report::line(&format!("{MARK}{answer}")),
        () = gpu_host::supervisor_gone() => {
            let _ends_here = kill_current_process_group(Signal::KILL);
        }
    }
    leave(0)
}
