//! The port for groups, on Redis. The contracts of the functions stand at the heads of `groups/*.lua`.

use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;
use protocol::{GroupCounts, GroupMember, GroupName, GroupStatus, Outcome, TaskId, TaskState};

use super::{Arguments, RedisStore, answers::Answer};
use crate::{
    Arrival, Counted, GroupBound, GroupCancel, GroupStore, Join, MemberEnd, MembersPage, MembersRequest, StoreError, Submission,
    groups::rank,
};

/// The word that says that the group is not known, and its name not entered in the list by this caller.
const NO_GROUP: &str = "no_group";
/// Which argument of a function says whether the group may be made.
const MAY_MAKE: usize = 3;
/// How many groups one operation looks at that may be forgotten.
const LOOKED_AT: usize = 16;
/// How often a list that is full is looked through for one more name.
const LOOKS_MAX: usize = 8;

impl RedisStore {
    /// An item on a group, whose first argument is the offset of time.
    fn on_group(&self, function: &'static str, group: &GroupName) -> Arguments {
        Arguments::new(function, self.keys.group(group).to_vec()).with(self.offset_ms.load(Relaxed))
    }

    /// One that changes it.
    fn changing(&self, function: &'static str, group: &GroupName) -> Arguments {
        self.on_group(function, group).with(self.options.outcome_retention_ms())
    }

    /// One that may make it.
    fn making(&self, function: &'static str, group: &GroupName) -> Arguments {
        self.changing(function, group).with(self.options.group_members_max).with(0)
    }

    fn on_list(&self, function: &'static str) -> Arguments {
        Arguments::new(function, self.keys.groups().to_vec())
    }

    /// Runs an item that may make the group; where it has to, the group's name is entered in the list first. `None`: the list is full.
    async fn run_making(&self, operation: &'static str, group: &GroupName, item: Arguments) -> Result<Option<Answer>, StoreError> {
        let Arguments(mut item) = item;
        let answer = self.calls.run(operation, item.clone()).await?;
        if answer.word() != NO_GROUP {
            return Ok(Some(answer));
        }
        if !self.enter(group).await? {
            return Ok(None);
        }
        item.arguments[MAY_MAKE] = b"1".to_vec();
        self.calls.run(operation, item).await.map(Some)
    }

