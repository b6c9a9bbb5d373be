//! Where models come from.

use async_trait::async_trait;

use crate::Failure;

/// A model that was loaded.
#[derive(Debug)]
pub struct Loaded<M> {
    /// The model.
    pub model: M,
    /// What it takes of the GPU's memory (of the host's, where its source is not [on the device](ModelSource::is_on_device)), in MB (10^6 bytes).
    pub memory_mb: u64,
}

/// A model that a source could load.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedModel {
    /// Its name.
    pub name: String,
    /// Which version of it would be loaded now; empty where it has none.
    pub version: String,
}

/// Loads the models of a kind, or of kinds that share them.
#[async_trait]
pub trait ModelSource: Send + Sync + 'static {
    /// What it loads. All sources of one [`name`](Self::name) load the same type.
    type Model: Send + Sync + 'static;

    /// What tells its models apart from those of other sources that have the same names: the kind that it serves first, `onnx`.
    fn name(&self) -> &'static str;

    /// Loads a model and tries it once, so that what comes back is known to run. Long work belongs on threads of its own. It may be called for several models at a time, for
    /// one model only once at a time, and is never dropped half-way but at the end of the process.
    ///
    /// # Errors
    /// [`Failure`] goes to every task that waits for the model; the next task that wants it tries again.
    async fn load(&self, name: &str) -> Result<Loaded<Self::Model>, Failure>;

    /// The models that it could load, sorted by name, as far as it knows without waiting for anything: asked with every heartbeat.
    fn list(&self) -> Vec<ListedModel>;

    /// Whether it could load this model now. Default: whether it lists it.
    async fn has(&self, name: &str) -> bool {
        self.list().iter().any(|listed| listed.name == name)
    }

    /// What the model will take, in MB, as far as that is known before it is loaded: so much is kept free for it first. Default: 0, nothing is known; room is then made when it is there.
    async fn memory_mb(&self, _name: &str) -> u64 {
        0
    }

    /// Whether its models lie in the GPU's memory. Default: they do. Those that do not are bounded by [`ModelBounds::memory_mb`](super::ModelBounds::memory_mb) alone.
    fn is_on_device(&self) -> bool {
        true
    }
}
