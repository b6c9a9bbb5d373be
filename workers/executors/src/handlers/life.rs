//! The life of one process, from its start to its end.
//!
//! ```text
//!  started ─▶ hello is due ─▶ set-up ─▶ ready ─▶ takes tasks ──▶ closed: no new ones ──▶ drained ──▶ ended
//!     │            │             │                  │  idle, worn out, unhealthy        │
//!     └────────────┴─────────────┴──────────────────┴───────────────────────────────────┴──▶ ended or killed, with its group: what ran has crashed
//! ```

use std::{sync::Arc, time::Duration};

use protocol::config::{HandlerProtocol, HandlerSection};
use tokio::{sync::oneshot, time::Instant};

use super::{
    connection::{Beside, Reader, Who, connect},
    frames::Incoming,
    handler::Handler,
    line::{Phase, Up},
    message::{FromHandler, Hello, Pong, Ready, ToHandler, VERSION},
    output::{Pace, Printed, Tail, cut},
    pinging::Pinging,
    runs::Live,
    spawning::{Exit, Spawned},
    upkeep::Upkeep,
};

/// How long a process that closed its stream may take to end, what one printed may take to be read once it has ended, and a killed one to be gone.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Messages that are taken before anything else is looked at.
const MESSAGES_TOGETHER: usize = 256;
/// A time that does not come.
const NEVER: Duration = Duration::from_secs(86_400);

/// How a process came to its end.
#[derive(Debug)]
pub(super) enum Ended {
    /// Its worker stops.
    Stopped,
    /// Nothing was to be done.
    Idle,
    /// It is to be started anew at once, for no fault of its own or for one that a start mends.
    Renewed(String),
    /// It failed; it had been ready for so long, if ever.
    Failed { why: String, ready_for: Option<Duration> },
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Hello,
    SetUp,
    Ready,
}

/// Why it is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Closing {
    Stop,
    Idle,
    Renew(String),
}

/// What ends the loop.
#[derive(Debug)]
enum Over {
    /// It has ended by itself.
    Exited,
    /// It closed its stream.
    StreamEnded,
    /// It has to be ended, for this reason: the rest of a sentence that begins with its name.
    Kill(String),
    /// It said that it cannot be set up.
    SetUpFailed(String),
    /// As [`Over::Kill`], and a new start mends it.
    KillAndRenew(String),
    /// Its worker gives it up.
    GivenUp,
}

/// A process and all that is known of it.
pub(super) struct Life<'a> {
    handler: &'a Handler,
    seat: usize,
    number: u64,
    live: Arc<Live>,
    spawned: Process,
    reader: Reader,
    beside: Beside,
    tail: Arc<Tail>,
    printed: Printed,
    /// Of what it says for the log, in messages or in lines that are none.
    pace: Pace,
    stage: Stage,
    ready_by: Instant,
    ready_at: Option<Instant>,
    concurrency: usize,
    pinging: Pinging,
    upkeep: Upkeep,
    closing: Option<Closing>,
    /// It was told to drain, and may take until then.
    drained_by: Option<Instant>,
    /// It has ended, or is being ended.
    is_over: bool,
}

/// The process itself.
struct Process {
    group: Arc<super::group::Group>,
    exit: oneshot::Receiver<Exit>,
    exited: Option<Exit>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.group.kill();
    }
}

/// Starts a process, sees it through, and says how it ended. Dropped, it kills the process.
pub(super) async fn live(handler: &Handler, seat: usize, number: u64) -> Ended {
    let spawned = match handler.plan.spawn().await {
        Ok(spawned) => spawned,
        Err(error) => {
            let within = handler.section.directory.as_ref().map(|directory| format!(" in {}", directory.display())).unwrap_or_default();
            let why = format!("handler {} cannot be started by {}{within}: {error}", handler.name, handler.place.launcher.display());
            return Ended::Failed { why, ready_for: None };
        }
    };
    tracing::info!(handler = handler.name, gpu_id = %handler.place.gpu.gpu_id, pid = spawned.group.pid(), "handler started");
    Box::pin(Life::new(handler, (seat, number), spawned).run()).await
}

impl<'a> Life<'a> {
    fn new(handler: &'a Handler, (seat, number): (usize, u64), spawned: Spawned) -> Self {
        let section = &handler.section;
        let Spawned { group, link, stderr, exit } = spawned;
        let (live, waiting) = Live::new(handler.name.clone(), section.protocol);
        let who = Who { handler: handler.name.clone(), gpu_id: handler.place.gpu.gpu_id.to_string(), live: Arc::clone(&live) };
        let tail = Arc::<Tail>::default();
        let (reader, beside) = connect(link, stderr, waiting, (&who, &tail));
        let now = Instant::now();
        Self {
            handler,
            seat,
            number,
            live,
            spawned: Process { group: Arc::clone(&group), exit, exited: None },
            reader,
            beside,
            tail,
            printed: who.printed("stdout"),
            pace: Pace::new(now),
            stage: Stage::Hello,
            ready_by: now + Duration::from_millis(section.start_timeout_ms),
            ready_at: None,
            concurrency: section.concurrency as usize,
            pinging: Pinging::new(Duration::from_millis(section.hang_timeout_ms)),
            upkeep: Upkeep::new(section, group),
            closing: None,
            drained_by: None,
            is_over: false,
        }
    }

