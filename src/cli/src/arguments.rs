//! The command line.

mod drain;
mod group;
mod handler;
mod handlers;
mod models;
mod parsers;
mod submit;
mod tasks;
mod tensors;
mod thresholds;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use protocol::{Kind, Strategy, TaskId};
use service::{
    FlagSetting,
    config::{GATEWAY_VARIABLE, Sources},
};

pub(crate) use self::{
    drain::{DrainGpus, WhichGpus},
    group::GroupCommand,
    handler::{HandlerCheck, HandlerCommand, HandlerExec},
    handlers::HandlerFlags,
    models::{ModelsCommand, OneModel},
    submit::Submit,
    tasks::{Several, TaskFilterFlags, TasksCommand},
    tensors::{GetTensor, PutTensor, Sides, TensorsCommand},
    thresholds::ThresholdsCommand,
};
use crate::{fault::Fault, fleet::GatewayUrl};

/// The commit that this program was built from; `unknown` where nobody said.
pub(crate) const BUILT_FROM: &str = env!("GPUFLEET_BUILT_FROM");
/// Version and commit.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("GPUFLEET_BUILT_FROM"), ")");

/// A fleet of GPU workers on RabbitMQ and Redis.
#[derive(Debug, Parser)]
#[command(name = "gpufleet", version = VERSION, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 a task or an item of one did not succeed, or a check found something wrong; 2 wrong usage or configuration;
3 a server is away, blocked or full, or lets nobody in, or a GPU is taken; 4 not found; 5 a time limit passed; 6 a worker's process can
use its GPU no more, a new one may; 130 interrupted while it waited for replies; 141 nobody reads the output any more.";

const TOP_KEYS: &str = "\
Keys: Tab the next panel; arrows, PgUp, PgDn, Home, End move; s sorts; Enter says why a task is where it is; d drains and u undrains the
GPU that is chosen, after a question; p pauses; q ends. Colours are off where $NO_COLOR is set.";

const DRAIN_EXAMPLES: &str = "\
Examples:
  gpufleet drain 3                                  by its number in `gpufleet gpus`
  gpufleet drain --gpu GPU-1a2b --wait --timeout 10m
  gpufleet drain --this-host --wait                 before this host's workers are stopped

With --wait: exit code 0 once all are drained, 5 when the time is over. The flag outlives the worker: `gpufleet undrain` takes it back.";

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Configuration file (YAML). Default: $GPUFLEET_CONFIG, else ./gpufleet.yaml if it exists
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A gateway, or `gpufleet up`: http://host:port. Also $GPUFLEET_URL. For the commands that submit, ask and operate, in place of the servers
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// RabbitMQ, amqp://user:password@host:5672/vhost. Also $GPUFLEET_AMQP_URL. Without it `up` is embedded
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) amqp_url: Option<String>,
    /// Redis, redis://:password@host:6379/0. Also $GPUFLEET_REDIS_URL. Without it `up` is embedded
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) redis_url: Option<String>,
    /// Sets one key of the configuration, such as worker.lease_ms=3000. May be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Prints JSON instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Common {
    /// Where the configuration comes from; `more` are settings that a command's own flags make.
    pub(crate) fn sources(&self, more: Vec<FlagSetting>) -> Sources {
        let urls = [set("--amqp-url", "amqp.url", self.amqp_url.as_ref()), set("--redis-url", "redis.url", self.redis_url.as_ref())];
        let flags = urls.into_iter().flatten().chain(more).collect();
        Sources::of_process(self.config.clone(), self.overrides.clone(), flags)
    }

    /// The gateway that the command is to talk to, if one is named. Servers that flags name come before the variable.
    pub(crate) fn gateway(&self) -> Result<Option<GatewayUrl>, Fault> {
        match (&self.url, self.names_servers()) {
            (Some(_), true) => {
                let ways = "--url names a gateway, and --amqp-url, --redis-url or --set name servers";
                return Err(Fault::Usage(format!("{ways}: give one way to the fleet")));
            }
            (Some(url), false) => return GatewayUrl::given("--url", url).map(Some).map_err(Fault::Usage),
            (None, true) => return Ok(None),
            (None, false) => {}
        }
        let named = std::env::var(GATEWAY_VARIABLE).unwrap_or_default();
        if named.is_empty() {
            return Ok(None);
        }
        GatewayUrl::given(&format!("variable {GATEWAY_VARIABLE}"), &named).map(Some).map_err(Fault::Usage)
    }

    fn names_servers(&self) -> bool {
        let sets = |key: &str| self.overrides.iter().any(|text| text.split('=').next() == Some(key));
        self.amqp_url.is_some() || self.redis_url.is_some() || sets("amqp.url") || sets("redis.url")
    }
}

