//! The steps of tasks, told to the journal for people: the one place of this worker that makes them.
//!
//! Nothing rests on a step, and nobody waits for one. It costs a small struct and what [`Journal::tell`] takes; where the journal keeps none, not even that. A step that follows from a record is told
//! once that record is in the store. Each function here is one step; who calls it knows that it happened.

mod among;
mod waits;

use std::time::Duration;

use executors::Usage;
use protocol::{
    Envelope, GpuId, Kind, Needs, PoolName, StepName, Strategy, Task, TaskError, TaskId, TaskStep, envelope::PRIORITY_MAX,
    intake::first_published_ms,
};
use task_store::Journal;

pub(crate) use self::{among::Among, waits::WaitsTold};
use crate::{
    context::Context,
    delivery::InHand,
    disposition::{End, Ran, Retrying},
    ports::Ports,
    settle::carry_out::Settling,
    traces::{self, CameOut},
};

/// How long the end of a worker waits for the last steps to be sent.
const FLUSHED_WITHIN: Duration = Duration::from_secs(1);

/// What an attempt took beside its work.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Beside {
    /// The load of its model, in ms.
    pub(crate) load_ms: Option<f64>,
    /// Bringing its tensors to the GPU, in ms.
    pub(crate) transfer_ms: Option<f64>,
}

impl Beside {
    /// As its executor, and what runs around it, have measured.
    pub(crate) fn of(usage: &Usage) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Self { load_ms: usage.load_time().map(ms), transfer_ms: usage.transfer_time().map(ms) }
    }
}

/// The journal, where it keeps steps.
fn journal(ports: &Ports) -> Option<&dyn Journal> {
    Some(ports.store.journal()).filter(|journal| journal.keeps_steps())
}

/// Whether anybody wants to hear of steps.
pub(crate) fn are_kept(context: &Context) -> bool {
    journal(&context.ports).is_some()
}

/// Lets the last steps go out before the worker ends. Bounded: nothing rests on them.
pub(crate) async fn flush(ports: &Ports) {
    if tokio::time::timeout(FLUSHED_WITHIN, ports.store.journal().flush()).await.is_err() {
        tracing::debug!("the last steps of tasks were not told in time");
    }
}

/// A step without details.
fn step(context: &Context, step: StepName, (task_id, kind): (&TaskId, Option<&Kind>)) -> TaskStep {
    let pool = context.me.options.pool.clone();
    TaskStep { kind: kind.cloned(), ..TaskStep::new(step, task_id.clone(), pool, context.ports.now_ms()) }
}

/// A step of a task in hand, with what its message says of it.
fn step_in_hand(context: &Context, name: StepName, in_hand: &InHand, task: (&TaskId, Option<&Kind>)) -> TaskStep {
    TaskStep {
        priority: Some(in_hand.envelope.priority.unwrap_or_default()).filter(|priority| *priority <= PRIORITY_MAX),
        group: in_hand.group_of(task.0).cloned(),
        ..step(context, name, task)
    }
}

/// The same, with what the task asks for: one that was published over plain AMQP is heard of here first.
fn step_of_waiting(context: &Context, name: StepName, (task, in_hand): (&Task, &InHand)) -> TaskStep {
    TaskStep {
        needs: Some(&task.body.needs).filter(|needs| **needs != Needs::default()).cloned(),
        specific_gpu_id: task.body.gpu_options.specific_gpu_id.clone(),
        not_before_ms: task.not_before_ms,
        start_before_ms: task.start_before_ms,
        items: items_of(task),
        published_ms: first_published_ms(&in_hand.envelope, context.ports.now_ms()),
        attempt: Some(task.attempt),
        ..step_in_hand(context, name, in_hand, (&task.id, Some(&task.kind)))
    }
}

fn items_of(task: &Task) -> Option<u32> {
    task.body.items.as_ref().map(|items| u32::try_from(items.len()).unwrap_or(u32::MAX))
}

