//! What the task store keeps, and for how long.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `store:`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSection {
    /// How long a reply's body is kept after the task ended, in ms. Default: 600,000 (10 min).
    #[schemars(range(min = 1_000))]
    pub reply_retention_ms: u64,
    /// How long a task's outcome and digest are kept, in ms: a second copy of the task within it runs nothing. Default: 86,400,000 (1 day).
    #[schemars(range(min = 1_000))]
    pub outcome_retention_ms: u64,
    /// Bound on all kept reply bodies and results of batches' items together, in bytes. Replies are kept up to three quarters of it, beyond which outcome and digest remain; the
    /// rest is for results of batches that are not merged yet. Default: 1 GiB.
    pub reply_bytes_max: u64,
    /// Most members of a group. One more is refused at its submit; one that was published over AMQP runs and is not counted. Default: 100,000.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub group_members_max: u32,
    /// Most groups that are known at once; each is forgotten `outcome_retention_ms` after its last change. A task of one more is refused at its submit; one that was
    /// published over AMQP runs and is not counted. Default: 10,000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub groups_max: u32,
}

impl Default for StoreSection {
    fn default() -> Self {
        Self {
            reply_retention_ms: 600_000,
            outcome_retention_ms: 86_400_000,
            reply_bytes_max: 1 << 30,
            group_members_max: 100_000,
            groups_max: 10_000,
        }
    }
}
