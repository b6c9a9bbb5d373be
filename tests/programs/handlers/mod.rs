//! Programs of the user's as executors: real processes, started by the real binary.

mod bench;
mod checking;
mod dying;
mod running;
mod starting;
