//! The groups of tasks, as a worker tells them. A task without a group comes here never.

use protocol::{GroupName, Outcome, TaskId};
use task_store::{Arrival, Counted};

use super::{Abandoned, Ports};

impl Ports {
    /// Tells the group of a task that is about to run; whether a cancel of the group counts for it.
    pub(crate) async fn arrives_in_group(
        &self,
        (group, task_id): (&GroupName, &TaskId),
        published_s: Option<u64>,
    ) -> Result<Arrival, Abandoned> {
        self.insist(Some(task_id), || self.store.groups().arrive(group, task_id, published_s)).await
    }

    /// Counts the end of a task in its group. Insisted upon, as its record is: the counts of what ended are exact.
    pub(crate) async fn ended_in_group(&self, (group, task_id): (&GroupName, &TaskId), outcome: Outcome) -> Result<Counted, Abandoned> {
        self.insist(Some(task_id), || self.store.groups().note_ended(group, task_id, outcome)).await
    }

    /// Takes a task out of a group that it came in with, though its id belongs to another one.
    pub(crate) async fn leaves_group(&self, (group, task_id): (&GroupName, &TaskId)) -> Result<(), Abandoned> {
        self.insist(Some(task_id), || self.store.groups().leave(group, task_id)).await
    }
}