/// An attempt began, on this GPU; `among` how many it was chosen.
pub(crate) fn began(context: &Context, (task, in_hand): (&Task, &InHand), (strategy, among): (Strategy, Option<u32>)) {
    let journal = journal(&context.ports);
    if journal.is_none() && !traces::are_on(context) {
        return;
    }
    let now_ms = context.ports.now_ms();
    let published_ms = first_published_ms(&in_hand.envelope, now_ms);
    let waited_ms = waited_ms(task.attempt, in_hand, (published_ms, now_ms));
    traces::began(context, (task, in_hand), (strategy, waited_ms));
    let Some(journal) = journal else { return };
    journal.tell(TaskStep {
        gpu_id: Some(context.me.gpu_id.clone()),
        attempt: Some(task.attempt),
        items: items_of(task),
        strategy: Some(strategy),
        among,
        waited_ms: Some(waited_ms),
        published_ms,
        trace_id: in_hand.trace_id().map(str::to_owned),
        ..step_in_hand(context, StepName::Began, in_hand, (&task.id, Some(&task.kind)))
    });
}

/// How long a task waited before it began. An attempt that follows another one was due when that one's pause was over, which nobody knows here.
fn waited_ms(attempt: u32, in_hand: &InHand, (published_ms, now_ms): (Option<u64>, u64)) -> f64 {
    let due_ms = published_ms.filter(|_| attempt == 1).map(|published_ms| due_ms(&in_hand.envelope, published_ms));
    match due_ms {
        Some(due_ms) => now_ms.saturating_sub(due_ms) as f64,
        None => in_hand.received.elapsed().as_secs_f64() * 1e3,
    }
}

/// That it was delayed is no wait of its queue.
fn due_ms(envelope: &Envelope, published_ms: u64) -> u64 {
    published_ms.max(envelope.headers.not_before_ms.unwrap_or(0))
}

/// It has a worker, and cannot run now. Told once for each reason.
pub(crate) fn waits(context: &Context, (task, in_hand): (&Task, &InHand), reason: &str) {
    let Some(journal) = journal(&context.ports) else { return };
    if context.waits_told.is_news(&task.id, reason) {
        let step = step_of_waiting(context, StepName::Waits, (task, in_hand));
        journal.tell(TaskStep { gpu_id: Some(context.me.gpu_id.clone()), reason: Some(reason.to_owned()), ..step });
    }
}

/// Its message went to another GPU, at this time: a claim chose that one, or it waits there.
pub(crate) fn forwarded(
    context: &Context,
    (task, in_hand): (&Task, &InHand),
    to: &GpuId,
    (strategy, among, at_ms): (Option<Strategy>, Option<u32>, u64),
) {
    let Some(journal) = journal(&context.ports) else { return };
    let step = step_in_hand(context, StepName::Forwarded, in_hand, (&task.id, Some(&task.kind)));
    journal.tell(TaskStep { at_ms, gpu_id: Some(to.clone()), attempt: Some(task.attempt), strategy, among, ..step });
}

/// It waits until its time.
pub(crate) fn delayed(context: &Context, (task, in_hand): (&Task, &InHand)) {
    let Some(journal) = journal(&context.ports) else { return };
    journal.tell(step_of_waiting(context, StepName::Delayed, (task, in_hand)));
}

/// Its attempt failed, that is recorded, and another one is due.
pub(crate) fn retrying(settling: &Settling<'_>, retrying: &Retrying<'_>, after_ms: u64) {
    let (context, task) = (settling.context, retrying.task);
    attempt_failed(context, (task, settling.in_hand), (&retrying.error, retrying.run_ms, retrying.beside));
    let Some(journal) = journal(&context.ports) else { return };
    journal.tell(TaskStep {
        gpu_id: Some(context.me.gpu_id.clone()),
        attempt: Some(task.attempt),
        run_ms: Some(retrying.run_ms),
        load_ms: retrying.beside.load_ms,
        transfer_ms: retrying.beside.transfer_ms,
        error: Some(retrying.error.clone()),
        after_ms: Some(after_ms),
        ..step(context, StepName::Retrying, (&task.id, Some(&task.kind)))
    });
}

/// The span of an attempt that another one follows.
fn attempt_failed(context: &Context, (task, in_hand): (&Task, &InHand), (error, run_ms, beside): (&TaskError, f64, Beside)) {
    let error = Some((error.code.as_str(), error.message.as_str()));
    let came_out = CameOut { attempt: task.attempt, run_ms: Some(run_ms), beside, error };
    traces::ended(context, in_hand, (&task.id, Some(&task.kind)), &came_out);
}

/// The process that it ran in died here, and the store knows.
pub(crate) fn crashed_here(context: &Context, (task, in_hand): (&Task, &InHand), (error, run_ms, beside): (&TaskError, f64, Beside)) {
    attempt_failed(context, (task, in_hand), (error, run_ms, beside));
    let Some(journal) = journal(&context.ports) else { return };
    journal.tell(TaskStep {
        gpu_id: Some(context.me.gpu_id.clone()),
        attempt: Some(task.attempt),
        run_ms: Some(run_ms),
        load_ms: beside.load_ms,
        transfer_ms: beside.transfer_ms,
        error: Some(error.clone()),
        ..step(context, StepName::Crashed, (&task.id, Some(&task.kind)))
    });
}

