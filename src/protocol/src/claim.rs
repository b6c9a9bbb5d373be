//! A claim: one slot of one GPU, held for one task until a time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Choice, DeliveryId, GpuId, Incarnation, Kind, Needs, PoolName, Strategy, TaskId};

/// Grows with every claim of the fleet: max(last + 1, the table's time in microseconds), so that it also grows across a loss
/// of the table, and a late holder can be refused. Fits a double exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Token(pub u64);

/// What a worker asks of the table for one task.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimRequest {
    /// The pool whose GPUs may be chosen.
    pub pool: PoolName,
    /// The task.
    pub task_id: TaskId,
    /// Its kind: only GPUs whose workers run it fit.
    pub kind: Kind,
    /// The attempt. The same attempt asked for again by the same delivery gets the same answer.
    pub attempt: u32,
    /// What the GPU must have.
    pub needs: Needs,
    /// The only GPU that will do, if any.
    pub specific_gpu_id: Option<GpuId>,
    /// The strategy that the task names, unchecked.
    pub strategy: Option<String>,
    /// The GPU whose worker asks.
    pub offered_by: GpuId,
    /// That worker's incarnation.
    pub incarnation: Incarnation,
    /// The delivery in that worker's hand.
    pub delivery: DeliveryId,
    /// Where the claim may choose.
    pub mode: ClaimMode,
}

/// Where a claim may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClaimMode {
    /// Among all eligible GPUs of the pool, by the strategy.
    Choose,
    /// Tasks wait in the queue, so there is nothing to choose: the asking GPU if it is eligible and fits, else as `Choose`.
    TasksWaiting,
    /// The asking GPU or none: the task came on that GPU's own queue, or it wants the slot that has just become free. Takes up an
    /// offer made to this GPU for this task.
    Here,
}

/// A slot that is held. Having one proves that the table gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The pool of the GPU.
    pub pool: PoolName,
    /// The task it is held for.
    pub task_id: TaskId,
    /// The attempt it is held for.
    pub attempt: u32,
    /// The GPU.
    pub gpu_id: GpuId,
    /// What refuses a late holder.
    pub token: Token,
    /// The strategy that chose, for the reply.
    pub choice: Choice,
}

/// The table's answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimAnswer {
    /// The asking GPU has the slot: run the task.
    Own(Claim),
    /// Another GPU was chosen and the slot is offered to it for a short time: forward the task.
    Other(Claim),
    /// No GPU that fits has a free slot (or, with [`ClaimMode::Here`], this one has none).
    Full {
        /// The task fits the asking GPU: wait in hand for its next free slot.
        fits_here: bool,
        /// Where it does not fit here: the fitting GPU with the least work, in whose own queue it should wait.
        elsewhere: Option<GpuId>,
    },
    /// A live claim of another incarnation or delivery holds this task: somebody else runs it.
    Held {
        /// How long that claim lives unless renewed, in ms.
        for_ms: u64,
    },
    /// No living GPU fits.
    Unplaceable(Unplaceable),
    /// With [`ClaimMode::Here`]: this GPU cannot run it now (it does not fit, drains, is unhealthy or unknown to the table). Return it to the pool.
    NotHere,
}

/// Why no living GPU fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Unplaceable {
    /// No live worker runs this kind, or none has what the task needs.
    NothingFits {
        /// What was looked for, for people.
        wanted: String,
    },
    /// The table never knew the GPU that the task names.
    GpuUnknown {
        /// The id.
        gpu_id: GpuId,
    },
    /// The GPU that the task names was known, and is gone or cannot run this task now.
    GpuAway {
        /// The id.
        gpu_id: GpuId,
    },
}

/// A claim that its worker still holds, named in a heartbeat so that the table renews or restores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldClaim {
    /// The task.
    pub task_id: TaskId,
    /// The attempt.
    pub attempt: u32,
    /// The token that the table gave.
    pub token: Token,
    /// The delivery that it was given for.
    pub delivery: DeliveryId,
}

/// The fleet's settings: in the table, changed while the fleet runs, carried by every heartbeat so that they outlive the table's loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Grows with every change; the newer one wins.
    pub version: u64,
    /// The strategy of tasks that name none.
    pub default_strategy: Strategy,
    /// The strategies that tasks may name, sorted.
    pub strategies: Vec<Strategy>,
    /// A GPU is eligible below this share of its memory in use, 0 to 1.
    pub memory_threshold: f64,
    /// A GPU is eligible below this utilisation, 0 to 1. Use 1.01 or more to switch it off.
    pub utilization_threshold: f64,
    /// The GPUs that an operator drains, sorted.
    #[serde(default)]
    pub draining: Vec<GpuId>,
}

impl Default for Settings {
    /// Version 0; `least_loaded`; all strategies; 0.9 of memory; 0.95 of utilisation; nothing drains.
    fn default() -> Self {
        Self {
            version: 0,
            default_strategy: Strategy::LeastLoaded,
            strategies: Strategy::ALL.to_vec(),
            memory_threshold: 0.9,
            utilization_threshold: 0.95,
            draining: Vec::new(),
        }
    }
}
