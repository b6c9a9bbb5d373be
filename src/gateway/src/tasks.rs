//! Tasks: submit one, ask what became of it.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use producer::NewTask;
use protocol::{
    GpuId, GpuOptions, GroupName, Json as JsonText, KeepAs, Kind, Limits, Needs, OnError, OnMissing, Segments, Strategy, TaskBody, TaskId,
    TaskStatus,
    batch::ITEMS_MAX,
    carried,
    envelope::{PRIORITY_DEFAULT, PRIORITY_MAX},
    task::object,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use task_store::{Cancel, Reach};

use crate::{
    Gateway, Problem,
    encoding::{RequestTrace, request_trace, status_url},
    events::log::WATCHED,
    given,
    idempotency::Identity,
    problem::ProblemKind,
    query, segments,
    trail::Trail,
    upload::Upload,
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
    /// It must not start before this time, in Unix milliseconds, at most 30 days ahead; a time in the past means at once. Until then its state is `delayed`; its priority and its
    /// deadlines count from then. Default: at once.
    #[serde(default)]
    not_before_ms: Option<u64>,
    /// The same as a delay from now, in milliseconds. Not together with `not_before_ms` (422). Default: none.
    #[serde(default)]
    #[schemars(range(max = Limits::LONGEST_MS))]
    delay_ms: Option<u64>,
    /// The task's identity. The same request under the same id runs nothing again and has the same status, whatever its priority, its delay and its group; another body (payload or items, gpu_options, needs,
    /// limits, keep_as, on_missing) or another kind under the same id is a conflict (409), for as long as the fleet keeps the task's record (`store.outcome_retention_ms`). Not together with the header
    /// Idempotency-Key. Default: a fresh id.
    #[serde(default, deserialize_with = "given::task_id")]
    #[schemars(schema_with = "given::task_id_schema")]
    task_id: Option<TaskId>,
    /// The group in which it is counted, together with others: see `/api/v1/groups/{group}`. A group that has as many members as it may, and a new one where there are as many
    /// as may be, is a conflict (409). Default: none.
    #[serde(default)]
    group: Option<GroupName>,
    /// What the kind's executor is given, to the last byte. Its shape belongs to the kind. Default: `null`.
    #[serde(default, deserialize_with = "carried::present")]
    #[schemars(with = "JsonText")]
    payload: Option<JsonText>,
    /// In place of `payload`: many payloads, each of which the kind's executor is given as it would be given one. The task is a batch then: it may be split over several GPUs
    /// (`gpu_options.batch_split`), its reply has a result for each item, in this order, and `GET /api/v1/tasks/{task_id}/results` gives them in pieces.
    #[serde(default)]
    #[schemars(length(min = 1, max = ITEMS_MAX))]
    items: Option<Vec<JsonText>>,
    /// With `items`, and not without: what becomes of the batch if an item fails. Default: `report`.
    #[serde(default, deserialize_with = "carried::given_on_error")]
    on_error: Option<OnError>,
    /// How a GPU is chosen.
    #[serde(default, deserialize_with = "object")]
    gpu_options: GpuOptions,
    /// What a GPU must have to run this task.
    #[serde(default, deserialize_with = "object")]
    needs: Needs,
    /// Time and attempt limits.
    #[serde(default, deserialize_with = "object")]
    limits: Limits,
    /// Under which names its outputs stay on its GPU as tensors, for other tasks to use; the result has `{"tensor": "name", …}` in their place. One name for the only output, a list with one for each, or an
    /// object `{"names": […], "ttl_ms": …, "if_exists": "replace" or "fail"}`. Those of the items of a batch are kept under the name, a dot and the item's number. Default: they are part of the result.
    #[serde(default)]
    keep_as: Option<KeepAs>,
    /// What becomes of the task if a tensor that its payload names is on no GPU: `fail` (`tensor_missing`), or `wait` until it is made, for `worker.unserved_wait_ms`. Default: `fail`.
    #[serde(default)]
    on_missing: OnMissing,
    /// The list of a frame, which was read with its segments.
    #[serde(default)]
    #[schemars(skip)]
    segments: Option<IgnoredAny>,
    /// The raw bytes that the payload refers to.
    #[serde(skip)]
    bytes: Segments,
    /// Whether this gateway keeps the parts of its output, of a batch the results of its items, for those who follow its events here. Default: false; its status and its progress show in any case.
    #[serde(default)]
    progress: bool,
}

impl TaskRequest {
    /// What is wrong with a list of segments where it cannot be.
    pub(crate) const NO_LIST: &str = "is there, and the body is no frame (Content-Type: application/x-gpufleet-frame; schemas/frame.md)";

    /// The same request, whose payload refers to these bytes.
    pub(crate) fn with(self, bytes: Segments) -> Self {
        Self { bytes, segments: None, ..self }
    }

    /// Whether it has the list of a frame.
    pub(crate) const fn lists_segments(&self) -> bool {
        self.segments.is_some()
    }
}

/// A task that the broker has.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TaskAccepted {
    /// Its identity.
    task_id: TaskId,
    /// Where its status is; also in `Location`.
    status_url: String,
    /// What keeps it from being run now or as asked: no living GPU of the pool serves its kind, or has what it needs, for which it waits a bounded time; or something of the request
    /// will not do what it seems to ask for. Absent where all is well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl TaskAccepted {
    pub(crate) fn new(task_id: TaskId) -> Self {
        Self { status_url: status_url(&task_id), task_id, warnings: Vec::new() }
    }

    /// Its identity, and what keeps it from being run as asked.
    pub(crate) fn into_parts(self) -> (TaskId, Vec<String>) {
        (self.task_id, self.warnings)
    }

    fn warned(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }
}

