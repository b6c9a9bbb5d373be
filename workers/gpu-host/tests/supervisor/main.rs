//! The supervisor and the lock with real processes. Shell scripts stand in for workers.

mod harness;
mod keeping;
mod locking;
mod logging;
mod orphans;
mod roles;
mod stopping;
