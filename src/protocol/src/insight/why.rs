//! Why a task waits.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{GpuId, TaskId, TaskState};

/// Why a task waits, and when it will probably run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    /// The task.
    pub task_id: TaskId,
    /// Where it is in its life.
    pub state: TaskState,
    /// One sentence for people: what it waits for, or what became of it.
    pub sentence: String,
    /// Tasks that will begin before it, as far as the index knows: of higher priority, and older ones of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u64>,
    /// The first of them, at most [`Why::AHEAD_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first_ahead: Vec<TaskId>,
    /// In how many ms it will probably begin, by the learnt run times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins_in_ms: Option<f64>,
    /// On what that rests, for people; or why it cannot be told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub forecast: String,
    /// Each living GPU of its pool, and what keeps it from taking the task now; at most [`Why::GPUS_MAX`], those that fit first.
    pub gpus: Vec<GpuObstacle>,
    /// GPUs beyond that bound.
    #[serde(default)]
    pub more_gpus: u64,
}

impl Why {
    /// How many of the tasks ahead are named.
    pub const AHEAD_MAX: usize = 10;
    /// Of how many GPUs it tells.
    pub const GPUS_MAX: usize = 64;
}

/// What keeps a GPU from taking a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuObstacle {
    /// The GPU.
    pub gpu_id: GpuId,
    /// Whether it could ever run the task.
    pub fits: bool,
    /// What is in the way now.
    pub obstacle: Obstacle,
    /// The same in words, with figures.
    pub words: String,
}

/// What is in the way of a task on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// Nothing: it will take the task as soon as the task is delivered to it.
    None,
    /// Its slots are busy.
    Full,
    /// Its worker does not run the kind.
    Kind,
    /// The kind is down there.
    KindDown,
    /// The task names another GPU.
    OtherGpu,
    /// It has less memory than the task needs, in all.
    TooSmall,
    /// The memory that the task needs is not free now.
    Memory,
    /// Its compute capability is lower than the task needs.
    Capability,
    /// It is quarantined, or on probation.
    Health,
    /// An operator drains it.
    Draining,
    /// Its worker is stopping.
    Stopping,
    /// Its worker does not reach the broker.
    NotConsuming,
    /// Its memory or its use by others is over the fleet's threshold.
    Threshold,
    /// A cause that a newer version knows.
    #[serde(other)]
    Other,
}
