//! The models of a kind, as the worker of a GPU sees them.

use std::sync::Arc;

use async_trait::async_trait;
use devices::Device;

use super::{ListedModel, ModelCache, ModelSource};
use crate::Failure;

/// The models that a kind could load, and the cache that keeps them.
#[async_trait]
pub trait Shelf: Send + Sync + 'static {
    /// The cache: one for the GPU, shared by its kinds.
    fn cache(&self) -> &Arc<ModelCache>;

    /// The name of the source: kinds that share one have the same models.
    fn source(&self) -> &'static str;

    /// The models that could be loaded, sorted, as far as is known without waiting for anything.
    fn list(&self) -> Vec<ListedModel>;

    /// Loads a model if it is not loaded.
    ///
    /// # Errors
    /// As [`ModelCache::get`].
    async fn load(&self, name: &str, device: &Arc<dyn Device>) -> Result<(), Failure>;

    /// Whether this shelf has to do with the model: it could be loaded, or is.
    async fn has(&self, name: &str) -> bool;
}

/// The [`Shelf`] of one source.
pub struct ShelfOf<S> {
    cache: Arc<ModelCache>,
    source: Arc<S>,
}

impl<S: ModelSource> ShelfOf<S> {
    /// Those of the models pinned from the start that this source has keep its kinds down until they are loaded.
    #[must_use]
    pub fn new(cache: Arc<ModelCache>, source: Arc<S>) -> Self {
        let listed = source.list();
        for name in cache.pinned_at_the_start() {
            if listed.iter().any(|model| model.name == *name) {
                cache.require(source.name(), name);
            }
        }
        Self { cache, source }
    }
}

#[async_trait]
impl<S: ModelSource> Shelf for ShelfOf<S> {
    fn cache(&self) -> &Arc<ModelCache> {
        &self.cache
    }

    fn source(&self) -> &'static str {
        self.source.name()
    }

    fn list(&self) -> Vec<ListedModel> {
        self.source.list()
    }

    async fn has(&self, name: &str) -> bool {
        self.cache.models_of(self.source.name()).iter().any(|loaded| loaded == name) || self.source.has(name).await
    }

    async fn load(&self, name: &str, device: &Arc<dyn Device>) -> Result<(), Failure> {
        self.cache.ensure(&self.source, name, device).await
    }
}
