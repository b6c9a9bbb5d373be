//! Beginning an attempt in the store, past what crashes of earlier holders have left.
//!
//! An attempt that began and has no end was either handed back, or its worker is gone: a crash. A task with a crash is a suspect and runs alone on its GPU, so that a
//! further crash convicts nobody else; with [`crashes_max`](crate::WorkerOptions::crashes_max) of them it is quarantined.

use std::time::Duration;

use protocol::{Choice, Task, Token};
use task_store::{Begin, BeginRequest, Crash, Look, Verdict};
use tokio::time::Instant;

use crate::{
    claim::{
        begun::Unsettled,
        holder::{self, Former},
        placing::{self, Placed},
        slots::Slot,
    },
    context::Context,
    delivery::InHand,
    ports::Abandoned,
};

/// How long a stopping worker may take to note that an attempt was handed back.
pub(crate) const HAND_BACK: Duration = Duration::from_secs(2);

/// An attempt that has begun, in its slot.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) slot: Slot,
    pub(crate) choice: Choice,
    /// What refuses a late holder.
    pub(crate) token: Token,
    /// Shows it as running until it is settled.
    pub(crate) unsettled: Unsettled,
}

/// Whether an attempt began.
#[derive(Debug)]
pub(crate) enum Beginning {
    /// It did: run it.
    Begun(Attempt),
    /// It did not.
    Not(NotBegun),
}

/// Why an attempt did not begin.
#[derive(Debug)]
pub(crate) enum NotBegun {
    /// The store says why.
    Look(Look),
    /// Somebody else has the task.
    HeldElsewhere,
    /// Its queue deadline passed while it waited to run alone, or to know what became of its former holder.
    TooLate,
    /// The worker drains, or it waited for too long to run alone. Its delivery goes back.
    GivenBack,
    /// Its crashes are used up.
    Condemned(Vec<Crash>),
}

/// Begins the attempt in the store. `verdict`: what became of its former holder, if that is known already.
pub(crate) async fn begin(
    context: &Context,
    (task, in_hand): (&Task, &InHand),
    placed: Placed,
    verdict: Option<Verdict>,
) -> Result<Beginning, Abandoned> {
    let not = |why| Ok(Beginning::Not(why));
    let Placed { mut slot, choice } = placed;
    let Some(unsettled) = context.begun.add(&task.id, in_hand.id) else { return not(NotBegun::HeldElsewhere) };
    let mut request = BeginRequest {
        task_id: task.id.clone(),
        body_hash: task.body_hash.clone(),
        kind: task.kind.clone(),
        attempt: task.attempt,
        gpu_id: context.me.gpu_id.clone(),
        incarnation: context.me.incarnation.clone(),
        delivery: in_hand.id,
        alone: false,
        verdict,
        crashes_max: context.me.options.crashes_max,
    };
    loop {
        match context.ports.begin(&request).await? {
            Begin::Begun(token) => return Ok(Beginning::Begun(Attempt { slot, choice, token, unsettled })),
            Begin::Not(look) => return not(NotBegun::Look(look)),
            Begin::Condemned(crashes) => return not(NotBegun::Condemned(crashes)),
            Begin::Unfinished(former) => {
                let former = tokio::select! {
                    biased;
                    former = holder::patiently(context, in_hand, holder::look_into(context, &task.id, &former)) => former?,
                    () = placing::deadline(context, task) => return not(NotBegun::TooLate),
                };
                match former {
                    Some(Former::Over(verdict)) => request.verdict = Some(verdict),
                    Some(Former::GoesOn) => return not(NotBegun::HeldElsewhere),
                    None => return not(NotBegun::GivenBack),
                }
            }
            Begin::Suspect => {
                // Two suspects that each kept a slot would wait for each other.
                drop(slot);
                slot = match all_slots(context, task, in_hand.received).await? {
                    Alone::Slot(all) => all,
                    Alone::Not(why) => return not(why),
                };
                request.alone = true;
            }
        }
    }
}

/// What came of waiting for all slots.
enum Alone {
    Slot(Slot),
    Not(NotBegun),
}

/// Waits until nothing else runs here, and takes all slots.
async fn all_slots(context: &Context, task: &Task, received: Instant) -> Result<Alone, Abandoned> {
    let mut line = context.slots.wait_for_all(task.priority);
    let left = context.me.options.unacked.saturating_sub(received.elapsed());
    tokio::select! {
        biased;
        () = context.ports.stop.now.cancelled() => Err(Abandoned),
        slot = line.slot() => Ok(Alone::Slot(slot)),
        () = context.ports.stop.gently.cancelled() => Ok(Alone::Not(NotBegun::GivenBack)),
        () = tokio::time::sleep(left) => Ok(Alone::Not(NotBegun::GivenBack)),
        () = placing::deadline(context, task) => Ok(Alone::Not(NotBegun::TooLate)),
    }
}

/// Notes that this worker stops before the attempt has ended: it is nobody's crash.
pub(crate) async fn hand_back(context: &Context, task: &Task, token: Token) {
    let noting = context.ports.store.hand_back(&task.id, token);
    match tokio::time::timeout(HAND_BACK, noting).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(task_id = %task.id, %error, "not noted as handed back: it will count as a crash"),
        Err(_) => tracing::warn!(task_id = %task.id, "not noted as handed back in time: it will count as a crash"),
    }
}
