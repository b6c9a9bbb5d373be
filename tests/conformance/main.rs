//! One conformance suite per port; every case is listed once and runs on every back end.

#![expect(clippy::unwrap_used, reason = "a case is a function that both back ends call; its unwraps are a test's")]

mod gpu_table;
mod task_queue;
mod task_store;
