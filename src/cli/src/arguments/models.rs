//! `gpufleet models`.

use clap::{Args, Subcommand};

/// `gpufleet models`.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Lists the models in the memory of the pool's GPUs, and what could not be loaded
    Ls,
    /// Loads a model, beside the work that the GPUs have
    Load(OneModel),
    /// Takes a model out of memory, once nobody uses it
    Unload(OneModel),
    /// Loads a model and never evicts it, also after a GPU's worker was started anew
    Pin(OneModel),
    /// Lets a model be evicted again
    Unpin(OneModel),
}

/// A model, and where.
#[derive(Debug, Args)]
pub(crate) struct OneModel {
    /// Its name
    pub(crate) model: String,
    /// A GPU: its id, the beginning of it, or its number in `gpufleet gpus`. May be repeated. Default: all of the pool
    #[arg(long = "gpu", value_name = "GPU")]
    pub(crate) gpus: Vec<String>,
    /// How long to wait until the GPUs have done it, in seconds, 0 to 3600. 0: not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    pub(crate) wait: u64,
}
