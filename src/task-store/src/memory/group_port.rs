//! The port for groups, on memory.

use async_trait::async_trait;
use protocol::{GroupName, GroupStatus, Outcome, TaskId, TaskState};

use super::MemoryStore;
use crate::{
    Arrival, Counted, GroupCancel, GroupStore, Join, MemberEnd, MembersPage, MembersRequest, StoreError, Submission, groups::rank,
};

impl MemoryStore {
    fn note(&self, (group, task_id): (&GroupName, &TaskId), attempt: u32, state: TaskState) {
        let (mut groups, now_ms) = self.enter_groups();
        groups.note((group, task_id), (state, rank(attempt, state)), now_ms);
    }

    fn belongs_to(&self, task_id: &TaskId, group: &GroupName) {
        let (mut state, now_ms) = self.enter();
        state.belongs_to(task_id, group, now_ms);
    }
}

#[async_trait]
impl GroupStore for MemoryStore {
    async fn join(&self, group: &GroupName, task_id: &TaskId, submission: Submission) -> Result<Join, StoreError> {
        let joined = {
            let (mut groups, now_ms) = self.enter_groups();
            groups.join((group, task_id), submission == Submission::Noted, now_ms)
        };
        if joined == Join::Member {
            self.belongs_to(task_id, group);
        }
        Ok(joined)
    }

    async fn leave(&self, group: &GroupName, task_id: &TaskId) -> Result<(), StoreError> {
        let (mut groups, now_ms) = self.enter_groups();
        groups.leave((group, task_id), now_ms);
        Ok(())
    }

    async fn arrive(&self, group: &GroupName, task_id: &TaskId, published_s: Option<u64>) -> Result<Arrival, StoreError> {
        let (mut groups, now_ms) = self.enter_groups();
        Ok(groups.arrive((group, task_id), published_s, now_ms))
    }

    fn note_begun(&self, group: &GroupName, task_id: &TaskId, attempt: u32) {
        self.note((group, task_id), attempt, TaskState::Running);
        self.belongs_to(task_id, group);
    }

    fn note_retried(&self, group: &GroupName, task_id: &TaskId, attempt: u32) {
        self.note((group, task_id), attempt, TaskState::Retrying);
    }

    async fn note_ended(&self, group: &GroupName, task_id: &TaskId, outcome: Outcome) -> Result<Counted, StoreError> {
        self.belongs_to(task_id, group);
        let (mut groups, now_ms) = self.enter_groups();
        Ok(groups.end((group, task_id), outcome, now_ms))
    }

    async fn note_reopened(&self, group: &GroupName, task_id: &TaskId) -> Result<(), StoreError> {
        let (mut groups, now_ms) = self.enter_groups();
        groups.reopen((group, task_id), now_ms);
        Ok(())
    }

    async fn cancel_all(&self, group: &GroupName) -> Result<GroupCancel, StoreError> {
        let (mut groups, now_ms) = self.enter_groups();
        Ok(groups.cancel(group, now_ms))
    }

    async fn show(&self, group: &GroupName) -> Result<Option<GroupStatus>, StoreError> {
        let (groups, now_ms) = self.enter_groups();
        Ok(groups.show(group, now_ms))
    }

    async fn members(&self, request: &MembersRequest) -> Result<Option<MembersPage>, StoreError> {
        let (groups, now_ms) = self.enter_groups();
        Ok(groups.members(request, now_ms))
    }

    async fn ends(&self, group: &GroupName, after: u64, limit: u32) -> Result<Vec<MemberEnd>, StoreError> {
        let (groups, now_ms) = self.enter_groups();
        Ok(groups.ends(group, (after, limit), now_ms))
    }

    async fn names(&self, after: Option<&GroupName>, limit: u32) -> Result<Option<Vec<GroupName>>, StoreError> {
        let (groups, now_ms) = self.enter_groups();
        Ok(groups.names(after, limit, now_ms))
    }

    async fn known(&self) -> Result<u64, StoreError> {
        let (groups, now_ms) = self.enter_groups();
        Ok(groups.known(now_ms))
    }
}
