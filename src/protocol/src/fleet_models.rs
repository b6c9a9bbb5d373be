//! The models of a fleet, as operators see them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    GpuId, GpuRow, Kind, ModelPin, ModelWish, PoolName,
    claim::Settings,
    gpu::{GpuView, LoadableModel, ModelDetails},
};

/// The models that the living GPUs of a pool keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FleetModels {
    /// The pool.
    pub pool: PoolName,
    /// What operators have pinned, by model. What the configuration pins is pinned on each GPU too.
    pub pins: Vec<ModelPin>,
    /// The GPUs, by id.
    pub gpus: Vec<GpuModels>,
}

/// The models of one GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuModels {
    /// The GPU.
    pub gpu_id: GpuId,
    /// Those in its memory, used last first.
    pub loaded: Vec<ModelDetails>,
    /// Those that it could load and has not, by source and name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loadable: Vec<LoadableModel>,
    /// Those in memory that their kinds keep for themselves, each with its kind: nobody can load or unload them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kept_by_kinds: BTreeMap<String, Kind>,
    /// What a cold load took there lately, in ms, by model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub load_ms: BTreeMap<String, f64>,
    /// Why models could not be loaded, or a wish not be done, by model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, String>,
    /// The number of the last wish that is done there; all before it are done too.
    pub wishes_done: u64,
}

/// A wish that was taken down. The GPUs hear of it with their next heartbeats, within a third of `worker.lease_ms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WishTaken {
    /// The wish, with its number.
    pub wish: ModelWish,
    /// The living GPUs that are to do it, by id. One has done it when its `wishes_done` is the wish's number or above.
    pub on: Vec<GpuId>,
}

impl FleetModels {
    /// The pins of models that no GPU of the pool has or could load: they hold for GPUs to come.
    pub fn pins_of_nobody(&self) -> impl Iterator<Item = &ModelPin> {
        self.pins.iter().filter(|pin| !self.gpus.iter().any(|gpu| gpu.has(&pin.model)))
    }

    /// What the rows and the settings of a pool say.
    #[must_use]
    pub fn of(pool: PoolName, rows: Vec<GpuView>, settings: &Settings) -> Self {
        Self { pool, pins: settings.models.pins.clone(), gpus: rows.into_iter().map(GpuModels::of).collect() }
    }
}

impl GpuModels {
    /// Whether the model is in its memory, or could be.
    #[must_use]
    pub fn has(&self, model: &str) -> bool {
        self.loaded.iter().any(|loaded| loaded.name == model)
            || self.loadable.iter().any(|loadable| loadable.name == model)
            || self.kept_by_kinds.contains_key(model)
    }

    fn of(view: GpuView) -> Self {
        let GpuRow { gpu, model_state: state, .. } = view.row;
        Self {
            gpu_id: gpu.gpu_id,
            loadable: state.loadable_models,
            kept_by_kinds: state.models_of_kinds,
            loaded: state.model_details,
            load_ms: state.load_ms,
            errors: state.model_errors,
            wishes_done: state.model_wishes_done,
        }
    }
}

impl WishTaken {
    /// A wish and those of the pool's living GPUs that it is for.
    #[must_use]
    pub fn of(wish: ModelWish, rows: &[GpuView]) -> Self {
        let on = rows.iter().map(|view| view.row.gpu.gpu_id.clone()).filter(|gpu_id| wish.is_for(gpu_id)).collect();
        Self { wish, on }
    }
}