/// The worker that ran it is gone.
pub(crate) fn crashed_there(context: &Context, task_id: &TaskId, gpu_id: &GpuId) {
    let Some(journal) = journal(&context.ports) else { return };
    let reason = Some("its worker is gone, and an attempt of it had begun there".to_owned());
    journal.tell(TaskStep { gpu_id: Some(gpu_id.clone()), reason, ..step(context, StepName::Crashed, (task_id, None)) });
}

/// It is a batch, and so many slices run in its place.
pub(crate) fn split(settling: &Settling<'_>, task: &Task, slices: usize) {
    let Some(journal) = journal(&settling.context.ports) else { return };
    let step = step_of_waiting(settling.context, StepName::Split, (task, settling.in_hand));
    journal.tell(TaskStep { reason: Some(format!("runs as {slices} slices")), ..step });
}

/// It ended, and that is recorded.
pub(crate) fn ended(settling: &Settling<'_>, end: &End, ran: Option<&Ran>) {
    let Settling { context, in_hand, identity, .. } = settling;
    let error = end.error.as_ref().map(|error| (error.code.as_str(), error.message.as_str()));
    let run_ms = ran.map(|_| end.timings.run_ms);
    let came_out = CameOut { attempt: identity.attempt, run_ms, beside: end.beside, error };
    traces::ended(context, in_hand, (&identity.task_id, identity.kind.as_ref()), &came_out);
    let Some(journal) = journal(&context.ports) else { return };
    let only_gpu = if let [only] = end.gpu_ids.as_slice() { Some(only) } else { None };
    let ran_somewhere = ran.is_some() || !end.gpu_ids.is_empty();
    journal.tell(TaskStep {
        outcome: Some(end.outcome),
        gpu_id: ran.map(|_| &context.me.gpu_id).or(only_gpu).cloned(),
        attempt: Some(identity.attempt),
        run_ms: ran_somewhere.then_some(end.timings.run_ms),
        load_ms: end.beside.load_ms,
        transfer_ms: end.beside.transfer_ms,
        error: end.error.clone(),
        ..step_in_hand(context, StepName::Ended, in_hand, (&identity.task_id, identity.kind.as_ref()))
    });
}

/// Its original bytes are among the dead letters, under this id.
pub(crate) fn buried(settling: &Settling<'_>, letter_id: &TaskId, reason: &str) {
    let Settling { context, in_hand, identity, .. } = settling;
    let Some(journal) = journal(&context.ports) else { return };
    let step = step_in_hand(context, StepName::Buried, in_hand, (letter_id, identity.kind.as_ref()));
    journal.tell(TaskStep { reason: Some(reason.to_owned()), ..step });
}

/// Its reply waits for another try, or is parked.
pub(crate) fn reply_waits(ports: &Ports, pool: &PoolName, task_id: Option<&str>, reason: &str) {
    let Some(journal) = journal(ports) else { return };
    // What somebody has put into a waiting queue by hand may have any id.
    let Some(task_id) = task_id.and_then(|id| TaskId::new(id).ok()) else { return };
    let step = TaskStep::new(StepName::ReplyWaits, task_id, pool.clone(), ports.now_ms());
    journal.tell(TaskStep { reason: Some(reason.to_owned()), ..step });
}

#[cfg(test)]
mod tests {
    use protocol::envelope::Headers;

    use super::*;

    #[test]
    fn a_task_that_was_delayed_has_waited_since_it_was_due() {
        let delayed = Envelope { headers: Headers { not_before_ms: Some(9_000), ..Headers::default() }, ..Envelope::default() };
        assert_eq!([due_ms(&delayed, 5_000), due_ms(&Envelope::default(), 5_000)], [9_000, 5_000]);
    }

    #[test]
    fn what_was_not_measured_is_not_told() {
        let usage = Usage::default();
        assert_eq!(Beside::of(&usage), Beside::default());
        usage.loaded_for(Duration::from_millis(30));
        usage.brought_for(Duration::from_millis(4));
        assert_eq!(Beside::of(&usage), Beside { load_ms: Some(30.0), transfer_ms: Some(4.0) });
    }
}
