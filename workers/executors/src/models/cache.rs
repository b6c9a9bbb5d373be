//! What a GPU keeps between tasks.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering},
};

use devices::Device;
use protocol::{GpuRow, gpu::ModelDetails};
use tokio::sync::watch;

use super::{
    inner::{Inner, Key, Outcome, Told},
    kept::{InUse, Kept, Replaced},
    loading::{Load, Registered, came_out},
    room::Lies,
    source::ModelSource,
};
use crate::Failure;

/// What bounds the models of a GPU, and which are there from the start.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelBounds {
    /// Most that they may take together, in MB (10^6 bytes). `None`: only [`memory_share`](Self::memory_share) bounds them.
    pub memory_mb: Option<u64>,
    /// Most that they may take of the GPU's memory, 0 to 1.
    pub memory_share: f64,
    /// Models that are loaded before their kinds are offered, and never evicted.
    pub pinned: Vec<String>,
}

impl Default for ModelBounds {
    fn default() -> Self {
        Self { memory_mb: None, memory_share: 1.0, pinned: Vec::new() }
    }
}

/// What happened in a cache since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ModelCounts {
    /// Uses that found their model loaded.
    pub hits: u64,
    /// Uses that did not: they began a load, or waited for one.
    pub misses: u64,
    /// Loads that succeeded.
    pub loads: u64,
    /// Loads that failed.
    pub load_failures: u64,
    /// How long the ones that succeeded took together.
    pub load_seconds: f64,
    /// Models that made room for others.
    pub evictions: u64,
    /// What models take now, in MB.
    pub memory_mb: u64,
}

impl ModelCounts {
    fn used(&mut self, was_loaded: bool) {
        let counter = if was_loaded { &mut self.hits } else { &mut self.misses };
        *counter += 1;
    }

    /// These and others together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
            loads: self.loads + other.loads,
            load_failures: self.load_failures + other.load_failures,
            load_seconds: self.load_seconds + other.load_seconds,
            evictions: self.evictions + other.evictions,
            memory_mb: self.memory_mb + other.memory_mb,
        }
    }
}

/// What a GPU keeps between tasks, bounded by its memory. A model is loaded once, whoever wants it at that time; the one that was used longest ago makes room for others, never one
/// that is in use or pinned.
pub struct ModelCache {
    inner: Arc<Inner>,
}

impl Default for ModelCache {
    fn default() -> Self {
        Self::new(ModelBounds::default())
    }
}

impl fmt::Debug for ModelCache {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ModelCache").field("counts", &self.counts()).finish()
    }
}

enum Found {
    Kept(Arc<Kept>),
    Loading(watch::Receiver<Outcome>),
    Absent(Registered, watch::Receiver<Outcome>),
}

impl ModelCache {
    /// An empty cache.
    #[must_use]
    pub fn new(bounds: ModelBounds) -> Self {
        Self { inner: Arc::new(Inner::new(bounds)) }
    }

    /// The model, loaded now if it is not yet. Dropping the future leaves a load that has begun to go on to its end; what it gives is kept.
    ///
    /// # Errors
    /// Those of the load; `out_of_memory` where other models that are pinned or in use take the memory for longer than 10 s.
    pub async fn get<S: ModelSource>(&self, source: &Arc<S>, name: &str, device: &Arc<dyn Device>) -> Result<InUse<S::Model>, Failure> {
        let found = self.find(&(source.name(), name.to_owned()));
        self.inner.state().counts.used(matches!(found, Found::Kept(_)));
        let kept = self.loaded(found, source, name, device).await?;
        InUse::of(kept, &self.inner, name)
    }

    /// Loads the model if it is not loaded. It counts as no use.
    ///
    /// # Errors
    /// As [`ModelCache::get`].
    pub async fn ensure<S: ModelSource>(&self, source: &Arc<S>, name: &str, device: &Arc<dyn Device>) -> Result<(), Failure> {
        let found = self.find(&(source.name(), name.to_owned()));
        let kept = self.loaded(found, source, name, device).await?;
        self.inner.touch(&kept);
        Ok(())
    }

