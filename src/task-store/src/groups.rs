//! The port for groups: tasks that are watched, counted, cancelled and waited for together.
//!
//! A group is a record of its own beside those of its tasks: on a cluster it lies elsewhere, so that no operation changes both. Whoever changes a task tells its group
//! afterwards. What is told twice, or late, changes nothing: an attempt's notes have their order, and the end of a member is final, so that the counts of those that ended are
//! exact once everybody has told what it had to.
//!
//! ```text
//!  producer: join ──► waiting ── begun 1 ──► running ── retried 1 ──► retrying ── begun 2 ──► running …
//!  worker: arrive ──┘    └────────────────────┴───── ended ─────────────┴──► succeeded | failed | cancelled | expired
//!                                                                                 └── reopened ──► waiting
//! ```
//!
//! A cancel of a group is a mark on it. It counts for its members of that moment, and for tasks that were published up to its second and that nobody has told it of yet.

use std::fmt;

use async_trait::async_trait;
use protocol::{GroupMember, GroupName, GroupStatus, Outcome, TaskId, TaskState};

use crate::{StoreError, Submission};

/// The bound that keeps a task out of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBound {
    /// The group has as many members as one may have.
    Members,
    /// As many groups are known as may be, and this would be another one.
    Groups,
}

impl fmt::Display for GroupBound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Members => "it has as many members as a group may have (store.group_members_max); begin another group",
            Self::Groups => {
                "there are as many groups as may be (store.groups_max); one is forgotten store.outcome_retention_ms after its last change"
            }
        })
    }
}

/// The answer to [`GroupStore::join`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// The task is a member.
    Member,
    /// It is not; nothing changed.
    Refused(GroupBound),
}

/// The answer to [`GroupStore::arrive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Nothing of its group stands against running it. Where there is no room for it, it is no member.
    Open,
    /// Its group was cancelled, and that counts for it: record `cancelled`, run nothing.
    Cancelled,
}

/// The answer to [`GroupStore::note_ended`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// The member ended, now or before.
    Yes,
    /// It is no member and there was no room for it.
    No(GroupBound),
}

/// The answer to [`GroupStore::cancel_all`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupCancel {
    /// The mark is there.
    Marked,
    /// The group is not known, and there are as many as may be: nothing changed.
    TooManyGroups,
}

/// Which members are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersRequest {
    /// The group.
    pub group: GroupName,
    /// Only those in this state.
    pub state: Option<TaskState>,
    /// Only those that the group's last cancel counts for.
    pub cancelled: bool,
    /// Those after this id.
    pub after: Option<TaskId>,
    /// How many at most, 1 to [`MembersRequest::LIMIT_MAX`].
    pub limit: u32,
}

impl MembersRequest {
    /// The longest page.
    pub const LIMIT_MAX: u32 = 1_000;

    /// The first page of all members.
    #[must_use]
    pub const fn all(group: GroupName, limit: u32) -> Self {
        Self { group, state: None, cancelled: false, after: None, limit }
    }
}

/// Some members, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MembersPage {
    /// They may be fewer than were asked for, or none, although others follow: one page looks at a bounded number of members.
    pub members: Vec<GroupMember>,
    /// After which id the next page begins; `None`: this was the last one.
    pub next: Option<TaskId>,
}

/// The end of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberEnd {
    /// Counts up within the group, from 1.
    pub number: u64,
    /// The task.
    pub task_id: TaskId,
    /// How it ended.
    pub outcome: Outcome,
}

/// What became of groups of tasks.
///
/// Every operation is atomic on one group, idempotent, and one round trip, but for the first task of a group, which takes three: its name is entered in the list of groups. A
/// group is forgotten `outcome_retention` after its last change.
#[async_trait]
pub trait GroupStore: Send + Sync + 'static {
    /// A producer is about to publish a task of the group, which the store has noted with this answer: it is a member from now on, and waits. A member that is known stays as it
    /// is; one that ended waits anew if no task of the id was known any more. The task's status names the group.
    async fn join(&self, group: &GroupName, task_id: &TaskId, submission: Submission) -> Result<Join, StoreError>;

    /// Takes a member out that nobody has begun: its publish was refused, or its id belongs to another task. A group without members and without a cancel is forgotten.
    async fn leave(&self, group: &GroupName, task_id: &TaskId) -> Result<(), StoreError>;

    /// A worker has a delivery of a task of the group in hand, published in that Unix second if that is known, and is about to run it. It is a member from now on.
    async fn arrive(&self, group: &GroupName, task_id: &TaskId, published_s: Option<u64>) -> Result<Arrival, StoreError>;

    /// An attempt of a member runs; does nothing for a task that is no member. Nobody waits for it, and it may get lost. The task's status names the group. Needs a tokio runtime.
    fn note_begun(&self, group: &GroupName, task_id: &TaskId, attempt: u32);

    /// An attempt of a member failed, and another one is due. Nobody waits for it, as for [`GroupStore::note_begun`].
    fn note_retried(&self, group: &GroupName, task_id: &TaskId, attempt: u32);

    /// The task ended, as its record says. It becomes a member if it was none and there is room.
    async fn note_ended(&self, group: &GroupName, task_id: &TaskId, outcome: Outcome) -> Result<Counted, StoreError>;

    /// A member that ended is about to be published again. It waits; a cancel that came before does not count for it.
    async fn note_reopened(&self, group: &GroupName, task_id: &TaskId) -> Result<(), StoreError>;

    /// Marks the group as cancelled, from now back. See [`Arrival::Cancelled`]; the tasks themselves are told by the caller, page by page
    /// ([`MembersRequest::cancelled`]).
    async fn cancel_all(&self, group: &GroupName) -> Result<GroupCancel, StoreError>;

    /// What is known of a group; `None` if nothing is.
    async fn show(&self, group: &GroupName) -> Result<Option<GroupStatus>, StoreError>;

    /// Some members of a group, by id; `None` if the group is not known.
    async fn members(&self, request: &MembersRequest) -> Result<Option<MembersPage>, StoreError>;

    /// The ends of members in the order in which they came, those with a number above `after`, at most `limit`.
    async fn ends(&self, group: &GroupName, after: u64, limit: u32) -> Result<Vec<MemberEnd>, StoreError>;

    /// The names of groups, those that were made last first, after the one that is given; some of them may be forgotten meanwhile. `None` if the one that is given is not in the
    /// list (any more).
    async fn names(&self, after: Option<&GroupName>, limit: u32) -> Result<Option<Vec<GroupName>>, StoreError>;

    /// How many groups are known. Some of them may be forgotten meanwhile.
    async fn known(&self) -> Result<u64, StoreError>;
}

/// The order of a member's notes before its end: those of an attempt follow each other, and each other attempt's.
pub(crate) const fn rank(attempt: u32, state: TaskState) -> u64 {
    attempt as u64 * 2 + matches!(state, TaskState::Retrying) as u64
}
