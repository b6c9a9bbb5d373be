//! The causes, each a function that gives nothing without evidence.

mod capacity;
mod handler;
mod memory;
mod servers;
mod spread;
mod wasted;

use super::Found;
use crate::Observed;

/// A cause.
pub(super) type Cause = fn(&Observed<'_>) -> Option<Found>;

/// All of them. Of two that weigh the same the first counts.
pub(super) const ALL: [Cause; 14] = [
    capacity::no_gpus,
    servers::broker,
    servers::redis,
    handler::handler,
    capacity::unserved,
    wasted::retries,
    wasted::model_loads,
    wasted::transfers,
    memory::memory,
    spread::imbalance,
    spread::one_kind,
    spread::starvation,
    capacity::unusable_gpus,
    capacity::too_few_gpus,
];

/// From this share of the slots on they count as all busy: one is always just between two tasks.
const BUSY: f64 = 0.9;
