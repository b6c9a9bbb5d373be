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

/// Thresholds. What is left out stays as it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ThresholdsRequest {
    /// A GPU takes tasks below this share of its memory in use, 0 to 1.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    memory_threshold: Option<f64>,
    /// A GPU takes tasks below this utilisation by others than our tasks, 0 to 1; 1.01 switches it off.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.01))]
    utilization_threshold: Option<f64>,
}

impl ThresholdsRequest {
    /// Refuses what no threshold can be, and a request that changes none.
    fn check(&self) -> Result<(), Problem> {
        let invalid =
            |field: &'static str, detail: String| Err(Problem::new(ProblemKind::InvalidField, format!("{field}: {detail}")).field(field));
        for (name, given, most) in
            [("memory_threshold", self.memory_threshold, 1.0), ("utilization_threshold", self.utilization_threshold, 1.01)]
        {
            if let Some(share) = given.filter(|share| !(0.0..=most).contains(share)) {
                return invalid(name, format!("must be 0 to {most}, not {share}"));
            }
        }
        if self.memory_threshold.is_none() && self.utilization_threshold.is_none() {
            return invalid("memory_threshold", "is missing, and so is utilization_threshold; give one or both".to_owned());
        }
        Ok(())
    }
}

/// `GET /api/v1/settings`.
pub(crate) async fn show(_: Operator, State(gateway): State<Gateway>) -> Result<Json<Settings>, Problem> {
    let settings = gateway.ports.table.current_settings(&gateway.options.pool).await.map_err(|error| gateway.table_failed(&error))?;
    Ok(Json(settings.unwrap_or_else(|| gateway.options.initial_settings.clone())))
}

/// `PUT /api/v1/settings/strategy`.
pub(crate) async fn set_strategy(
    operator: Operator,
    State(gateway): State<Gateway>,
    JsonBody(request, _share): JsonBody<StrategyRequest>,
) -> Result<Json<Settings>, Problem> {
    let strategy = request.strategy.parse::<Strategy>().map_err(|unknown| {
        let detail = format!("strategy: {unknown}");
        Problem::new(ProblemKind::InvalidField, detail).field("strategy")
    })?;
    let (before, settings) = gateway.change(|settings| settings.with_default_strategy(strategy)).await?;
    if before != settings {
        let detail = format!("{} → {}", before.default_strategy, settings.default_strategy);
        gateway.note(&operator, "set_strategy", String::new(), detail).await;
    }
    Ok(Json(settings))
}

/// `PUT /api/v1/settings/thresholds`.
pub(crate) async fn set_thresholds(
    operator: Operator,
    State(gateway): State<Gateway>,
    JsonBody(request, _share): JsonBody<ThresholdsRequest>,
) -> Result<Json<Settings>, Problem> {
    request.check()?;
    let ThresholdsRequest { memory_threshold, utilization_threshold } = request;
    let with_them = |settings: Settings| Settings {
        memory_threshold: memory_threshold.unwrap_or(settings.memory_threshold),
        utilization_threshold: utilization_threshold.unwrap_or(settings.utilization_threshold),
        ..settings
    };
    let (before, settings) = gateway.change(with_them).await?;
    if before != settings {
        let detail = format!("{} → {}", thresholds(&before), thresholds(&settings));
        gateway.note(&operator, "set_thresholds", String::new(), detail).await;
    }
    Ok(Json(settings))
}

fn thresholds(settings: &Settings) -> String {
    format!("memory {}, utilization {}", settings.memory_threshold, settings.utilization_threshold)
}

/// `PUT /api/v1/gpus/{gpu_id}/drain`.
pub(crate) async fn drain(
    operator: Operator,
    State(gateway): State<Gateway>,
    gpu_id: Result<Path<String>, PathRejection>,
) -> Result<Json<Settings>, Problem> {
    let gpu_id = gateway.known_gpu(gpu_id).await?;
    let (before, settings) = gateway.change(|settings| settings.with_drained(&gpu_id)).await?;
    if before != settings {
        gateway.note(&operator, "drain", gpu_id.to_string(), String::new()).await;
    }
    Ok(Json(settings))
}

/// `DELETE /api/v1/gpus/{gpu_id}/drain`.
pub(crate) async fn undrain(
    operator: Operator,
    State(gateway): State<Gateway>,
    gpu_id: Result<Path<String>, PathRejection>,
) -> Result<Json<Settings>, Problem> {
    let gpu_id = gateway.known_gpu(gpu_id).await?;
    let (before, settings) = gateway.change(|settings| settings.with_undrained(&gpu_id)).await?;
    if before != settings {
        gateway.note(&operator, "undrain", gpu_id.to_string(), String::new()).await;
    }
    Ok(Json(settings))
}

impl Gateway {
    /// Changes the settings: what they were, and what they are. What they were is read before, for the action log alone.
    async fn change(&self, change: impl Fn(Settings) -> Settings) -> Result<(Settings, Settings), Problem> {
        let (table, options) = (&*self.ports.table, &self.options);
        let before = table.current_settings(&options.pool).await.map_err(|error| self.table_failed(&error))?;
        let before = before.unwrap_or_else(|| options.initial_settings.clone());
        let changed = change_settings(table, &options.pool, &options.initial_settings, change).await;
        changed.map(|settings| (before, settings)).map_err(|error| self.table_failed(&error))
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
