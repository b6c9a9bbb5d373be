//! One GPU's worker: receive, claim, forward or run, reply, ack.
//!
//! [`GpuWorker::run`] is a worker's whole life. The life of one task is in `life.rs`, step by step; the rule for when tasks wait and when
//! slots wait is in `credits.rs`; what a worker holds in hand is in `slots.rs`. Nothing here knows which back ends it has, and clock, randomness
//! and spawning come from outside, so that whole fleets run deterministically on a paused clock.

mod beginning;
mod context;
mod credits;
mod ending;
mod health;
mod heartbeat;
mod held;
mod history;
mod intake;
mod life;
mod memory;
mod metrics;
mod mover;
mod onward;
mod persist;
mod placing;
mod pool;
mod progress;
mod reaper;
mod retrying;
mod running;
mod slots;
mod trouble;
mod worker;

pub use context::{WorkerOptions, WorkerParts};
pub use metrics::WorkerMetrics;
pub use worker::{GpuWorker, Stop, WorkerError};
