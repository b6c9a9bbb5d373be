//! Groups, on servers or behind a gateway.

use std::{sync::Arc, time::Duration};

use gateway::{group_url, url_encoded};
use hyper::Method;
use producer::{Groups, GroupsError, GroupsPage};
use protocol::{GroupCancelled, GroupMember, GroupName, GroupStatus, TaskId, TaskState};
use serde::Deserialize;
use task_store::{MembersPage, MembersRequest};

use super::{Fleet, Gateway, http::Question};
use crate::{fault::Fault, group::not_found, servers::Servers};

/// Longest wait for the cancel of a group through a gateway: a large one has each of its tasks told.
const CANCELLED_IN: Duration = Duration::from_secs(600);

/// `GET /api/v1/groups`.
#[derive(Deserialize)]
struct GroupList {
    groups: Vec<GroupStatus>,
    #[serde(default)]
    next: Option<GroupName>,
}

/// `GET /api/v1/groups/{group}/tasks`.
#[derive(Deserialize)]
struct GroupTasks {
    tasks: Vec<GroupMember>,
    #[serde(default)]
    next: Option<TaskId>,
}

impl Fleet {
    /// What is known of a group; `None` if nothing is.
    pub(crate) async fn group(&self, group: &GroupName) -> Result<Option<GroupStatus>, Fault> {
        match self {
            Self::Servers(servers) => Ok(servers.groups().await?.show(group).await?),
            Self::Gateway(gateway) => match gateway.get(&group_url(group)).await {
                Err(Fault::NotFound(_)) => Ok(None),
                status => status.map(Some),
            },
        }
    }

    /// Groups, those that were made last first, at most `limit`.
    pub(crate) async fn groups(&self, limit: u32) -> Result<Vec<GroupStatus>, Fault> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let left = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
            if left == 0 {
                return Ok(found);
            }
            let GroupsPage { groups, next } = self.page_of_groups(after.as_ref(), left.min(Groups::LISTED_MAX)).await?;
            found.extend(groups);
            if next.is_none() {
                return Ok(found);
            }
            after = next;
        }
    }

    /// One page; nothing where the group after which it begins was forgotten meanwhile.
    async fn page_of_groups(&self, after: Option<&GroupName>, limit: u32) -> Result<GroupsPage, Fault> {
        match self {
            Self::Servers(servers) => Ok(servers.groups().await?.list(after, limit).await?.unwrap_or_default()),
            Self::Gateway(gateway) => {
                let begins = after.map(|name| format!("&after={name}")).unwrap_or_default();
                page_of(after, gateway.get(&format!("/api/v1/groups?limit={limit}{begins}")).await)
            }
        }
    }

    /// Some members of a group.
    pub(crate) async fn members(&self, request: &MembersRequest) -> Result<MembersPage, Fault> {
        match self {
            Self::Servers(servers) => servers.groups().await?.members(request).await?.ok_or_else(|| not_found(&request.group)),
            Self::Gateway(gateway) => {
                let state = request.state.map(TaskState::name).map(|name| format!("&state={name}")).unwrap_or_default();
                let after = request.after.as_ref().map(|task_id| format!("&after={}", url_encoded(task_id.as_str()))).unwrap_or_default();
                let path = format!("{}/tasks?limit={}{state}{after}", group_url(&request.group), request.limit);
                let GroupTasks { tasks, next } = gateway.get(&path).await?;
                Ok(MembersPage { members: tasks, next })
            }
        }
    }

    /// Cancels all tasks of a group.
    pub(crate) async fn cancel_group(&self, group: &GroupName) -> Result<GroupCancelled, Fault> {
        match self {
            Self::Servers(servers) => {
                let cancelled = servers.groups().await?.cancel(group).await;
                servers.told().await;
                Ok(cancelled?)
            }
            Self::Gateway(gateway) => gateway.cancel_group(group).await,
        }
    }
}

/// The page that a gateway answers with. Of what was asked only the group after which it begins can be wrong, and not by its name: it was forgotten.
fn page_of(after: Option<&GroupName>, answer: Result<GroupList, Fault>) -> Result<GroupsPage, Fault> {
    match answer {
        Ok(GroupList { groups, next }) => Ok(GroupsPage { groups, next }),
        Err(Fault::Usage(_)) if after.is_some() => Ok(GroupsPage::default()),
        Err(fault) => Err(fault),
    }
}

impl Gateway {
    async fn cancel_group(&self, group: &GroupName) -> Result<GroupCancelled, Fault> {
        let question = Question { answered_in: CANCELLED_IN, ..Question::new(Method::DELETE, group_url(group)) };
        let answer = self.ask(&question).await?;
        self.read(&question, &answer)
    }
}

impl Servers {
    async fn groups(&self) -> Result<Groups, Fault> {
        let (pool, clock) = (self.configuration().worker.pool.clone(), Arc::clone(&self.environment().clock));
        Ok(Groups::new(self.store().await?).telling(pool, clock))
    }
}

impl From<GroupsError> for Fault {
    fn from(error: GroupsError) -> Self {
        match error {
            GroupsError::Store(error) => error.into(),
            // The fleet is full, as it is where a submit finds no room.
            GroupsError::TooMany { .. } => Self::Unavailable(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_after_a_group_that_was_forgotten_is_empty() {
        let after = "nightly".parse().expect("a name");
        let refused = || Err(Fault::Usage("after: no group of this name is known any more".to_owned()));
        assert_eq!(page_of(Some(&after), refused()).expect("a page"), GroupsPage::default());
        assert!(page_of(None, refused()).is_err());
        assert!(page_of(Some(&after), Err(Fault::Unavailable("away".to_owned()))).is_err());
    }
}
