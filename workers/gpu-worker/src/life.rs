//! The life of one delivery: decide what becomes of it, then carry that out.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use executors::Usage;
use protocol::{
    ErrorCode, Framed, Outcome, Task, TaskError,
    intake::{Message, Reading},
    read_task,
    reply::Timings,
};
use task_queue::Queue;
use task_store::Look;
use tokio::time::Instant;
use tracing::Instrument;

use crate::{
    attempt::{
        beginning::{self, Attempt, Beginning, NotBegun},
        crashing::{self, Crashed, Follows},
        items::ItemsRan,
        look_ahead::{Following, LookAhead},
        memory::{self, Gathering, Next},
        running::{self, Outcome as Ended, RunsWith},
    },
    batch::deciding,
    claim::{
        holder::{self, Former},
        placing::{self, Placement, Placing},
        slots::{BeingSettled, Slot},
    },
    context::Context,
    data::asked::AskedTensors,
    delivery::{
        Identity, InHand, delayed,
        in_hand::Deadlines,
        onward::began_in_time,
        why_it_came::{WhyItCame, why_it_came},
    },
    disposition::{Disposition, End, Ran, Retrying},
    gpu::quarantine,
    ports::Abandoned,
    settle::carry_out::{Settled, carry_out},
    steps::{self, Beside},
};

/// How long a task is kept in hand whose tensor was gone when it ran, before it is given back.
const MISSING_PAUSE: Duration = Duration::from_secs(1);

/// Lives the life of one delivery, in the slot of the task that it was fetched to follow, if it was. Whatever happens, the delivery is acked only when what must follow it is
/// safe.
pub(crate) fn live(context: Arc<Context>, in_hand: InHand, follows_in: Option<Slot>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let mut in_hand = in_hand;
        let reading = read(&context, &in_hand);
        if in_hand.envelope.headers.traceparent_dropped {
            context.metrics.trace_headers_dropped.inc();
        }
        in_hand.deadlines = deadlines(&context, &in_hand, &reading);
        let span = tracing::debug_span!("task", task_id = %reading.task_id, trace_id = in_hand.trace_id(), gpu_id = %context.me.gpu_id);
        let lived = match &reading.task {
            Ok(task) if in_hand.queue == Queue::Unrouted => {
                carry_out(&context, &in_hand, &reading, Disposition::Route(task)).instrument(span).await.map(drop)
            }
            Ok(task) if in_hand.queue != Queue::Expired && must_wait(&context, task) => {
                carry_out(&context, &in_hand, &reading, Disposition::Delay(task)).instrument(span).await.map(drop)
            }
            Ok(task) if in_hand.queue != Queue::Expired => {
                live_task(&context, &in_hand, &reading, (task, follows_in)).instrument(span).await
            }
            _ => live_without_run(&context, &in_hand, &reading).instrument(span).await,
        };
        // Where it did not run, nobody has let go of it.
        in_hand.let_credit_go().await;
        if lived == Err(Abandoned) {
            tracing::debug!("left unacked: the broker will deliver it again");
        }
    })
}

/// Whether the task must not start yet.
fn must_wait(context: &Context, task: &Task) -> bool {
    task.not_before_ms.is_some() && delayed::not_before_ms(task, context.ports.now_ms()).is_some()
}

fn read(context: &Context, in_hand: &InHand) -> Reading {
    let fresh_id = || context.ports.environment.fresh_task_id();
    let message = Message { envelope: &in_hand.envelope, body: &in_hand.body, delivery: in_hand.id };
    read_task(message, context.me.options.intake, context.ports.now_ms(), fresh_id)
}

/// What the broker took out of a queue because its time had run out has lost the property that said so, and must never start.
fn deadlines(context: &Context, in_hand: &InHand, reading: &Reading) -> Deadlines {
    let Ok(task) = &reading.task else { return Deadlines::default() };
    let is_over = in_hand.queue == Queue::Expired && came(context, in_hand) == WhyItCame::TimeOver;
    let start_before_ms = if is_over { Some(context.ports.now_ms()) } else { task.start_before_ms };
    Deadlines { start_before_ms, end_before_ms: task.end_before_ms }
}

