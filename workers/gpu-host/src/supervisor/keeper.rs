//! The life of one plan: start, watch, pause, start again; and its end.

use std::{io, sync::Arc, time::Duration};

use protocol::Environment;
use tokio::time::{Instant, sleep, timeout};

use super::{ChildPlan, Leaving, Stop, SupervisorOptions, child::Child, exit::Exit, label::LineFormat, log::Log, pauses::Pauses};

/// What a child gets on top of its grace: it counts the grace from when it sees the signal, and writes a last word.
const MARGIN: Duration = Duration::from_secs(5);
/// How long a child may take to end that was told to stop at once.
const INSISTED: Duration = Duration::from_secs(10);
/// A child that is told twice in the same moment may see one signal. So it is told again.
const BETWEEN_SIGNALS: Duration = Duration::from_secs(1);
/// How long the kernel may take to end a killed process.
const KILLED: Duration = Duration::from_secs(10);

/// Keeps the child of one plan.
pub(super) struct Keeper<'a> {
    pub(super) plan: &'a ChildPlan,
    pub(super) format: Arc<LineFormat>,
    pub(super) stop: &'a Stop,
    pub(super) options: &'a SupervisorOptions,
    pub(super) environment: &'a Environment,
    pub(super) log: &'a Log,
    pub(super) pauses: Pauses,
}

/// How one life of the child ended.
enum End {
    Exit(Exit),
    NotStarted(io::Error),
    StillThere,
}

impl Keeper<'_> {
    /// Keeps it until it leaves, until it makes no sense to start it again, or until the supervisor stops.
    pub(super) async fn keep(mut self) -> Leaving {
        let mut lives = 0_u32;
        while !self.stopping() {
            let (end, lived) = self.live().await;
            let mends = mends(&end, lives);
            let pause = if mends && !self.stopping() { Some(self.pauses.next(lived, self.environment)) } else { None };
            self.report(&end, lived, pause).await;
            let Some(pause) = pause else { return if mends { Leaving::Left } else { leaving(end) } };
            lives = lives.saturating_add(1);
            tokio::select! {
                biased;
                () = self.asked() => {}
                () = sleep(pause) => {}
            }
        }
        Leaving::Left
    }

    fn stopping(&self) -> bool {
        self.stop.gently.is_cancelled() || self.stop.now.is_cancelled()
    }

    /// Waits until the supervisor is to stop.
    async fn asked(&self) {
        tokio::select! {
            biased;
            () = self.stop.gently.cancelled() => {}
            () = self.stop.now.cancelled() => {}
        }
    }

    /// One life and how long it was, until the child is reaped and what it printed is read.
    async fn live(&self) -> (End, Duration) {
        let begun = Instant::now();
        let (child, output) = match Child::start(self.plan) {
            Ok(started) => started,
            Err(error) => return (End::NotStarted(error), begun.elapsed()),
        };
        let reading = self.log.read(output, &self.format);
        let (gpu_id, pid) = (self.plan.gpu_id.clone(), child.pid());
        self.log.say(move || tracing::info!(%gpu_id, pid, "worker started")).await;
        if !self.watch(&child).await {
            return (End::StillThere, begun.elapsed());
        }
        let (exit, lived) = (child.reap().await, begun.elapsed());
        if !reading.rest().await {
            let gpu_id = self.plan.gpu_id.clone();
            let lost = "the last lines of the worker are lost: another process has its output, or the log is stuck";
            self.log.say(move || tracing::warn!(%gpu_id, "{lost}")).await;
        }
        (End::Exit(exit), lived)
    }

    /// Waits until the child has ended, and makes it end once the supervisor is to stop. False: it does not even die.
    async fn watch(&self, child: &Child) -> bool {
        tokio::select! {
            biased;
            () = child.ended() => return true,
            () = self.asked() => {}
        }
        tokio::select! {
            biased;
            () = child.ended() => return true,
            () = self.persuade(child) => {}
        }
        child.kill_group();
        let gpu_id = self.plan.gpu_id.clone();
        self.log.say(move || tracing::warn!(%gpu_id, "worker killed: it did not end in time")).await;
        timeout(KILLED, child.ended()).await.is_ok()
    }

    /// Asks the child to end, and tells it again once the supervisor is to stop at once. Returns when its time is over.
    async fn persuade(&self, child: &Child) {
        let begun = Instant::now();
        let grace = self.options.stop_grace.saturating_add(MARGIN);
        if !self.stop.now.is_cancelled() {
            child.terminate();
            if timeout(grace, self.stop.now.cancelled()).await.is_err() {
                return;
            }
        }
        let insisting = async {
            loop {
                child.terminate();
                sleep(BETWEEN_SIGNALS).await;
            }
        };
        let left = grace.saturating_sub(begun.elapsed()).min(INSISTED);
        // Insisting has no end of its own.
        let _ = timeout(left, insisting).await;
    }

    /// One event per end.
    async fn report(&self, end: &End, lived: Duration, pause: Option<Duration>) {
        let gpu_id = self.plan.gpu_id.clone();
        let exit = match end {
            End::Exit(exit) => exit.to_string(),
            End::NotStarted(error) => error.to_string(),
            End::StillThere => "none".to_owned(),
        };
        let (lived_ms, pause_ms) = (millis(lived), pause.map(millis));
        let say: Box<dyn FnOnce() + Send> = match (end, pause_ms) {
            (End::NotStarted(_), _) => Box::new(move || tracing::error!(%gpu_id, error = exit, pause_ms, "worker not started")),
            (_, Some(_)) => {
                Box::new(move || tracing::warn!(%gpu_id, exit, lived_ms, pause_ms, "worker ended; it is started again after the pause"))
            }
            (End::Exit(Exit::LEFT), _) => Box::new(move || tracing::info!(%gpu_id, exit, lived_ms, "worker left")),
            (End::Exit(Exit::MISCONFIGURED), _) => Box::new(
                move || tracing::error!(%gpu_id, exit, lived_ms, "worker refuses its usage or configuration; it is not started again"),
            ),
            (End::Exit(_), None) => Box::new(move || tracing::warn!(%gpu_id, exit, lived_ms, "worker ended while the supervisor stops")),
            (End::StillThere, None) => Box::new(move || tracing::error!(%gpu_id, exit, lived_ms, "worker killed and still there")),
        };
        self.log.say(say).await;
    }
}

/// Whether another start may go better. `lives`: how often it was started before.
fn mends(end: &End, lives: u32) -> bool {
    match end {
        // What it refuses after it ran well may be there again soon: a port, a file, the GPU itself.
        End::Exit(exit) => *exit != Exit::LEFT && (lives > 0 || *exit != Exit::MISCONFIGURED),
        // A program that was there before is being replaced, or the system is short of something.
        End::NotStarted(error) => lives > 0 || !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied),
        // A second process on that GPU would meet the first.
        End::StillThere => false,
    }
}

/// What an end that no restart mends means for the plan.
fn leaving(end: End) -> Leaving {
    match end {
        End::Exit(Exit::MISCONFIGURED) => Leaving::Misconfigured,
        End::Exit(_) => Leaving::Left,
        End::NotStarted(error) => Leaving::NotStarted(error),
        End::StillThere => Leaving::StillThere,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
