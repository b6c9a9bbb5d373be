//! What the script makes go wrong with copies.

use serde::{Deserialize, Serialize};

/// Copies of a GPU that go wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FakeCopyFault {
    /// Which ones. Default: all.
    #[serde(default)]
    pub only: Option<FakeCopies>,
    /// Those that have at least so many bytes. Default: all.
    #[serde(default)]
    pub min_bytes: usize,
    /// What happens.
    pub what: FakeTrouble,
}

/// Copies by where they go, as the GPU sees it on whose context they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FakeCopies {
    /// From the host to the GPU.
    ToGpu,
    /// From the GPU to the host.
    ToHost,
    /// Within the GPU, or from another process's memory.
    Between,
}

/// What happens to a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FakeTrouble {
    /// One bit of what arrives is flipped.
    Corrupts,
    /// It is refused with this code of CUDA, and does nothing.
    Fails(u32),
    /// It takes so much longer, in milliseconds.
    Stalls(u64),
}

impl FakeCopyFault {
    /// Whether a copy is meant.
    pub(crate) fn meets(&self, copies: FakeCopies, bytes: usize) -> bool {
        bytes >= self.min_bytes && self.only.is_none_or(|only| only == copies)
    }
}
