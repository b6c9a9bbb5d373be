//! The models that GPUs keep, and operators' wishes for them.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use gpu_table::{WishFailed, wish_for_model};
use protocol::{FleetModels, GpuId, ModelAction, ModelWish, ModelWishes, WishError, WishTaken};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{Gateway, Problem, intake::JsonBody, operate::Operator, problem::ProblemKind, tasks::not_utf8};

/// Where a wish is to be done.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelRequest {
    /// The GPUs. Default: none is named, and all of the pool are meant.
    #[serde(default)]
    #[schemars(length(max = ModelWishes::GPUS_MAX))]
    gpus: Vec<GpuId>,
}

/// The model of the path.
type Named = Result<Path<String>, PathRejection>;

/// `GET /api/v1/models`.
pub(crate) async fn list(State(gateway): State<Gateway>) -> Result<Json<FleetModels>, Problem> {
    let (table, options) = (&gateway.ports.table, &gateway.options);
    let failed = |error| gateway.table_failed(&error);
    let rows = table.rows(&options.pool).await.map_err(failed)?;
    let settings = table.current_settings(&options.pool).await.map_err(failed)?.unwrap_or_else(|| options.initial_settings.clone());
    Ok(Json(FleetModels::of(options.pool.clone(), rows, &settings)))
}

/// `POST /api/v1/models/{model}/load`.
pub(crate) async fn load(operator: Operator, gateway: State<Gateway>, model: Named, request: JsonBody<ModelRequest>) -> Taken {
    gateway.wish(operator, model, ModelAction::Load, request).await
}

/// `POST /api/v1/models/{model}/unload`.
pub(crate) async fn unload(operator: Operator, gateway: State<Gateway>, model: Named, request: JsonBody<ModelRequest>) -> Taken {
    gateway.wish(operator, model, ModelAction::Unload, request).await
}

/// `POST /api/v1/models/{model}/pin`.
pub(crate) async fn pin(operator: Operator, gateway: State<Gateway>, model: Named, request: JsonBody<ModelRequest>) -> Taken {
    gateway.wish(operator, model, ModelAction::Pin, request).await
}

/// `POST /api/v1/models/{model}/unpin`.
pub(crate) async fn unpin(operator: Operator, gateway: State<Gateway>, model: Named, request: JsonBody<ModelRequest>) -> Taken {
    gateway.wish(operator, model, ModelAction::Unpin, request).await
}

type Taken = Result<Json<WishTaken>, Problem>;

/// A wish in the action log.
const fn noted(action: ModelAction) -> &'static str {
    match action {
        ModelAction::Load => "load_model",
        ModelAction::Unload => "unload_model",
        ModelAction::Pin => "pin_model",
        ModelAction::Unpin => "unpin_model",
    }
}

impl Gateway {
    async fn wish(
        &self,
        operator: Operator,
        model: Named,
        action: ModelAction,
        JsonBody(request, _share): JsonBody<ModelRequest>,
    ) -> Taken {
        let Path(model) = model.map_err(|_| not_utf8("model"))?;
        let (table, options) = (&*self.ports.table, &self.options);
        let rows = table.rows(&options.pool).await.map_err(|error| self.table_failed(&error))?;
        if let Some(stranger) = request.gpus.iter().find(|gpu_id| !rows.iter().any(|view| view.row.gpu.gpu_id == **gpu_id)) {
            let detail =
                format!("gpus: no living GPU of pool {} has the id {stranger}; GET /api/v1/gpus lists those that live", options.pool);
            return Err(Problem::new(ProblemKind::NotFound, detail).field("gpus"));
        }
        let wish = ModelWish::new(model, action, self.ports.producer.now_ms()).on(&request.gpus);
        match wish_for_model(table, &options.pool, &options.initial_settings, &wish).await {
            Ok(taken) => {
                let on: Vec<&str> = request.gpus.iter().map(GpuId::as_str).collect();
                let on = if on.is_empty() { "all GPUs of the pool".to_owned() } else { on.join(", ") };
                self.note(&operator, noted(action), wish.model.clone(), on).await;
                Ok(Json(WishTaken::of(taken, &rows)))
            }
            Err(WishFailed::Table(error)) => Err(self.table_failed(&error)),
            Err(WishFailed::Refused(refused)) => {
                let field = if matches!(refused, WishError::TooManyGpus(_) | WishError::TooManyGpusOfPin(_)) { "gpus" } else { "model" };
                Err(Problem::new(ProblemKind::InvalidField, format!("{field}: {refused}")).field(field))
            }
        }
    }
}
