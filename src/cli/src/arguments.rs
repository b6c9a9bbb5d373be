//! The command line.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use protocol::{Kind, Strategy, TaskId};
use service::config::Sources;

/// A fleet of GPU workers on RabbitMQ and Redis.
#[derive(Debug, Parser)]
#[command(name = "gpufleet", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 a task did not succeed, or a check found something wrong; 2 wrong usage or configuration;
3 a server is away, blocked or full, or a GPU is taken; 4 not found; 5 a time limit passed; 6 a worker's process can use its GPU no
more, a new one may.";

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Configuration file (YAML). Default: $GPUFLEET_CONFIG, else ./gpufleet.yaml if it exists
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
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
    pub(crate) fn sources(&self, more: &[String]) -> Sources {
        let urls = [("amqp.url", &self.amqp_url), ("redis.url", &self.redis_url)];
        let urls = urls.into_iter().filter_map(|(key, url)| Some(format!("{key}={}", url.as_ref()?)));
        let overrides = self.overrides.iter().cloned().chain(urls).chain(more.iter().cloned()).collect();
        Sources::of_process(self.config.clone(), overrides)
    }
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
    Submit(Submit),
    /// Shows a task's status
    Status {
        /// The task's id
        task_id: TaskId,
    },
    /// Asks for a task's end, whether it waits or runs; exit code 1 if it had ended already
    Cancel {
        /// The task's id
        task_id: TaskId,
        /// Where no task of this id has been seen, also cancels those that are submitted later
        #[arg(long)]
        ahead: bool,
    },
    /// Lets a GPU take no new tasks; what runs there ends, what waits there goes elsewhere
    Drain {
        /// The GPU: its id, the beginning of it, or its number in `gpufleet gpus`
        gpu: String,
    },
    /// Lets a drained GPU take tasks again
    Undrain {
        /// The GPU: its id, the beginning of it, or its number in `gpufleet gpus`
        gpu: String,
    },
    /// Shows, requeues or purges dead letters: messages that could not be tasks, in their original bytes
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Shows the GPUs of the pool, or all that is known of one
    Gpus(Gpus),
    /// Shows what tasks ask for and no living GPU of the pool has: kinds that nobody serves, needs that nobody fulfils
    Unserved,
    /// Shows or changes the fleet's default strategy while it runs
    #[command(subcommand)]
    Strategy(StrategyCommand),
    /// Checks or prints the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Checks servers, topology and settings, and says what they can and cannot promise
    Doctor,
    /// Prints the completion script of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
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
    /// Strategy of the tasks: round_robin, least_loaded or task_specific. Default: the configuration's
    #[arg(long)]
    pub(crate) strategy: Option<Strategy>,
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
}

/// `gpufleet gpus`.
#[derive(Debug, Args)]
pub(crate) struct Gpus {
    /// All that is known of this GPU: its id, the beginning of it, or its number in the list
    pub(crate) gpu: Option<String>,
    /// Shows them again every second, until it is interrupted
    #[arg(long)]
    pub(crate) watch: bool,
}

/// `gpufleet gateway`.
#[derive(Debug, Args)]
pub(crate) struct Gateway {
    /// Where HTTP listens. Default: the configuration's `gateway.listen`
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
}

/// `gpufleet submit`.
#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// What to run: echo, simulate, predict, …
    pub(crate) kind: Kind,
    /// The payload: JSON, @FILE, or - for standard input
    #[arg(long, default_value = "null", value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(crate) payload: String,
    /// 0 (lowest) to 9
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=9))]
    pub(crate) priority: u8,
    /// round_robin, least_loaded or task_specific. Default: the fleet's
    #[arg(long)]
    pub(crate) strategy: Option<String>,
    /// Run on this GPU and no other: its id, the beginning of it, or its number in `gpufleet gpus`
    #[arg(long, value_name = "GPU")]
    pub(crate) gpu: Option<String>,
    /// Waits for the reply and prints its result; exit code 1 if the task does not succeed
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait, in seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=2_592_000))]
    pub(crate) timeout: u64,
    /// Submits the task this many times
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    pub(crate) count: NonZeroUsize,
    /// The task's id, so that submitting again is harmless. Default: a fresh one
    #[arg(long, value_name = "ID", conflicts_with = "count")]
    pub(crate) task_id: Option<TaskId>,
    /// Longest wait in queues before the task expires, in milliseconds
    #[arg(long, value_name = "MS")]
    pub(crate) expiration_ms: Option<u64>,
}

impl Submit {
    /// How long to wait for a reply.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// `gpufleet strategy`.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum StrategyCommand {
    /// Shows the default strategy
    Get,
    /// Changes it, for the whole fleet, at once
    Set {
        /// round_robin, least_loaded or task_specific
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
        task_id: TaskId,
    },
    /// Publishes one, or all, to their pools again: a second life, with a second reply
    Requeue {
        /// The task's id; with --all, none
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        task_id: Option<TaskId>,
        /// All that are there now, at most 1,000
        #[arg(long)]
        all: bool,
    },
    /// Deletes one, or all
    Purge {
        /// The task's id; all if absent
        task_id: Option<TaskId>,
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
