//! What runs in one process: which answer belongs to whom, and what becomes of a run that nobody waits for.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::{ErrorCode, Framed, Segments, TaskId, config::HandlerProtocol};
use tensors::Tensor;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    line::Place,
    message::{Fault, Log, LogLevel, Part, Progress, Success, ToHandler},
    output,
    writing::Outgoing,
};
use crate::{Failure, Report};

/// Between two words about answers that nobody asked for.
const STRAYS_TOLD: Duration = Duration::from_secs(10);
/// A run that has not ended so long after it was asked to lingers: perhaps it never will, and its process with it.
const LINGERS: Duration = Duration::from_secs(1);
/// The longest code of a failure, in characters; what is longer is cut.
const CODE_CHARACTERS_MAX: usize = 60;
/// The longest path of the field at fault, in characters; what is longer is cut.
const FIELD_CHARACTERS_MAX: usize = 200;
/// So many tasks are named beside a line of the log.
const NAMED: usize = 8;

/// What a payload came to.
pub(super) type Answer = Result<Framed, Failure>;

/// One process, as those see it that run something there.
#[derive(Debug)]
pub(super) struct Live {
    handler: String,
    protocol: HandlerProtocol,
    /// `None`: nothing more is sent.
    outgoing: Mutex<Option<mpsc::UnboundedSender<Outgoing>>>,
    runs: Mutex<Runs>,
    /// Told when a run ends or is cancelled, and when a place comes back.
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct Runs {
    last: u64,
    going: BTreeMap<u64, Going>,
    /// The process is gone: nothing begins there.
    is_closed: bool,
    /// Payloads that have been answered.
    answered: u64,
    strays: u64,
    strays_told: Option<Instant>,
}

/// Whose payload it is.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) task_id: TaskId,
    pub(super) attempt: u32,
    pub(super) report: Report,
    /// Those that the process was given. They stay until the run has ended there, whoever still waits for it: what a process has open must not be freed.
    pub(super) tensors: Vec<Arc<Tensor>>,
}

impl Member {
    fn label(&self) -> String {
        format!("{}#{}", self.task_id, self.attempt)
    }
}

/// A run that has not ended.
#[derive(Debug)]
struct Going {
    members: Vec<(Member, Option<Answer>)>,
    answer: oneshot::Sender<Vec<Answer>>,
    ending: Option<Ending>,
    place: Place,
}

/// A run that was asked to end.
#[derive(Debug)]
struct Ending {
    since: Instant,
    was_interrupted: bool,
}

/// What is due for runs that were asked to end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// When something will be due next.
    pub(super) next: Option<Instant>,
    /// A run that did not end whatever was said to it: its process has to.
    pub(super) kill: Option<String>,
}

impl Live {
    /// A process in which nothing runs yet, and what is to be written to it.
    pub(super) fn new(handler: String, protocol: HandlerProtocol) -> (Arc<Self>, mpsc::UnboundedReceiver<Outgoing>) {
        let (outgoing, waiting) = mpsc::unbounded_channel();
        let outgoing = Mutex::new(Some(outgoing));
        (Arc::new(Self { handler, protocol, outgoing, runs: Mutex::default(), changed: Notify::new() }), waiting)
    }

    fn lock(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message. What cannot be sent is not needed any more: the process is ending.
    pub(super) fn send(&self, message: &ToHandler) {
        self.send_with_segments(Outgoing::plain(message));
    }

    fn send_with_segments(&self, message: Outgoing) {
        let outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outgoing) = &*outgoing {
            let _ = outgoing.send(message);
        }
    }

    /// Says that no new tasks come: by a message, or, where there are lines, by the end of standard input.
    pub(super) fn drain(&self) {
        match self.protocol {
            HandlerProtocol::Frames => self.send(&ToHandler::Drain {}),
            HandlerProtocol::Lines => *self.outgoing.lock().unwrap_or_else(PoisonError::into_inner) = None,
        }
    }