/// A name that no strategy has is no reason to refuse a task, and none to say nothing.
fn warning_of_strategy(options: &GpuOptions) -> Option<String> {
    let unknown = options.strategy.as_deref()?.parse::<Strategy>().err()?;
    Some(format!("gpu_options.strategy: {unknown}; the fleet's default strategy chooses"))
}

/// `POST /api/v1/tasks`.
pub(crate) async fn submit(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Upload(request, _share): Upload,
) -> Result<Response, Problem> {
    let accepted = take(&gateway, request, |task_id| Identity::read(&headers, task_id), request_trace(&headers)).await?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, accepted.status_url.clone())], Json(accepted)).into_response())
}

/// Submits what a request asks for, be it alone or one of many. `identify` makes the task's identity out of the id that the request names.
pub(crate) async fn take(
    gateway: &Gateway,
    request: TaskRequest,
    identify: impl FnOnce(Option<TaskId>) -> Result<Identity, Problem> + Send,
    RequestTrace { traceparent, tracestate }: RequestTrace,
) -> Result<TaskAccepted, Problem> {
    if request.lists_segments() {
        return Err(Problem::new(ProblemKind::InvalidField, format!("segments: {}", TaskRequest::NO_LIST)).field("segments"));
    }
    let TaskRequest {
        kind,
        priority,
        not_before_ms,
        delay_ms,
        task_id,
        group,
        payload,
        items,
        on_error,
        gpu_options,
        needs,
        limits,
        keep_as,
        on_missing,
        segments: _,
        bytes: segments,
        progress,
    } = request;
    let body = TaskBody { segments, ..carried::body_of(payload, items, on_error)? };
    let trail = Trail::of(traceparent.as_deref());
    let identity = identify(task_id)?;
    gateway.check_payload(&kind, &body).await.map_err(|problem| trail.failed(problem))?;
    let mut warnings = gateway.warnings(&kind, &needs, &gpu_options).await.map_err(|problem| trail.failed(problem))?;
    warnings.extend(warning_of_strategy(&gpu_options));
    warnings.extend(carried::split_in_vain(&body, &gpu_options).map(str::to_owned));
    let watched = progress && gateway.watched.has_room_for(identity.task_id.as_ref());
    let new = NewTask {
        priority: priority.unwrap_or(PRIORITY_DEFAULT),
        not_before_ms,
        delay_ms,
        task_id: identity.task_id.clone(),
        progress: watched,
        group,
        traceparent,
        tracestate,
        ..NewTask::new(kind, TaskBody { gpu_options, needs, limits, keep_as, on_missing, ..body })
    };
    let submitted = if watched { submit_watched(gateway, new, &identity).await } else { submit_alone(gateway, new, &identity).await };
    let task_id = submitted.map_err(|problem| trail.failed(problem))?;
    trail.submitted(&task_id);
    gateway.accepted();
    Ok(TaskAccepted::new(task_id).warned(warnings))
}