    /// Enters the group's name in the list; whether there was room, once the names of forgotten groups made way.
    async fn enter(&self, group: &GroupName) -> Result<bool, StoreError> {
        for _ in 0..LOOKS_MAX {
            let item = self.on_list("groups/enter").with(self.offset_ms.load(Relaxed)).with(self.options.outcome_retention_ms());
            let item = item.with(self.options.groups_max).with(group);
            let answer = self.calls.run("enter a group in the list", item.0).await?;
            match answer.word() {
                "entered" => return Ok(true),
                "full" => {}
                _ => return Err(answer.garbled()),
            }
            if !self.look_at_the_oldest().await? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Looks at a few groups that may be forgotten, and drops the names of those that are. Whether there was any to look at.
    async fn look_at_the_oldest(&self) -> Result<bool, StoreError> {
        let item = self.on_list("groups/due").with(self.offset_ms.load(Relaxed)).with(LOOKED_AT);
        let due = self.calls.run("find groups that may be forgotten", item.0).await?;
        for index in (0..due.len()).step_by(2) {
            let (name, until): (GroupName, String) = (due.required(index)?, due.required(index + 1)?);
            let lives_until = match self.show(&name).await? {
                Some(status) => status.changed_ms.saturating_add(self.options.outcome_retention_ms()).to_string(),
                None => String::new(),
            };
            let item = self.on_list("groups/looked").with(&name).with(until).with(lives_until);
            self.calls.run("note whether a group is forgotten", item.0).await?;
        }
        Ok(due.len() > 0)
    }

    fn note(&self, (group, task_id): (&GroupName, &TaskId), attempt: u32, state: TaskState) {
        let item = self.changing("groups/note", group).with(task_id).with(state.name()).with(rank(attempt, state));
        let calls = self.calls.clone();
        // Not put aside for a call that goes anyway: a worker whose only task runs for long makes none meanwhile.
        tokio::spawn(async move {
            if let Err(error) = calls.run("note an attempt in its group", item.0).await {
                tracing::debug!(%error, "a group shows its member as it was");
            }
        });
    }

    fn of_task(&self, task_id: &TaskId, group: &GroupName) -> Arguments {
        self.on_task("groups/of_task", task_id).with(group)
    }
}

#[async_trait]
impl GroupStore for RedisStore {
    async fn join(&self, group: &GroupName, task_id: &TaskId, submission: Submission) -> Result<Join, StoreError> {
        let item = self.making("groups/join", group).with(task_id).with(u8::from(submission == Submission::Noted));
        // Side by side, so that both travel as one call where one server has both keys.
        let of_task = self.calls.run("note a task's group", self.of_task(task_id, group).0);
        let (joined, noted) = tokio::join!(self.run_making("join a group", group, item), of_task);
        let Some(answer) = joined? else { return Ok(Join::Refused(GroupBound::Groups)) };
        noted?;
        match answer.word() {
            "member" => Ok(Join::Member),
            "full" => Ok(Join::Refused(GroupBound::Members)),
            _ => Err(answer.garbled()),
        }
    }

    async fn leave(&self, group: &GroupName, task_id: &TaskId) -> Result<(), StoreError> {
        let left = self.calls.run("leave a group", self.changing("groups/leave", group).with(task_id).0).await?;
        if left.word() == "forgotten" {
            // Not taken out of the list outright: it may be made again at this moment.
            let item = self.on_list("groups/look_soon").with(group);
            self.calls.run("look whether a group is forgotten", item.0).await?;
        }
        Ok(())
    }

    async fn arrive(&self, group: &GroupName, task_id: &TaskId, published_s: Option<u64>) -> Result<Arrival, StoreError> {
        let item = self.making("groups/arrive", group).with(task_id).with_published(published_s);
        let Some(answer) = self.run_making("tell a group of a task that came", group, item).await? else { return Ok(Arrival::Open) };
        match answer.word() {
            "open" => Ok(Arrival::Open),
            "cancelled" => Ok(Arrival::Cancelled),
            _ => Err(answer.garbled()),
        }
    }

    fn note_begun(&self, group: &GroupName, task_id: &TaskId, attempt: u32) {
        self.calls.run_quietly(self.of_task(task_id, group).0);
        self.note((group, task_id), attempt, TaskState::Running);
    }

    fn note_retried(&self, group: &GroupName, task_id: &TaskId, attempt: u32) {
        self.note((group, task_id), attempt, TaskState::Retrying);
    }

    async fn note_ended(&self, group: &GroupName, task_id: &TaskId, outcome: Outcome) -> Result<Counted, StoreError> {
        self.calls.run_quietly(self.of_task(task_id, group).0);
        let item = self.making("groups/ended", group).with(task_id).with(outcome.name());
        let Some(answer) = self.run_making("count the end of a task in its group", group, item).await? else {
            return Ok(Counted::No(GroupBound::Groups));
        };
        match answer.word() {
            "counted" => Ok(Counted::Yes),
            "full" => Ok(Counted::No(GroupBound::Members)),
            _ => Err(answer.garbled()),
        }
    }

    async fn note_reopened(&self, group: &GroupName, task_id: &TaskId) -> Result<(), StoreError> {
        self.calls.run("reopen a member of a group", self.changing("groups/reopen", group).with(task_id).0).await.map(drop)
    }

    async fn cancel_all(&self, group: &GroupName) -> Result<GroupCancel, StoreError> {
        let marked = self.run_making("cancel a group", group, self.making("groups/cancel", group)).await?;
        Ok(if marked.is_some() { GroupCancel::Marked } else { GroupCancel::TooManyGroups })
    }

    async fn show(&self, group: &GroupName) -> Result<Option<GroupStatus>, StoreError> {
        status(group, &self.calls.run("read a group", self.on_group("groups/show", group).0).await?)
    }

    async fn members(&self, request: &MembersRequest) -> Result<Option<MembersPage>, StoreError> {
        let limit = request.limit.clamp(1, MembersRequest::LIMIT_MAX);
        let item = self.on_group("groups/members", &request.group).with(request.state.map_or("", TaskState::name));
        let item = item.with(u8::from(request.cancelled)).with(request.after.as_ref().map_or("", TaskId::as_str));
        let item = item.with(limit).with(MembersRequest::LIMIT_MAX);
        page(&self.calls.run_beside("list the members of a group", item.0).await?)
    }

    async fn ends(&self, group: &GroupName, after: u64, limit: u32) -> Result<Vec<MemberEnd>, StoreError> {
        let item = self.on_group("groups/ends", group).with(after).with(limit);
        let answer = self.calls.run("list the ends of a group's members", item.0).await?;
        let read = |index: usize| -> Result<MemberEnd, StoreError> {
            let outcome = state(&answer, index + 2)?.outcome().ok_or_else(|| answer.garbled())?;
            Ok(MemberEnd { number: answer.required(index)?, task_id: answer.required(index + 1)?, outcome })
        };
        (0..answer.len()).step_by(3).map(read).collect()
    }

    async fn names(&self, after: Option<&GroupName>, limit: u32) -> Result<Option<Vec<GroupName>>, StoreError> {
        self.look_at_the_oldest().await?;
        let item = self.on_list("groups/names").with(after.map_or("", GroupName::as_str)).with(limit);
        let answer = self.calls.run_beside("list the groups", item.0).await?;
        match answer.word() {
            "names" => (1..answer.len()).map(|index| answer.required(index)).collect::<Result<Vec<_>, _>>().map(Some),
            "lost" => Ok(None),
            _ => Err(answer.garbled()),
        }
    }

    async fn known(&self) -> Result<u64, StoreError> {
        self.look_at_the_oldest().await?;
        self.calls.run("count the groups", self.on_list("groups/known").0).await?.required(0)
    }
}

/// The answer to `show`.
fn status(group: &GroupName, answer: &Answer) -> Result<Option<GroupStatus>, StoreError> {
    if answer.len() == 0 {
        return Ok(None);
    }
    let mut counts = GroupCounts::default();
    for (index, state) in (4..).zip(GroupCounts::STATES) {
        *counts.of_mut(state) = answer.optional(index)?.unwrap_or(0);
    }
    Ok(Some(GroupStatus {
        group: group.clone(),
        counts,
        total: counts.total(),
        not_counted: answer.optional(3)?.unwrap_or(0),
        first_seen_ms: answer.required(0)?,
        changed_ms: answer.required(1)?,
        cancelled_ms: answer.optional(2)?,
        ended: counts.open() == 0,
    }))
}

/// The answer to `members`.
fn page(answer: &Answer) -> Result<Option<MembersPage>, StoreError> {
    if answer.len() == 0 {
        return Ok(None);
    }
    let read = |index: usize| -> Result<GroupMember, StoreError> {
        Ok(GroupMember { task_id: answer.required(index)?, state: state(answer, index + 1)? })
    };
    let members = (1..answer.len()).step_by(2).map(read).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(MembersPage { members, next: answer.optional(0)? }))
}

/// Part `index` as the name of a state.
fn state(answer: &Answer, index: usize) -> Result<TaskState, StoreError> {
    let name: String = answer.required(index)?;
    GroupCounts::STATES.into_iter().find(|state| state.name() == name).ok_or_else(|| answer.garbled())
}