    /// Begins a run in a place; `message` is given its number. `None`: the process is gone, and another place is needed.
    pub(super) fn begin(self: &Arc<Self>, members: Vec<Member>, place: Place, message: impl FnOnce(u64) -> Outgoing) -> Option<Attached> {
        let (answer, answered) = oneshot::channel();
        let count = members.len();
        let members = members.into_iter().map(|member| (member, None)).collect();
        let going = Going { members, answer, ending: None, place };
        let run = {
            let mut runs = self.lock();
            if runs.is_closed {
                // Its place takes a lock of its own when it goes back.
                drop(runs);
                drop(going);
                return None;
            }
            runs.last += 1;
            let run = runs.last;
            runs.going.insert(run, going);
            run
        };
        self.send_with_segments(message(run));
        Some(Attached { live: Arc::clone(self), run, answered, members: count, is_over: false })
    }

    /// Asks a run, or one member of it, to end.
    pub(super) fn cancel(&self, run: u64, member: Option<usize>) {
        {
            let mut runs = self.lock();
            let Some(going) = runs.going.get_mut(&run) else { return };
            match member {
                None if going.ending.is_some() => return,
                None => going.ending = Some(Ending { since: Instant::now(), was_interrupted: false }),
                Some(member) if going.members.get(member).is_none_or(|(_, answer)| answer.is_some()) => return,
                Some(_) => {}
            }
        }
        self.send(&ToHandler::Cancel { run, member });
        self.changed.notify_one();
    }

    /// Interrupts the runs that did not end within `patience` of their cancel, and names one that did not end within another `patience` of its interrupt.
    pub(super) fn due(&self, now: Instant, patience: Duration) -> Due {
        let (mut due, mut interrupts) = (Due::default(), Vec::new());
        for (run, going) in &mut self.lock().going {
            let Some(ending) = &mut going.ending else { continue };
            let mut at = ending.since + patience;
            if !ending.was_interrupted && now >= at {
                ending.was_interrupted = true;
                interrupts.push(*run);
            }
            if ending.was_interrupted {
                at += patience;
            }
            if now >= at {
                due.kill.get_or_insert_with(|| labels(&going.members));
            }
            due.next = Some(due.next.map_or(at, |next| next.min(at)));
        }
        // A program that speaks in lines knows none.
        if self.protocol == HandlerProtocol::Frames {
            interrupts.into_iter().for_each(|run| self.send(&ToHandler::Interrupt { run }));
        }
        due
    }

    /// Takes a result.
    pub(super) fn succeeded(&self, success: Success, segments: Segments) {
        let Success { run, member, result, .. } = success;
        let framed = Framed { json: result, segments };
        self.answer(run, member, |going| match (member, going.members.len()) {
            (Some(member), _) => going.set(member, Ok(framed)),
            (None, 1) => going.set(0, Ok(framed)),
            (None, members) => {
                let failure = Failure::transient(format!("the handler gave one result, without a member, for a batch of {members}"));
                going.set_all(&failure)
            }
        });
    }

    /// Takes a failure.
    pub(super) fn failed(&self, fault: Fault) {
        let (run, member) = (fault.run, fault.member);
        let failure = failure_of(fault);
        self.answer(run, member, |going| match member {
            Some(member) => going.set(member, Err(failure)),
            None => going.set_all(&failure),
        });
    }

    /// Takes an answer; `set` says whether it was due. Once all members have theirs, the run has ended.
    fn answer(&self, run: u64, member: Option<usize>, set: impl FnOnce(&mut Going) -> u64) {
        let mut runs = self.lock();
        let answered = runs.going.get_mut(&run).map_or(0, set);
        if answered == 0 {
            return self.stray(runs, run, member);
        }
        runs.answered += answered;
        let is_over = runs.going.get(&run).is_some_and(|going| going.members.iter().all(|(_, answer)| answer.is_some()));
        let over = if is_over { runs.going.remove(&run) } else { None };
        drop(runs);
        if let Some(going) = over {
            going.end(&Failure::default());
            self.changed.notify_one();
        }
    }

