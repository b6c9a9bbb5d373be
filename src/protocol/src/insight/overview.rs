//! The fleet at a glance.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Scaling, Verdict};
use crate::{Kind, PoolName};

/// The fleet at a glance: what an operator sees first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overview {
    /// The pool that it is of.
    pub pool: PoolName,
    /// When it was made, in Unix ms.
    pub at_ms: u64,
    /// What holds the fleet back.
    pub verdict: Verdict,
    /// How many workers it should have.
    pub scaling: Scaling,
    /// Messages ready in the pool's queue, as the broker says. Absent: the broker does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<u64>,
    /// Dead letters. Absent: the broker does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<u64>,
    /// Replies that could not be delivered. Absent: the broker does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked_replies: Option<u64>,
    /// Tasks of the index by state.
    pub tasks: StateCounts,
    /// The oldest waiting task of each priority that has one, the highest priority first.
    pub oldest_waiting: Vec<PriorityWait>,
    /// Tasks that arrived in the last minute, per second.
    pub arrived_per_s: f64,
    /// Tasks that ended in the last minute, per second.
    pub ended_per_s: f64,
    /// Attempts that failed and were followed by another in the last minute, per second.
    pub retried_per_s: f64,
    /// The pool's GPUs.
    pub gpus: GpuCounts,
    /// Kinds with work in the last 15 minutes, those with the most slot time first; at most [`Overview::KINDS_MAX`].
    pub kinds: Vec<KindActivity>,
    /// Whether each server answered a write of this gateway lately, in words; empty: all did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers_away: Vec<String>,
}

impl Overview {
    /// Of how many kinds it tells.
    pub const KINDS_MAX: usize = 50;
}

/// How many tasks of the index are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StateCounts {
    /// Not yet due.
    pub delayed: u64,
    /// Published, not begun.
    pub waiting: u64,
    /// An attempt runs.
    pub running: u64,
    /// Waits for its next attempt.
    pub retrying: u64,
    /// Ended well.
    pub succeeded: u64,
    /// Ended badly.
    pub failed: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Their deadline passed.
    pub expired: u64,
}

/// The wait of one priority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PriorityWait {
    /// The priority, 0 to 9.
    pub priority: u8,
    /// Tasks that wait, as far as the index knows them.
    pub waiting: u64,
    /// Age of the oldest of them, in ms.
    pub oldest_ms: u64,
    /// In how many ms a task of this priority that comes now would probably begin, by the learnt run times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_wait_ms: Option<f64>,
}

/// How many GPUs are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GpuCounts {
    /// Living.
    pub living: u64,
    /// Of them taking tasks now.
    pub serving: u64,
    /// Drained by an operator, or stopping, and not yet empty.
    pub draining: u64,
    /// The same, and empty: safe to delete.
    pub drained: u64,
    /// Healthy, but for now over a threshold or without the broker.
    pub blocked: u64,
    /// Quarantined or on probation.
    pub quarantined: u64,
    /// Slots.
    pub slots: u64,
    /// Of them held.
    pub held: u64,
}

/// What one kind did lately.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KindActivity {
    /// The kind.
    pub kind: Kind,
    /// Tasks that wait now, as far as the index knows them.
    pub waiting: u64,
    /// Tasks that run now.
    pub running: u64,
    /// Tasks that ended.
    pub ended: u64,
    /// Of them failed.
    pub failed: u64,
    /// Attempts that were followed by another.
    pub retried: u64,
    /// Wait from publish to begin: median, in ms.
    pub wait_p50_ms: f64,
    /// The 95th percentile.
    pub wait_p95_ms: f64,
    /// The 99th percentile.
    pub wait_p99_ms: f64,
    /// Run time: median, in ms.
    pub run_p50_ms: f64,
    /// The 95th percentile.
    pub run_p95_ms: f64,
    /// The 99th percentile.
    pub run_p99_ms: f64,
    /// Slot time that it used, in seconds.
    pub slot_seconds: f64,
}