/// What is no valid task, or what the broker took out of a queue: because its time had run out there, or before.
async fn live_without_run(context: &Context, in_hand: &InHand, reading: &Reading) -> Result<(), Abandoned> {
    let disposition = match &reading.task {
        Err(refusal) => Disposition::Refuse(refusal.clone()),
        Ok(task) => match context.ports.look(&Identity::of(task, in_hand)).await? {
            Look::Open | Look::Unfinished(_) => taken_out(context, in_hand, task),
            look => Disposition::not_run(task, look, context.me.options.lease),
        },
    };
    carry_out(context, in_hand, reading, disposition).await.map(drop)
}

fn came(context: &Context, in_hand: &InHand) -> WhyItCame {
    why_it_came(in_hand.death.as_ref(), &in_hand.envelope.headers, (context.ports.queue.names(), context.ports.now_ms()))
}

/// What becomes of a task that the broker took out of its queue.
fn taken_out(context: &Context, in_hand: &InHand, task: &Task) -> Disposition<'static> {
    match came(context, in_hand) {
        // What is stranded is moved before its life begins: here its time was over in between.
        WhyItCame::TimeOver | WhyItCame::Stranded => Disposition::expired(),
        WhyItCame::Dropped(dropped) => {
            context.metrics.dropped(dropped.reason);
            tracing::warn!(task_id = %task.id, reason = dropped.reason, "taken out of its queue before its time");
            Disposition::fails(TaskError::new(ErrorCode::Dropped, dropped.message))
        }
    }
}

async fn live_task(
    context: &Arc<Context>,
    in_hand: &InHand,
    reading: &Reading,
    (task, follows_in): (&Task, Option<Slot>),
) -> Result<(), Abandoned> {
    let mut follows_in = follows_in;
    // Boxed, as all that is rare: every life has room for the largest thing that it may come to.
    if deciding::is_to_be_decided(context, in_hand, task)
        && Box::pin(is_settled_before_a_slot(context, in_hand, reading, (task, &mut follows_in))).await?
    {
        return Ok(());
    }
    let mut lived = live_until_it_crashes(context, in_hand, reading, (task, follows_in)).await?;
    while lived == Lived::Crashed {
        // What goes round of a delivery that was settled finds the crash in the store.
        if in_hand.is_settled() {
            return Ok(());
        }
        crashing::until_up(context, &task.kind).await?;
        let began = task.end_before_ms.unwrap_or_else(|| began_in_time(context.ports.now_ms()));
        // The task began in time: from now on its total deadline counts alone.
        let again = Task { start_before_ms: Some(began), ..task.clone() };
        lived = Box::pin(live_until_it_crashes(context, in_hand, reading, (&again, None))).await?;
    }
    Ok(())
}

/// How far a life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lived {
    /// To its end: nothing is left to do with the delivery.
    Settled,
    /// Its attempt crashed, and the store knows: it is to begin anew.
    Crashed,
}

/// Decides, runs and settles, until its attempt crashes and this worker does not.
async fn live_until_it_crashes(
    context: &Arc<Context>,
    in_hand: &InHand,
    reading: &Reading,
    (task, follows_in): (&Task, Option<Slot>),
) -> Result<Lived, Abandoned> {
    let mut placing = Placing::new(context, in_hand, task, follows_in);
    loop {
        let disposition = match decide(context, in_hand, task, &mut placing).await? {
            Decided::Begun(attempt) => match run_and_settle(context, in_hand, reading, (task, attempt, placing.tensors())).await? {
                None => return Ok(Lived::Settled),
                Some(Follows::Again) => return Ok(Lived::Crashed),
                Some(Follows::Not(why, words)) => not_begun(context, task, why, Some(words)),
            },
            Decided::Unrun(disposition) => *disposition,
        };
        match carry_out(context, in_hand, reading, disposition).await? {
            Settled::Done => return Ok(Lived::Settled),
            // Its next beginning says the same.
            Settled::RunsWhole => {}
            Settled::NotSent => placing.rest("the queue that it should go to is missing").await?,
        }
    }
}

