//! Claims of slots, and offers of other GPUs' slots.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Choice, GpuId, Incarnation, Kind, ModelWishes, Needs, PoolName, Strategy, TaskId};

/// What refuses a late holder of a task. The store gives it out when an attempt begins: above every earlier token of that task, and not below the store's time
/// in microseconds, so that it also grows across a loss of the store. Fits a double exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Token(pub u64);

/// How many slots a worker holds, as it tells the table. The number is absolute: telling it twice changes nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holding {
    /// Slots that are held now.
    pub slots: u32,
    /// Grows with everything that a worker tells; what arrives late, after something newer, counts for nothing.
    pub number: u64,
}

/// What a worker asks of the table for one task.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimRequest {
    /// The pool whose GPUs may be chosen.
    pub pool: PoolName,
    /// The task: an offer to another GPU is made for it.
    pub task_id: TaskId,
    /// Its kind: only GPUs whose workers run it fit.
    pub kind: Kind,
    /// What the GPU must have.
    pub needs: Needs,
    /// The only GPU that will do, if any.
    pub specific_gpu_id: Option<GpuId>,
    /// The strategy that the task names, unchecked.
    pub strategy: Option<String>,
    /// The GPU whose worker asks.
    pub asker: GpuId,
    /// That worker's incarnation.
    pub incarnation: Incarnation,
    /// The slots that it holds, the one for this task included.
    pub holding: Holding,
    /// Whether one of these slots is for this task. Without one the asking GPU is not chosen.
    pub has_slot: bool,
    /// Where the claim may choose.
    pub mode: ClaimMode,
    /// What it would cost to bring the task's data to each GPU. `None`: the task names none, or all of it is as far from everywhere.
    pub data: Option<DataCosts>,
}

/// What it would cost to bring the tensors that a task names to a GPU before it runs there. By it `task_specific` chooses, weighed against the wait, and the other strategies among GPUs that are
/// equal to them.
#[derive(Debug, Clone, PartialEq)]
pub struct DataCosts {
    /// To a GPU that has none of them, in ms.
    pub elsewhere_ms: f64,
    /// To the GPUs that have some of them, in ms; less than `elsewhere_ms` each, at most [`DataCosts::GPUS_MAX`].
    pub at_ms: BTreeMap<GpuId, f64>,
}

impl DataCosts {
    /// Of how many GPUs a claim tells.
    pub const GPUS_MAX: usize = 64;

    /// What it costs to bring them to this GPU, in ms.
    #[must_use]
    pub fn to(&self, gpu_id: &GpuId) -> f64 {
        self.at_ms.get(gpu_id).copied().unwrap_or(self.elsewhere_ms)
    }
}

/// Where a claim may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClaimMode {
    /// Among all eligible GPUs of the pool, by the strategy.
    Choose,
    /// Tasks wait in the queue, so there is nothing to choose: the asking GPU if it is eligible and fits, else as `Choose`. By `task_specific` as `Choose`, too, where the task's data are clearly nearer
    /// elsewhere: they are there, or the task has its turn there, in less than half of the time that it takes to bring them here.
    TasksWaiting,
}

/// A slot of another GPU, kept free for one task until that GPU's worker takes the delivery, or the offer lapses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The pool of the GPU.
    pub pool: PoolName,
    /// The task it is made for.
    pub task_id: TaskId,
    /// The GPU.
    pub gpu_id: GpuId,
    /// The strategy that chose.
    pub choice: Choice,
}

/// The table's answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimAnswer {
    /// The asking GPU has the slot: run the task.
    Own(Choice),
    /// Another GPU was chosen, and its slot is offered for a short time: forward the task. The slot that the asker had for it counts as free.
    Other(Offer),
    /// No GPU that fits has a free slot.
    Full {
        /// The task fits the asking GPU: wait in hand for its next free slot.
        fits_here: bool,
        /// Where it does not fit here: the fitting GPU with the least work, in whose own queue it should wait.
        elsewhere: Option<GpuId>,
    },
    /// No living GPU fits.
    Unplaceable(Unplaceable),
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

/// The fleet's settings: in the table, changed while the fleet runs, carried by every heartbeat so that they outlive the table's loss. A field that a reader does not know is passed over, so
/// that workers of a newer version can join.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// What operators wish of the models that GPUs keep.
    #[serde(default, skip_serializing_if = "ModelWishes::is_empty")]
    pub models: ModelWishes,
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
            models: ModelWishes::default(),
        }
    }
}

impl Settings {
    /// These settings with another default strategy. Tasks may name it from then on, too.
    #[must_use]
    pub fn with_default_strategy(mut self, strategy: Strategy) -> Self {
        self.default_strategy = strategy;
        if !self.strategies.contains(&strategy) {
            self.strategies.push(strategy);
            self.strategies.sort();
        }
        self
    }

    /// These settings, where this GPU drains.
    #[must_use]
    pub fn with_drained(self, gpu_id: &GpuId) -> Self {
        let mut drained = self.with_undrained(gpu_id);
        drained.draining.push(gpu_id.clone());
        drained.draining.sort();
        drained
    }

    /// These settings, where this GPU does not drain.
    #[must_use]
    pub fn with_undrained(mut self, gpu_id: &GpuId) -> Self {
        self.draining.retain(|other| other != gpu_id);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draining_twice_is_draining_once() {
        let gpu_id = GpuId::new("g").expect("valid");
        let once = Settings::default().with_drained(&gpu_id);
        assert_eq!(once.draining, std::slice::from_ref(&gpu_id));
        assert_eq!(once.clone().with_drained(&gpu_id), once);
        assert_eq!(once.with_undrained(&gpu_id), Settings::default());
    }

    #[test]
    fn a_default_strategy_can_be_named_too() {
        let only = Settings { strategies: vec![Strategy::TaskSpecific], ..Settings::default() };
        let changed = only.with_default_strategy(Strategy::RoundRobin);
        assert_eq!(changed.default_strategy, Strategy::RoundRobin);
        assert_eq!(changed.strategies, [Strategy::RoundRobin, Strategy::TaskSpecific]);
    }
}
