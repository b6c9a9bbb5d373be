//! Ending a task: record, publish, release, ack. In this order, so that a crash anywhere leads to a redelivery, and a redelivery to the same
//! stored reply.

use std::time::Duration;

use bytes::Bytes;
use gpu_table::TableError;
use protocol::{
    BodyHash, Choice, ClaimAnswer, ClaimRequest, Envelope, Kind, Outcome, Refusal, Reply, Task, TaskError, TaskId, Token,
    envelope::{Headers, PRIORITY_MAX},
    reply::Timings,
};
use serde_json::Value;
use task_queue::{Outgoing, PublishError, Queue, Target};
use task_store::{Crash, Look, Record, RecordRequest, Stored};
use tokio::time::Instant;

use crate::{
    context::Context,
    history,
    intake::{Deadlines, InHand},
    life, onward,
    persist::{Abandoned, persist},
    placing::{self, Slot},
    slots::{Handed, NextInLine},
};

/// Whose end it is.
pub(crate) struct Identity {
    pub(crate) task_id: TaskId,
    pub(crate) body_hash: BodyHash,
    pub(crate) kind: Option<Kind>,
    pub(crate) attempt: u32,
}

/// How a task ended.
#[derive(Clone)]
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    pub(crate) result: Value,
    pub(crate) error: Option<TaskError>,
    pub(crate) timings: Timings,
}

impl End {
    /// An end without a run.
    pub(crate) fn without_run(outcome: Outcome, error: TaskError) -> Self {
        Self { outcome, result: Value::Null, error: Some(error), timings: Timings::default() }
    }

    /// The deadline passed before it could start.
    pub(crate) fn expired() -> Self {
        Self::without_run(Outcome::Expired, TaskError::new("deadline", "the task's deadline passed before a GPU could start it"))
    }
}

/// A reply that is final: recorded in the store.
struct Final {
    copy: CopyOf,
    outcome: Outcome,
    body: Bytes,
    attempt: u32,
    token: Option<Token>,
}

/// Where a reply comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CopyOf {
    /// It is the first.
    None,
    /// The stored reply.
    Stored,
    /// The stored outcome: the reply is no longer kept.
    Outcome,
}

/// What became of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    /// It is there, nobody wants one, or nobody will ever take it.
    Done,
    /// Its queue exists and cannot be reached now.
    NotYet,
}

/// Ends a task: with `slot` after a run, without one otherwise. Consumes the delivery.
pub(crate) async fn end(context: &Context, in_hand: InHand, identity: Identity, end: End, slot: Option<Slot>) -> Result<(), Abandoned> {
    let token = slot.as_ref().map(|slot| slot.claim.token);
    let choice = slot.as_ref().map(|slot| slot.claim.choice.clone());
    let outcome = end.outcome;
    let fenced = slot.is_none().then(|| end.clone());
    let reply = body_of(context, &identity, end, token, choice);
    let request = RecordRequest {
        task_id: identity.task_id.clone(),
        body_hash: identity.body_hash.clone(),
        kind: identity.kind.clone(),
        outcome,
        attempt: identity.attempt,
        token,
        reply: reply.clone(),
    };
    let recorded = persist(&context.environment, &context.stop.now, || context.store.record(&request)).await?;
    let final_reply = match recorded {
        Ok(Record::Recorded) => {
            context.metrics.ended(known_kind(context, identity.kind.as_ref()), outcome.name());
            Final { copy: CopyOf::None, outcome, body: reply, attempt: identity.attempt, token }
        }
        Ok(Record::EndedBefore(stored)) => kept(context, &identity.task_id, identity.kind.clone(), stored),
        Ok(Record::Superseded) => {
            let Some(end) = fenced else { return superseded(context, in_hand, &identity, slot).await };
            return match fence(context, &in_hand, &identity).await {
                Some(slot) => Box::pin(self::end(context, in_hand, identity, end, Some(slot))).await,
                None => park(context, in_hand, &identity.task_id).await,
            };
        }
        Err(error) => {
            tracing::error!(task_id = %identity.task_id, %error, "the delivery stays unacked");
            return Err(Abandoned);
        }
    };
    let ran = slot.is_some();
    if reply_with(context, &in_hand, &identity.task_id, final_reply).await? == Answered::NotYet {
        if let Some(slot) = slot {
            finish(context, slot).await;
        }
        return park(context, in_hand, &identity.task_id).await;
    }
    let address = in_hand.address();
    tokio::join!(mark_published(context, &identity.task_id, &address), async {
        if let Some(slot) = slot {
            finish(context, slot).await;
        }
    });
    context.metrics.response_time_ms.observe(in_hand.received.elapsed().as_secs_f64() * 1_000.0);
    if ran {
        in_hand.ack_after_run().await
    } else {
        in_hand.ack_elsewhere().await
    }
    Ok(())
}

