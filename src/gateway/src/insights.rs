//! What the fleet is at: an overview, its histories, what holds it back, how many workers it should have.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use protocol::{
    HistoryPoint, HistorySpan,
    insight::{Overview, Scaling, Verdict},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Gateway, ObserveError, Problem, query};

/// A history.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct History {
    /// How far back it reaches.
    span: HistorySpan,
    /// The time between two points, in ms.
    step_ms: u64,
    /// Its points, the oldest first. One is missing where nobody measured, or the store was away.
    points: Vec<HistoryPoint>,
}

/// Which history.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HistoryQuery {
    span: Option<String>,
}

/// `GET /api/v1/overview`.
pub(crate) async fn overview(State(gateway): State<Gateway>) -> Result<Json<Overview>, Problem> {
    gateway.observatory.overview().await.map(Json).map_err(|error| gateway.observe_failed(&error))
}

/// `GET /api/v1/bottleneck`.
pub(crate) async fn bottleneck(State(gateway): State<Gateway>) -> Result<Json<Verdict>, Problem> {
    gateway.observatory.verdict().await.map(Json).map_err(|error| gateway.observe_failed(&error))
}

/// `GET /api/v1/scaling`.
pub(crate) async fn scaling(State(gateway): State<Gateway>) -> Result<Json<Scaling>, Problem> {
    gateway.observatory.scaling().await.map(Json).map_err(|error| gateway.observe_failed(&error))
}

/// `GET /api/v1/history`.
pub(crate) async fn history(
    State(gateway): State<Gateway>,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<Json<History>, Problem> {
    let Query(HistoryQuery { span }) = query.map_err(|rejection| query::unread(&["span"], &rejection))?;
    let span = span.map_or(Ok(HistorySpan::default()), |text| read_span(&text))?;
    gateway.must_keep_steps()?;
    let points = gateway.observatory.history(span).await.map_err(|error| gateway.observe_failed(&error))?;
    Ok(Json(History { span, step_ms: span.step_ms(), points }))
}

fn read_span(text: &str) -> Result<HistorySpan, Problem> {
    HistorySpan::ALL.into_iter().find(|span| span.name() == text).ok_or_else(|| {
        let names = HistorySpan::ALL.map(HistorySpan::name).join(", ");
        query::not_allowed("span", &format!("one of {names}"), text)
    })
}

impl Gateway {
    pub(crate) fn observe_failed(&self, cause: &ObserveError) -> Problem {
        match cause {
            ObserveError::Store(cause) => self.store_failed(cause),
            ObserveError::Table(cause) => self.table_failed(cause),
            ObserveError::Queue(_) => self.unreachable(cause, "the broker cannot be reached"),
            ObserveError::NoAnswer { .. } | ObserveError::Away { .. } | ObserveError::NotYet => self.unreachable(cause, cause.to_string()),
        }
    }
}
