//! Dead letters: shown, requeued and purged for operators.

use std::collections::BTreeSet;

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
};
use producer::{DeadLetterError, DeadLetters};
use protocol::{DeadLetter, Requeued, TaskId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::error;

use crate::{Gateway, Problem, operate::Operator, problem::ProblemKind, query, submit::SEE_THE_LOG, tasks::named};

/// How many are listed where a request does not say.
const LISTED: usize = 100;
/// The bodies of one list end with the one that reaches so many bytes.
const LISTED_BYTES_MAX: usize = 32 << 20;
/// The same for those that are looked through for one task's, or requeued.
const IN_HAND_BYTES_MAX: usize = 256 << 20;

/// Dead letters of the fleet.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DeadLetterList {
    /// How many there were before they were listed.
    present: u64,
    /// The first of them, oldest first: as many as were asked for, and no more once their bodies have 32 MiB together.
    letters: Vec<DeadLetter>,
}

/// Dead letters that were deleted.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Purged {
    /// How many.
    purged: u64,
}

/// Which are listed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    #[serde(default)]
    limit: Option<String>,
}

/// Whether all are meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PurgeQuery {
    #[serde(default)]
    all: Option<String>,
}

/// Whether all are meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequeueQuery {
    #[serde(default)]
    requeue: Option<String>,
}