/// Sends the stored reply of a task that ended before, to the reply queue of this delivery. Runs nothing. A copy of a delivery whose reply has gone out is done
/// with already.
pub(crate) async fn resend(context: &Context, in_hand: InHand, identity: Identity, stored: Stored) -> Result<(), Abandoned> {
    if in_hand.is_copy() && stored.published_to.as_deref() == Some(in_hand.address().as_str()) {
        in_hand.ack_elsewhere().await;
        return Ok(());
    }
    let reply = kept(context, &identity.task_id, identity.kind, stored);
    match reply_with(context, &in_hand, &identity.task_id, reply).await? {
        Answered::Done => in_hand.ack_elsewhere().await,
        Answered::NotYet => park(context, in_hand, &identity.task_id).await?,
    }
    Ok(())
}

/// Refuses what is no valid task: recorded as failed, answered, its original bytes kept among the dead letters. The id's record may belong to another
/// task; then that one is left alone.
pub(crate) async fn refuse(context: &Context, in_hand: InHand, identity: Identity, refusal: Refusal) -> Result<(), Abandoned> {
    match look(context, &identity).await? {
        Look::Open | Look::Cancelled | Look::Retried(_) => {}
        Look::Ended(stored) => return resend(context, in_hand, identity, stored).await,
        Look::ReusedId => return refuse_reused_id(context, in_hand, identity).await,
    }
    tracing::info!(task_id = %identity.task_id, field = refusal.field, problem = refusal.problem, "refused");
    bury(context, &in_hand, &identity.task_id, &refusal.to_string()).await?;
    let error = TaskError { code: "invalid_task".to_owned(), message: refusal.problem, field: Some(refusal.field) };
    end(context, in_hand, identity, End::without_run(Outcome::Failed, error), None).await
}

/// Gives up a task whose worker crashed too often: its history goes to its producer, and with its original bytes to the dead letters.
pub(crate) async fn quarantine(
    context: &Context,
    mut in_hand: InHand,
    task: &Task,
    crashes: &[Crash],
    slot: Slot,
) -> Result<(), Abandoned> {
    let crashed: Vec<String> = crashes.iter().map(history::crashed).collect();
    let message = format!("its worker crashed {} times while it ran: {}", crashes.len(), crashed.join("; "));
    tracing::error!(task_id = %task.id, kind = %task.kind, message, "quarantined");
    context.metrics.quarantined.inc();
    in_hand.envelope.headers.history = Some(history::with(in_hand.envelope.headers.history.as_deref(), crashed));
    bury(context, &in_hand, &task.id, &format!("quarantined: its worker crashed {} times while it ran", crashes.len())).await?;
    let end = End::without_run(Outcome::Failed, TaskError::new("quarantined", message));
    self::end(context, in_hand, life::identity(task), end, Some(slot)).await
}

/// Refuses a task whose id is in use for another body. The id's record belongs to the other task and is left alone.
pub(crate) async fn refuse_reused_id(context: &Context, in_hand: InHand, identity: Identity) -> Result<(), Abandoned> {
    let message = "this message_id is in use for a task with another body; give each task its own id";
    bury(context, &in_hand, &identity.task_id, message).await?;
    let error = TaskError { code: "reused_id".to_owned(), message: message.to_owned(), field: Some("message_id".to_owned()) };
    let body = body_of(context, &identity, End::without_run(Outcome::Failed, error), None, None);
    // Nothing is stored of it: a reply that finds no queue stays parked.
    let reply = Final { copy: CopyOf::None, outcome: Outcome::Failed, body, attempt: identity.attempt, token: None };
    let _either = reply_with(context, &in_hand, &identity.task_id, reply).await?;
    in_hand.ack_elsewhere().await;
    Ok(())
}

