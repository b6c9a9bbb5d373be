//! What happens when things fail: whole fleets simulated on memory under thousands of seeds, and real processes on real servers.

#![expect(clippy::print_stdout, reason = "the table of faults, for those who ask for it")]
#![expect(clippy::unwrap_used, reason = "helpers of tests; their unwraps are a test's")]

mod combinations;
mod ledger;
mod long_tasks;
mod processes;
mod rolling;
mod servers;
mod simulation;
mod workers;
