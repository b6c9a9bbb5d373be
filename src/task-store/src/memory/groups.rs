//! All groups and their members. The Redis back end keeps the same (`redis/groups/prelude.lua`).

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

use protocol::{GroupCounts, GroupMember, GroupName, GroupStatus, Outcome, TaskId, TaskState};

use super::record::CancelMark;
use crate::{Arrival, Counted, GroupBound, GroupCancel, Join, MemberEnd, MembersPage, MembersRequest, StoreOptions};

/// A member of a group, by both names.
type Named<'a> = (&'a GroupName, &'a TaskId);

/// What the lock protects.
#[derive(Debug)]
pub struct Groups {
    options: StoreOptions,
    groups: BTreeMap<GroupName, Group>,
}

/// One group.
#[derive(Debug, Default)]
struct Group {
    first_seen_ms: u64,
    changed_ms: u64,
    /// When it was last cancelled as a whole.
    cancelled_ms: Option<u64>,
    /// How often it was cancelled: a cancel counts for members that joined before it.
    cancels: u64,
    not_counted: u64,
    counts: GroupCounts,
    members: BTreeMap<TaskId, Member>,
    /// The members that ended, by the number of their end.
    ended: BTreeMap<u64, TaskId>,
    /// The last such number.
    ends: u64,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    state: TaskState,
    /// Of the last note before its end: an earlier one that comes later changes nothing.
    rank: u64,
    /// How many cancels the group had when it joined.
    joined_at: u64,
    /// The number of its end.
    end: Option<u64>,
}

impl Member {
    fn new(state: TaskState, rank: u64, joined_at: u64) -> Self {
        Self { state, rank, joined_at, end: None }
    }
}

impl Group {
    fn status(&self, group: &GroupName) -> GroupStatus {
        GroupStatus {
            group: group.clone(),
            counts: self.counts,
            total: self.counts.total(),
            not_counted: self.not_counted,
            first_seen_ms: self.first_seen_ms,
            changed_ms: self.changed_ms,
            cancelled_ms: self.cancelled_ms,
            ended: self.counts.open() == 0,
        }
    }

    /// Puts a member into its state, and counts it there.
    fn place(&mut self, task_id: &TaskId, member: Member, now_ms: u64) {
        self.changed_ms = now_ms;
        self.take_out(task_id);
        let mut member = member;
        if member.state.ended() {
            self.ends += 1;
            self.ended.insert(self.ends, task_id.clone());
            member.end = Some(self.ends);
        }
        *self.counts.of_mut(member.state) += 1;
        self.members.insert(task_id.clone(), member);
    }

    fn take_out(&mut self, task_id: &TaskId) {
        let Some(before) = self.members.remove(task_id) else { return };
        *self.counts.of_mut(before.state) -= 1;
        if let Some(end) = before.end {
            self.ended.remove(&end);
        }
    }

    /// Whether the last cancel counts for a task that was published then, and that joins only now.
    fn cancel_reaches(&self, published_s: Option<u64>, now_ms: u64) -> bool {
        self.cancelled_ms.is_some_and(|at_ms| CancelMark { at_ms, unseen: true }.counts(published_s, now_ms))
    }
}

impl Groups {
    pub fn new(options: StoreOptions) -> Self {
        Self { options, groups: BTreeMap::new() }
    }

    pub fn clear(&mut self) {
        self.groups.clear();
    }

    fn get(&self, name: &GroupName, now_ms: u64) -> Option<&Group> {
        self.groups.get(name).filter(|group| lives(group, self.options, now_ms))
    }

    fn get_mut(&mut self, name: &GroupName, now_ms: u64) -> Option<&mut Group> {
        let options = self.options;
        self.groups.get_mut(name).filter(|group| lives(group, options, now_ms))
    }

    fn member(&self, (name, task_id): Named<'_>, now_ms: u64) -> Option<Member> {
        self.get(name, now_ms)?.members.get(task_id).copied()
    }