    /// Drops what belongs to no run, or to one that is over.
    fn stray(&self, mut runs: MutexGuard<'_, Runs>, run: u64, member: Option<usize>) {
        runs.strays += 1;
        let strays = runs.strays;
        if runs.strays_told.is_some_and(|told| told.elapsed() < STRAYS_TOLD) {
            return;
        }
        runs.strays_told = Some(Instant::now());
        drop(runs);
        tracing::warn!(
            handler = self.handler,
            run,
            member,
            strays,
            "an answer for a run that is unknown or over was dropped; so many were so far"
        );
    }

    /// Takes a word about how far a run is.
    pub(super) fn progressed(&self, progress: &Progress) {
        if let Some(report) = self.report_of(progress.run, progress.member) {
            report.progress(progress.fraction, progress.message.as_deref().unwrap_or_default());
        }
    }

    /// Takes a piece of the output.
    pub(super) fn gave_part(&self, part: Part) {
        if let Some(report) = self.report_of(part.run, part.member) {
            report.partial(part.value);
        }
    }

    /// To whom a run reports. `None`: it is over, or was cancelled.
    fn report_of(&self, run: u64, member: Option<usize>) -> Option<Report> {
        let runs = self.lock();
        let going = runs.going.get(&run).filter(|going| going.ending.is_none())?;
        going.members.get(member.unwrap_or(0)).map(|(member, _)| member.report.clone())
    }

    /// Writes a line that a handler wants in the log.
    pub(super) fn logged(&self, gpu_id: &str, log: &Log) {
        let tasks = match log.run {
            None => String::new(),
            Some(run) => {
                let runs = self.lock();
                let members = runs.going.get(&run).map_or(&[][..], |going| &going.members);
                match log.member {
                    Some(member) => members.get(member).map(|(member, _)| member.label()).unwrap_or_default(),
                    None => labels(members),
                }
            }
        };
        let (handler, message) = (&self.handler, output::escaped(output::cut(&log.message)));
        let task_id = only_task(&tasks);
        match log.level {
            LogLevel::Debug => tracing::debug!(handler, gpu_id, task_id, tasks, "{message}"),
            LogLevel::Info => tracing::info!(handler, gpu_id, task_id, tasks, "{message}"),
            LogLevel::Warn => tracing::warn!(handler, gpu_id, task_id, tasks, "{message}"),
            LogLevel::Error => tracing::error!(handler, gpu_id, task_id, tasks, "{message}"),
        }
    }

    /// The tasks that run now, with their attempts: `task#attempt`, separated by spaces.
    pub(super) fn running(&self) -> String {
        let runs = self.lock();
        labels(runs.going.values().flat_map(|going| &going.members))
    }

    /// Payloads that have been answered.
    pub(super) fn answered(&self) -> u64 {
        self.lock().answered
    }

    /// Whether a run is still there although it was asked to end a while ago. Its process may have to be ended for it.
    pub(super) fn has_lingering(&self) -> bool {
        let lingers = |going: &Going| going.ending.as_ref().is_some_and(|ending| ending.since.elapsed() >= LINGERS);
        self.lock().going.values().any(lingers)
    }

    /// Nothing begins in it any more. What is under way may still be answered.
    pub(super) fn shut(&self) {
        self.lock().is_closed = true;
    }

    /// The process is gone. What ran in it crashed, but for what was cancelled before; nothing begins there any more.
    pub(super) fn close(&self, why: &str) {
        let going = {
            let mut runs = self.lock();
            runs.is_closed = true;
            std::mem::take(&mut runs.going)
        };
        for run in going.into_values() {
            let failure = if run.ending.is_some() { Failure::cancelled() } else { Failure::crashed(why) };
            run.end(&failure);
        }
    }
}

impl Going {
    /// Gives a member its answer. How many got one.
    fn set(&mut self, member: usize, answer: Answer) -> u64 {
        match self.members.get_mut(member) {
            Some((_, open @ None)) => {
                *open = Some(answer);
                1
            }
            _ => 0,
        }
    }