    const fn section(&self) -> &'a HandlerSection {
        &self.handler.section
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.section().stop_timeout_ms)
    }

    async fn run(mut self) -> Ended {
        if self.section().protocol == HandlerProtocol::Lines {
            self.concurrency = 1;
            self.ready(Ready::default());
        }
        let over = loop {
            if let Err(over) = self.step().await {
                break over;
            }
        };
        self.finish(over).await
    }

    /// Waits for one thing to happen, and does what follows.
    async fn step(&mut self) -> Result<(), Over> {
        let wake = self.look_at_the_time()?;
        let stopping = self.closing == Some(Closing::Stop);
        tokio::select! {
            biased;
            exit = &mut self.spawned.exit => {
                self.spawned.exited = Some(exit.unwrap_or(Exit::Unknown));
                Err(Over::Exited)
            }
            () = self.handler.stop_now.cancelled() => Err(Over::GivenUp),
            () = self.handler.stop_gently.cancelled(), if !stopping => {
                // Before it is ready it has nothing to finish, and may not listen.
                if self.stage != Stage::Ready {
                    return Err(Over::GivenUp);
                }
                self.close(Closing::Stop);
                Ok(())
            }
            () = tokio::time::sleep_until(wake) => Ok(()),
            memory_mb = self.upkeep.measured() => self.weighs(memory_mb),
            () = self.live.changed.notified() => Ok(()),
            incoming = self.reader.next() => self.take_all(incoming),
        }
    }

    /// Does what is due, and says when something is due next.
    fn look_at_the_time(&mut self) -> Result<Instant, Over> {
        let now = Instant::now();
        let mut next = now + NEVER;
        if self.stage != Stage::Ready {
            if now >= self.ready_by {
                let due = if self.stage == Stage::Hello { "hello" } else { "ready" };
                return Err(Over::Kill(format!("said no `{due}` within {} ms of its start", self.section().start_timeout_ms)));
            }
            next = next.min(self.ready_by);
        }
        if self.stage != Stage::Hello && self.section().protocol == HandlerProtocol::Frames {
            let (ping, at) = self.pinging.due(now).map_err(|hang| Over::Kill(format!("answered no ping for {} ms", hang.as_millis())))?;
            if let Some(n) = ping {
                self.live.send(&ToHandler::Ping { n });
            }
            next = next.min(at);
        }
        let due = self.live.due(now, self.patience());
        if let Some(tasks) = due.kill {
            let twice = self.patience().as_millis() * 2;
            return Err(Over::KillAndRenew(format!(
                "did not end {tasks} within {twice} ms of its cancel, not when it was interrupted either"
            )));
        }
        next = due.next.map_or(next, |at| next.min(at));
        self.closes_in_time(now, next)
    }

    /// Closes it where it has nothing to do or is worn out, and drains it once nothing runs.
    fn closes_in_time(&mut self, now: Instant, mut next: Instant) -> Result<Instant, Over> {
        let taken = self.handler.line.taken(self.seat);
        if self.stage == Stage::Ready && self.closing.is_none() {
            match self.upkeep.idle_since(now, taken == 0) {
                Some(at) if now >= at && self.handler.line.sleep_if_unused(self.seat) => self.close(Closing::Idle),
                Some(at) if now < at => next = next.min(at),
                _ => {}
            }
            let tasks = self.live.answered();
            if let Some(why) = self.upkeep.worn_out(tasks, self.handler.line.is_spent(self.seat)) {
                self.close(Closing::Renew(why));
            }
        }
        if self.closing.is_some() && self.drained_by.is_none() && (taken == 0 || self.closing == Some(Closing::Stop)) {
            let until = now + self.patience();
            self.drained_by = Some(until);
            self.live.drain();
        }
        match self.drained_by {
            Some(until) if now >= until => {
                Err(Over::Kill(format!("did not end within {} ms of being drained", self.patience().as_millis())))
            }
            Some(until) => Ok(next.min(until)),
            None => Ok(next),
        }
    }

    /// Takes no new tasks from now on.
    fn close(&mut self, closing: Closing) {
        self.handler.line.close(self.seat);
        self.closing = Some(closing);
        self.handler.tell();
    }

    fn weighs(&mut self, memory_mb: u64) -> Result<(), Over> {
        match self.upkeep.weighs(memory_mb) {
            Some(bound) => Err(Over::Kill(format!(
                "took {memory_mb} MB of memory, with what it started; its bound is {bound} MB (handlers[].memory_mb)"
            ))),
            None => Ok(()),
        }
    }

    /// Takes a message, and those that have been read with it.
    fn take_all(&mut self, first: Result<Option<Incoming>, String>) -> Result<(), Over> {
        let mut incoming = first;
        for _ in 0..MESSAGES_TOGETHER {
            match incoming {
                Ok(Some(message)) => self.take(message)?,
                Ok(None) => return Err(Over::StreamEnded),
                Err(broken) => return Err(Over::Kill(format!("broke the protocol: {broken}"))),
            }
            incoming = match self.reader.buffered() {
                Ok(None) => return Ok(()),
                other => other,
            };
        }
        match incoming {
            Ok(Some(message)) => self.take(message),
            Ok(None) => Ok(()),
            Err(broken) => Err(Over::Kill(format!("broke the protocol: {broken}"))),
        }
    }

    fn take(&mut self, incoming: Incoming) -> Result<(), Over> {
        let (message, segments) = match incoming {
            Incoming::Message(message, segments) => (message, segments),
            Incoming::Unknown(name) => {
                if self.pace.lets_pass(&self.printed) {
                    tracing::info!(handler = self.handler.name, said = cut(&name), "a message of a type that is not known was passed over");
                }
                return Ok(());
            }
            Incoming::Noise(line) => {
                if self.pace.lets_pass(&self.printed) {
                    self.printed.log(&line);
                }
                return Ok(());
            }
        };
        match (message, self.stage) {
            (FromHandler::Hello(hello), Stage::Hello) => self.said_hello(&hello),
            (FromHandler::Log(log), _) => {
                if self.pace.lets_pass(&self.printed) {
                    // As what it prints: it may be the last that is known of it.
                    self.tail.add(cut(&log.message).as_bytes());
                    self.tail.add(b"\n");
                    self.live.logged(self.handler.place.gpu.gpu_id.as_str(), &log);
                }
                Ok(())
            }
            (FromHandler::Hello(_), _) => Err(Over::Kill("broke the protocol: it said `hello` twice".to_owned())),
            (_, Stage::Hello) => Err(Over::Kill("broke the protocol: its first message is no `hello`".to_owned())),
            (FromHandler::SetupFailed(failed), _) => Err(Over::SetUpFailed(cut(&failed.message).to_owned())),
            (FromHandler::Ready(ready), Stage::SetUp) => {
                self.ready(ready);
                Ok(())
            }
            (FromHandler::Pong(pong), _) => {
                self.ponged(&pong);
                Ok(())
            }
            (FromHandler::Ready(_), _) => Err(Over::Kill("broke the protocol: it said `ready` twice".to_owned())),
            (FromHandler::Result(success), Stage::Ready) => {
                self.live.succeeded(success, segments);
                Ok(())
            }
            (FromHandler::Error(fault), Stage::Ready) => {
                self.live.failed(fault);
                Ok(())
            }
            (FromHandler::Progress(progress), Stage::Ready) => {
                self.live.progressed(&progress);
                Ok(())
            }
            (FromHandler::Part(part), Stage::Ready) => {
                self.live.gave_part(part);
                Ok(())
            }
            (_, Stage::SetUp) => Err(Over::Kill("broke the protocol: it spoke of runs before it was ready".to_owned())),
        }
    }

    fn said_hello(&mut self, hello: &Hello) -> Result<(), Over> {
        if hello.version != VERSION {
            let versions = format!("it speaks version {} of the protocol, and this worker version {VERSION}", hello.version);
            return Err(Over::Kill(format!("cannot be understood: {versions}")));
        }
        if let Some(concurrency) = hello.concurrency {
            self.concurrency = concurrency.clamp(1, 1024) as usize;
        }
        self.handler.said_hello(hello, self.concurrency);
        self.stage = Stage::SetUp;
        self.live.send(&ToHandler::Setup(self.handler.setup()));
        self.pinging.begin(Instant::now());
        Ok(())
    }

    fn ready(&mut self, ready: Ready) {
        let now = Instant::now();
        self.stage = Stage::Ready;
        self.ready_at = Some(now);
        let (handler, places) = (self.handler, self.concurrency);
        tracing::info!(handler = handler.name, gpu_id = %handler.place.gpu.gpu_id, concurrency = places, memory_mb = ready.memory_mb, "handler ready");
        handler.has_models(self.seat, ready.models);
        self.upkeep.ready(now);
        if self.closing.is_none() && !self.is_over {
            let up =
                Up { live: Arc::clone(&self.live), free: places, places, is_open: true, left: self.upkeep.tasks_max(), life: self.number };
            handler.line.set(self.seat, Phase::Up(up));
            handler.tell();
        }
    }

    fn ponged(&mut self, pong: &Pong) {
        self.pinging.answered(pong.n, Instant::now());
        if !pong.healthy && self.closing.is_none() && self.stage == Stage::Ready {
            let reason = pong.reason.as_deref().unwrap_or("it gave no reason");
            self.close(Closing::Renew(format!("says that it is not healthy: {}", cut(reason))));
        }
    }

    /// Ends the process, where it has not ended, and everything that rests on it.
    async fn finish(mut self, mut over: Over) -> Ended {
        self.is_over = true;
        // No place in it is given any more, and then nothing begins there: in this order, and before the waits that follow. What is put into a process that is gone would count as crashed.
        self.handler.line.close(self.seat);
        self.live.shut();
        self.handler.tell();
        if matches!(over, Over::StreamEnded | Over::SetUpFailed(_)) {
            let patience = self.drained_by.map_or(LAST_WORDS, |until| until.saturating_duration_since(Instant::now()));
            self.has_exited(patience).await;
        }
        let had_to_be_killed = self.spawned.exited.is_none();
        // It may have started others that hold its output.
        self.spawned.group.kill();
        if had_to_be_killed {
            self.has_exited(LAST_WORDS).await;
        }
        if let Some(said) = self.last_messages().await
            && matches!(over, Over::Exited | Over::StreamEnded)
        {
            over = said;
        }
        self.printed_all().await;
        let why = self.sentence(&over, had_to_be_killed);
        self.handler.has_models(self.seat, Vec::new());
        self.live.close(&why);
        self.ended(over, why)
    }

    async fn has_exited(&mut self, patience: Duration) {
        if self.spawned.exited.is_none() {
            self.spawned.exited =
                tokio::time::timeout(patience, &mut self.spawned.exit).await.ok().map(|exit| exit.unwrap_or(Exit::Unknown));
        }
    }

    /// Takes what the process said before it ended. Something in it may say more of the end than the end itself.
    async fn last_messages(&mut self) -> Option<Over> {
        let until = Instant::now() + LAST_WORDS;
        while let Ok(Ok(Some(message))) = tokio::time::timeout_at(until, self.reader.next()).await {
            if let Err(over) = self.take(message) {
                return Some(over);
            }
        }
        None
    }

    async fn printed_all(&mut self) {
        let until = Instant::now() + LAST_WORDS;
        for printing in &mut self.beside.printing {
            // What is not read by then is left out.
            let _ = tokio::time::timeout_at(until, printing).await;
        }
    }

    /// What is said of its end: `handler NAME ended with exit code 3; standard error: …`.
    fn sentence(&self, over: &Over, was_killed: bool) -> String {
        let name = &self.handler.name;
        let how = match over {
            Over::Kill(why) | Over::KillAndRenew(why) => {
                format!("handler {name} {why}{}", if was_killed { ", and was killed" } else { "" })
            }
            Over::SetUpFailed(message) => format!("handler {name} could not be set up: {message}"),
            Over::GivenUp => format!("handler {name} was ended with its worker"),
            Over::Exited | Over::StreamEnded => match self.spawned.exited {
                Some(exit) if !was_killed => format!("handler {name} {}", exit.words()),
                _ => format!("handler {name} closed its stream, did not end, and was killed"),
            },
        };
        match self.tail.text() {
            last if last.is_empty() => how,
            last => format!("{how}; standard error: {last}{}", hint(&last)),
        }
    }

    fn ended(&self, over: Over, why: String) -> Ended {
        let ready_for = self.ready_at.map(|at| at.elapsed());
        let was_drained = self.drained_by.is_some() && matches!(over, Over::Exited | Over::StreamEnded);
        match (over, self.closing.clone()) {
            (Over::GivenUp, _) | (_, Some(Closing::Stop)) => Ended::Stopped,
            (_, Some(Closing::Idle)) => Ended::Idle,
            (_, Some(Closing::Renew(reason))) if was_drained => Ended::Renewed(format!("handler {} {reason}", self.handler.name)),
            (Over::KillAndRenew(_), _) | (_, Some(Closing::Renew(_))) => Ended::Renewed(why),
            _ => Ended::Failed { why, ready_for },
        }
    }
}

/// What helps where a process's last words say what is missing.
fn hint(last: &str) -> &'static str {
    if last.contains("No module named gpufleet") || last.contains("No module named 'gpufleet'") {
        return " (install the package for that Python: `pip install workers/python`; or name another Python: --python, handlers[].python)";
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_python_without_the_package_is_told_how_to_get_it() {
        assert!(hint("/usr/bin/python3: No module named gpufleet").contains("pip install workers/python"));
        assert_eq!(hint("ModuleNotFoundError: No module named 'torch'"), "");
    }
}
