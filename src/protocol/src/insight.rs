//! What the fleet says of itself to people: lists of tasks, an overview, what holds it back, how many workers it should have, why a task waits. Bodies of the HTTP API, which commands print.

mod overview;
mod scaling;
mod task_list;
mod verdict;
mod why;

pub use overview::{GpuCounts, KindActivity, Overview, PriorityWait, StateCounts};
pub use scaling::Scaling;
pub use task_list::{TaskFilter, TaskLog, TaskPage, TaskSummary};
pub use verdict::{Evidence, Holdup, Verdict};
pub use why::{GpuObstacle, Obstacle, Why};
