//! The groups of tasks, as a worker tells them. A task without a group comes here never.

use protocol::{GroupName, Outcome, Task, TaskId};
use task_store::{Arrival, Counted};

use super::{Abandoned, Ports};

impl Ports {
    /// Tells its group of a task that is about to run, if it has one; whether the whole group was cancelled, and it with it.
    pub(crate) async fn is_cancelled_with_its_group(
        &self,
        (group, task_id): (Option<&GroupName>, &TaskId),
        published_s: Option<u64>,
    ) -> Result<bool, Abandoned> {
        let Some(group) = group else { return Ok(false) };
        let arrival = self.insist(Some(task_id), || self.store.groups().arrive(group, task_id, published_s)).await?;
        Ok(arrival == Arrival::Cancelled)
    }

    /// Notes in its group that an attempt of a task began. That of a slice is one of its batch, which has but one.
    pub(crate) fn note_begun_in_group(&self, group: &GroupName, task: &Task) {
        let attempt = if task.slice().is_some() { 1 } else { task.attempt };
        self.store.groups().note_begun(group, &task.id.batch(), attempt);
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
