//! Groups: tasks that are watched, counted, cancelled and waited for together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{GroupName, TaskId, TaskState};

/// How many members of a group are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupCounts {
    /// Not begun; a delayed task counts here.
    pub waiting: u64,
    /// An attempt runs.
    pub running: u64,
    /// Recorded as to be tried again.
    pub retrying: u64,
    /// Ended well.
    pub succeeded: u64,
    /// Ended badly.
    pub failed: u64,
    /// Cancelled, before or while they ran.
    pub cancelled: u64,
    /// Their deadline passed.
    pub expired: u64,
}

impl GroupCounts {
    /// The states that a group counts, in the order of a task's life.
    pub const STATES: [TaskState; 7] = [
        TaskState::Waiting,
        TaskState::Running,
        TaskState::Retrying,
        TaskState::Succeeded,
        TaskState::Failed,
        TaskState::Cancelled,
        TaskState::Expired,
    ];

    /// How many are in this state.
    #[must_use]
    pub const fn of(&self, state: TaskState) -> u64 {
        match state {
            TaskState::Running => self.running,
            TaskState::Retrying => self.retrying,
            TaskState::Succeeded => self.succeeded,
            TaskState::Failed => self.failed,
            TaskState::Cancelled => self.cancelled,
            TaskState::Expired => self.expired,
            // Whatever has not begun waits.
            _ => self.waiting,
        }
    }

    /// The same, to be changed.
    pub const fn of_mut(&mut self, state: TaskState) -> &mut u64 {
        match state {
            TaskState::Running => &mut self.running,
            TaskState::Retrying => &mut self.retrying,
            TaskState::Succeeded => &mut self.succeeded,
            TaskState::Failed => &mut self.failed,
            TaskState::Cancelled => &mut self.cancelled,
            TaskState::Expired => &mut self.expired,
            _ => &mut self.waiting,
        }
    }

    /// How many have not ended.
    #[must_use]
    pub const fn open(&self) -> u64 {
        self.waiting + self.running + self.retrying
    }

    /// How many there are.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.open() + self.succeeded + self.failed + self.cancelled + self.expired
    }
}

/// A group as the store has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "gpufleet group")]
pub struct GroupStatus {
    /// Its name.
    pub group: GroupName,
    /// How many of its members are in each state. Exact of those that ended; of the others it may lag behind by a moment.
    pub counts: GroupCounts,
    /// How many members it has.
    pub total: u64,
    /// Tasks that ended and are not among its members, since it had as many as it may (`store.group_members_max`). One may be counted here twice where a worker
    /// crashed at its end. Default: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_counted: u64,
    /// When the store first heard of it, in Unix milliseconds of the store's clock.
    pub first_seen_ms: u64,
    /// When it last changed, in Unix milliseconds of the store's clock.
    pub changed_ms: u64,
    /// When it was last cancelled as a whole, in Unix milliseconds of the store's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled_ms: Option<u64>,
    /// Whether all members that it has now have ended. One that is submitted later makes it go on.
    pub ended: bool,
}

impl GroupStatus {
    /// Whether all of it ended, and well, as far as it was counted.
    #[must_use]
    pub const fn all_succeeded(&self) -> bool {
        self.ended && self.counts.succeeded == self.total
    }
}

/// A task of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupMember {
    /// The task.
    pub task_id: TaskId,
    /// Where it is in its life, as the group knows.
    pub state: TaskState,
}

/// What the members of a group were when it was cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupCancelled {
    /// The group.
    pub group: GroupName,
    /// Members that had not begun, or waited for another attempt: they will be skipped. Tasks of the group that were published before and that no worker has seen yet
    /// will be too; they are not counted here.
    pub waiting: u64,
    /// Members that ran: their workers ask them to end within about a second, and end those that do not.
    pub running: u64,
    /// Members that had ended already: nothing changed.
    pub ended: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_count_of_its_own() {
        let mut counts = GroupCounts::default();
        for (number, state) in (1..).zip(GroupCounts::STATES) {
            *counts.of_mut(state) = number;
        }
        assert_eq!(GroupCounts::STATES.map(|state| counts.of(state)), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((counts.open(), counts.total()), (6, 28));
    }
}
