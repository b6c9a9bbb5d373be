//! `gpufleet tensors`.

use clap::{Args, Subcommand};
use protocol::{DType, IfExists, TensorName};

use super::parsers;

/// `gpufleet tensors`.
#[derive(Debug, Subcommand)]
pub(crate) enum TensorsCommand {
    /// Lists the tensors on the pool's GPUs: what each is, who made it, and where its copies are
    Ls,
    /// Writes the bytes of a tensor into a file, or to standard output
    Get(GetTensor),
    /// Makes a tensor of the bytes of a file, or of standard input
    Put(PutTensor),
    /// Frees tensors, every copy of each; who uses one uses it to the end
    Rm {
        /// Their names
        #[arg(required = true, value_name = "NAME", value_parser = parsers::tensor)]
        names: Vec<TensorName>,
    },
}

/// `gpufleet tensors get`.
#[derive(Debug, Args)]
pub(crate) struct GetTensor {
    /// Its name
    #[arg(value_parser = parsers::tensor)]
    pub(crate) name: TensorName,
    /// The file; with the ending .npy one that NumPy loads, else the raw bytes. Default: standard output, where that is no terminal
    #[arg(long, short, value_name = "FILE|-")]
    pub(crate) output: Option<String>,
}

/// `gpufleet tensors put`.
#[derive(Debug, Args)]
pub(crate) struct PutTensor {
    /// Its name
    #[arg(value_parser = parsers::tensor)]
    pub(crate) name: TensorName,
    /// The file, or - for standard input: a .npy file, which says itself what its numbers are, or raw bytes, little-endian
    #[arg(value_name = "FILE|-")]
    pub(crate) file: String,
    /// The type of the numbers of raw bytes. Default: u8
    #[arg(long, value_parser = parsers::dtype())]
    pub(crate) dtype: Option<DType>,
    /// The sizes of the dimensions of raw bytes, as 2,3; empty: one number. Default: one dimension of all that is there
    #[arg(long, value_name = "N,N,…", value_parser = parsers::sides)]
    pub(crate) shape: Option<Sides>,
    /// The GPU: its id, the beginning of it, or its number in `gpufleet gpus`. Default: the one with the most free memory
    #[arg(long, value_name = "GPU")]
    pub(crate) gpu: Option<String>,
    /// How long it is kept after its last use: a number with ms, s, m, h or d; at most 30d. Default: the worker's
    #[arg(long, value_name = "TIME", value_parser = parsers::ttl_ms)]
    pub(crate) ttl: Option<u64>,
    /// What becomes of a tensor that has the name already. Default: replace
    #[arg(long, value_name = "replace|fail", value_parser = parsers::if_exists())]
    pub(crate) if_exists: Option<IfExists>,
}

/// The sizes of dimensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sides(pub(crate) Vec<usize>);
