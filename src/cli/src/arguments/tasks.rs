//! `gpufleet tasks`.

use clap::{Args, Subcommand};
use protocol::{GroupName, Kind, TaskState, insight::TaskFilter};

use super::parsers;

/// `gpufleet tasks`.
#[derive(Debug, Subcommand)]
pub(crate) enum TasksCommand {
    /// Lists tasks, those first that were heard of last
    #[command(
        after_help = "Examples:\n  gpufleet tasks ls --state waiting --older-than 10m\n  gpufleet tasks ls --error 'out of memory' --newer-than 1h --json"
    )]
    Ls {
        #[command(flatten)]
        filter: TaskFilterFlags,
        /// At most this many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        limit: u32,
    },
    /// Prints a line for each change of a task, until it is interrupted; on a terminal shows the tasks again every second
    #[command(after_help = "Examples:\n  gpufleet tasks watch --state running\n  gpufleet tasks watch --kind embed --json | jq .state")]
    Watch {
        #[command(flatten)]
        filter: TaskFilterFlags,
        /// Looks at this many tasks at most, those first that were heard of last
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Asks for the end of all tasks that pass the filters; says how many first, and does nothing without --yes
    #[command(after_help = "Example: gpufleet tasks cancel --kind embed --state waiting --yes")]
    Cancel(Several),
    /// Publishes the dead letters of all tasks that pass the filters again; says how many first, and does nothing without --yes
    #[command(after_help = "Example: gpufleet tasks requeue --error 'Xid 79' --newer-than 2h --yes")]
    Requeue(Several),
}

/// What is done to many tasks.
#[derive(Debug, Args)]
pub(crate) struct Several {
    #[command(flatten)]
    pub(crate) filter: TaskFilterFlags,
    /// All tasks, where no filter is given
    #[arg(long)]
    pub(crate) all: bool,
    /// Does it; where nobody can be asked, nothing is done without it
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Which tasks. All that is given must hold; of what may be repeated, any.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TaskFilterFlags {
    /// The state. May be repeated
    #[arg(long, value_parser = parsers::task_state())]
    pub(crate) state: Vec<TaskState>,
    /// The kind. May be repeated
    #[arg(long, value_parser = parsers::kind)]
    pub(crate) kind: Vec<Kind>,
    /// The priority, 0 to 9. May be repeated
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=9))]
    pub(crate) priority: Vec<u8>,
    /// The group
    #[arg(long, value_parser = parsers::group)]
    pub(crate) group: Option<GroupName>,
    /// The GPU: its id, the beginning of it, or its number in `gpufleet gpus`
    #[arg(long, value_name = "GPU")]
    pub(crate) gpu: Option<String>,
    /// The beginning of the id
    #[arg(long, value_name = "TEXT")]
    pub(crate) id_prefix: Option<String>,
    /// A part of the error's code or message, in capital or small letters
    #[arg(long, value_name = "TEXT")]
    pub(crate) error: Option<String>,
    /// First heard of at least so long ago: a number and its unit, as 10m
    #[arg(long, value_name = "TIME", value_parser = parsers::age_ms)]
    pub(crate) older_than: Option<u64>,
    /// First heard of at most so long ago
    #[arg(long, value_name = "TIME", value_parser = parsers::age_ms)]
    pub(crate) newer_than: Option<u64>,
    /// Only those whose bytes are among the dead letters
    #[arg(long)]
    pub(crate) dead: bool,
    /// Also the slices of batches
    #[arg(long)]
    pub(crate) slices: bool,
}

impl TaskFilterFlags {
    /// The filter, but for the GPU, whose name the fleet must look up.
    pub(crate) fn without_gpu(&self) -> TaskFilter {
        TaskFilter {
            state: self.state.clone(),
            kind: self.kind.clone(),
            priority: self.priority.clone(),
            group: self.group.clone(),
            gpu_id: None,
            id_prefix: self.id_prefix.clone(),
            error: self.error.clone(),
            older_than_ms: self.older_than,
            newer_than_ms: self.newer_than,
            dead: self.dead.then_some(true),
            slices: self.slices,
        }
    }
}