/// `GET /api/v1/dead`.
pub(crate) async fn list(
    _: Operator,
    State(gateway): State<Gateway>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<DeadLetterList>, Problem> {
    let Query(ListQuery { limit }) = query.map_err(|rejection| query::unread(&["limit"], &rejection))?;
    let limit = limit.map_or(Ok(LISTED), |text| query::whole_number("limit", &text, 0..=DeadLetters::IN_HAND_MAX))?;
    let letters = gateway.dead_letters().with_bytes_max(LISTED_BYTES_MAX);
    let listed = gateway.to_the_end(async move {
        let present = letters.count().await?;
        Ok::<_, DeadLetterError>(DeadLetterList { present, letters: letters.list(limit).await? })
    });
    listed.await.map(Json)
}

/// `GET /api/v1/dead/{task_id}`.
pub(crate) async fn of_task(
    _: Operator,
    State(gateway): State<Gateway>,
    task_id: Result<Path<String>, PathRejection>,
) -> Result<Json<Vec<DeadLetter>>, Problem> {
    let task_id = named(task_id)?;
    let (letters, wanted) = (gateway.dead_letters(), task_id.clone());
    let found = gateway.to_the_end(async move { letters.of(&wanted).await }).await?;
    if found.is_empty() { Err(no_letter(&task_id)) } else { Ok(Json(found)) }
}

/// `POST /api/v1/dead/{task_id}/requeue`.
pub(crate) async fn requeue(
    operator: Operator,
    State(gateway): State<Gateway>,
    task_id: Result<Path<String>, PathRejection>,
) -> Result<Json<Requeued>, Problem> {
    let task_id = named(task_id)?;
    let (letters, wanted) = (gateway.dead_letters(), task_id.clone());
    let requeued = gateway.to_the_end(async move { letters.requeue(Some(&wanted)).await }).await?;
    let requeued = requeued.ok_or_else(|| no_letter(&task_id))?;
    gateway.note(&operator, "requeue", format!("task {task_id}"), counted(&requeued)).await;
    Ok(Json(requeued))
}

/// `POST /api/v1/dead?requeue=all`.
pub(crate) async fn requeue_all(
    operator: Operator,
    State(gateway): State<Gateway>,
    query: Result<Query<RequeueQuery>, QueryRejection>,
) -> Result<Json<Requeued>, Problem> {
    let Query(RequeueQuery { requeue }) = query.map_err(|rejection| query::unread(&["requeue"], &rejection))?;
    only("requeue", requeue.as_deref(), "all", "POST /api/v1/dead/{task_id}/requeue requeues those of one task")?;
    let requeued = gateway.requeue_letters(None).await?;
    gateway.note(&operator, "requeue", "all dead letters".to_owned(), counted(&requeued)).await;
    Ok(Json(requeued))
}

/// `DELETE /api/v1/dead/{task_id}`.
pub(crate) async fn purge(
    operator: Operator,
    State(gateway): State<Gateway>,
    task_id: Result<Path<String>, PathRejection>,
) -> Result<Json<Purged>, Problem> {
    let task_id = named(task_id)?;
    let (letters, wanted) = (gateway.dead_letters(), task_id.clone());
    let purged = gateway.to_the_end(async move { letters.purge(&wanted).await }).await?;
    if purged == 0 {
        return Err(no_letter(&task_id));
    }
    gateway.note(&operator, "purge", format!("task {task_id}"), format!("{purged} purged")).await;
    Ok(Json(Purged { purged }))
}

/// `DELETE /api/v1/dead?all=true`.
pub(crate) async fn purge_all(
    operator: Operator,
    State(gateway): State<Gateway>,
    query: Result<Query<PurgeQuery>, QueryRejection>,
) -> Result<Json<Purged>, Problem> {
    let Query(PurgeQuery { all }) = query.map_err(|rejection| query::unread(&["all"], &rejection))?;
    only("all", all.as_deref(), "true", "DELETE /api/v1/dead/{task_id} deletes those of one task")?;
    let letters = gateway.dead_letters();
    let purged = gateway.to_the_end(async move { letters.purge_all().await }).await?;
    gateway.note(&operator, "purge", "all dead letters".to_owned(), format!("{purged} purged")).await;
    Ok(Json(Purged { purged }))
}

/// What became of letters, for the action log.
pub(crate) fn counted(requeued: &Requeued) -> String {
    format!("{} requeued, {} stay", requeued.requeued, requeued.kept.len())
}

impl Gateway {
    fn dead_letters(&self) -> DeadLetters {
        self.ports.producer.dead_letters().with_bytes_max(IN_HAND_BYTES_MAX)
    }

    /// Requeues the letters of some tasks, or all, among as many as may be in hand.
    pub(crate) async fn requeue_letters(&self, tasks: Option<BTreeSet<TaskId>>) -> Result<Requeued, Problem> {
        let letters = self.dead_letters();
        let requeuing = async move {
            match tasks {
                Some(tasks) => letters.requeue_those(&tasks).await,
                None => Ok(letters.requeue(None).await?.unwrap_or_default()),
            }
        };
        self.to_the_end(requeuing).await
    }

    /// Does something with dead letters to its end, whether or not its client stays: those in hand must go back. One such thing at a time: what one has in hand another
    /// would not see.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, DeadLetterError>> + Send + 'static,
    ) -> Result<T, Problem> {
        let alone = self.dead_letters_alone.clone().lock_owned().await;
        let working = tokio::spawn(async move {
            let done = work.await;
            drop(alone);
            done
        });
        match working.await {
            Ok(done) => done.map_err(|cause| self.dead_letters_failed(&cause)),
            Err(cause) => {
                error!(error = %cause, "handle dead letters");
                Err(Problem::new(ProblemKind::Internal, "the gateway broke while it handled dead letters; its log has the details"))
            }
        }
    }

    fn dead_letters_failed(&self, cause: &DeadLetterError) -> Problem {
        match cause {
            DeadLetterError::Store(cause) => self.store_failed(cause),
            _ if cause.is_transient() => {
                self.unreachable(cause, "the broker cannot be reached, or takes nothing; dead letters are where they were, but for those that were dealt with before")
            }
            _ => {
                error!(error = %cause, "handle dead letters");
                Problem::new(ProblemKind::Internal, SEE_THE_LOG)
            }
        }
    }
}

fn no_letter(task_id: &TaskId) -> Problem {
    let (most, mib) = (DeadLetters::IN_HAND_MAX, IN_HAND_BYTES_MAX >> 20);
    let detail = format!(
        "there is no dead letter of task {task_id} among the first {most}, or the first {mib} MiB of them; GET /api/v1/dead lists them"
    );
    Problem::new(ProblemKind::NotFound, detail).field("task_id")
}

/// Checks the parameter without which a request that has lost its task_id would reach all letters.
fn only(name: &'static str, given: Option<&str>, wanted: &str, instead: &str) -> Result<(), Problem> {
    if given == Some(wanted) {
        return Ok(());
    }
    let given = given.map_or_else(|| "is missing".to_owned(), |text| format!("is {:?}", query::shortened(text)));
    let detail = format!("{name}: {given}; give {name}={wanted} where all dead letters are meant; {instead}");
    Err(Problem::new(ProblemKind::InvalidParameter, detail).field(name))
}
