//! `GET /api/v1/tasks/{task_id}/results`: the results of a batch's items in pieces.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
};
use producer::{ResultsError, WantedResults};
use protocol::{ItemResults, batch::ITEMS_MAX};
use serde::Deserialize;
use tracing::error;

use crate::{Gateway, Problem, problem::ProblemKind, query, submit::SEE_THE_LOG, tasks::named};

/// Which results are wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResultsQuery {
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    limit: Option<String>,
}

/// `GET /api/v1/tasks/{task_id}/results`.
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    task_id: Result<Path<String>, PathRejection>,
    query: Result<Query<ResultsQuery>, QueryRejection>,
) -> Result<Json<ItemResults>, Problem> {
    let task_id = named(task_id)?;
    let Query(ResultsQuery { from, limit }) = query.map_err(|rejection| query::unread(&["from", "limit"], &rejection))?;
    let standard = WantedResults::default();
    let from = from.map(|text| query::whole_number("from", &text, 0..=ITEMS_MAX)).transpose()?;
    let limit = limit.map(|text| query::whole_number("limit", &text, 1..=ITEMS_MAX)).transpose()?;
    let wanted = WantedResults {
        from: from.and_then(|from| u32::try_from(from).ok()).unwrap_or(standard.from),
        limit: limit.unwrap_or(standard.limit),
        ..standard
    };
    let results = gateway.ports.producer.results(&task_id, wanted).await;
    results.map(Json).map_err(|cause| gateway.no_results(&cause))
}

impl Gateway {
    fn no_results(&self, cause: &ResultsError) -> Problem {
        match cause {
            ResultsError::Unknown { .. } => Problem::new(ProblemKind::NotFound, cause.to_string()),
            ResultsError::NoResults { task_id, code, .. } => {
                let problem = Problem::new(ProblemKind::NoResults, cause.to_string()).task(task_id);
                match code {
                    Some(code) => problem.code(code),
                    None => problem,
                }
            }
            ResultsError::Gone { task_id, .. } => Problem::new(ProblemKind::ReplyNotKept, cause.to_string()).task(task_id),
            ResultsError::Store { source, .. } => self.store_failed(source),
            ResultsError::Unreadable { task_id, .. } => {
                error!(%task_id, error = %cause, "read the results of a batch");
                Problem::new(ProblemKind::Internal, SEE_THE_LOG).task(task_id)
            }
        }
    }
}