    async fn loaded<S: ModelSource>(
        &self,
        found: Found,
        source: &Arc<S>,
        name: &str,
        device: &Arc<dyn Device>,
    ) -> Result<Arc<Kept>, Failure> {
        match found {
            Found::Kept(kept) => Ok(kept),
            Found::Loading(outcome) => came_out(outcome, name).await,
            Found::Absent(registered, outcome) => {
                tokio::spawn(Load { source: Arc::clone(source), device: Arc::clone(device), registered, replaces: None }.finish());
                came_out(outcome, name).await
            }
        }
    }

    /// Loads a model anew although it may be loaded, because what it was loaded from has changed. Those who use the old one go on with it, and so does everybody if the new one
    /// cannot be loaded: the old one stays meanwhile, so that there must be room for both.
    ///
    /// # Errors
    /// As [`ModelCache::get`].
    pub async fn replace<S: ModelSource>(&self, source: &Arc<S>, name: &str, device: &Arc<dyn Device>) -> Result<(), Failure> {
        let key = (source.name(), name.to_owned());
        let (registered, outcome) = {
            let mut state = self.inner.state();
            match state.loading.get(&key).cloned() {
                Some(outcome) => (None, outcome),
                None => {
                    let (registered, outcome) = Registered::new(&self.inner, &key);
                    let replaces = state.kept.get(&key).map(|kept| Replaced::of(Arc::clone(kept), &self.inner));
                    state.loading.insert(key, outcome.clone());
                    (Some((registered, replaces)), outcome)
                }
            }
        };
        if let Some((registered, replaces)) = registered {
            tokio::spawn(Load { source: Arc::clone(source), device: Arc::clone(device), registered, replaces }.finish());
        }
        came_out(outcome, name).await.map(drop)
    }

    fn find(&self, key: &Key) -> Found {
        let mut state = self.inner.state();
        if let Some(kept) = state.kept.get(key).cloned() {
            return Found::Kept(kept);
        }
        if let Some(outcome) = state.loading.get(key) {
            return Found::Loading(outcome.clone());
        }
        let (registered, outcome) = Registered::new(&self.inner, key);
        state.loading.insert(key.clone(), outcome.clone());
        Found::Absent(registered, outcome)
    }

    /// Forgets a model: the next use loads it. Those who use it now go on, and its memory is free after the last of them. Whether it was loaded.
    pub fn forget(&self, source: &'static str, name: &str) -> bool {
        let key = (source, name.to_owned());
        let forgotten = {
            let mut state = self.inner.state();
            state.errors.remove(&key);
            state.kept.remove(&key)
        };
        let was_loaded = forgotten.is_some();
        drop(forgotten);
        if was_loaded {
            self.inner.tell();
        }
        was_loaded
    }

    /// Evicts everything from the GPU's memory that nobody uses and that is not pinned. What lies in the host's memory stays. Whether there was anything.
    pub fn evict(&self) -> bool {
        let mut any = false;
        while self.inner.evict_one(Lies::OnDevice) {
            any = true;
        }
        any
    }

    /// From now on the model is not evicted. It is not loaded by that.
    pub fn pin(&self, source: &'static str, name: &str) {
        if self.inner.state().pinned.insert((source, name.to_owned())) {
            self.inner.tell();
        }
    }

    /// From now on the model may be evicted.
    pub fn unpin(&self, source: &'static str, name: &str) {
        let key = (source, name.to_owned());
        let was_pinned = {
            let mut state = self.inner.state();
            state.required.remove(&key);
            state.pinned.remove(&key)
        };
        if was_pinned {
            self.inner.freed.notify_waiters();
            self.inner.tell();
        }
    }

    /// Whether the model is not evicted.
    #[must_use]
    pub fn is_pinned(&self, source: &'static str, name: &str) -> bool {
        self.inner.state().pinned.contains(&(source, name.to_owned()))
    }

