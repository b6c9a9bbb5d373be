//! `gpufleet submit`: everything that a task may say.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::Args;
use protocol::{
    GpuOptions, GroupName, IfExists, KeepAs, Kind, Limits, Needs, OnError, OnMissing, Strategy, TaskId, TensorName, task::ComputeCapability,
};

use super::parsers;

/// `gpufleet submit`.
#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// What to run: echo, simulate, predict, …
    #[arg(value_parser = parsers::kind)]
    pub(crate) kind: Kind,
    /// The payload: JSON, @FILE, or - for standard input
    #[arg(long, default_value = "null", value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(crate) payload: String,
    /// Sends this file along as raw bytes; may be repeated: {"$segment": 0} in the payload stands for the first file, {"$segment": 1, "dtype": "f32", "shape": [10, 100]} for
    /// numbers in the second one
    #[arg(long = "segment", value_name = "FILE", conflicts_with = "items")]
    pub(crate) segments: Vec<PathBuf>,
    /// Saves the raw bytes that the result refers to into files of this directory: segment0, segment1, …
    #[arg(long, value_name = "DIRECTORY", requires = "wait", conflicts_with_all = ["items", "count"])]
    pub(crate) save_segments: Option<PathBuf>,
    /// Submits a task for each line of this file, which is its payload; - for standard input. With --as-batch the lines are the items of one task. Prints a line of JSON for each, in the same order: its id, and with --wait what
    /// became of it. A broken line is told with its number and stops no other. The exit code is that of the worst: 2 a line is at fault, 3 the fleet is full or away, 5 no reply in
    /// time, 1 a task did not succeed
    #[arg(long, value_name = "FILE|-", conflicts_with_all = ["payload", "count"])]
    pub(crate) items: Option<String>,
    /// Prints the lines of --items as their tasks end
    #[arg(long, requires = "items", conflicts_with = "as_batch")]
    pub(crate) unordered: bool,
    /// Submits the lines of --items as one task, a batch, which may be split over several GPUs. With --wait the results are printed in the order of the lines; exit code 1 if an
    /// item fails, as if a task did
    #[arg(long, requires = "items")]
    pub(crate) as_batch: bool,
    /// What becomes of the batch if an item fails: report, the others go on; fail, the batch fails at once. Default: report
    #[arg(long, value_name = "report|fail", requires = "as_batch", value_parser = parsers::on_error())]
    pub(crate) on_error: Option<OnError>,
    /// 0 (lowest) to 9
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=9))]
    pub(crate) priority: u8,
    /// It must not start before so much time has passed: a number with ms, s, m, h or d, as 90s or 2h; at most 30d
    #[arg(long, value_name = "TIME", value_parser = parsers::delay_ms, conflicts_with = "not_before")]
    pub(crate) delay: Option<u64>,
    /// It must not start before this time, in Unix milliseconds, at most 30 days ahead
    #[arg(long, value_name = "UNIX_MS")]
    pub(crate) not_before: Option<u64>,
    /// Waits for the reply and prints its result; exit code 1 if the task does not succeed
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait for each reply, in seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=2_592_000))]
    pub(crate) timeout: u64,
    /// Shows how far the task is while its reply is waited for, on standard error
    #[arg(long, requires = "wait")]
    pub(crate) progress: bool,
    /// Prints each part of the result as it comes, as a line of JSON, before the result: what a handler yields, or the pieces of a text
    #[arg(long, requires = "wait", conflicts_with_all = ["progress", "items", "count"])]
    pub(crate) stream: bool,
    /// Submits the task this many times
    #[arg(long, default_value = "1", value_name = "N", value_parser = parsers::count)]
    pub(crate) count: NonZeroUsize,
    /// The task's id, so that submitting again is harmless. Default: a fresh one
    #[arg(long, value_name = "ID", conflicts_with = "count", value_parser = parsers::task_id)]
    pub(crate) task_id: Option<TaskId>,
    /// Counts the task in this group: `gpufleet group` watches, waits for and cancels all of it
    #[arg(long, value_name = "NAME", value_parser = parsers::group)]
    pub(crate) group: Option<GroupName>,
    /// Longest wait in queues before the task expires, in milliseconds, as AMQP's expiration says it. The shorter of it and --queue-deadline-ms counts
    #[arg(long, value_name = "MS", value_parser = parsers::limit_ms())]
    pub(crate) expiration_ms: Option<u64>,
    /// Sends the reply to this queue of the broker, which somebody has declared. Not through a gateway
    #[arg(long, value_name = "QUEUE", conflicts_with = "wait")]
    pub(crate) reply_to: Option<String>,
    /// What comes back with that reply as its correlation_id. Default: empty
    #[arg(long, value_name = "TEXT", requires = "reply_to")]
    pub(crate) correlation_id: Option<String>,
    /// W3C trace context that the task belongs to
    #[arg(long, value_name = "TRACEPARENT")]
    pub(crate) traceparent: Option<String>,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    needs: NeedsOptions,
    #[command(flatten)]
    limits: LimitsOptions,
    #[command(flatten)]
    tensors: TensorOptions,
}

