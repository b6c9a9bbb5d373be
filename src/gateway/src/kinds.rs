//! The kinds that the pool serves, as people see them; and the check of payloads before they travel.
//!
//! What is shown and checked by is a view of the table that is renewed beside the requests: a submit costs no call for it.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use protocol::{Kind, KindView, PoolName, TaskBody};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{Gateway, Problem, problem::ProblemKind, tasks::not_utf8};

/// The kinds of a pool.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KindList {
    /// The pool.
    pool: PoolName,
    /// Every kind that a living GPU has or that was described lately, sorted.
    kinds: Vec<KindView>,
}

/// `GET /api/v1/kinds`.
pub(crate) async fn list(State(gateway): State<Gateway>) -> Result<Json<KindList>, Problem> {
    Ok(Json(KindList { kinds: gateway.known_kinds().await?, pool: gateway.options.pool.clone() }))
}

/// `GET /api/v1/kinds/{kind}`.
pub(crate) async fn one(State(gateway): State<Gateway>, kind: Result<Path<String>, PathRejection>) -> Result<Json<KindView>, Problem> {
    let Path(wanted) = kind.map_err(|_| not_utf8("kind"))?;
    let found = gateway.known_kinds().await?.into_iter().find(|view| view.kind.as_str() == wanted);
    found.map(Json).ok_or_else(|| {
        let pool = &gateway.options.pool;
        let detail = format!("kind: no living GPU of pool {pool} has a kind {wanted:?}; GET /api/v1/kinds lists those that there are");
        Problem::new(ProblemKind::NotFound, detail).field("kind")
    })
}

impl Gateway {
    async fn known_kinds(&self) -> Result<Vec<KindView>, Problem> {
        let known = self.kinds.new_enough().await.map_err(|error| self.table_failed(&error))?;
        Ok(known.kinds().to_vec())
    }

    /// Refuses a task whose payload, or one of its items, does not fit its kind's schema, where the configuration says so and a schema is known.
    pub(crate) async fn check_payload(&self, kind: &Kind, body: &TaskBody) -> Result<(), Problem> {
        if self.options.check_payloads { self.kinds.check(kind, body).await.map_err(Problem::from) } else { Ok(()) }
    }
}