/// Decides about a batch before it claims a slot. Whether that is all; else it goes on as any task does.
async fn is_settled_before_a_slot(
    context: &Arc<Context>,
    in_hand: &InHand,
    reading: &Reading,
    (task, follows_in): (&Task, &mut Option<Slot>),
) -> Result<bool, Abandoned> {
    let Some(disposition) = deciding::before_a_slot(context, in_hand, task).await? else { return Ok(false) };
    // Neither the slot nor the credit of the task that it was to follow waits for this.
    drop(follows_in.take());
    in_hand.let_credit_go().await;
    Ok(carry_out(context, in_hand, reading, disposition).await? != Settled::RunsWhole)
}

/// What was decided before a run.
enum Decided<'t> {
    /// It runs.
    Begun(Attempt),
    /// It does not.
    Unrun(Box<Disposition<'t>>),
}

impl<'t> From<Disposition<'t>> for Decided<'t> {
    fn from(disposition: Disposition<'t>) -> Self {
        Self::Unrun(Box::new(disposition))
    }
}

async fn decide<'t>(
    context: &'t Arc<Context>,
    in_hand: &InHand,
    task: &'t Task,
    placing: &mut Placing<'t>,
) -> Result<Decided<'t>, Abandoned> {
    let lease = context.me.options.lease;
    // A copy of a task that runs must not wait for a slot here: it would stand in the way of others, for as long as the task runs.
    if context.begun.has_another(&task.id, in_hand.id) {
        return Ok(Decided::from(Disposition::Park(lease)));
    }
    if may_have_a_history(in_hand, task) {
        match context.ports.look(&Identity::of(task, in_hand)).await? {
            Look::Open => {}
            Look::Unfinished(former) => {
                let looking = holder::look_into(context, &task.id, &former);
                let looked = tokio::select! {
                    biased;
                    looked = holder::patiently(context, in_hand, looking) => looked?,
                    () = placing::deadline(context, task) => return Ok(Decided::from(Disposition::expired())),
                };
                match looked {
                    Some(Former::Over(verdict)) => placing.begin_anew(verdict),
                    Some(Former::GoesOn) => return Ok(Decided::from(Disposition::Park(lease))),
                    None => return Ok(Decided::from(Disposition::GiveBack)),
                }
            }
            look => return Ok(Decided::from(Disposition::not_run(task, look, lease))),
        }
    }
    if context.ports.is_cancelled_with_its_group((in_hand.group_of(&task.id), &task.id), in_hand.envelope.timestamp).await? {
        return Ok(Decided::from(Disposition::not_run(task, Look::Cancelled, lease)));
    }
    let placed = match placing.place().await? {
        Placement::Here(placed) => placed,
        Placement::Not(disposition) => return Ok(Decided::from(disposition)),
    };
    let waited = in_hand.received.elapsed();
    let beginning = beginning::begin(context, (task, in_hand), placed, placing.verdict()).await?;
    observe_waits(context, in_hand, waited);
    Ok(match beginning {
        Beginning::Begun(attempt) => {
            steps::began(context, (task, in_hand), (attempt.choice.used, placing.among()));
            if let Some(group) = &in_hand.envelope.headers.group {
                context.ports.note_begun_in_group(group, task);
            }
            Decided::Begun(attempt)
        }
        Beginning::Not(why) => Decided::from(not_begun(context, task, why, None)),
    })
}

/// What becomes of a task whose attempt did not begin. `words`: of the crash that was seen here, if one was.
fn not_begun<'t>(context: &Context, task: &'t Task, why: NotBegun, words: Option<String>) -> Disposition<'t> {
    let lease = context.me.options.lease;
    match why {
        NotBegun::Look(look) => Disposition::not_run(task, look, lease),
        NotBegun::HeldElsewhere => Disposition::Park(lease),
        NotBegun::TooLate => Disposition::expired(),
        NotBegun::GivenBack => Disposition::GiveBack,
        NotBegun::Condemned(crashes) => Disposition::Quarantine(crashes, words),
    }
}

