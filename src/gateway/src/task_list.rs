//! Tasks by what they are: listed, cancelled and requeued over a filter; the log of one, and why it waits.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
};
use futures::{StreamExt, stream};
use protocol::{
    Requeued, TaskId, TaskState,
    insight::{TaskFilter, TaskLog, TaskPage, Why},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use task_store::{Cancel, StoreError};
use tracing::error;

use crate::{Gateway, Problem, dead, filter, intake::JsonBody, operate::Operator, problem::ProblemKind, query, tasks::named};

/// How many tasks one request cancels at most.
pub(crate) const AT_ONCE_MAX: usize = 1_000;
/// How many of them are asked for at the same time.
const CANCELS_IN_FLIGHT: usize = 16;

/// Whether all are meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AllQuery {
    all: Option<String>,
}

/// What became of a cancel over a filter.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct TasksCancelled {
    /// How many open tasks pass the filter whose end nobody had asked for.
    matching: u64,
    /// How many of them will end as cancelled.
    cancelled: u64,
    /// How many had ended already.
    ended: u64,
    /// Whether others are left; the same request reaches the next ones.
    more: bool,
}

/// What became of a requeue over a filter.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TasksRequeued {
    /// How many tasks with dead letters pass the filter.
    matching: u64,
    /// How many letters are tasks again.
    requeued: u64,
    /// How many stay dead letters; GET /api/v1/dead shows them.
    refused: u64,
    /// Whether others are left. A request that requeues none reaches none of them: letters that stay are in the way.
    more: bool,
}

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;
type All = Result<Query<AllQuery>, QueryRejection>;

/// `GET /api/v1/tasks`.
pub(crate) async fn list(_: Operator, State(gateway): State<Gateway>, query: Pairs) -> Result<Json<TaskPage>, Problem> {
    let Query(pairs) = query.map_err(|rejection| query::unread(&filter::NAMES, &rejection))?;
    let wanted = filter::read(pairs)?;
    gateway.must_keep_steps()?;
    gateway.observatory.look().await;
    Ok(Json(gateway.observatory.list(&wanted.filter, wanted.after.as_deref(), wanted.limit)))
}

/// `GET /api/v1/tasks/{task_id}/log`.
pub(crate) async fn log(
    _: Operator,
    State(gateway): State<Gateway>,
    task_id: Result<Path<String>, PathRejection>,
) -> Result<Json<TaskLog>, Problem> {
    let task_id = named(task_id)?;
    gateway.must_keep_steps()?;
    gateway.observatory.look().await;
    gateway.observatory.log(&task_id).map(Json).ok_or_else(|| {
        let detail = format!("the journal has no step of task {task_id}, or has forgotten them (journal.steps_max, journal.age_max_ms)");
        Problem::new(ProblemKind::NotFound, detail).field("task_id")
    })
}

/// `GET /api/v1/tasks/{task_id}/why`. Only operators are told which tasks are before it: whoever knows the id of a task may read its reply, and cancel it.
pub(crate) async fn why(
    operator: Result<Operator, Problem>,
    State(gateway): State<Gateway>,
    task_id: Result<Path<String>, PathRejection>,
) -> Result<Json<Why>, Problem> {
    let task_id = named(task_id)?;
    let why = gateway.observatory.why(&task_id).await.map_err(|error| gateway.observe_failed(&error))?;
    let shown = why.map(|why| if operator.is_ok() { why } else { Why { first_ahead: Vec::new(), ..why } });
    shown.map(Json).ok_or_else(|| {
        let detail = format!("the fleet never heard of task {task_id}, or has forgotten it");
        Problem::new(ProblemKind::NotFound, detail).field("task_id")
    })
}

/// `POST /api/v1/tasks:cancel`.
pub(crate) async fn cancel(
    operator: Operator,
    State(gateway): State<Gateway>,
    query: All,
    JsonBody(filter, _share): JsonBody<TaskFilter>,
) -> Result<Json<TasksCancelled>, Problem> {
    let filter = meant(TaskFilter { slices: false, ..filter }, query)?;
    let filter = TaskFilter { state: open(&filter.state)?, ..filter };
    gateway.must_keep_steps()?;
    gateway.observatory.look().await;
    to_its_end(async move { gateway.cancel_those(&operator, &filter).await }).await
}

/// `POST /api/v1/tasks:requeue`.
pub(crate) async fn requeue(
    operator: Operator,
    State(gateway): State<Gateway>,
    query: All,
    JsonBody(filter, _share): JsonBody<TaskFilter>,
) -> Result<Json<TasksRequeued>, Problem> {
    let filter = meant(TaskFilter { slices: false, ..filter }, query)?;
    gateway.must_keep_steps()?;
    gateway.observatory.look().await;
    to_its_end(async move { gateway.requeue_those(&operator, &filter).await }).await
}

