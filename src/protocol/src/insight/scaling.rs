//! How many workers the fleet should have.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{GpuId, PoolName};

/// How many workers would hold the objective of the wait, for autoscalers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Scaling {
    /// The pool.
    pub pool: PoolName,
    /// How many workers (GPUs) there should be now. Steady: it goes up at once, and down only after a quiet time.
    pub desired_workers: u32,
    /// How many there are that take tasks.
    pub workers: u32,
    /// The objective: how long a task should wait at most, in ms (`scaling.wait_objective_ms`).
    pub wait_objective_ms: u64,
    /// How long a task of the lowest waiting priority would wait now, by the learnt run times, in ms.
    pub expected_wait_ms: f64,
    /// Tasks that wait.
    pub waiting: u64,
    /// The work that waits, in slot-seconds, by the learnt run times.
    pub waiting_slot_seconds: f64,
    /// The work that comes each second, in slot-seconds.
    pub arriving_slot_seconds_per_second: f64,
    /// Slots of a worker, on average.
    pub slots_per_worker: f64,
    /// Why it is that number, for people.
    pub reason: String,
    /// The workers that would be missed least, the first one first: drained, then idle, then with the fewest tasks.
    pub remove_first: Vec<GpuId>,
    /// The workers that hold nothing and take nothing: they can be stopped now and cost nothing.
    pub safe_to_delete: Vec<GpuId>,
}
