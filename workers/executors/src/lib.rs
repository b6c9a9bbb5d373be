//! What a kind of task does when it runs: one file or folder per kind.
//!
//! [`Executor`] is the trait; [`Executors`] is the set that one worker offers.

mod executor;

pub use executor::{Executor, Executors, Failure, Run};