async fn submit_alone(gateway: &Gateway, new: NewTask, identity: &Identity) -> Result<TaskId, Problem> {
    let submitted = gateway.ports.producer.submit(new).await.map_err(|error| identity.not_submitted(gateway, &error))?;
    Ok(submitted.task_id)
}

/// Submits a task and keeps what it says, from its first word on.
async fn submit_watched(gateway: &Gateway, new: NewTask, identity: &Identity) -> Result<TaskId, Problem> {
    let pending = gateway.ports.producer.pending(new, WATCHED).await.map_err(|error| identity.not_answered(gateway, &error))?;
    let task_id = pending.task_id().clone();
    gateway.watch(pending);
    Ok(task_id)
}

/// `GET /api/v1/tasks/{task_id}`.
pub(crate) async fn status(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    task_id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    known_status(&gateway, &named(task_id)?).await.map(|status| segments::answer(&headers, status))
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
    /// What it was: `waiting` (it will be skipped; of a delayed one that shows at once, and its reply comes when it is due at the latest), `running` (its worker asks it to end within about a second, and ends it where it does not) or `unseen` (no task of this id has been seen; see `note`).
    was: &'static str,
    /// Where it was `unseen`: which tasks of this id the cancel counts for.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
    /// The GPU that runs it, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_id: Option<GpuId>,
}

/// How far a cancel reaches.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CancelQuery {
    /// Also tasks that are submitted later under an id that none has yet.
    #[serde(default)]
    ahead: bool,
}

/// `DELETE /api/v1/tasks/{task_id}`.
pub(crate) async fn cancel(
    State(gateway): State<Gateway>,
    task_id: Result<Path<String>, PathRejection>,
    query: Result<Query<CancelQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let task_id = named(task_id)?;
    let Query(CancelQuery { ahead }) = query.map_err(|rejection| query::unread(&["ahead"], &rejection))?;
    let reach = if ahead { Reach::Ahead } else { Reach::Published };
    let answer = gateway.ports.producer.cancel_with(&task_id, reach).await.map_err(|error| gateway.store_failed(&error))?;
    let note = (answer == Cancel::Unseen).then(|| reach.note());
    let (was, gpu_id) = match answer {
        Cancel::Waiting => ("waiting", None),
        Cancel::Running(gpu_id) => ("running", Some(gpu_id)),
        Cancel::Unseen => ("unseen", None),
        Cancel::Ended(outcome) => {
            return Err(Problem::new(ProblemKind::TaskEnded, format!("it {}", outcome.name())).task(&task_id));
        }
    };
    Ok((StatusCode::ACCEPTED, Json(TaskCancelling { task_id, was, note, gpu_id })).into_response())
}

pub(crate) fn named(task_id: Result<Path<String>, PathRejection>) -> Result<TaskId, Problem> {
    let Path(text) = task_id.map_err(|_| not_utf8("task_id"))?;
    TaskId::new(text).map_err(|error| {
        let detail = format!("task_id: must be {}, not {:?}: no task has such an id", error.rule, error.value);
        Problem::new(ProblemKind::NotFound, detail).field("task_id")
    })
}

/// A part of the path that is no text.
pub(crate) fn not_utf8(parameter: &str) -> Problem {
    let detail =
        format!("{parameter}: the path has bytes in its place that are not UTF-8; write the id with percent signs, as status_url has it");
    Problem::new(ProblemKind::NotFound, detail).field(parameter)
}
