//! How payloads gather that run together.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Kind;

/// `batch:`. Some kinds take several payloads in one run: those of different tasks, and the items of a task. Every task among them holds a slot, so a run has payloads of at most
/// `gpu.multi_gpu.max_concurrent_tasks_per_gpu` tasks: set that to one to two times the run that is wanted, so that the next one gathers while one is under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BatchSection {
    /// How long a payload waits for others before a run that is not full, by kind, in ms, 0 to 60,000: `{simulate: 5}`. Nothing waits while runs are under way, nor where no other
    /// task could come. Default: 0 for every kind, a run starts at once.
    pub wait_ms: BTreeMap<Kind, u64>,
    /// Most payloads of one run, by kind, at least 1, where that is to be less than what the kind itself takes; 1: each runs by itself. Default: as many as the kind takes.
    pub largest: BTreeMap<Kind, u32>,
}

impl BatchSection {
    /// The longest wait that is accepted, in ms.
    pub const WAIT_MS_MAX: u64 = 60_000;
}
