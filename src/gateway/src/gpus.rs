//! GPUs as operators see them.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use gpu_table::TableError;
use protocol::{PoolName, gpu::GpuView};
use schemars::JsonSchema;
use serde::Serialize;
use tracing::error;

use crate::{Gateway, Problem, problem::ProblemKind, submit::SEE_THE_LOG, tasks::not_utf8};

/// The living GPUs of a pool.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GpuList {
    /// The pool.
    pool: PoolName,
    /// Its GPUs, by id.
    gpus: Vec<GpuView>,
}

impl GpuList {
    pub(crate) const fn of(pool: PoolName, gpus: Vec<GpuView>) -> Self {
        Self { pool, gpus }
    }
}

/// `GET /api/v1/gpus`.
pub(crate) async fn list(State(gateway): State<Gateway>) -> Result<Json<GpuList>, Problem> {
    let gpus = gateway.gpus().await?;
    Ok(Json(GpuList::of(gateway.options.pool.clone(), gpus)))
}

/// `GET /api/v1/gpus/{gpu_id}`.
pub(crate) async fn one(State(gateway): State<Gateway>, gpu_id: Result<Path<String>, PathRejection>) -> Result<Json<GpuView>, Problem> {
    let Path(wanted) = gpu_id.map_err(|_| not_utf8("gpu_id"))?;
    let found = gateway.gpus().await?.into_iter().find(|view| view.row.gpu.gpu_id.as_str() == wanted);
    found.map(Json).ok_or_else(|| {
        let pool = &gateway.options.pool;
        Problem::new(ProblemKind::NotFound, format!("no living GPU of pool {pool} has the id {wanted:?}"))
    })
}

impl Gateway {
    async fn gpus(&self) -> Result<Vec<GpuView>, Problem> {
        let gpus = self.ports.table.rows(&self.options.pool).await.map_err(|error| self.table_failed(&error))?;
        Ok(gpus.into_iter().map(GpuView::without_keys).collect())
    }

    pub(crate) fn table_failed(&self, cause: &TableError) -> Problem {
        if let TableError::Contended { .. } = cause {
            return self.unreachable(cause, cause.to_string());
        }
        if cause.is_transient() {
            return self.unreachable(cause, "the GPU table does not answer");
        }
        error!(error = %cause, "ask the table");
        Problem::new(ProblemKind::Internal, SEE_THE_LOG)
    }
}
