//! What the fleet remembers of its course, and what it makes of that.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `journal:`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JournalSection {
    /// Most steps of tasks that are kept, some 200 bytes each in the store; a task has two to four. 0: none are told, and lists of tasks, `why`, `log`, history and the verdict stay empty. Default: 200,000.
    #[schemars(range(max = 10_000_000))]
    pub steps_max: u64,
    /// How long steps are kept at most, in ms. Default: 172,800,000 (48 h).
    #[schemars(range(min = 60_000))]
    pub age_max_ms: u64,
    /// Most tasks that a gateway or a command holds in its index; those that changed longest ago are forgotten first. Default: 100,000.
    #[schemars(range(min = 100, max = 5_000_000))]
    pub tasks_max: u32,
    /// Most actions of operators that are kept. Default: 1,000.
    #[schemars(range(min = 1, max = 100_000))]
    pub actions_max: u32,
}

impl Default for JournalSection {
    fn default() -> Self {
        Self { steps_max: 200_000, age_max_ms: 172_800_000, tasks_max: 100_000, actions_max: 1_000 }
    }
}

/// `scaling:`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScalingSection {
    /// How long a task should wait at most: what `desired_workers` aims at, in ms. Default: 30,000.
    #[schemars(range(min = 100))]
    pub wait_objective_ms: u64,
    /// The least that is ever desired. Default: 0.
    pub workers_min: u32,
    /// The most that is ever desired. Default: 1,000.
    #[schemars(range(min = 1))]
    pub workers_max: u32,
    /// For how long fewer workers must have been enough before fewer are desired, in ms. Default: 300,000 (5 min).
    pub down_after_ms: u64,
}

impl Default for ScalingSection {
    fn default() -> Self {
        Self { wait_objective_ms: 30_000, workers_min: 0, workers_max: 1_000, down_after_ms: 300_000 }
    }
}
