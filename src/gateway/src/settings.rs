//! The fleet's settings, and the GPUs that drain by them.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use gpu_table::change_settings;
use protocol::{GpuId, Strategy, claim::Settings};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{Gateway, Problem, intake::JsonBody, operate::Operator, problem::ProblemKind, tasks::not_utf8};

/// A default strategy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StrategyRequest {
    /// The strategy of tasks that name none.
    #[schemars(extend("enum" = ["round_robin", "least_loaded", "task_specific"]))]
    strategy: String,
}

/// `GET /api/v1/settings`.
pub(crate) async fn show(_: Operator, State(gateway): State<Gateway>) -> Result<Json<Settings>, Problem> {
    let settings = gateway.ports.table.current_settings(&gateway.options.pool).await.map_err(|error| gateway.table_failed(&error))?;
    Ok(Json(settings.unwrap_or_else(|| gateway.options.initial_settings.clone())))
}

/// `PUT /api/v1/settings/strategy`.
pub(crate) async fn set_strategy(
    _: Operator,
    State(gateway): State<Gateway>,
    JsonBody(request, _share): JsonBody<StrategyRequest>,
) -> Result<Json<Settings>, Problem> {
    let strategy = request.strategy.parse::<Strategy>().map_err(|unknown| {
        let detail = format!("strategy: {unknown}");
        Problem::new(ProblemKind::InvalidField, detail).field("strategy")
    })?;
    gateway.change(|settings| settings.with_default_strategy(strategy)).await
}

/// `PUT /api/v1/gpus/{gpu_id}/drain`.
pub(crate) async fn drain(
    _: Operator,
    State(gateway): State<Gateway>,
    gpu_id: Result<Path<String>, PathRejection>,
) -> Result<Json<Settings>, Problem> {
    let gpu_id = gateway.known_gpu(gpu_id).await?;
    gateway.change(|settings| settings.with_drained(&gpu_id)).await
}

/// `DELETE /api/v1/gpus/{gpu_id}/drain`.
pub(crate) async fn undrain(
    _: Operator,
    State(gateway): State<Gateway>,
    gpu_id: Result<Path<String>, PathRejection>,
) -> Result<Json<Settings>, Problem> {
    let gpu_id = gateway.known_gpu(gpu_id).await?;
    gateway.change(|settings| settings.with_undrained(&gpu_id)).await
}

impl Gateway {
    async fn change(&self, change: impl Fn(Settings) -> Settings) -> Result<Json<Settings>, Problem> {
        let (table, options) = (&*self.ports.table, &self.options);
        let changed = change_settings(table, &options.pool, &options.initial_settings, change).await;
        changed.map(Json).map_err(|error| self.table_failed(&error))
    }

    /// The GPU of the path, if the table knows it: it need not live, since a drain outlives its worker.
    async fn known_gpu(&self, gpu_id: Result<Path<String>, PathRejection>) -> Result<GpuId, Problem> {
        let Path(wanted) = gpu_id.map_err(|_| not_utf8("gpu_id"))?;
        let pool = &self.options.pool;
        let known = self.ports.table.known(pool).await.map_err(|error| self.table_failed(&error))?;
        known.into_iter().find(|gpu_id| gpu_id.as_str() == wanted).ok_or_else(|| {
            let detail =
                format!("gpu_id: the pool {pool} has had no GPU {wanted:?} in the last week; GET /api/v1/gpus lists those that live");
            Problem::new(ProblemKind::NotFound, detail).field("gpu_id")
        })
    }
}
