//! Groups: tasks that are watched, counted, cancelled and waited for together.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use protocol::{GroupCancelled, GroupMember, GroupName, GroupStatus, PoolName, TaskId, environment::Clock};
use task_store::{Cancel, GroupCancel, MemberEnd, MembersPage, MembersRequest, Reach, StoreError, TaskStore};
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::{Pace, steps};

/// How many members one step of a cancel tells.
const CANCEL_STEP: u32 = 200;
/// Questions to the store at once.
const CONCURRENT: usize = 32;

/// The groups of a fleet, as its store has them. Cheap to clone.
#[derive(Clone)]
pub struct Groups {
    store: Arc<dyn TaskStore>,
    /// Where people hear of cancels: the pool that its steps name, and the clock.
    told: Option<(PoolName, Arc<dyn Clock>)>,
}

/// Some groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupsPage {
    /// Those that were made last first.
    pub groups: Vec<GroupStatus>,
    /// After which the next page begins; `None`: this was the last one.
    pub next: Option<GroupName>,
}

/// An operation on a group that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupsError {
    /// The store does not answer, or not as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The group is not known, and there are as many as may be. Nothing was cancelled.
    #[error(
        "cancel group {group}: it is not known, and there are as many groups as may be (store.groups_max), so that the cancel cannot be kept for tasks that nobody has seen yet"
    )]
    TooMany {
        /// The group.
        group: GroupName,
    },
}

impl Groups {
    /// The most groups of one list.
    pub const LISTED_MAX: u32 = 100;

    /// The groups in this store.
    #[must_use]
    pub fn new(store: Arc<dyn TaskStore>) -> Self {
        Self { store, told: None }
    }

    /// The same; its cancels are told to the journal, as steps of tasks of this pool.
    #[must_use]
    pub fn telling(self, pool: PoolName, clock: Arc<dyn Clock>) -> Self {
        Self { told: Some((pool, clock)), ..self }
    }

    /// What is known of a group; `None` if nothing is.
    ///
    /// # Errors
    /// [`StoreError`]: the store does not answer.
    pub async fn show(&self, group: &GroupName) -> Result<Option<GroupStatus>, StoreError> {
        self.store.groups().show(group).await
    }

    /// Groups, those that were made last first, after the one that is given, at most `limit` and [`Groups::LISTED_MAX`]. `None` if the one that is given is not known any more.
    ///
    /// # Errors
    /// [`StoreError`]: the store does not answer.
    pub async fn list(&self, after: Option<&GroupName>, limit: u32) -> Result<Option<GroupsPage>, StoreError> {
        let limit = limit.min(Self::LISTED_MAX);
        let Some(names) = self.store.groups().names(after, limit).await? else { return Ok(None) };
        let is_full = names.len() >= limit as usize;
        let next = names.last().filter(|_| is_full).cloned();
        let shown = stream::iter(names).map(|name| {
            let store = Arc::clone(&self.store);
            async move { store.groups().show(&name).await }
        });
        let shown: Vec<Option<GroupStatus>> = shown.buffered(CONCURRENT).try_collect().await?;
        Ok(Some(GroupsPage { groups: shown.into_iter().flatten().collect(), next }))
    }

    /// Some members of a group, by id; `None` if the group is not known.
    ///
    /// # Errors
    /// [`StoreError`]: the store does not answer.
    pub async fn members(&self, request: &MembersRequest) -> Result<Option<MembersPage>, StoreError> {
        self.store.groups().members(request).await
    }

    /// The ends of members in the order in which they came, those with a number above `after`.
    ///
    /// # Errors
    /// [`StoreError`]: the store does not answer.
    pub async fn ends(&self, group: &GroupName, after: u64, limit: u32) -> Result<Vec<MemberEnd>, StoreError> {
        self.store.groups().ends(group, after, limit).await
    }

    /// How many groups are known.
    ///
    /// # Errors
    /// [`StoreError`]: the store does not answer.
    pub async fn known(&self) -> Result<u64, StoreError> {
        self.store.groups().known().await
    }