    /// The group, made if it is not known.
    fn make(&mut self, name: &GroupName, now_ms: u64) -> Result<&mut Group, GroupBound> {
        let options = self.options;
        if self.get(name, now_ms).is_none() {
            self.groups.remove(name);
            if self.groups.len() >= options.groups_max as usize {
                self.groups.retain(|_, group| lives(group, options, now_ms));
            }
            if self.groups.len() >= options.groups_max as usize {
                return Err(GroupBound::Groups);
            }
        }
        let fresh = || Group { first_seen_ms: now_ms, changed_ms: now_ms, ..Group::default() };
        Ok(self.groups.entry(name.clone()).or_insert_with(fresh))
    }

    /// The group, if it has room for one more member.
    fn room(&mut self, name: &GroupName, now_ms: u64) -> Result<&mut Group, GroupBound> {
        let members_max = self.options.group_members_max as usize;
        let group = self.make(name, now_ms)?;
        if group.members.len() >= members_max { Err(GroupBound::Members) } else { Ok(group) }
    }

    pub fn join(&mut self, (name, task_id): Named<'_>, fresh: bool, now_ms: u64) -> Join {
        let group = match self.member((name, task_id), now_ms) {
            Some(member) if !(fresh && member.state.ended()) => return Join::Member,
            Some(_) => self.make(name, now_ms),
            None => self.room(name, now_ms),
        };
        match group {
            Ok(group) => {
                let member = Member::new(TaskState::Waiting, 0, group.cancels);
                group.place(task_id, member, now_ms);
                Join::Member
            }
            Err(bound) => Join::Refused(bound),
        }
    }

    pub fn leave(&mut self, (name, task_id): Named<'_>, now_ms: u64) {
        let unbegun = |member: Member| member.state == TaskState::Waiting && member.rank == 0;
        if !self.member((name, task_id), now_ms).is_some_and(unbegun) {
            return;
        }
        let Some(group) = self.get_mut(name, now_ms) else { return };
        group.take_out(task_id);
        group.changed_ms = now_ms;
        if group.members.is_empty() && group.cancelled_ms.is_none() && group.not_counted == 0 {
            self.groups.remove(name);
        }
    }

    pub fn arrive(&mut self, (name, task_id): Named<'_>, published_s: Option<u64>, now_ms: u64) -> Arrival {
        if let Some(member) = self.member((name, task_id), now_ms) {
            let cancels = self.get(name, now_ms).map_or(0, |group| group.cancels);
            let cancelled = !member.state.ended() && member.joined_at < cancels;
            return if cancelled { Arrival::Cancelled } else { Arrival::Open };
        }
        let cancelled = self.get(name, now_ms).is_some_and(|group| group.cancel_reaches(published_s, now_ms));
        if let Ok(group) = self.room(name, now_ms) {
            let joined_at = if cancelled { group.cancels - 1 } else { group.cancels };
            group.place(task_id, Member::new(TaskState::Waiting, 0, joined_at), now_ms);
        }
        if cancelled { Arrival::Cancelled } else { Arrival::Open }
    }

    pub fn note(&mut self, (name, task_id): Named<'_>, (state, rank): (TaskState, u64), now_ms: u64) {
        let Some(member) = self.member((name, task_id), now_ms) else { return };
        if member.state.ended() || rank <= member.rank {
            return;
        }
        if let Some(group) = self.get_mut(name, now_ms) {
            group.place(task_id, Member { state, rank, ..member }, now_ms);
        }
    }

    pub fn end(&mut self, (name, task_id): Named<'_>, outcome: Outcome, now_ms: u64) -> Counted {
        let known = self.member((name, task_id), now_ms);
        if known.is_some_and(|member| member.state.ended()) {
            return Counted::Yes;
        }
        let group = if known.is_some() { self.make(name, now_ms) } else { self.room(name, now_ms) };
        match group {
            Ok(group) => {
                let joined_at = known.map_or(group.cancels, |member| member.joined_at);
                group.place(task_id, Member::new(outcome.into(), 0, joined_at), now_ms);
                Counted::Yes
            }
            Err(bound) => {
                if let Some(group) = self.get_mut(name, now_ms) {
                    group.not_counted += 1;
                    group.changed_ms = now_ms;
                }
                Counted::No(bound)
            }
        }
    }

