//! A crash that its worker outlives: the process that an attempt ran in is gone, with all that ran there, and this worker lives.
//!
//! It is treated as a worker's own crash: it costs no attempt, the task is a suspect from now on and runs alone on its GPU, and with
//! [`crashes_max`](crate::WorkerOptions::crashes_max) crashes, the last one alone, it is quarantined. The store hears of it at once, from the life that saw it, while the row still
//! names the task: nobody has to find out that its holder is gone.
//!
//! It is no failure of the GPU either, as a worker's crash is none: a process that dies says more of what ran in it than of the GPU, whose device says itself when it is broken, and
//! a handler that keeps dying takes its kind down and not its GPU, which other kinds still use.

use std::time::Duration;

use protocol::{Kind, Task, TaskError, Token};
use task_store::{Begin, Verdict};

use super::beginning::NotBegun;
use crate::{
    claim::begun,
    context::Context,
    delivery::InHand,
    ports::Abandoned,
    steps::{self, Beside},
};

/// How long a life waits for its kind to be up again before it looks for a place: a process that is started anew at once is ready by then, and one that needs longer is
/// better waited for apart.
const RESTART: Duration = Duration::from_secs(5);

/// An attempt whose process is gone.
#[derive(Debug)]
pub(crate) struct Crashed {
    /// The token that it ran under.
    pub(crate) token: Token,
    /// How its process ended, in the executor's words.
    pub(crate) error: TaskError,
    /// How long it ran, in ms.
    pub(crate) run_ms: f64,
    /// What it took beside its work.
    pub(crate) beside: Beside,
}

/// What follows a crash.
#[derive(Debug)]
pub(crate) enum Follows {
    /// It begins anew, alone.
    Again,
    /// It does not begin again here, with the words of the crash.
    Not(NotBegun, String),
}

/// Counts the crash against its task.
///
/// Where the worker stops at once in between, the attempt is left as a worker's crash leaves it: whoever finds it judges it the same.
pub(crate) async fn record(context: &Context, (task, in_hand): (&Task, &InHand), crashed: Crashed) -> Result<Follows, Abandoned> {
    let Crashed { token, error, run_ms, beside } = crashed;
    let (task_id, kind, attempt, gpu_id) = (task.id.as_str(), task.kind.as_str(), task.attempt, context.me.gpu_id.as_str());
    context.metrics.crashes.inc();
    tracing::warn!(task_id, kind, attempt, gpu_id, error = error.message, "the process that it ran in crashed; it runs alone from now on");
    let request = begun::request(context, (task, in_hand), Some(Verdict { token, gone: true }));
    let answer = context.ports.begin(&request).await?;
    if matches!(answer, Begin::Suspect | Begin::Condemned(_)) {
        steps::crashed_here(context, (task, in_hand), (&error, run_ms, beside));
    }
    Ok(match answer {
        Begin::Suspect => Follows::Again,
        // The store has lost what it knew of the task, and the crash with it: this is a beginning without a slot. The delivery goes back, so that nothing here goes on for ever.
        Begin::Begun(token) => {
            context.ports.hand_back(&task.id, token).await;
            Follows::Not(NotBegun::GivenBack, error.message)
        }
        Begin::Not(look) => Follows::Not(NotBegun::Look(look), error.message),
        Begin::Condemned(crashes) => Follows::Not(NotBegun::Condemned(crashes), error.message),
        Begin::Unfinished(_) => Follows::Not(NotBegun::HeldElsewhere, error.message),
    })
}

/// Waits until the kind is up here, for a moment at most.
pub(crate) async fn until_up(context: &Context, kind: &Kind) -> Result<(), Abandoned> {
    let is_up = async {
        loop {
            // A kind that comes up asks for a heartbeat.
            let seen = context.signals.beats.now();
            if !context.gpu.executors.is_down(kind) {
                return;
            }
            context.signals.beats.above(seen).await;
        }
    };
    tokio::select! {
        biased;
        () = context.ports.stop.now.cancelled() => Err(Abandoned),
        () = is_up => Ok(()),
        () = context.ports.stop.gently.cancelled() => Ok(()),
        () = tokio::time::sleep(RESTART) => Ok(()),
    }
}
