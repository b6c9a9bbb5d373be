//! `gpufleet drain` and `undrain`.

use clap::Args;

use super::parsers;

/// Which GPUs.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct WhichGpus {
    /// The GPU: its id, the beginning of it, or its number in `gpufleet gpus`
    #[arg(value_name = "GPU", conflicts_with_all = ["more", "this_host"])]
    pub(crate) gpu: Option<String>,
    /// The same by a flag; may be repeated
    #[arg(id = "more", long = "gpu", value_name = "GPU", conflicts_with = "this_host")]
    pub(crate) more: Vec<String>,
    /// All GPUs of the pool whose workers run on this host
    #[arg(long)]
    pub(crate) this_host: bool,
}

/// `gpufleet drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainGpus {
    #[command(flatten)]
    pub(crate) which: WhichGpus,
    /// Waits until they are drained: until their workers hold nothing and can be stopped without any cost
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait at most: a number and its unit
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parsers::age_ms, requires = "wait")]
    pub(crate) timeout: u64,
}
