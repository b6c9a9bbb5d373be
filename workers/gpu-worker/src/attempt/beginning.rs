//! Beginning an attempt in the store, past what crashes of earlier holders have left.
//!
//! An attempt that began and has no end was either handed back, or its worker is gone: a crash. A task with a crash is a suspect and runs alone on its GPU, so that a
//! further crash convicts nobody else; with [`crashes_max`](crate::WorkerOptions::crashes_max) of them it is quarantined.

use protocol::{Choice, Task, Token};
use task_store::{Begin, Crash, Look, Verdict};
use tokio::time::Instant;

use crate::{
    claim::{
        begun::{self, Unsettled},
        holder::{self, Former},
        placing::{self, Placed},
        slots::Slot,
    },
    context::Context,
    delivery::InHand,
    ports::Abandoned,
};

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
    let Placed { mut slot, choice, begun } = placed;
    let (unsettled, mut answered) = match begun {
        Some((unsettled, begin)) => (unsettled, Some(begin)),
        None => match context.begun.add(&task.id, in_hand.id) {
            Some(unsettled) => (unsettled, None),
            None => return not(NotBegun::HeldElsewhere),
        },
    };
    let mut request = begun::request(context, (task, in_hand), verdict);
    loop {
        let begin = match answered.take() {
            Some(begin) => begin,
            None => context.ports.begin(&request).await?,
        };
        match begin {
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
