//! A task's end, counted in its group: after its record and before its reply, so that whoever has the last reply of a group finds it ended.
//!
//! A crash between record and count leads to a redelivery, which finds the record and counts the end then. A count that was made before changes nothing.

use protocol::Outcome;
use task_store::Counted;

use super::carry_out::Settling;
use crate::ports::Abandoned;

impl Settling<'_> {
    /// Counts the task's recorded end in its group, if it has one.
    pub(super) async fn count_in_group(&self, outcome: Outcome) -> Result<(), Abandoned> {
        let task_id = &self.identity.task_id;
        let Some(group) = self.in_hand.group_of(task_id) else { return Ok(()) };
        if let Counted::No(bound) = self.context.ports.ended_in_group((group, task_id), outcome).await? {
            self.context.metrics.group_members_not_counted.inc();
            tracing::debug!(%task_id, %group, %bound, "ended, and not counted in its group");
        }
        Ok(())
    }

    /// The task's id belongs to another one: under this id its group must not wait for it. If the other one is of the same group, its own notes make it a member again.
    pub(super) async fn leave_group(&self) -> Result<(), Abandoned> {
        match self.in_hand.group_of(&self.identity.task_id) {
            Some(group) => self.context.ports.leaves_group((group, &self.identity.task_id)).await,
            None => Ok(()),
        }
    }
}
