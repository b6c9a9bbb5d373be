//! Beginning an attempt in the store, past what crashes of earlier holders have left.
//!
//! An attempt that began and has no end was either handed back, or its worker is gone: a crash. A task with a crash is a suspect and runs alone on its GPU, so that a
//! further crash convicts nobody else; with [`crashes_max`](crate::WorkerOptions::crashes_max) of them it is quarantined.

use std::time::Duration;

use protocol::{Task, Token};
use task_store::{Begin, BeginRequest, Holder, Verdict};
use tokio::time::Instant;

use crate::{
    context::Context,
    persist::{Abandoned, Backoff, pause_or_abandon, persist},
    placing::{self, Slot},
    running::Attempt,
    slots::Handed,
};

/// How long a stopping worker may take to note that an attempt was handed back.
pub(crate) const HAND_BACK: Duration = Duration::from_secs(2);

/// Begins the attempt in the store. `None`: run it.
pub(crate) async fn begin(context: &Context, task: &Task, slot: &mut Slot, received: Instant) -> Result<Option<Attempt>, Abandoned> {
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
            Ok(Begin::Unfinished(holder)) => request.verdict = Some(judge(context, task, &holder).await?),
            Ok(Begin::Suspect) => {
                if let Some(instead) = take_all(context, task, slot, received).await? {
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

/// Whether the worker of an attempt without an end is gone. Its claim is: otherwise this worker would not hold one.
async fn judge(context: &Context, task: &Task, holder: &Holder) -> Result<Verdict, Abandoned> {
    let mut backoff = Backoff::default();
    let rows = loop {
        match context.table.rows(&context.options.pool).await {
            Ok(rows) => break rows,
            Err(error) => {
                tracing::debug!(task_id = %task.id, %error, "not known whether its last holder lives");
                pause_or_abandon(&context.stop.now, backoff.next(&context.environment)).await?;
            }
        }
    };
    let gone = !rows.iter().any(|view| view.row.incarnation == holder.incarnation);
    if gone {
        context.metrics.crashes.inc();
        tracing::warn!(task_id = %task.id, kind = %task.kind, attempt = task.attempt, crashed_on = %holder.gpu_id, "its worker crashed; it runs alone from now on");
    }
    Ok(Verdict { token: holder.token, gone })
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