    pub fn reopen(&mut self, (name, task_id): Named<'_>, now_ms: u64) {
        if !self.member((name, task_id), now_ms).is_some_and(|member| member.state.ended()) {
            return;
        }
        if let Some(group) = self.get_mut(name, now_ms) {
            let member = Member::new(TaskState::Waiting, 0, group.cancels);
            group.place(task_id, member, now_ms);
        }
    }

    pub fn cancel(&mut self, name: &GroupName, now_ms: u64) -> GroupCancel {
        let Ok(group) = self.make(name, now_ms) else { return GroupCancel::TooManyGroups };
        group.cancels += 1;
        group.cancelled_ms = Some(now_ms);
        group.changed_ms = now_ms;
        GroupCancel::Marked
    }

    pub fn show(&self, name: &GroupName, now_ms: u64) -> Option<GroupStatus> {
        self.get(name, now_ms).map(|group| group.status(name))
    }

    pub fn members(&self, request: &MembersRequest, now_ms: u64) -> Option<MembersPage> {
        let group = self.get(&request.group, now_ms)?;
        let limit = request.limit.clamp(1, MembersRequest::LIMIT_MAX) as usize;
        let begin = request.after.as_ref().map_or(Unbounded, Excluded);
        let wanted = |member: &Member| {
            request.state.is_none_or(|state| member.state == state) && (!request.cancelled || member.joined_at < group.cancels)
        };
        let mut page = MembersPage::default();
        let mut looked_at = 0;
        let mut rest = group.members.range::<TaskId, _>((begin, Unbounded)).peekable();
        while looked_at < MembersRequest::LIMIT_MAX as usize && page.members.len() < limit {
            let Some((task_id, member)) = rest.next() else { break };
            looked_at += 1;
            if wanted(member) {
                page.members.push(GroupMember { task_id: task_id.clone(), state: member.state });
            }
            page.next = rest.peek().map(|_| task_id.clone());
        }
        Some(page)
    }

    pub fn ends(&self, name: &GroupName, (after, limit): (u64, u32), now_ms: u64) -> Vec<MemberEnd> {
        let Some(group) = self.get(name, now_ms) else { return Vec::new() };
        let ends = group.ended.range((Excluded(after), Unbounded)).take(limit as usize);
        let read = |(number, task_id): (&u64, &TaskId)| {
            let outcome = group.members.get(task_id)?.state.outcome()?;
            Some(MemberEnd { number: *number, task_id: task_id.clone(), outcome })
        };
        ends.filter_map(read).collect()
    }

    pub fn names(&self, after: Option<&GroupName>, limit: u32, now_ms: u64) -> Option<Vec<GroupName>> {
        let alive = self.groups.iter().filter(|(_, group)| lives(group, self.options, now_ms));
        let mut names: Vec<(u64, &GroupName)> = alive.map(|(name, group)| (group.first_seen_ms, name)).collect();
        names.sort_unstable_by(|one, other| other.cmp(one));
        let begin = match after {
            Some(after) => names.iter().position(|(_, name)| *name == after)? + 1,
            None => 0,
        };
        Some(names.into_iter().skip(begin).take(limit as usize).map(|(_, name)| name.clone()).collect())
    }

    pub fn known(&self, now_ms: u64) -> u64 {
        self.groups.values().filter(|group| lives(group, self.options, now_ms)).count() as u64
    }
}

fn lives(group: &Group, options: StoreOptions, now_ms: u64) -> bool {
    group.changed_ms.saturating_add(options.outcome_retention_ms()) > now_ms
}