/// What the store knows of a task, before anything is done with its delivery.
pub(crate) async fn look(context: &Context, identity: &Identity) -> Result<Look, Abandoned> {
    let Identity { task_id, body_hash, attempt, .. } = identity;
    match persist(&context.environment, &context.stop.now, || context.store.look(task_id, body_hash, *attempt)).await? {
        Ok(look) => Ok(look),
        Err(error) => {
            tracing::error!(%task_id, %error, "the delivery stays unacked");
            Err(Abandoned)
        }
    }
}

async fn bury(context: &Context, in_hand: &InHand, task_id: &TaskId, reason: &str) -> Result<(), Abandoned> {
    let mut envelope = onward::bare(&in_hand.envelope, task_id, &context.options.pool);
    envelope.priority = in_hand.envelope.priority.filter(|priority| *priority <= PRIORITY_MAX);
    envelope.headers.attempt = in_hand.envelope.headers.attempt;
    envelope.headers.reason = Some(reason.chars().take(Headers::TEXT_MAX / 4).collect());
    onward::send_surely(context, onward::to(Queue::Dead, envelope, in_hand.body.clone())).await
}

/// A later holder began: its outcome counts, this one is refused. The delivery waits, and then finds that holder's reply.
async fn superseded(context: &Context, in_hand: InHand, identity: &Identity, slot: Option<Slot>) -> Result<(), Abandoned> {
    context.metrics.late_outcomes.inc();
    tracing::warn!(task_id = %identity.task_id, attempt = identity.attempt, "outcome refused: a later holder began");
    if let Some(slot) = slot {
        finish(context, slot).await;
    }
    park(context, in_hand, &identity.task_id).await
}

/// Lets a delivery rest for a lease, at no cost to its task.
pub(crate) async fn park(context: &Context, in_hand: InHand, task_id: &TaskId) -> Result<(), Abandoned> {
    // A copy of it may go round already.
    if !in_hand.is_settled() {
        rest(context, &in_hand, task_id, in_hand.is_copy()).await?;
        in_hand.ack_elsewhere().await;
    }
    Ok(())
}

/// Lets a copy of a delivery rest for a lease, so that the delivery itself can be acked.
pub(crate) async fn leave_copy(context: &Context, in_hand: &InHand, task_id: &TaskId) -> Result<(), Abandoned> {
    rest(context, in_hand, task_id, true).await
}

/// Long enough for whatever goes round of a task that has begun.
const BEGAN_IN_TIME: Duration = Duration::from_secs(7 * 24 * 3_600);

async fn rest(context: &Context, in_hand: &InHand, task_id: &TaskId, copy: bool) -> Result<(), Abandoned> {
    let mut envelope = in_hand.envelope.clone();
    envelope.headers.copy = copy;
    // Every hop restarts the broker's clock: deadlines travel as headers.
    let Deadlines { start_before_ms, end_before_ms } = in_hand.deadlines;
    let began = copy && in_hand.queue != Queue::Expired;
    envelope.headers.start_before_ms = if began { Some(began_in_time(context)) } else { start_before_ms };
    envelope.headers.end_before_ms = end_before_ms;
    envelope.headers.pool = Some(context.options.pool.to_string());
    let mut outgoing = onward::returned(envelope, in_hand.body.clone(), &context.options.pool, task_id.clone(), context.now_ms());
    outgoing.target = Target::Queue(Queue::retry_after(context.options.lease));
    outgoing.envelope.expiration = Some(context.options.lease.as_millis().to_string());
    onward::send_surely(context, outgoing).await
}