/// Whether the store may know something that stands against the task. A fresh delivery need not ask: its beginning finds the same, one round trip later.
fn may_have_a_history(in_hand: &InHand, task: &Task) -> bool {
    in_hand.redelivered || in_hand.envelope.headers.returned || task.attempt > 1
}

/// `None`: the attempt ended and is settled. Otherwise it crashed, and the store knows.
async fn run_and_settle(
    context: &Arc<Context>,
    in_hand: &InHand,
    reading: &Reading,
    (task, attempt, tensors): (&Task, Attempt, Option<Arc<AskedTensors>>),
) -> Result<Option<Follows>, Abandoned> {
    let Attempt { slot, choice, token, unsettled } = attempt;
    let ran = Ran { token, choice };
    let settled = async {
        let Over { follows, being_settled: _being_settled, run_ms, beside } =
            run(context, in_hand, task, (slot, ran, tensors.as_deref())).await?;
        match follows {
            Ok(disposition) => carry_out(context, in_hand, reading, disposition).await.map(|_| None),
            Err(error) => Ok(Some(Crashed { token, error, run_ms, beside })),
        }
    };
    let settled = settled.await;
    if let Ok(Some(crashed)) = settled {
        // Until the store knows, the row names the task.
        let follows = Box::pin(crashing::record(context, (task, in_hand), crashed)).await;
        drop(unsettled);
        return follows.map(Some);
    }
    drop(unsettled);
    // Wherever it was abandoned: the store knows whether there is anything left to hand back. A task that may have cost this process its GPU is left as a crash leaves it: the
    // next worker runs it alone.
    if settled.is_err() && !context.gpu.lost.get().is_some_and(|lost| lost.by_a_task) {
        context.ports.hand_back(&task.id, token).await;
    }
    settled.map(|_| None)
}

/// A run that is over.
struct Over<'t> {
    /// What becomes of its delivery; or how the process died that it ran in.
    follows: Result<Disposition<'t>, TaskError>,
    /// Keeps its slot for the delivery that its ack brings. `None`: it begins anew, and keeps its own delivery.
    being_settled: Option<BeingSettled>,
    /// How long it ran, in ms.
    run_ms: f64,
    /// What it took beside its work.
    beside: Beside,
}

/// Runs the attempt, frees its slot, and says what becomes of the delivery.
async fn run<'t>(
    context: &Arc<Context>,
    in_hand: &InHand,
    task: &'t Task,
    (slot, ran, tensors): (Slot, Ran, Option<&AskedTensors>),
) -> Result<Over<'t>, Abandoned> {
    let (started, usage, waited) = (Instant::now(), Usage::default(), in_hand.received.elapsed());
    // What waits for its tensors runs by itself.
    let gathering = if tensors.is_none() { Gathering::of(context.gatherers.of(&task.kind), task) } else { None };
    let ahead = if tensors.is_none() { LookAhead::of(context, task, in_hand, gathering.as_ref(), follow) } else { LookAhead::none() };
    let with = RunsWith { usage: &usage, gathering: gathering.as_ref(), tensors };
    let ended = running::run(context, task, in_hand, ran.token, with).await?;
    match &ended {
        Ended::Succeeded(_) => {
            context.gpu.health.succeeded();
            context.gpu.learnt.took(&task.kind, usage.peak_mb());
        }
        // An item that fails for good says nothing of the GPU.
        Ended::Items(ItemsRan { results, .. }) if results.iter().any(Result::is_ok) => {
            context.gpu.health.succeeded();
            context.gpu.learnt.took(&task.kind, usage.peak_mb());
        }
        Ended::Failed(error, _) if blames_gpu(context, task) => {
            quarantine::failed(context, &task.id, &format!("{}: {}", error.code, error.message)).await
        }
        _ => {}
    }
    let being_settled = (!matches!(ended, Ended::Crashed(_))).then(|| context.slots.settling());
    ahead.run_ended(slot);
    in_hand.let_credit_go().await;
    let batch_size = match &ended {
        Ended::Items(ran) => ran.batch_size,
        _ => usage.batch_size(),
    };
    let timings =
        Timings { waited_ms: millis(waited), run_ms: millis(started.elapsed()), device_ms: usage.device_time().map(millis), batch_size };
    let (run_ms, beside) = (timings.run_ms, Beside::of(&usage));
    let follows = after(context, task, ended, (ran, timings, beside)).await;
    Ok(Over { follows, being_settled, run_ms, beside })
}

