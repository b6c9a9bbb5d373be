//! A process that is spoken with, message by message.

use std::{path::PathBuf, sync::Arc, time::Duration};

use protocol::{
    GpuDescription, GpuId, Json, Kind, Segments, TaskId, TensorName, TensorRef,
    config::{HandlerProtocol, HandlerSection},
    gpu::Hardware,
    task::ComputeCapability,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::given::given;
use crate::handlers::{
    HandlerPlace,
    connection::{Beside, Reader, Who, connect},
    frames::Incoming,
    group::Group,
    message::{BatchMessage, BatchMessageMember, FromHandler, Hello, Setup, SetupGpu, TaskMessage, ToHandler, VERSION},
    output::Tail,
    runs::Live,
    spawning::{Exit, Plan, Spawned},
    writing::Outgoing,
};

/// How long a process may take to be ready, and for anything else.
const SET_UP: Duration = Duration::from_secs(300);
const ANSWER: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(10);

/// What is tried.
pub(super) struct Trial {
    plan: Plan,
    place: HandlerPlace,
    name: String,
    hello_within: Duration,
}

impl Trial {
    pub(super) fn new(command: Vec<String>, launcher: PathBuf, hello_within: Duration) -> Self {
        let gpu = GpuDescription {
            gpu_id: GpuId::new("check").expect("a literal that keeps the rule"),
            name: "Simulated GPU".to_owned(),
            memory_total_mb: 80_000,
            compute_capability: ComputeCapability { major: 9, minor: 0 },
            hardware: Hardware::default(),
        };
        let place = HandlerPlace { gpu, is_simulated: true, slots: 1, launcher };
        let section = HandlerSection { command, ..HandlerSection::default() };
        Self { plan: Plan::of(&section, &place), name: section.name(), place, hello_within }
    }

    /// Starts a process.
    pub(super) async fn start(&self) -> Result<TriedProcess, String> {
        let spawned = self.plan.spawn().await;
        let Spawned { group, link, stderr, exit } =
            spawned.map_err(|error| format!("{} cannot be started: {error}", self.place.launcher.display()))?;
        let (outgoing, waiting) = mpsc::unbounded_channel();
        // Nothing runs in it: what it prints names no tasks.
        let (live, _) = Live::new(self.name.clone(), HandlerProtocol::Frames);
        let tail = Arc::<Tail>::default();
        let who = Who { handler: self.name.clone(), gpu_id: self.place.gpu.gpu_id.to_string(), live };
        let (reader, beside) = connect(link, stderr, waiting, (&who, &tail));
        let setup = Setup {
            version: VERSION,
            gpu: SetupGpu {
                id: self.place.gpu.gpu_id.to_string(),
                name: self.place.gpu.name.clone(),
                memory_mb: self.place.gpu.memory_total_mb,
                compute_capability: self.place.gpu.compute_capability,
                simulated: true,
            },
            slots: self.place.slots,
            handler: self.name.clone(),
        };
        let talk = Some(Talk { reader, beside, outgoing });
        Ok(TriedProcess {
            group,
            exit,
            exited: None,
            talk,
            tail,
            setup,
            hello_within: self.hello_within,
            gives_tensors: false,
            runs: 0,
            pings: 0,
        })
    }
}

/// Both directions.
struct Talk {
    reader: Reader,
    beside: Beside,
    outgoing: mpsc::UnboundedSender<Outgoing>,
}

/// A process that was started to be tried. Killed when dropped.
pub(super) struct TriedProcess {
    group: Arc<Group>,
    exit: oneshot::Receiver<Exit>,
    /// How it ended, once that is known.
    exited: Option<Exit>,
    /// `None`: its socket is closed.
    talk: Option<Talk>,
    tail: Arc<Tail>,
    setup: Setup,
    hello_within: Duration,
    /// Each tensor that a payload names is given.
    gives_tensors: bool,
    runs: u64,
    pings: u64,
}

impl Drop for TriedProcess {
    fn drop(&mut self) {
        self.group.kill();
    }
}

impl TriedProcess {
    pub(super) fn send(&self, message: &ToHandler) {
        self.send_text(&message.to_text());
    }

    /// Sends a text as a frame without segments.
    pub(super) fn send_text(&self, text: &[u8]) {
        self.send_out(Outgoing { text: text.to_vec(), segments: Segments::none(), shared: Vec::new() });
    }

    fn send_out(&self, message: Outgoing) {
        if let Some(talk) = &self.talk {
            // That it is not read shows in the missing answer.
            let _ = talk.outgoing.send(message);
        }
    }

    /// The kind that is tried takes tensors, or does not.
    pub(super) const fn gives_tensors(&mut self, gives: bool) {
        self.gives_tensors = gives;
    }

    /// Closes its socket, as the end of its worker does.
    pub(super) fn hang_up(&mut self) {
        self.talk = None;
    }

    /// Waits for a message that is `wanted`; words about the work go by.
    async fn until(&mut self, what: &str, patience: Duration, mut wanted: impl FnMut(&FromHandler) -> bool) -> Result<FromHandler, String> {
        let until = Instant::now() + patience;
        loop {
            let Some(talk) = &mut self.talk else { return Err("its socket is closed".to_owned()) };
            let said = tokio::time::timeout_at(until, talk.reader.next()).await;
            match said {
                Err(_) => return Err(self.with_errors(format!("no {what} came within {} s", patience.as_secs()))),
                Ok(Err(broken)) => return Err(self.with_errors(broken)),
                Ok(Ok(None)) => return Err(self.gone(what).await),
                Ok(Ok(Some(Incoming::Message(message, _)))) if wanted(&message) => return Ok(message),
                Ok(Ok(Some(Incoming::Message(FromHandler::SetupFailed(failed), _)))) => {
                    return Err(self.with_errors(format!("it could not be set up: {}", failed.message)));
                }
                Ok(Ok(Some(Incoming::Message(FromHandler::Log(_) | FromHandler::Progress(_) | FromHandler::Part(_), _)))) => {}
                Ok(Ok(Some(Incoming::Message(message, _)))) => return Err(format!("it should say {what}, and said {message:?}")),
                Ok(Ok(Some(Incoming::Unknown(name)))) => {
                    return Err(format!("it should say {what}, and said {name:?}, which the protocol does not have"));
                }
                Ok(Ok(Some(Incoming::Noise(line)))) => return Err(format!("it should say {what}, and printed {line:?}")),
            }
        }
    }

    fn with_errors(&self, wrong: String) -> String {
        match self.tail.text() {
            last if last.is_empty() => wrong,
            last => format!("{wrong}; standard error: {last}"),
        }
    }

    /// Why nothing comes any more. Nothing is said to it from then on either.
    async fn gone(&mut self, what: &str) -> String {
        let how = self.exit().await.map_or_else(|_| "closed its stream".to_owned(), Exit::words);
        if let Some(mut talk) = self.talk.take() {
            for printing in &mut talk.beside.printing {
                // What is not read by then is left out.
                let _ = tokio::time::timeout(END, printing).await;
            }
        }
        self.with_errors(format!("no {what} came: it {how}"))
    }

    pub(super) async fn hello(&mut self) -> Result<Hello, String> {
        let said = self.until("`hello`", self.hello_within, |message| matches!(message, FromHandler::Hello(_))).await;
        match said {
            Ok(FromHandler::Hello(hello)) => Ok(hello),
            Ok(other) => Err(format!("it said {other:?}")),
            // So does a program that waits for lines, or reads the end of its standard input.
            Err(wrong) if wrong.starts_with("no `hello` came") && matches!(self.exited, None | Some(Exit::Code(0))) => {
                Err(format!("{wrong}; --start-timeout gives it longer, and one with `protocol: lines` says no hello and cannot be checked"))
            }
            Err(wrong) => Err(wrong),
        }
    }

    pub(super) async fn set_up(&mut self) -> Result<(), String> {
        self.send(&ToHandler::Setup(self.setup.clone()));
        self.until("`ready`", SET_UP, |message| matches!(message, FromHandler::Ready(_))).await.map(drop)
    }

    pub(super) async fn ping(&mut self) -> Result<(), String> {
        let n = self.send_ping();
        self.until("`pong` with the number of the ping", ANSWER, |message| is_pong(message, n)).await.map(drop)
    }

    fn send_ping(&mut self) -> u64 {
        self.pings += 1;
        self.send(&ToHandler::Ping { n: self.pings });
        self.pings
    }

    fn send_task(&mut self, kind: &Kind, payload: &Json) -> Result<u64, String> {
        let named = if self.gives_tensors { TensorRef::all_in(payload) } else { Vec::new() };
        self.send_task_on(kind, payload, &named)
    }

    fn send_task_on(&mut self, kind: &Kind, payload: &Json, tensors: &[TensorRef]) -> Result<u64, String> {
        let (tensors, shared) = given(tensors)?;
        self.runs += 1;
        let run = self.runs;
        let message = ToHandler::Task(TaskMessage {
            run,
            kind: kind.clone(),
            task_id: task_id(run),
            attempt: 1,
            payload: payload.clone(),
            wants_parts: true,
            time_ms: Some(60_000),
            segments: Vec::new(),
            tensors,
            descriptors: shared.len(),
        });
        self.send_out(Outgoing { shared, ..Outgoing::plain(&message) });
        Ok(run)
    }

    pub(super) async fn task(&mut self, kind: &Kind, payload: &Json) -> Result<FromHandler, String> {
        let run = self.send_task(kind, payload)?;
        self.until("`result` or `error` with the run of the task", ANSWER, |message| answers(message, run).is_some()).await
    }

    /// A task that is given a tensor, whether its payload names any or not: one that it does not name is passed over.
    pub(super) async fn task_on_a_tensor(&mut self, kind: &Kind, payload: &Json) -> Result<FromHandler, String> {
        let mut tensors = TensorRef::all_in(payload);
        tensors.push(TensorRef::latest(TensorName::new("gpufleet-check").expect("a literal that keeps the rule")));
        let run = self.send_task_on(kind, payload, &tensors)?;
        self.until("`result` or `error` with the run of the task", ANSWER, |message| answers(message, run).is_some()).await
    }

    pub(super) async fn cancelled_task(&mut self, kind: &Kind, payload: &Json) -> Result<(), String> {
        let run = self.send_task(kind, payload)?;
        self.send(&ToHandler::Cancel { run, member: None });
        // For a run that is over: nothing may come of it.
        self.send(&ToHandler::Cancel { run: run - 1, member: None });
        self.until("`result` or `error` with the run of the cancelled task", ANSWER, |message| answers(message, run).is_some())
            .await
            .map(drop)
    }

    pub(super) async fn ping_beside_a_task(&mut self, kind: &Kind, payload: &Json) -> Result<(), String> {
        let (run, n) = (self.send_task(kind, payload)?, self.send_ping());
        let (mut answered, mut ponged) = (false, false);
        while !(answered && ponged) {
            let what = if answered { "`pong`" } else { "answer to the task and `pong`" };
            let message = self.until(what, ANSWER, |message| is_pong(message, n) || answers(message, run).is_some()).await?;
            answered |= answers(&message, run).is_some();
            ponged |= is_pong(&message, n);
        }
        Ok(())
    }

    pub(super) async fn batch(&mut self, kind: &Kind, payload: &Json) -> Result<(), String> {
        self.runs += 1;
        let run = self.runs;
        let member = |number| BatchMessageMember {
            task_id: task_id(number),
            attempt: 1,
            payload: payload.clone(),
            wants_parts: false,
            segments_from: 0,
        };
        self.send(&ToHandler::Batch(BatchMessage { run, kind: kind.clone(), members: vec![member(1), member(2)], segments: Vec::new() }));
        let mut open = [true; 2];
        while open.contains(&true) {
            let message = self.until("answer for each member of the batch", ANSWER, |message| answers(message, run).is_some()).await?;
            match answers(&message, run).flatten() {
                Some(member) => match open.get_mut(member) {
                    Some(open @ true) => *open = false,
                    Some(false) => return Err(format!("it answered member {member} twice")),
                    None => return Err(format!("it answered member {member} of a batch of 2")),
                },
                None if matches!(message, FromHandler::Error(_)) => open = [false; 2],
                None => return Err("it gave a result for a batch without a member".to_owned()),
            }
        }
        Ok(())
    }

    async fn exit(&mut self) -> Result<Exit, String> {
        if let Some(exit) = self.exited {
            return Ok(exit);
        }
        let exit = tokio::time::timeout(END, &mut self.exit).await;
        let exit = exit.map_err(|_| format!("it had not ended after {} s", END.as_secs()))?.unwrap_or(Exit::Unknown);
        self.exited = Some(exit);
        Ok(exit)
    }

    pub(super) async fn ends_with_code_0(&mut self) -> Result<(), String> {
        match self.exit().await? {
            Exit::Code(0) => Ok(()),
            exit => Err(self.with_errors(format!("it {}", exit.words()))),
        }
    }

    pub(super) async fn ends(&mut self) -> Result<(), String> {
        self.exit().await.map(drop)
    }
}

fn task_id(number: u64) -> TaskId {
    TaskId::new(format!("check-{number}")).expect("letters and digits keep the rule")
}

fn is_pong(message: &FromHandler, n: u64) -> bool {
    matches!(message, FromHandler::Pong(pong) if pong.n == n)
}

/// The member that a message answers, if it answers this run.
fn answers(message: &FromHandler, of_run: u64) -> Option<Option<usize>> {
    match message {
        FromHandler::Result(success) if success.run == of_run => Some(success.member),
        FromHandler::Error(fault) if fault.run == of_run => Some(fault.member),
        _ => None,
    }
}
