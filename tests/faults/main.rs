//! What happens when things fail: whole fleets simulated on memory under thousands of seeds, and real processes on real servers.

#![expect(clippy::unwrap_used, reason = "helpers of tests; their unwraps are a test's")]

mod simulation;
