//! Tasks: submit one, ask what became of it.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use producer::NewTask;
use protocol::{
    GpuId, GpuOptions, Json as JsonText, Kind, Limits, Needs, TaskBody, TaskId, TaskStatus,
    envelope::{PRIORITY_DEFAULT, PRIORITY_MAX},
    task::object,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use task_store::Cancel;

use crate::{
    Gateway, Problem,
    encoding::{status_url, traceparent},
    events::log::WATCHED,
    intake::JsonBody,
    problem::ProblemKind,
    trail::Trail,
};

/// A task to submit: the body of a task message, and of its properties those that a client may set.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TaskRequest {
    /// What to run.
    kind: Kind,
    /// 0 (lowest) to 9. Default: 0.
    #[serde(default)]
    #[schemars(range(max = PRIORITY_MAX))]
    priority: Option<u8>,
    /// The task's identity. The same request under the same id runs nothing again and has the same status. Default: a fresh id.
    #[serde(default)]
    task_id: Option<TaskId>,
    /// What the kind's executor is given, to the last byte. Its shape belongs to the kind. Default: `null`.
    #[serde(default)]
    payload: JsonText,
    /// How a GPU is chosen.
    #[serde(default, deserialize_with = "object")]
    gpu_options: GpuOptions,
    /// What a GPU must have to run this task.
    #[serde(default, deserialize_with = "object")]
    needs: Needs,
    /// Time and attempt limits.
    #[serde(default, deserialize_with = "object")]
    limits: Limits,
    /// Whether this gateway keeps the parts of its output, for those who follow its events here. Default: false; its status and its progress show in any case.
    #[serde(default)]
    progress: bool,
}

/// A task that the broker has.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TaskAccepted {
    /// Its identity.
    task_id: TaskId,
    /// Where its status is; also in `Location`.
    status_url: String,
}

impl TaskAccepted {
    pub(crate) fn new(task_id: TaskId) -> Self {
        Self { status_url: status_url(&task_id), task_id }
    }
}

/// `POST /api/v1/tasks`.
pub(crate) async fn submit(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    JsonBody(request, _share): JsonBody<TaskRequest>,
) -> Result<Response, Problem> {
    let TaskRequest { kind, priority, task_id, payload, gpu_options, needs, limits, progress } = request;
    let traceparent = traceparent(&headers);
    let trail = Trail::of(traceparent.as_deref());
    let watched = progress && gateway.watched.has_room_for(task_id.as_ref());
    let new = NewTask {
        priority: priority.unwrap_or(PRIORITY_DEFAULT),
        task_id,
        progress: watched,
        traceparent,
        ..NewTask::new(kind, TaskBody { payload, gpu_options, needs, limits })
    };
    let submitted = if watched { submit_watched(&gateway, new).await } else { submit_alone(&gateway, new).await };
    let task_id = submitted.map_err(|problem| trail.failed(problem))?;
    trail.submitted(&task_id);
    gateway.accepted();
    let accepted = TaskAccepted::new(task_id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, accepted.status_url.clone())], Json(accepted)).into_response())
}

async fn submit_alone(gateway: &Gateway, new: NewTask) -> Result<TaskId, Problem> {
    let submitted = gateway.ports.producer.submit(new).await.map_err(|error| gateway.not_submitted(&error))?;
    Ok(submitted.task_id)
}

/// Submits a task and keeps what it says, from its first word on.
async fn submit_watched(gateway: &Gateway, new: NewTask) -> Result<TaskId, Problem> {
    let pending = gateway.ports.producer.pending(new, WATCHED).await.map_err(|error| gateway.not_answered(&error))?;
    let task_id = pending.task_id().clone();
    gateway.watch(pending);
    Ok(task_id)
}

/// `GET /api/v1/tasks/{task_id}`.
pub(crate) async fn status(
    State(gateway): State<Gateway>,
    task_id: Result<Path<String>, PathRejection>,
) -> Result<Json<TaskStatus>, Problem> {
    known_status(&gateway, &named(task_id)?).await.map(Json)
}

/// The status of a task that the store knows.
pub(crate) async fn known_status(gateway: &Gateway, task_id: &TaskId) -> Result<TaskStatus, Problem> {
    let status = gateway.ports.producer.status(task_id).await.map_err(|error| gateway.store_failed(&error))?;
    status.ok_or_else(|| Problem::new(ProblemKind::NotFound, format!("the fleet never heard of task {task_id}, or has forgotten it")))
}

/// A task that will end as cancelled.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TaskCancelling {
    /// Its identity.
    task_id: TaskId,
    /// What it was: `waiting` (it will be skipped), `running` (its worker ends it within about a second) or `unseen` (it will be skipped if it arrives).
    was: &'static str,
    /// The GPU that runs it, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_id: Option<GpuId>,
}

/// `DELETE /api/v1/tasks/{task_id}`.
pub(crate) async fn cancel(State(gateway): State<Gateway>, task_id: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let task_id = named(task_id)?;
    let answer = gateway.ports.producer.cancel(&task_id).await.map_err(|error| gateway.store_failed(&error))?;
    let (was, gpu_id) = match answer {
        Cancel::Waiting => ("waiting", None),
        Cancel::Running(gpu_id) => ("running", Some(gpu_id)),
        Cancel::Unseen => ("unseen", None),
        Cancel::Ended(outcome) => {
            return Err(Problem::new(ProblemKind::TaskEnded, format!("it {}", outcome.name())).task(&task_id));
        }
    };
    Ok((StatusCode::ACCEPTED, Json(TaskCancelling { task_id, was, gpu_id })).into_response())
}

pub(crate) fn named(task_id: Result<Path<String>, PathRejection>) -> Result<TaskId, Problem> {
    let Path(text) = task_id.map_err(|rejection| Problem::new(ProblemKind::NotFound, rejection.body_text()))?;
    TaskId::new(text).map_err(|error| Problem::new(ProblemKind::NotFound, error.to_string()))
}
