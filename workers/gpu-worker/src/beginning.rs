//! Beginning an attempt in the store, past what crashes of earlier holders have left.
//!
//! An attempt that began and has no end was either handed back, or its worker is gone: a crash. A task with a crash is a suspect and runs alone on its GPU, so that a
//! further crash convicts nobody else; with [`crashes_max`](crate::WorkerOptions::crashes_max) of them it is quarantined.

use std::time::Duration;

use gpu_table::TableError;
use protocol::{Claim, ClaimAnswer, Task, Token};
use task_store::{Begin, BeginRequest, Holder, Verdict};
use tokio::time::Instant;

use crate::{
    context::Context,
    intake::InHand,
    life,
    persist::{Abandoned, Backoff, pause_or_abandon, persist},
    placing::{self, Slot},
    running::Attempt,
    slots::Handed,
};

/// How long a stopping worker may take to note that an attempt was handed back.
pub(crate) const HAND_BACK: Duration = Duration::from_secs(2);

/// Begins the attempt in the store. `None`: run it.
pub(crate) async fn begin(context: &Context, task: &Task, in_hand: &InHand, slot: &mut Slot) -> Result<Option<Attempt>, Abandoned> {
    let mut gave_way = false;
    let mut request = BeginRequest {
        task_id: task.id.clone(),
        body_hash: task.body_hash.clone(),
        kind: task.kind.clone(),
        attempt: task.attempt,
        token: slot.claim.token,
        gpu_id: context.gpu_id.clone(),
        incarnation: context.incarnation.clone(),
        alone: false,
        verdict: None,
        crashes_max: context.options.crashes_max,
    };
    loop {
        match persist(&context.environment, &context.stop.now, || context.store.begin(&request)).await? {
            Ok(Begin::Begun) => return Ok(None),
            Ok(Begin::Not(look)) => return Ok(Some(Attempt::NotBegun(look))),
            Ok(Begin::Superseded) => return Ok(Some(Attempt::Superseded)),
            Ok(Begin::Unfinished(holder)) => {
                let looking = look_into(context, (task, in_hand), &holder, slot, &mut gave_way);
                match patiently(context, in_hand, looking).await? {
                    Found::Verdict(verdict) => request.verdict = Some(verdict),
                    Found::Ours => request.token = slot.claim.token,
                    Found::Instead(attempt) => return Ok(Some(attempt)),
                }
            }
            Ok(Begin::Suspect) => {
                if let Some(instead) = take_all(context, task, slot, in_hand.received).await? {
                    return Ok(Some(instead));
                }
                request.alone = true;
            }
            Ok(Begin::Condemned(crashes)) => return Ok(Some(Attempt::Condemned(crashes))),
            Err(error) => {
                tracing::error!(task_id = %task.id, %error, "the delivery stays unacked");
                return Err(Abandoned);
            }
        }
    }
}

/// What follows where another incarnation's attempt has no end.
enum Found {
    /// What became of it.
    Verdict(Verdict),
    /// Its holder had its chance: the task is this worker's, under another claim.
    Ours,
    /// What happens instead of a run.
    Instead(Attempt),
}

/// How long a look at a holder may take at least, in leases: one given back before its end would begin anew with every delivery, for ever.
const LOOK_LEASES: u32 = 4;

/// A look at the holder may take leases: a worker that drains, or a delivery that is in hand for long, does not wait for that.
async fn patiently(
    context: &Context,
    in_hand: &InHand,
    looking: impl Future<Output = Result<Found, Abandoned>>,
) -> Result<Found, Abandoned> {
    let left = context.options.unacked.saturating_sub(in_hand.received.elapsed()).max(context.options.lease * LOOK_LEASES);
    tokio::select! {
        biased;
        found = looking => found,
        () = context.stop.gently.cancelled() => Ok(Found::Instead(Attempt::GivenBack)),
        () = tokio::time::sleep(left) => Ok(Found::Instead(Attempt::GivenBack)),
    }
}

async fn look_into(
    context: &Context,
    (task, in_hand): (&Task, &InHand),
    holder: &Holder,
    slot: &mut Slot,
    gave_way: &mut bool,
) -> Result<Found, Abandoned> {
    let gone = is_gone(context, task, holder).await?;
    if gone || std::mem::replace(gave_way, true) {
        return Ok(Found::Verdict(Verdict { token: holder.token, gone }));
    }
    Ok(if give_way(context, task, in_hand, slot).await? { Found::Ours } else { Found::Instead(Attempt::Superseded) })
}

/// What became of the holder of an attempt without an end. Its claim is gone: otherwise this worker would not hold one.
enum Former {
    Lives,
    /// Another worker has taken its place on its GPU, which has only one.
    Replaced,
    /// The table is steady, and has no row of it.
    Missing,
    /// Not known before this has passed.
    NotSure(Duration),
}

