//! One conformance suite per port; every case is listed once and runs on every back end.

mod gpu_table;
mod task_queue;
mod task_store;