/// The setting that a flag makes, if it was given.
pub(crate) fn set(flag: &'static str, key: &'static str, value: Option<impl ToString>) -> Option<FlagSetting> {
    Some(FlagSetting { flag, key, value: value?.to_string() })
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a whole fleet in this process, with simulated GPUs and no servers, and shows what it did
    Demo(Demo),
    /// Gateway and workers in one process: embedded, or on RabbitMQ and Redis with their URLs
    Up(Up),
    /// Workers, on RabbitMQ and Redis: a process for each NVIDIA GPU of this host, kept alive; or for one of them; or simulated ones
    Worker(Worker),
    /// The HTTP gateway alone, on RabbitMQ and Redis
    Gateway(Gateway),
    /// Submits tasks
    Submit(Box<Submit>),
    /// Shows a task's status
    Status {
        /// The task's id
        #[arg(value_parser = parsers::task_id)]
        task_id: TaskId,
        /// Saves the raw bytes that its result refers to into files of this directory: segment0, segment1, …
        #[arg(long, value_name = "DIRECTORY")]
        save_segments: Option<PathBuf>,
    },
    /// Prints the results of a batch's items, a line of JSON each, in order: {"result": …} or {"error": …}. While the batch runs, those that are there: exit code 0 too, with a note on standard error that says how to go on
    Results {
        /// The task's id
        #[arg(value_parser = parsers::task_id)]
        task_id: TaskId,
        /// The first item, counted from 0
        #[arg(long, value_name = "N", default_value_t = 0, value_parser = parsers::item())]
        from: u32,
    },
    /// Asks for a task's end, whether it waits or runs; exit code 1 if it had ended already
    Cancel {
        /// The task's id
        #[arg(value_parser = parsers::task_id)]
        task_id: TaskId,
        /// Where no task of this id has been seen, also cancels those that are submitted later
        #[arg(long)]
        ahead: bool,
    },
    /// Shows, waits for or cancels groups: tasks that were submitted with the same --group
    #[command(subcommand)]
    Group(GroupCommand),
    /// Shows the fleet on the whole terminal, about once a second: what holds it back, queue, GPUs, kinds, running tasks
    #[command(after_help = TOP_KEYS)]
    Top,
    /// Says why a task waits: for what, behind whom, what keeps each GPU from taking it, and when it will probably begin
    #[command(after_help = "Example: gpufleet why order-17")]
    Why {
        /// The task's id
        #[arg(value_parser = parsers::task_id_or_slice)]
        task_id: TaskId,
    },
    /// Shows the steps of a task's life: submitted, waited, began, retried, ended. Kept for two days by default (`journal.age_max_ms`), also when the log lines are long gone
    #[command(after_help = "Examples:\n  gpufleet log order-17\n  gpufleet log order-17 --json")]
    Log {
        /// The task's id
        #[arg(value_parser = parsers::task_id_or_slice)]
        task_id: TaskId,
    },
    /// Lists, watches, cancels or requeues tasks by state, kind, priority, group, GPU, age, error
    #[command(subcommand)]
    Tasks(TasksCommand),
    /// Says what holds the fleet back, with the figures that it rests on
    #[command(after_help = "Exit code 0, whatever the verdict is.\nExample: gpufleet bottleneck --json")]
    Bottleneck,
    /// Says how many workers would hold the objective of the wait (`scaling.wait_objective_ms`), and which would be missed least
    #[command(after_help = "Example: gpufleet scaling --json | jq .desired_workers")]
    Scaling,
    /// Shows what operators did: who changed what, and when
    #[command(after_help = "Example: gpufleet actions --limit 20")]
    Actions {
        /// At most this many, 1 to 1000, the latest first
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: u32,
    },
    /// Lets GPUs take no new tasks; what runs there ends, what waits there goes elsewhere
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain(DrainGpus),
    /// Lets drained GPUs take tasks again
    #[command(after_help = "Examples:\n  gpufleet undrain 3\n  gpufleet undrain --this-host")]
    Undrain(WhichGpus),
    /// Shows, requeues or purges dead letters: messages that could not be tasks, in their original bytes
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Shows, loads, unloads or pins the models that GPUs keep between tasks
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Lists, reads, makes or frees tensors: data that stays on GPUs between tasks
    #[command(subcommand)]
    Tensors(TensorsCommand),
    /// Shows the GPUs of the pool, or all that is known of one
    Gpus(Gpus),
    /// Shows the kinds that the fleet serves: what each does, on how many GPUs, and what a run takes; or all of one kind, with the schema of its payload and an example
    Kinds {
        /// All of this kind
        #[arg(value_parser = parsers::kind)]
        kind: Option<Kind>,
    },
    /// Shows what tasks ask for and no living GPU of the pool has: kinds that nobody serves, needs that nobody fulfils
    Unserved,
    /// Shows or changes the fleet's default strategy while it runs
    #[command(subcommand)]
    Strategy(StrategyCommand),
    /// Shows or changes how full a GPU may be and still take tasks, for the whole fleet, while it runs
    #[command(subcommand)]
    Thresholds(ThresholdsCommand),
    /// Checks or prints the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Checks servers, topology and settings, and says what they can and cannot promise
    Doctor,
    /// Checks a handler: a program that runs kinds of tasks in a process of its own
    #[command(subcommand)]
    Handler(HandlerCommand),
    /// Prints the completion script of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Command {
    /// Whether it talks to a fleet that runs elsewhere, which a URL can name.
    pub(crate) const fn asks_a_fleet(&self) -> bool {
        match self {
            Self::Submit(_)
            | Self::Status { .. }
            | Self::Results { .. }
            | Self::Cancel { .. }
            | Self::Group(_)
            | Self::Top
            | Self::Why { .. }
            | Self::Log { .. }
            | Self::Tasks(_)
            | Self::Bottleneck
            | Self::Scaling
            | Self::Actions { .. }
            | Self::Drain(_)
            | Self::Undrain(_)
            | Self::Dead(_)
            | Self::Gpus(_)
            | Self::Kinds { .. }
            | Self::Models(_)
            | Self::Tensors(_)
            | Self::Strategy(_)
            | Self::Thresholds(_)
            | Self::Unserved
            | Self::Doctor => true,
            Self::Demo(_)
            | Self::Up(_)
            | Self::Worker(_)
            | Self::Gateway(_)
            | Self::Config(_)
            | Self::Handler(_)
            | Self::Completions { .. } => false,
        }
    }
}

