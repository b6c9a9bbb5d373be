//! The ways that data takes between GPUs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::GpuId;

/// A way from one GPU to another, the shortest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransferWay {
    /// Within one process.
    Local,
    /// From GPU to GPU, between two processes of a host.
    Peer,
    /// Through memory of the host that two processes share.
    Staged,
    /// A direct connection between two workers.
    Stream,
}

impl TransferWay {
    /// All of them, the shortest first.
    pub const ALL: [Self; 4] = [Self::Local, Self::Peer, Self::Staged, Self::Stream];

    /// The name on the wire and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Peer => "peer",
            Self::Staged => "staged",
            Self::Stream => "stream",
        }
    }
}

/// What a GPU knows of a way from another one to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WayView {
    /// The other GPU.
    pub from: GpuId,
    /// The way.
    pub way: TransferWay,
    /// What it carried lately, in GB/s (10^9 bytes). Absent: nothing that was large enough to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gb_s: Option<f64>,
    /// For how long it is left out, in ms: it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demoted_for_ms: Option<u64>,
    /// Why it is left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}
