//! One process per GPU of a host: its lock, and who keeps it alive.
//!
//! [`supervise`] keeps one worker's process per GPU alive, and [`GpuLock`] sees to it that a GPU has only one. Both deal with processes and files alone:
//! they know neither what a worker does nor how it reaches its servers, and take no part in simulations.

mod lock;
mod supervisor;

pub use lock::{GpuLock, Holder, LockError};
pub use supervisor::{ChildPlan, LogSink, SUPERVISED, Stop, SupervisorError, SupervisorOptions, supervise, supervised, supervisor_gone};
