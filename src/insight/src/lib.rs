//! What the fleet's journal and table say, made out: an index of tasks, what holds the fleet back, how many workers it should have, why a task waits and until when.
//!
//! Pure: no I/O and no clock of its own. Gateways and commands feed it with steps of the journal and rows of the table.

mod forecast;
mod history;
mod index;
mod load;
mod observed;
mod overview;
#[cfg(test)]
mod samples;
mod scaling;
#[cfg(test)]
mod sketch;
mod verdict;
mod why;

pub use forecast::{begins_in_ms, expected_wait_ms, expected_waits_ms};
pub use history::{Recorder, point};
pub use index::{IndexBounds, TaskIndex};
pub use observed::{Activity, GpuNumbers, KindNumbers, Observed, PriorityNumbers, Quantiles};
pub use overview::{Judged, gpu_counts, kind_activities, overview};
pub use scaling::Planner;
pub use verdict::verdict;
pub use why::why;