/// Until when a task that has begun once must start: it began in time, so that neither a copy of it nor another attempt may expire for that.
pub(crate) fn began_in_time(context: &Context) -> u64 {
    context.now_ms() + BEGAN_IN_TIME.as_millis() as u64
}

/// An attempt of a task that is to end without a run began once, and its holder may live or be gone. A claim tells: a living holder's stands against it;
/// otherwise its token lets the store take the outcome.
async fn fence(context: &Context, in_hand: &InHand, identity: &Identity) -> Option<Slot> {
    // Its holder may live, and have yet to tell a table that was lost.
    let steady = context.table.steady(&context.options.pool).await.ok()?;
    let request = placing::request_here(context, identity, in_hand).filter(|_| steady >= context.options.lease)?;
    let Some(permit) = context.slots.take() else { return next_slot(context, request).await };
    match context.table.claim(&request).await {
        Ok(ClaimAnswer::Own(claim)) => Some(Slot { claim, permit: Some(permit) }),
        _ => None,
    }
}

/// Every slot is busy, and may be for ever: the next attempt that ends hands its slot over for a moment.
async fn next_slot(context: &Context, request: ClaimRequest) -> Option<Slot> {
    let mut line = context.slots.wait_for_claim(PRIORITY_MAX, request);
    let handed = tokio::select! {
        biased;
        handed = line.handed() => handed,
        () = context.stop.now.cancelled() => None,
        () = tokio::time::sleep(context.options.lease) => None,
    };
    let handed = match handed {
        Some(handed) => Some(handed),
        None => line.leave().await,
    };
    match handed {
        Some(Handed::Slot(permit, Some(ClaimAnswer::Own(claim)))) => Some(Slot { claim, permit: Some(permit) }),
        _ => None,
    }
}

fn body_of(context: &Context, identity: &Identity, end: End, token: Option<Token>, strategy: Option<Choice>) -> Bytes {
    let reply = Reply {
        task_id: identity.task_id.clone(),
        kind: identity.kind.clone(),
        outcome: end.outcome,
        result: end.result,
        error: end.error,
        gpu_id: token.map(|_| context.gpu_id.clone()),
        attempt: identity.attempt,
        token,
        strategy,
        timings: end.timings,
        ended_at_ms: context.now_ms(),
    };
    Bytes::from(serde_json::to_vec(&reply).expect("a reply has string keys only"))
}

/// The reply of a stored outcome: its own bytes while they are kept, else its outcome alone.
fn kept(context: &Context, task_id: &TaskId, kind: Option<Kind>, stored: Stored) -> Final {
    let copy = if stored.body.is_some() { CopyOf::Stored } else { CopyOf::Outcome };
    let body = stored.body.unwrap_or_else(|| {
        let error = TaskError::new("reply_not_kept", "the task ended before, and its reply is no longer kept; only its outcome is known");
        let reply = Reply {
            task_id: task_id.clone(),
            kind,
            outcome: stored.outcome,
            result: Value::Null,
            error: Some(error),
            gpu_id: None,
            attempt: stored.attempt,
            token: stored.token,
            strategy: None,
            timings: Timings::default(),
            ended_at_ms: context.now_ms(),
        };
        Bytes::from(serde_json::to_vec(&reply).expect("a reply has string keys only"))
    });
    Final { copy, outcome: stored.outcome, body, attempt: stored.attempt, token: stored.token }
}