async fn is_gone(context: &Context, task: &Task, holder: &Holder) -> Result<bool, Abandoned> {
    let (mut backoff, mut was_missing) = (Backoff::default(), false);
    loop {
        let pause = match look_for(context, holder).await {
            Ok(Former::Lives) => return Ok(false),
            Ok(Former::Replaced) => break,
            Ok(Former::Missing) if was_missing => break,
            // A table that fell back a little has old rows, which lapse before their workers' next heartbeat: that comes within a third of a lease.
            Ok(Former::Missing) => {
                was_missing = true;
                context.options.lease / 2
            }
            Ok(Former::NotSure(pause)) => pause,
            Err(error) => {
                tracing::debug!(task_id = %task.id, %error, "not known whether its last holder lives");
                backoff.next(&context.environment)
            }
        };
        pause_or_abandon(&context.stop.now, pause).await?;
    }
    context.metrics.crashes.inc();
    tracing::warn!(task_id = %task.id, kind = %task.kind, attempt = task.attempt, crashed_on = %holder.gpu_id, "its worker crashed; it runs alone from now on");
    Ok(true)
}

/// A row that is missing proves nothing while the table is not steady: after its loss, or a time when nobody reached it, living workers have yet to be heard of.
async fn look_for(context: &Context, holder: &Holder) -> Result<Former, TableError> {
    let (pool, lease) = (&context.options.pool, context.options.lease);
    let rows = context.table.rows(pool).await?;
    if rows.iter().any(|view| view.row.incarnation == holder.incarnation) {
        return Ok(Former::Lives);
    }
    if holder.gpu_id == context.gpu_id || rows.iter().any(|view| view.row.gpu.gpu_id == holder.gpu_id) {
        return Ok(Former::Replaced);
    }
    let steady = context.table.steady(pool).await?;
    Ok(if steady >= lease { Former::Missing } else { Former::NotSure(lease - steady) })
}

/// The holder of an attempt without an end lives, and has no claim: the table may have lost it, and this worker was faster than the holder's next heartbeat. Gives the task
/// back to it, and waits for that. Whether the task is this worker's after all: then the holder does not run it.
async fn give_way(context: &Context, task: &Task, in_hand: &InHand, slot: &mut Slot) -> Result<bool, Abandoned> {
    context.held.remove(&slot.claim);
    // One that is under way may still name the claim, and restore it.
    for _ in 0..2 {
        let seen = context.beats.now();
        context.nudge.notify_one();
        let _ = tokio::time::timeout(context.options.lease, context.beats.above(seen)).await;
    }
    if let Err(error) = context.table.release(&slot.claim).await {
        tracing::debug!(task_id = %task.id, %error, "not released; the claim lapses with its lease");
    }
    pause_or_abandon(&context.stop.now, context.options.lease).await?;
    let Some(request) = placing::request_here(context, &life::identity(task), in_hand) else { return Ok(false) };
    match persist(&context.environment, &context.stop.now, || context.table.claim(&request)).await? {
        Ok(ClaimAnswer::Own(claim)) => {
            context.held.insert(&claim, in_hand.id);
            slot.claim = Claim { choice: slot.claim.choice.clone(), ..claim };
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Waits until nothing else runs here, and takes all slots. `Some`: what happens instead.
async fn take_all(context: &Context, task: &Task, slot: &mut Slot, received: Instant) -> Result<Option<Attempt>, Abandoned> {
    // Two suspects that each kept a slot would wait for each other.
    slot.permit = None;
    let mut line = context.slots.wait_for_all(task.priority);
    let handed = tokio::select! {
        biased;
        () = context.stop.now.cancelled() => return Err(Abandoned),
        handed = line.handed() => handed,
        () = context.stop.gently.cancelled() => return Ok(Some(Attempt::GivenBack)),
        () = tokio::time::sleep(context.options.unacked.saturating_sub(received.elapsed())) => return Ok(Some(Attempt::GivenBack)),
        () = placing::deadline(context, task) => return Ok(Some(Attempt::TooLate)),
    };
    match handed {
        Some(Handed::Slot(permit, _)) => {
            slot.permit = Some(permit);
            Ok(None)
        }
        _ => Err(Abandoned),
    }
}

/// Notes that this worker stops before the attempt has ended: it is nobody's crash.
pub(crate) async fn hand_back(context: &Context, task: &Task, token: Token) {
    let noting = context.store.hand_back(&task.id, token);
    match tokio::time::timeout(HAND_BACK, noting).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(task_id = %task.id, %error, "not noted as handed back: it will count as a crash"),
        Err(_) => tracing::warn!(task_id = %task.id, "not noted as handed back in time: it will count as a crash"),
    }
}