/// `gpufleet demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Simulated GPUs, 1 to 1024
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) gpus: u32,
    /// Tasks, 1 to 1,000,000
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) tasks: u32,
    /// Strategy of the tasks. Default: the configuration's
    #[arg(long, value_parser = parsers::strategy())]
    pub(crate) strategy: Option<Strategy>,
    #[command(flatten)]
    pub(crate) handlers: HandlerFlags,
}

/// `gpufleet up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Simulated GPUs. Default: the configuration's `simulated.gpus`
    #[arg(long, value_name = "N")]
    pub(crate) simulated: Option<u32>,
    /// Where HTTP listens. Default: the configuration's `gateway.listen`
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Model for `predict`: a GGUF file or a directory. Default: the configuration's `predict.model`
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) handlers: HandlerFlags,
}

/// `gpufleet worker`.
#[derive(Debug, Args)]
pub(crate) struct Worker {
    /// Serves this NVIDIA GPU of this host alone, from this one process: its UUID, the beginning of it, or its number in NVML's order
    #[arg(long, value_name = "GPU", conflicts_with = "simulated")]
    pub(crate) gpu: Option<String>,
    /// Serves this many simulated GPUs from this one process
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) simulated: Option<u32>,
    /// First part of the simulated GPUs' ids. Default: one of this process alone
    #[arg(long, value_name = "TEXT", requires = "simulated")]
    pub(crate) id_prefix: Option<String>,
    /// Model for `predict`: a GGUF file or a directory. Default: the configuration's `predict.model`
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) handlers: HandlerFlags,
}

/// `gpufleet gpus`.
#[derive(Debug, Args)]
pub(crate) struct Gpus {
    /// All that is known of this GPU: its id, the beginning of it, or its number in the list
    pub(crate) gpu: Option<String>,
    /// Shows them again every second, until it is interrupted
    #[arg(long)]
    pub(crate) watch: bool,
    /// Shows every column and whole ids, however wide that is
    #[arg(long)]
    pub(crate) wide: bool,
}

/// `gpufleet gateway`.
#[derive(Debug, Args)]
pub(crate) struct Gateway {
    /// Where HTTP listens. Default: the configuration's `gateway.listen`
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
}

/// `gpufleet strategy`.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum StrategyCommand {
    /// Shows the default strategy
    Get,
    /// Changes it, for the whole fleet, at once
    Set {
        /// The strategy of tasks that name none
        #[arg(value_parser = parsers::strategy())]
        strategy: Strategy,
    },
}

/// `gpufleet dead`.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// Lists them, with reasons
    Ls {
        /// At most this many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Shows one with its bytes
    Show {
        /// The task's id
        #[arg(value_parser = parsers::task_id)]
        task_id: TaskId,
    },
    /// Publishes one, or all, to their pools again: a second life, with a second reply
    Requeue {
        /// The task's id; with --all, none
        #[arg(required_unless_present = "all", conflicts_with = "all", value_parser = parsers::task_id)]
        task_id: Option<TaskId>,
        /// All that are there now, at most 1,000
        #[arg(long)]
        all: bool,
    },
    /// Deletes one, or all; asks before it deletes all, where somebody can be asked
    Purge {
        /// The task's id; with --all, none
        #[arg(conflicts_with = "all", value_parser = parsers::task_id)]
        task_id: Option<TaskId>,
        /// All that are there now, without asking
        #[arg(long, visible_alias = "yes")]
        all: bool,
    },
}

/// `gpufleet config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Reports every mistake of the configuration
    Check,
    /// Prints the whole configuration as it is in force, and where each value comes from; passwords are hidden
    Print,
}