/// Publishes a reply where the delivery asks for one. A reply whose queue is gone or cannot be reached is counted and parked; the stored reply remains, and is
/// sent again to a queue that can be reached later.
async fn reply_with(context: &Context, in_hand: &InHand, task_id: &TaskId, reply: Final) -> Result<Answered, Abandoned> {
    let Some(reply_to) = in_hand.envelope.reply_to.clone().filter(|name| !name.is_empty()) else { return Ok(Answered::Done) };
    let correlation_id = in_hand.envelope.correlation_id.clone().unwrap_or_else(|| task_id.to_string());
    let headers = Headers {
        traceparent: in_hand.envelope.headers.traceparent.clone(),
        outcome: Some(reply.outcome.name().to_owned()),
        attempt: Some(reply.attempt),
        token: reply.token.map(|token| token.0),
        ..Headers::default()
    };
    let envelope = Envelope {
        message_id: Some(task_id.to_string()),
        correlation_id: Some(correlation_id),
        content_type: Some("application/json".to_owned()),
        timestamp: Some(context.now_ms() / 1_000),
        headers,
        ..Envelope::default()
    };
    let outgoing = Outgoing::new(Target::ReplyTo(reply_to), envelope, reply.body);
    let started = Instant::now();
    let Err(error) = onward::publish(context, &outgoing).await? else {
        context.confirmed_after(started.elapsed());
        return Ok(Answered::Done);
    };
    let later = matches!(error, PublishError::Inaccessible { .. }) && reply.copy != CopyOf::Outcome;
    // The copies of one that was parked are not.
    if !(later && reply.copy == CopyOf::Stored) {
        context.metrics.replies_returned.inc();
        tracing::info!(%task_id, %error, later, "nobody takes the reply; it is parked, and stays in the store");
        park_reply(context, outgoing, &error).await?;
    }
    Ok(if later { Answered::NotYet } else { Answered::Done })
}

/// Keeps a reply that nobody took where an operator can find it.
async fn park_reply(context: &Context, reply: Outgoing, error: &PublishError) -> Result<(), Abandoned> {
    let mut envelope = reply.envelope;
    // A text that is too long for a property was why it could not be sent.
    envelope.correlation_id = envelope.correlation_id.filter(|text| text.len() <= Outgoing::SHORT_TEXT_MAX);
    envelope.headers.reason = Some(error.to_string().chars().take(Headers::TEXT_MAX / 4).collect());
    onward::send(context, onward::to(Queue::Parked, envelope, reply.body)).await?;
    Ok(())
}

async fn mark_published(context: &Context, task_id: &TaskId, address: &str) {
    if let Err(error) = context.store.published(task_id, address).await {
        tracing::debug!(%task_id, %error, "the publish was not noted; a redelivery would send the same reply again");
    }
}

/// Releases a slot, or hands it over to the delivery that is next in line.
pub(crate) async fn finish(context: &Context, slot: Slot) {
    let mut slot = slot;
    if let Some(permit) = &mut slot.permit {
        permit.keep_one();
    }
    loop {
        context.held.remove(&slot.claim);
        let Some(next) = slot.permit.as_ref().filter(|_| context.health.takes_tasks()).and_then(|_| context.slots.next_in_line()) else {
            if let Err(error) = context.table.release(&slot.claim).await {
                tracing::debug!(task_id = %slot.claim.task_id, %error, "not released; the claim lapses with its lease");
            }
            return;
        };
        match hand_over(context, slot, next).await {
            Some(unwanted) => slot = unwanted,
            None => return,
        }
    }
}

/// Hands a slot to a delivery in hand. Comes back with the new claim if that delivery has left the line meanwhile.
async fn hand_over(context: &Context, slot: Slot, next: NextInLine) -> Option<Slot> {
    let permit = slot.permit?;
    let answer: Result<ClaimAnswer, TableError> = context.table.hand_over(&slot.claim, &next.request).await;
    match answer {
        Ok(ClaimAnswer::Own(claim)) => {
            let handed = Handed::Slot(permit, Some(ClaimAnswer::Own(claim.clone())));
            match next.handed.send(handed) {
                Err(Handed::Slot(permit, _)) => Some(Slot { claim, permit: Some(permit) }),
                _ => None,
            }
        }
        Ok(other) => {
            drop(permit);
            let _ = next.handed.send(Handed::Answer(other));
            None
        }
        Err(error) => {
            tracing::debug!(task_id = %slot.claim.task_id, %error, "not handed over; whoever waits asks again");
            None
        }
    }
}

/// A kind as a metric's label: only kinds that this worker runs, so that a producer cannot make up labels.
fn known_kind<'a>(context: &Context, kind: Option<&'a Kind>) -> &'a str {
    kind.filter(|kind| context.executors.get(kind).is_some()).map_or("other", Kind::as_str)
}