/// Does what is asked over a filter to its end, whether or not its client stays: what was done of it is to be noted.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Result<Json<T>, Problem>> + Send + 'static) -> Result<Json<T>, Problem> {
    tokio::spawn(work).await.map_err(|cause| {
        error!(error = %cause, "cancel or requeue tasks over a filter");
        Problem::new(ProblemKind::Internal, "the gateway broke while it cancelled or requeued tasks; its log has the details")
    })?
}

/// The filter, unless it lets everything through and that is not said.
fn meant(filter: TaskFilter, query: All) -> Result<TaskFilter, Problem> {
    let Query(AllQuery { all }) = query.map_err(|rejection| query::unread(&["all"], &rejection))?;
    let all = all.map_or(Ok(false), |text| filter::yes_or_no("all", &text))?;
    if all || !filter.lets_all_through() {
        return Ok(filter);
    }
    let detail = "all: the filter lets every task through; give ?all=true where all of them are meant, or say in the body which ones are";
    Err(Problem::new(ProblemKind::InvalidParameter, detail).field("all"))
}

/// Of these states those that a cancel can reach; of none, all such.
fn open(states: &[TaskState]) -> Result<Vec<TaskState>, Problem> {
    let open: Vec<TaskState> = TaskState::OPEN.into_iter().filter(|state| states.is_empty() || states.contains(state)).collect();
    if !open.is_empty() {
        return Ok(open);
    }
    let names = TaskState::OPEN.map(TaskState::name).join(", ");
    let detail = format!("state: tasks that have ended cannot be cancelled; those can that are {names}");
    Err(Problem::new(ProblemKind::InvalidField, detail).field("state"))
}

impl Gateway {
    /// Refuses what needs the steps of tasks where none are kept.
    pub(crate) fn must_keep_steps(&self) -> Result<(), Problem> {
        if self.observatory.keeps_steps() {
            return Ok(());
        }
        Err(Problem::new(
            ProblemKind::NoSteps,
            "journal.steps_max is 0: no steps of tasks are kept, so that there are no lists, logs and histories",
        ))
    }

    /// Asks for the end of the first tasks that pass the filter.
    async fn cancel_those(&self, operator: &Operator, filter: &TaskFilter) -> Result<Json<TasksCancelled>, Problem> {
        let (chosen, matching) = self.observatory.to_cancel(filter, AT_ONCE_MAX);
        let more = matching > chosen.len() as u64;
        let (mut cancelled, mut ended, mut failed) = (Vec::new(), Vec::new(), None);
        let mut answers =
            stream::iter(chosen.into_iter().map(|task_id| self.clone().cancel_one(task_id))).buffer_unordered(CANCELS_IN_FLIGHT);
        while let Some((task_id, answer)) = answers.next().await {
            match answer {
                Ok(Cancel::Ended(outcome)) => ended.push((task_id, TaskState::from(outcome))),
                Ok(Cancel::Waiting | Cancel::Running(_) | Cancel::Unseen) => cancelled.push(task_id),
                Err(cause) => {
                    failed = Some(cause);
                    break;
                }
            }
        }
        drop(answers);
        self.observatory.cancel_asked(&cancelled, &ended);
        let counts = TasksCancelled { matching, cancelled: cancelled.len() as u64, ended: ended.len() as u64, more };
        if matching > 0 {
            let detail = format!("{} of {matching} cancelled, {} had ended", counts.cancelled, counts.ended);
            self.note(operator, "cancel", filter::in_words(filter), detail).await;
        }
        failed.map_or(Ok(Json(counts)), |cause| Err(self.store_failed(&cause)))
    }

    /// Requeues the dead letters of the tasks that pass the filter.
    async fn requeue_those(&self, operator: &Operator, filter: &TaskFilter) -> Result<Json<TasksRequeued>, Problem> {
        // All that pass, however many: letters come the oldest first, and of a thousand tasks that were heard of last none may be among the first thousand letters.
        let chosen = self.observatory.passing(&TaskFilter { dead: Some(true), ..filter.clone() });
        let matching = chosen.len() as u64;
        let requeued = match (filter.lets_all_through(), chosen.is_empty()) {
            // As was said: also those of which the journal knows nothing.
            (true, _) => self.requeue_letters(None).await?,
            (false, true) => Requeued::default(),
            (false, false) => self.requeue_letters(Some(chosen)).await?,
        };
        let refused = requeued.kept.len() as u64;
        let more = matching > requeued.requeued + refused;
        if requeued != Requeued::default() {
            self.note(operator, "requeue", filter::in_words(filter), dead::counted(&requeued)).await;
        }
        Ok(Json(TasksRequeued { matching, requeued: requeued.requeued, refused, more }))
    }

    async fn cancel_one(self, task_id: TaskId) -> (TaskId, Result<Cancel, StoreError>) {
        let answer = self.ports.producer.cancel(&task_id).await;
        (task_id, answer)
    }
}