    /// The pinned models of this source, loaded or not, sorted.
    #[must_use]
    pub fn pinned_of(&self, source: &str) -> Vec<String> {
        self.inner.state().pinned.iter().filter(|(of, _)| *of == source).map(|(_, name)| name.clone()).collect()
    }

    /// The models that are loaded before their kinds are offered.
    #[must_use]
    pub fn pinned_at_the_start(&self) -> &[String] {
        &self.inner.bounds.pinned
    }

    /// Pins a model of the start: until it has been loaded once, [`ModelCache::is_warm`] says no.
    pub(super) fn require(&self, source: &'static str, name: &str) {
        let key = (source, name.to_owned());
        let mut state = self.inner.state();
        state.required.insert(key.clone(), format!("loading model {name}"));
        state.pinned.insert(key);
    }

    /// Whether the models of this source that are pinned from the start have been loaded: for [`Executor::is_up`](crate::Executor::is_up).
    ///
    /// # Errors
    /// Which one is not, and why.
    pub fn is_warm(&self, source: &str) -> Result<(), String> {
        let state = self.inner.state();
        let missing = state.required.iter().find(|((of, _), _)| *of == source).map(|(_, why)| why.clone());
        missing.map_or(Ok(()), Err)
    }

    /// The same for one model: for a kind that uses no other one.
    ///
    /// # Errors
    /// Why it is not loaded yet.
    pub fn is_model_warm(&self, source: &'static str, name: &str) -> Result<(), String> {
        self.inner.state().required.get(&(source, name.to_owned())).map_or(Ok(()), |why| Err(why.clone()))
    }

    /// Takes what is called when models come or go.
    pub fn on_change(&self, told: Told) {
        self.inner.on_change(told);
    }

    /// The names of the models of this source that are loaded, sorted.
    #[must_use]
    pub fn models_of(&self, source: &str) -> Vec<String> {
        self.inner.state().kept.keys().filter(|(of, _)| *of == source).map(|(_, name)| name.clone()).collect()
    }

    /// What is loaded, for people; [`GpuRow::MODELS_MAX`] at most, those used last first.
    #[must_use]
    pub fn details(&self) -> Vec<ModelDetails> {
        let now_ms = self.inner.now_ms();
        let state = self.inner.state();
        let mut details: Vec<ModelDetails> = state
            .kept
            .iter()
            .map(|(key, kept)| ModelDetails {
                name: key.1.clone(),
                source: key.0.to_owned(),
                memory_mb: kept.room.memory_mb,
                pinned: state.pinned.contains(key),
                in_use: kept.is_in_use(),
                last_used_ms_ago: now_ms.saturating_sub(kept.used_at_ms.load(Ordering::Relaxed)),
            })
            .collect();
        details.sort_by_key(|details| details.last_used_ms_ago);
        details.truncate(GpuRow::MODELS_MAX);
        details
    }

    /// Why models could not be loaded in the last ten minutes, by name, as long as they were not loaded since.
    #[must_use]
    pub fn errors(&self) -> BTreeMap<String, String> {
        let state = self.inner.state();
        let told = state.errors.iter().filter(|(_, error)| error.is_told());
        told.map(|((_, name), error)| (name.clone(), error.why.clone())).collect()
    }

    /// What a cold load took lately, in ms, by model.
    #[must_use]
    pub fn load_ms(&self) -> BTreeMap<String, f64> {
        self.inner.state().learnt.of_each_model()
    }

    /// What would be free of the GPU's memory if everything were evicted that may be, in MB.
    #[must_use]
    pub fn evictable_mb(&self) -> u64 {
        self.inner.idle_mb(Lies::OnDevice)
    }

    /// What happened since the cache began.
    #[must_use]
    pub fn counts(&self) -> ModelCounts {
        ModelCounts { memory_mb: self.inner.held.all_mb(), ..self.inner.state().counts }
    }
}
