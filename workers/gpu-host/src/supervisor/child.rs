//! One child process, its group, and the signals to both.
//!
//! The order of its end matters. The kernel gives a process id away again once its end was *reaped*, so a signal after that could meet a stranger. Here a child
//! is first seen to have ended without being reaped, then its group is killed, and only then is it reaped: no signal is ever sent to an id that is not its own.

use std::{
    io,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use tokio::{
    process::{ChildStderr, ChildStdin, ChildStdout, Command},
    signal::unix::{SignalKind, signal},
};

use super::{ChildPlan, exit::Exit, orphan::SUPERVISED};

/// A child that was started and not reaped yet. Dropped, it is killed with its group.
#[derive(Debug)]
pub(super) struct Child {
    process: tokio::process::Child,
    pid: Pid,
    reaped: AtomicBool,
    /// Never written to. It closes when the supervisor ends, however that ends, and so the child knows.
    _input: ChildStdin,
}

/// What a child prints.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

impl Child {
    /// Starts it, as the head of a process group of its own: a Ctrl-C at the terminal reaches the supervisor alone.
    pub(super) fn start(plan: &ChildPlan) -> io::Result<(Self, Output)> {
        let mut command = Command::new(&plan.program);
        command.args(&plan.arguments).envs(plan.variables.iter().map(|(name, value)| (name, value))).env(SUPERVISED, "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut process = command.spawn()?;
        let pid = process.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("a child that was not waited for has its id");
        let piped = "the command says so";
        let input = process.stdin.take().expect(piped);
        let output = Output { stdout: process.stdout.take().expect(piped), stderr: process.stderr.take().expect(piped) };
        Ok((Self { process, pid, reaped: AtomicBool::new(false), _input: input }, output))
    }

    /// Its process id.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits until it has ended, and leaves it to be reaped. Cancel safe.
    pub(super) async fn ended(&self) {
        // First the subscription, then the look: an end between the two is not missed.
        let Ok(mut deaths) = signal(SignalKind::child()) else { return std::future::pending().await };
        while !self.has_ended() {
            deaths.recv().await;
        }
    }

    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.pid), options) {
            Ok(ended) => ended.is_some(),
            Err(_) => {
                // It is not ours any more: somebody else reaped it.
                self.reaped.store(true, Ordering::Relaxed);
                true
            }
        }
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) {
        self.signal(|pid| kill_process(pid, Signal::TERM));
    }

    /// Kills it and all that it started, as far as that is in its group.
    pub(super) fn kill_group(&self) {
        self.signal(|pid| kill_process_group(pid, Signal::KILL));
    }

    fn signal(&self, send: impl FnOnce(Pid) -> rustix::io::Result<()>) {
        if self.reaped.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = send(self.pid) {
            tracing::debug!(pid = self.pid(), %error, "a signal was not sent");
        }
    }

    /// Reaps it once it has ended, and kills what is left of its group before: nothing that it started may keep the GPU's memory.
    pub(super) async fn reap(mut self) -> Exit {
        self.kill_group();
        self.reaped.store(true, Ordering::Relaxed);
        self.process.wait().await.map_or(Exit::Unknown, Exit::from)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill_group();
    }
}