    /// Cancels all members of a group, and the tasks of it that were published before and that no worker has seen yet. What is submitted afterwards is not cancelled.
    ///
    /// First the group is marked: from then on no member begins. Then its members are told, page by page, so that those that run end. Dropped or failed half-way, it may be
    /// repeated: what was told before is not harmed.
    ///
    /// # Errors
    /// [`GroupsError`]: the store does not answer (repeat it), or the cancel could not be kept.
    pub async fn cancel(&self, group: &GroupName) -> Result<GroupCancelled, GroupsError> {
        if self.store.groups().cancel_all(group).await? == GroupCancel::TooManyGroups {
            return Err(GroupsError::TooMany { group: group.clone() });
        }
        let mut cancelled = GroupCancelled { group: group.clone(), waiting: 0, running: 0, ended: 0 };
        let mut request = MembersRequest { cancelled: true, ..MembersRequest::all(group.clone(), CANCEL_STEP) };
        // Forgotten meanwhile, it has no members left.
        while let Some(MembersPage { members, next }) = self.members(&request).await? {
            let told = stream::iter(members).map(|member| self.clone().cancel_member(member));
            let told: Vec<Cancel> = told.buffer_unordered(CONCURRENT).try_collect().await?;
            for cancel in told {
                match cancel {
                    Cancel::Waiting | Cancel::Unseen => cancelled.waiting += 1,
                    Cancel::Running(_) => cancelled.running += 1,
                    Cancel::Ended(_) => cancelled.ended += 1,
                }
            }
            if next.is_none() {
                break;
            }
            request.after = next;
        }
        Ok(cancelled)
    }

    async fn cancel_member(self, member: GroupMember) -> Result<Cancel, StoreError> {
        match member.state.outcome() {
            Some(outcome) => Ok(Cancel::Ended(outcome)),
            None => self.cancel_one(&member.task_id).await,
        }
    }

    async fn cancel_one(&self, task_id: &TaskId) -> Result<Cancel, StoreError> {
        let cancel = self.store.cancel(task_id, Reach::Published).await?;
        if let Some((pool, clock)) = &self.told {
            steps::cancel_asked(&*self.store, pool, task_id, (&cancel, clock.now_ms()));
        }
        Ok(cancel)
    }

    /// See [`Producer::group_ended`](crate::Producer::group_ended).
    ///
    /// # Errors
    /// [`StoreError`]: the store's answer is not understood.
    pub async fn ended(&self, group: &GroupName) -> Result<Option<GroupStatus>, StoreError> {
        let mut pace = GroupPace::default();
        loop {
            match self.show(group).await {
                Ok(Some(status)) if status.ended => return Ok(Some(status)),
                Ok(Some(status)) => {
                    pace.is_news(&status);
                }
                Ok(None) => return Ok(None),
                Err(error) if error.is_transient() => debug!(%group, %error, "wait for a group; asks again"),
                Err(error) => return Err(error),
            }
            sleep(pace.pause()).await;
        }
    }
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Groups")
    }
}

/// The pace at which a group is looked at that somebody follows: 200 ms after news, and twice as long each time that there is none, up to 2 s.
#[derive(Debug, Clone)]
pub struct GroupPace {
    last: Option<GroupStatus>,
    pace: Pace,
}

impl Default for GroupPace {
    fn default() -> Self {
        Self { last: None, pace: Pace::new(Self::SHORTEST, Self::LONGEST) }
    }
}

impl GroupPace {
    const SHORTEST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(2);

    /// Whether the group differs from what it was at the last look.
    pub fn is_news(&mut self, status: &GroupStatus) -> bool {
        if self.last.as_ref() == Some(status) {
            return false;
        }
        self.last = Some(status.clone());
        self.pace.quicken();
        true
    }

    /// The pause before the next look.
    pub fn pause(&mut self) -> Duration {
        self.pace.pause()
    }

    /// The pause before the next look, the last of which is at the end of the time; `None` once that is there.
    pub fn pause_until(&mut self, end: Instant) -> Option<Duration> {
        self.pace.pause_until(end)
    }
}

#[cfg(test)]
mod tests {
    use protocol::GroupCounts;

    use super::*;

    #[test]
    fn a_group_is_looked_at_less_often_while_nothing_changes() {
        let mut status = GroupStatus {
            group: "nightly".parse().expect("valid"),
            counts: GroupCounts::default(),
            total: 0,
            not_counted: 0,
            first_seen_ms: 1,
            changed_ms: 1,
            cancelled_ms: None,
            ended: false,
        };
        let mut pace = GroupPace::default();
        assert!(pace.is_news(&status) && !pace.is_news(&status));
        assert_eq!([0; 6].map(|_| pace.pause().as_millis()), [200, 400, 800, 1_600, 2_000, 2_000]);
        status.counts.waiting = 1;
        assert!(pace.is_news(&status));
        assert_eq!(pace.pause(), GroupPace::SHORTEST);
    }
}