/// How a GPU is chosen.
#[derive(Debug, Args)]
#[command(next_help_heading = "How a GPU is chosen")]
struct Choice {
    /// Default: the fleet's
    #[arg(long, value_parser = parsers::strategy())]
    strategy: Option<Strategy>,
    /// Run on this GPU and no other: its id, the beginning of it, or its number in `gpufleet gpus`
    #[arg(long, value_name = "GPU")]
    gpu: Option<String>,
    /// Split a batch over several GPUs. Default: the fleet's
    #[arg(long, value_name = "true|false")]
    batch_split: Option<bool>,
}

/// What a GPU must have.
#[derive(Debug, Args)]
#[command(next_help_heading = "What a GPU must have")]
struct NeedsOptions {
    /// Memory that the task will use, in MB (10^6 bytes)
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u64).range(0..=Needs::MEMORY_MB_MAX))]
    memory_mb: Option<u64>,
    /// Lowest CUDA compute capability
    #[arg(long, value_name = "MAJOR.MINOR", value_parser = parsers::capability)]
    compute_capability: Option<ComputeCapability>,
    /// A model that should be loaded already: a preference, never a condition
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
}

/// Time and attempt limits.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits of the task")]
struct LimitsOptions {
    /// Longest wait from now to its start, in milliseconds. Default: none
    #[arg(long, value_name = "MS", value_parser = parsers::limit_ms())]
    queue_deadline_ms: Option<u64>,
    /// Longest run of one attempt, in milliseconds. Default: the worker's
    #[arg(long, value_name = "MS", value_parser = parsers::limit_ms())]
    attempt_timeout_ms: Option<u64>,
    /// Longest time from now to its end, over all attempts, in milliseconds. Default: none
    #[arg(long, value_name = "MS", value_parser = parsers::limit_ms())]
    total_deadline_ms: Option<u64>,
    /// How often it may be tried, 1 to 100. Default: 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    max_attempts: Option<u32>,
}

/// Tensors that stay on GPUs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Tensors that stay on GPUs")]
struct TensorOptions {
    /// Keeps the task's output on its GPU as the tensor of this name, for other tasks to use; may be repeated, once for each output. With --items, not without --as-batch
    #[arg(long, value_name = "NAME", value_parser = parsers::tensor)]
    keep_as: Vec<TensorName>,
    /// How long what is kept is kept after its last use: a number with ms, s, m, h or d; at most 30d. Default: the worker's
    #[arg(long, value_name = "TIME", requires = "keep_as", value_parser = parsers::ttl_ms)]
    keep_ttl: Option<u64>,
    /// What becomes of a tensor that has the name already. Default: replace
    #[arg(long, value_name = "replace|fail", requires = "keep_as", value_parser = parsers::if_exists())]
    keep_if_exists: Option<IfExists>,
    /// What becomes of the task if a tensor that its payload names is nowhere: fail, or wait until it is made. Default: fail
    #[arg(long, value_name = "fail|wait", value_parser = parsers::on_missing())]
    on_missing: Option<OnMissing>,
}

impl Submit {
    /// How long to wait for a reply.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// The GPU that is to run it, as the operator named it.
    pub(crate) fn gpu(&self) -> Option<&str> {
        self.choice.gpu.as_deref()
    }

    /// How a GPU is chosen; without the one that is named, which is still to be found.
    pub(crate) fn gpu_options(&self) -> GpuOptions {
        let Choice { strategy, batch_split, .. } = &self.choice;
        GpuOptions {
            strategy: strategy.map(|strategy| strategy.name().to_owned()),
            specific_gpu_id: None,
            batch_split: *batch_split,
            model: None,
        }
    }

    /// What a GPU must have.
    pub(crate) fn needs(&self) -> Needs {
        let NeedsOptions { memory_mb, compute_capability, model } = &self.needs;
        Needs { memory_mb: *memory_mb, compute_capability: *compute_capability, model: model.clone() }
    }

    /// Its limits.
    pub(crate) fn limits(&self) -> Limits {
        let LimitsOptions { queue_deadline_ms, attempt_timeout_ms, total_deadline_ms, max_attempts } = &self.limits;
        Limits {
            queue_deadline_ms: *queue_deadline_ms,
            attempt_timeout_ms: *attempt_timeout_ms,
            total_deadline_ms: *total_deadline_ms,
            max_attempts: *max_attempts,
        }
    }

    /// Under which names its outputs stay on its GPU, if they do.
    pub(crate) fn keep_as(&self) -> Option<KeepAs> {
        let TensorOptions { keep_as, keep_ttl, keep_if_exists, .. } = &self.tensors;
        let keep = || KeepAs { names: keep_as.clone(), ttl_ms: *keep_ttl, if_exists: keep_if_exists.unwrap_or_default() };
        (!keep_as.is_empty()).then(keep)
    }

    /// What becomes of it if a tensor that it names is nowhere.
    pub(crate) fn on_missing(&self) -> OnMissing {
        self.tensors.on_missing.unwrap_or_default()
    }
}
