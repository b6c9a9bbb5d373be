//! One child process per GPU, kept alive; their logs in one stream.
//!
//! A poisoned CUDA context, a crash in a driver or a leak ends one process and one GPU's work, and nobody else's. The supervisor itself touches no GPU, no
//! broker and no table: it starts, watches, restarts and stops.
//!
//! ```text
//!            ┌────────── a crash, a signal: after a pause ──────────┐
//!            ▼                                                      │
//!         starts ─────────────▶ lives ──────────────────────────▶ ended ──── exit 0: it left ────▶ left
//!            │                    │ stop                            ▲   └─── exit 2: misconfigured ─▶ left, and is named in the end
//!            │ never there        ▼                                 │
//!            ▼                 SIGTERM ─▶ SIGTERM ─▶ SIGKILL ───────┘   (a stopping supervisor starts nothing)
//!     left, and is named
//! ```
//! A child watches the other direction by itself: see [`supervisor_gone`].

use std::{ffi::OsString, io, path::PathBuf, sync::Arc, time::Duration};

use futures::future::join_all;
use protocol::{Environment, GpuId};
use tokio_util::sync::CancellationToken;

use self::{keeper::Keeper, pauses::Pauses};

mod child;
mod exit;
mod keeper;
mod label;
mod lines;
mod log;
mod orphan;
mod pauses;

pub use log::LogSink;
pub use orphan::{SUPERVISED, supervised, supervisor_gone};

/// What to run for one GPU.
#[derive(Debug, Clone)]
pub struct ChildPlan {
    /// The GPU.
    pub gpu_id: GpuId,
    /// The program's path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables that it gets in addition to those of the supervisor (`CUDA_VISIBLE_DEVICES`); [`SUPERVISED`] is set for it.
    pub variables: Vec<(OsString, OsString)>,
}

/// How a supervisor is asked to stop.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Ask the children to end, wait for them within the grace time, then kill those that are still there.
    pub gently: CancellationToken,
    /// Ask once more at once: a worker that is asked a second time hands back what it runs.
    pub now: CancellationToken,
}

/// A supervisor's settings.
#[derive(Debug, Clone)]
pub struct SupervisorOptions {
    /// The pause before the first restart; it doubles with each, and up to half of it is taken off at random. Default: 1 s.
    pub first_pause: Duration,
    /// The longest pause. Default: 60 s.
    pub longest_pause: Duration,
    /// A child that lived for so long has proved itself: its next pause is the first one again. Default: 60 s.
    pub proved_after: Duration,
    /// How long a child may take to end once it was asked; it is killed 5 s later. The grace of the child's own drain. Default: 30 s.
    pub stop_grace: Duration,
    /// Whether the log is one JSON object a line. Default: false, text.
    pub json: bool,
}

impl Default for SupervisorOptions {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            proved_after: Duration::from_secs(60),
            stop_grace: Duration::from_secs(30),
            json: false,
        }
    }
}

/// Why a supervisor ended otherwise than by leaving.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// Children that ended with exit code 2: wrong usage or configuration. No restart mends it.
    #[error(
        "keep the workers of {}: they ended with exit code 2, wrong usage or configuration; their last log lines say what",
        names(gpu_ids)
    )]
    Misconfigured {
        /// Their GPUs.
        gpu_ids: Vec<GpuId>,
    },
    /// A child's program is not there or may not be run.
    #[error("start the worker of GPU {gpu_id} with {}: {source}", program.display())]
    NotStarted {
        /// Its GPU.
        gpu_id: GpuId,
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Children that were killed and are still there: something in the kernel, most likely a driver, does not let go of them.
    #[error("end the workers of {}: they were killed and are still there", names(gpu_ids))]
    StillThere {
        /// Their GPUs.
        gpu_ids: Vec<GpuId>,
    },
    /// The system refuses the thread that writes the log.
    #[error("write the log: {source}")]
    Log {
        /// Why.
        source: io::Error,
    },
}

impl SupervisorError {
    /// Whether it is the caller's fault, and no retry mends it.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        matches!(self, Self::Misconfigured { .. } | Self::NotStarted { .. })
    }
}

fn names(gpu_ids: &[GpuId]) -> String {
    let names: Vec<&str> = gpu_ids.iter().map(GpuId::as_str).collect();
    names.join(", ")
}

/// How a plan ended.
#[derive(Debug)]
enum Leaving {
    Left,
    Misconfigured,
    NotStarted(io::Error),
    StillThere,
}

/// Keeps one child per plan alive until all have left or `stop` ends them, and writes what they print, line by line, to `sink`.
///
/// Its own events go to `tracing`, on the thread that writes to `sink`: however slow that is, exits and signals are seen. Of `stop`, `gently`
/// asks the children to end and `now` insists. Dropping the future kills the children and all that they started.
///
/// # Errors
/// [`SupervisorError`], once no child is left; of several reasons the first in its list.
pub async fn supervise(
    plans: Vec<ChildPlan>,
    stop: Stop,
    options: SupervisorOptions,
    sink: LogSink,
    environment: Environment,
) -> Result<(), SupervisorError> {
    let (log, writing) = log::open(sink).map_err(|source| SupervisorError::Log { source })?;
    let gpu_ids: Vec<&GpuId> = plans.iter().map(|plan| &plan.gpu_id).collect();
    let formats = label::formats(&gpu_ids, options.json);
    let keepers = plans.iter().zip(formats).map(|(plan, format)| {
        let keeper = Keeper {
            plan,
            format: Arc::new(format),
            stop: &stop,
            options: &options,
            environment: &environment,
            log: &log,
            pauses: Pauses::of(&options),
        };
        keeper.keep()
    });
    let leavings = join_all(keepers).await;
    drop(log);
    writing.ended().await;
    result(&plans, leavings)
}

/// All that went wrong, as one error: the first of the error's variants that there is.
fn result(plans: &[ChildPlan], leavings: Vec<Leaving>) -> Result<(), SupervisorError> {
    let who = |is: fn(&Leaving) -> bool| -> Vec<GpuId> {
        let such = plans.iter().zip(&leavings).filter(|(_, leaving)| is(leaving));
        such.map(|(plan, _)| plan.gpu_id.clone()).collect()
    };
    let misconfigured = who(|leaving| matches!(leaving, Leaving::Misconfigured));
    let still_there = who(|leaving| matches!(leaving, Leaving::StillThere));
    if !misconfigured.is_empty() {
        return Err(SupervisorError::Misconfigured { gpu_ids: misconfigured });
    }
    for (plan, leaving) in plans.iter().zip(leavings) {
        if let Leaving::NotStarted(source) = leaving {
            return Err(SupervisorError::NotStarted { gpu_id: plan.gpu_id.clone(), program: plan.program.clone(), source });
        }
    }
    if still_there.is_empty() { Ok(()) } else { Err(SupervisorError::StillThere { gpu_ids: still_there }) }
}
