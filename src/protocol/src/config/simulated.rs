//! Simulated GPUs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `simulated:`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatedSection {
    /// How many simulated GPUs `up` starts. Default: 4.
    #[schemars(range(max = 1_024))]
    pub gpus: u32,
    /// Memory of each, in MB. Default: 80,000.
    #[schemars(range(min = 1))]
    pub memory_mb: u64,
    /// Names begin with this: `<prefix>-0`, `<prefix>-1`, …. Default: `sim`.
    pub id_prefix: String,
    /// What the link between a GPU and its host carries in each direction, in GB/s (10^9 bytes). Default: 25.
    #[schemars(range(min = 0.001, max = 10_000.0))]
    pub host_link_gb_s: f64,
    /// What a link between two GPUs carries in each direction, in GB/s (10^9 bytes). 0: there are none, and data between them goes through the host. Default: 200.
    #[schemars(range(min = 0.0, max = 10_000.0))]
    pub peer_link_gb_s: f64,
    /// How many GPUs in a row are joined by NVLink, by what they say of themselves: the first so many with each other, then the next. 0: none are. Default: 0.
    #[schemars(range(max = 1_024))]
    pub nvlink_gpus: u32,
    /// How many GPUs in a row sit behind one PCI Express switch, by what they say of themselves; the others reach each other across the system. 0: none do. Default: 0. Where this and `nvlink_gpus` are 0 they say nothing of
    /// their ways.
    #[schemars(range(max = 1_024))]
    pub switch_gpus: u32,
    /// How long a copy over a link takes beside its bytes, in µs. Default: 10.
    #[schemars(range(max = 1_000_000))]
    pub link_latency_us: u64,
}

impl Default for SimulatedSection {
    fn default() -> Self {
        Self {
            gpus: 4,
            memory_mb: 80_000,
            id_prefix: "sim".to_owned(),
            host_link_gb_s: 25.0,
            peer_link_gb_s: 200.0,
            nvlink_gpus: 0,
            switch_gpus: 0,
            link_latency_us: 10,
        }
    }
}
