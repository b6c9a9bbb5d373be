//! Tensors, as this worker needs them: what a task asks for, where the table says that they are, and that it hears of those that are here.

pub(crate) mod asked;
pub(crate) mod directory;
pub(crate) mod freeing;
pub(crate) mod telling;

use std::{collections::BTreeMap, sync::Arc};

use executors::RunTensors;
use protocol::DataState;
use tensors::{DataOptions, DataParts, DataPlane};

use self::directory::TableDirectory;
use crate::context::Context;

/// The GPU's part of the fleet's data.
pub(crate) struct Data {
    pub(crate) plane: Arc<DataPlane>,
    /// What an attempt is given that names no tensors and keeps none: made once, so that it costs such an attempt nothing.
    pub(crate) plain: RunTensors,
}

impl Data {
    /// Opens it, for a GPU that can keep tensors. `usable_mb`: the memory that tasks may use. `None`: it cannot, or the worker is not to.
    pub(crate) async fn start(context: &Context, usable_mb: u64) -> Option<Self> {
        let section = context.me.options.data.as_ref()?;
        context.gpu.device.memory()?;
        let parts = DataParts {
            device: Arc::clone(&context.gpu.device),
            directory: Arc::new(TableDirectory::of(context)),
            incarnation: context.me.incarnation.clone(),
            environment: context.ports.environment.clone(),
            options: DataOptions::of(section, usable_mb),
            metrics: Arc::clone(&context.metrics.data),
        };
        let plane = DataPlane::start(parts).await;
        let plain = RunTensors::new(Arc::clone(&plane), BTreeMap::new(), None);
        Some(Self { plane, plain })
    }

    /// What the row says.
    pub(crate) fn state(&self) -> DataState {
        self.plane.state()
    }
}
