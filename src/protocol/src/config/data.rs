//! Tensors on GPUs, and how they move.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `data:`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// Where each worker listens for the other workers and gateways that read and write tensors, as `host:port`; with port 0 the system chooses. Each GPU has a port of its own. `null`: tensors do not leave
    /// the worker's process. Default: `127.0.0.1:0`, which processes of the same host reach.
    pub listen: Option<String>,
    /// The host name or address that others are told, without a port. Default: the address of `listen`; where that is all addresses (`0.0.0.0`), the host's name.
    pub advertise: Option<String>,
    /// Most that tensors may take of a GPU's memory, in MB (10^6 bytes). Default: none; `gpu.multi_gpu.memory_threshold` bounds them.
    pub gpu_mb: Option<u64>,
    /// Most that tensors which were evicted from a GPU may take of its host's memory, in MB (10^6 bytes), for each GPU. 0: they are gone when they are evicted. Default: 4,096.
    pub host_mb: u64,
    /// Most that all tensors of a pool may take together, each counted once for each copy, in MB (10^6 bytes). Checked when a tensor is made and when one is copied, by what the rows say. Default: none.
    pub pool_mb: Option<u64>,
    /// Most tensors that a GPU has. Default: 1,000.
    #[schemars(range(min = 1, max = 100_000))]
    pub tensors_max: u32,
    /// How long a tensor is kept after its last use where nobody said otherwise, in ms. Default: 3,600,000 (1 h).
    #[schemars(range(min = 1_000))]
    pub ttl_ms: u64,
    /// How long a transfer may take, over all ways and tries, in ms. It gets as much more as its bytes take at 10 MB/s. Default: 30,000.
    #[schemars(range(min = 100))]
    pub transfer_timeout_ms: u64,
    /// How long a transfer may carry nothing before it counts as failed, in ms. Default: 5,000.
    #[schemars(range(min = 100))]
    pub stall_timeout_ms: u64,
    /// For how long a way that failed is left out between two GPUs, in ms; doubled with each failure, up to ten times as long. Default: 30,000.
    #[schemars(range(min = 100))]
    pub demotion_ms: u64,
    /// With how much data a worker tries the ways between its GPU and the others of its host when it starts, in MB (10^6 bytes), so that it is known how fast they are before the first task. 0: it does not. Default: 4.
    #[schemars(range(max = 1_000))]
    pub trial_mb: u32,
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            listen: Some("127.0.0.1:0".to_owned()),
            advertise: None,
            gpu_mb: None,
            host_mb: 4_096,
            pool_mb: None,
            tensors_max: 1_000,
            ttl_ms: 3_600_000,
            transfer_timeout_ms: 30_000,
            stall_timeout_ms: 5_000,
            demotion_ms: 30_000,
            trial_mb: 4,
        }
    }
}