/// Whether a failure of the task speaks against the GPU.
fn blames_gpu(context: &Context, task: &Task) -> bool {
    context.gpu.executors.get(&task.kind).is_none_or(|executor| executor.failures_blame_gpu())
}

/// The life of a task that was fetched to follow another one.
async fn follow(context: Arc<Context>, following: Following) {
    let Following { in_hand, slot, one_of_few } = following;
    live(context, in_hand, slot).await;
    drop(one_of_few);
}

/// What follows from how an attempt came out. An error: the process that it ran in died so.
async fn after<'t>(
    context: &Context,
    task: &'t Task,
    ended: Ended,
    (ran, timings, beside): (Ran, Timings, Beside),
) -> Result<Disposition<'t>, TaskError> {
    let may_retry = task.attempt < task.body.limits.attempts_max();
    let (token, run_ms) = (ran.token, timings.run_ms);
    let retry = |memory_mb, error, after| Ok(Disposition::Retry(Retrying { task, memory_mb, error, after, token, run_ms, beside }));
    let end = match ended {
        Ended::Succeeded(Framed { json: result, segments }) => End { result, segments, ..End::of(Outcome::Succeeded) },
        Ended::Items(ItemsRan { results, .. }) => End::of_items(results, timings),
        Ended::Crashed(error) => return Err(error),
        // Its delivery finds, before it takes a slot again, that it is to wait. Where a copy of it goes round by now, that one does.
        Ended::TensorMissing(error) => {
            tracing::debug!(task_id = %task.id, error = error.message, "a tensor that it names is gone: it waits until that is there again");
            context.ports.hand_back(&task.id, token).await;
            // As long as the table still knows of what is gone, it runs again, and not at once. A stop ends the pause, and it is given back all the same.
            let _ = context.ports.pause(MISSING_PAUSE).await;
            return Ok(Disposition::GiveBack);
        }
        Ended::Failed(error, after) | Ended::FailedBeside(error, after) if may_retry => return retry(None, error, after),
        // Too little memory is no fault of the GPU.
        Ended::OutOfMemory(error, wanted_mb) if may_retry => match memory::next(context, task, error, wanted_mb).await {
            Next::Retry(memory_mb, error) => return retry(memory_mb, error, None),
            Next::End(error) => End::without_run(Outcome::Failed, error),
        },
        Ended::Failed(error, _)
        | Ended::FailedBeside(error, _)
        | Ended::FailedForGood(error)
        | Ended::ItemFailed(error)
        | Ended::OutOfMemory(error, _) => End::without_run(Outcome::Failed, error),
        Ended::Cancelled => {
            End::without_run(Outcome::Cancelled, TaskError::new(ErrorCode::Cancelled, "the task was cancelled while it ran"))
        }
        Ended::DeadlinePassed => {
            End::without_run(Outcome::Expired, TaskError::new(ErrorCode::Deadline, "the task's total deadline passed while it ran"))
        }
    };
    Ok(Disposition::Finish(End { timings, beside, ..end }, ran))
}

fn observe_waits(context: &Context, in_hand: &InHand, waited: Duration) {
    context.metrics.in_hand_seconds.observe(waited.as_secs_f64());
    if let Some(published) = in_hand.envelope.timestamp {
        // That it was delayed is no wait of its queue.
        let since_ms = published.saturating_mul(1_000).max(in_hand.envelope.headers.not_before_ms.unwrap_or(0));
        context.metrics.queue_wait_seconds.observe(context.ports.now_ms().saturating_sub(since_ms) as f64 / 1_000.0);
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