    /// Fails all members that have no answer yet. How many there were.
    fn set_all(&mut self, failure: &Failure) -> u64 {
        let open = self.members.iter_mut().filter(|(_, answer)| answer.is_none());
        open.map(|(_, answer)| *answer = Some(Err(failure.clone()))).count() as u64
    }

    /// Tells who waits; members without an answer have `failure`. The place goes back.
    fn end(self, failure: &Failure) {
        let Self { members, answer, place, .. } = self;
        // First the place: who was answered may come back at once. So with tensors: who was answered may free them.
        drop(place);
        let answers = members.into_iter().map(|(member, answer)| {
            drop(member.tensors);
            answer.unwrap_or_else(|| Err(failure.clone()))
        });
        // Who waits no longer was cancelled.
        let _ = answer.send(answers.collect());
    }
}

/// The first tasks of these, each once: several items of one task may run together.
fn labels<'a>(members: impl IntoIterator<Item = &'a (Member, Option<Answer>)>) -> String {
    let mut named: Vec<&Member> = Vec::new();
    for (member, _) in members {
        if named.iter().any(|known| known.task_id == member.task_id && known.attempt == member.attempt) {
            continue;
        }
        named.push(member);
        if named.len() == NAMED {
            break;
        }
    }
    named.iter().map(|member| member.label()).collect::<Vec<_>>().join(" ")
}

/// The id of the task that labels name, if they name one alone: under it gateway and worker write of the task too.
pub(super) fn only_task(labels: &str) -> Option<&str> {
    labels.rsplit_once('#').map(|(task_id, _)| task_id).filter(|task_id| !task_id.contains(' '))
}

fn failure_of(fault: Fault) -> Failure {
    let Fault { message, code, retry, retry_after_ms, field, out_of_memory, memory_mb, .. } = fault;
    // It goes into a reply, and into the history of the task's attempts.
    let message = output::cut(&message).to_owned();
    let code = code.map(|code| output::cut_to(code, CODE_CHARACTERS_MAX));
    let field = field.map(|field| output::cut_to(field, FIELD_CHARACTERS_MAX));
    if out_of_memory {
        return Failure { memory_mb, field, ..Failure::out_of_memory(message) };
    }
    Failure {
        code: code.unwrap_or_else(|| ErrorCode::ExecutorFailed.into()),
        message,
        field,
        retry: retry.unwrap_or(true),
        memory_mb,
        retry_after_ms,
        crashed: false,
    }
}

/// Somebody who waits for a run. Dropped before its end, the run is asked to end.
#[derive(Debug)]
pub(super) struct Attached {
    live: Arc<Live>,
    run: u64,
    answered: oneshot::Receiver<Vec<Answer>>,
    members: usize,
    is_over: bool,
}

impl Attached {
    /// Waits for the answers, in the order of the members. Once `cancel` has fired the run is asked to end, and its answers are what it gives then.
    pub(super) async fn answers(mut self, cancel: &CancellationToken) -> Vec<Answer> {
        let answers = tokio::select! {
            biased;
            answers = &mut self.answered => Some(answers),
            () = cancel.cancelled() => None,
        };
        let answers = match answers {
            Some(answers) => answers,
            None => {
                self.live.cancel(self.run, None);
                (&mut self.answered).await
            }
        };
        self.is_over = true;
        // A run is answered before it goes; that it is not would be a mistake of ours.
        answers.unwrap_or_else(|_| vec![Err(Failure::transient("its run was given up")); self.members])
    }

    /// Asks one member to end; the others go on.
    pub(super) fn cancel_member(&self) -> impl Fn(usize) + Send + Sync + use<> {
        let (live, run) = (Arc::clone(&self.live), self.run);
        move |member| live.cancel(run, Some(member))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if !self.is_over {
            self.live.cancel(self.run, None);
        }
    }
}

#[cfg(test)]
mod tests;
