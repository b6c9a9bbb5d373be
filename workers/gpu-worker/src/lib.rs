//! One GPU's worker: receive, claim, forward or run, reply, ack.
//!
//! [`GpuWorker::run`] is a worker's whole life. The life of one task is in `life.rs`: decide what becomes of a delivery (`delivery/`, `batch/`, `claim/`, `attempt/`), then carry it
//! out (`settle/`). The rule for when tasks wait and when slots wait is in `delivery/credits.rs`; a worker's slots, and what the table hears of them, in `claim/slots.rs`; what
//! tensors a task asks for, and where they are, in `data/`.
//! Nothing here knows which back ends it has, and clock, randomness
//! and spawning come from outside, so that whole fleets run deterministically on a paused clock.

mod attempt;
mod batch;
mod claim;
mod context;
mod data;
mod date;
mod delivery;
mod disposition;
mod fleet;
mod gpu;
mod life;
mod me;
mod metrics;
mod options;
mod outage;
mod ports;
mod receiving;
mod replies;
mod settle;
mod steps;
mod traces;
mod unserved_now;
mod worker;

pub use batch::cutting;
pub use metrics::WorkerMetrics;
pub use options::{WorkerOptions, WorkerParts};
pub use worker::{GpuWorker, Stop, WorkerError};
