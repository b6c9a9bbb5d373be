//! Groups: tasks that are watched, counted and cancelled together.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::HeaderMap,
    response::Response,
};
use producer::{Groups, GroupsError, GroupsPage};
use protocol::{GroupCancelled, GroupCounts, GroupMember, GroupName, GroupStatus, TaskId, TaskState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use task_store::MembersRequest;
use tracing::error;

use crate::{
    Gateway, Problem,
    events::{self, group::Replies},
    problem::ProblemKind,
    query,
    tasks::not_utf8,
};

/// How many groups are listed where a request does not say.
const GROUPS_LISTED: u32 = 50;
/// How many members are.
const MEMBERS_LISTED: u32 = 100;

/// Some groups.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GroupList {
    /// Those that were made last first.
    groups: Vec<GroupStatus>,
    /// Give this as `after` for the next ones. Absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<GroupName>,
}

/// Some members of a group.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GroupTasks {
    /// By id. They may be fewer than were asked for, or none, although others follow: one answer looks at a bounded number of members.
    tasks: Vec<GroupMember>,
    /// Give this as `after` for the next ones. Absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<TaskId>,
}

/// Which groups are listed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    after: Option<String>,
    limit: Option<String>,
}

/// Which members are listed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TasksQuery {
    state: Option<String>,
    after: Option<String>,
    limit: Option<String>,
}

/// What is followed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventsQuery {
    replies: Option<String>,
}

/// `GET /api/v1/groups`.
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<GroupList>, Problem> {
    let Query(ListQuery { after, limit }) = query.map_err(|rejection| query::unread(&["after", "limit"], &rejection))?;
    let after = after.map(|text| given("after", &text, GroupName::new)).transpose()?;
    let limit = limit.map_or(Ok(GROUPS_LISTED), |text| read_limit(&text, Groups::LISTED_MAX))?;
    let listed = gateway.groups().list(after.as_ref(), limit).await.map_err(|error| gateway.store_failed(&error))?;
    let GroupsPage { groups, next } = listed.ok_or_else(|| {
        let detail = "after: no group of this name is known any more; begin with the first page again";
        Problem::new(ProblemKind::InvalidParameter, detail).field("after")
    })?;
    Ok(Json(GroupList { groups, next }))
}

/// `GET /api/v1/groups/{group}`.
pub(crate) async fn show(State(gateway): State<Gateway>, group: Result<Path<String>, PathRejection>) -> Result<Json<GroupStatus>, Problem> {
    known(&gateway, &named(group)?).await.map(Json)
}

/// `GET /api/v1/groups/{group}/tasks`.
pub(crate) async fn tasks(
    State(gateway): State<Gateway>,
    group: Result<Path<String>, PathRejection>,
    query: Result<Query<TasksQuery>, QueryRejection>,
) -> Result<Json<GroupTasks>, Problem> {
    let group = named(group)?;
    let Query(TasksQuery { state, after, limit }) = query.map_err(|rejection| query::unread(&["state", "after", "limit"], &rejection))?;
    let request = MembersRequest {
        state: state.map(|text| read_state(&text)).transpose()?,
        after: after.map(|text| given("after", &text, TaskId::new)).transpose()?,
        ..MembersRequest::all(group.clone(), limit.map_or(Ok(MEMBERS_LISTED), |text| read_limit(&text, MembersRequest::LIMIT_MAX))?)
    };
    let page = gateway.groups().members(&request).await.map_err(|error| gateway.store_failed(&error))?;
    let page = page.ok_or_else(|| not_known(&group))?;
    Ok(Json(GroupTasks { tasks: page.members, next: page.next }))
}

/// `GET /api/v1/groups/{group}/events`.
pub(crate) async fn events(
    State(gateway): State<Gateway>,
    group: Result<Path<String>, PathRejection>,
    query: Result<Query<EventsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let group = named(group)?;
    let Query(EventsQuery { replies }) = query.map_err(|rejection| query::unread(&["replies"], &rejection))?;
    let replies = match replies.as_deref() {
        None | Some("false") => Replies::No,
        Some("true") => Replies::After(events::seen(&headers)),
        Some(other) => return Err(query::not_allowed("replies", "true or false", other)),
    };
    events::group::follow(gateway, group, replies).await
}

/// `DELETE /api/v1/groups/{group}`.
pub(crate) async fn cancel(
    State(gateway): State<Gateway>,
    group: Result<Path<String>, PathRejection>,
) -> Result<Json<GroupCancelled>, Problem> {
    let (group, groups) = (named(group)?, gateway.groups());
    // To its end, whether or not its client stays: a large group takes a while, and a part of it that was told is no answer to anybody.
    let cancelling = tokio::spawn(async move { groups.cancel(&group).await });
    match cancelling.await {
        Ok(cancelled) => cancelled.map(Json).map_err(|error| match error {
            GroupsError::Store(error) => gateway.store_failed(&error),
            GroupsError::TooMany { .. } => Problem::new(ProblemKind::GroupFull, error.to_string()).field("group"),
        }),
        Err(cause) => {
            error!(error = %cause, "cancel a group");
            Err(Problem::new(ProblemKind::Internal, "the gateway broke while it cancelled the group; its log has the details"))
        }
    }
}

impl Gateway {
    pub(crate) fn groups(&self) -> Groups {
        self.ports.producer.groups()
    }
}

/// What is known of a group that is known.
pub(crate) async fn known(gateway: &Gateway, group: &GroupName) -> Result<GroupStatus, Problem> {
    let status = gateway.groups().show(group).await.map_err(|error| gateway.store_failed(&error))?;
    status.ok_or_else(|| not_known(group))
}

fn not_known(group: &GroupName) -> Problem {
    let detail = format!("no task of the group {group} has been seen, or the fleet has forgotten it");
    Problem::new(ProblemKind::NotFound, detail).field("group")
}

fn named(group: Result<Path<String>, PathRejection>) -> Result<GroupName, Problem> {
    let Path(text) = group.map_err(|_| not_utf8("group"))?;
    GroupName::new(text).map_err(|error| {
        let detail = format!("group: must be {}, not {:?}: no group has such a name", error.rule, error.value);
        Problem::new(ProblemKind::NotFound, detail).field("group")
    })
}

/// A query parameter that is an identifier.
fn given<T>(name: &'static str, text: &str, read: fn(String) -> Result<T, protocol::InvalidId>) -> Result<T, Problem> {
    read(text.to_owned()).map_err(|error| {
        let detail = format!("{name}: must be {}, not {:?}", error.rule, error.value);
        Problem::new(ProblemKind::InvalidParameter, detail).field(name)
    })
}

fn read_limit(text: &str, most: u32) -> Result<u32, Problem> {
    let limit = query::whole_number("limit", text, 1..=most as usize)?;
    Ok(u32::try_from(limit).unwrap_or(most))
}

fn read_state(text: &str) -> Result<TaskState, Problem> {
    GroupCounts::STATES.into_iter().find(|state| state.name() == text).ok_or_else(|| {
        let names = GroupCounts::STATES.map(TaskState::name).join(", ");
        query::not_allowed("state", &format!("one of {names}"), text)
    })
}
