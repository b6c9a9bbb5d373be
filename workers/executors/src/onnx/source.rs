//! The models of the operator's folder, as the cache loads them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use devices::Device;
use protocol::{ErrorCode, config::ModelsSection};
use tokio::runtime::Handle;

use super::{
    OnnxError, OnnxPlace, OnnxRuntime,
    directory::{ModelDirectory, ModelFile, Stamp},
    model::{Loader, OnnxModel, memory_mb},
};
use crate::{
    Failure,
    models::{InUse, ListedModel, Loaded, ModelCache, ModelSource},
};

/// The name of the source, which the kinds share.
pub(super) const SOURCE: &str = "onnx";
/// How often the folder is asked, while a model is in use, whether its file is still the same.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
/// How old what is known of the folder's names may be.
const LISTED_EVERY: Duration = Duration::from_secs(10);
/// How long a changed file waits for its next turn where there was no memory for it beside the old one.
const NEXT_TURN_AFTER: Duration = Duration::from_secs(60);
/// For how long a kind is down after its model turned out not to run where it should.
const DOWN_FOR: Duration = Duration::from_secs(60);

/// The models of the operator's folder. One for each GPU, shared by the kinds `onnx`, `embed` and `classify`.
pub struct OnnxModels {
    loader: Loader,
    directory: ModelDirectory,
    listed: Arc<Listed>,
    axes: BTreeMap<String, String>,
    looked_at_every: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    looked_at: BTreeMap<String, Instant>,
    /// The file of each model whose load failed last.
    failed: BTreeMap<String, Stamp>,
    /// Files that could not take the place of what is loaded; they are not tried again.
    refused: BTreeMap<String, Stamp>,
    /// Whether payloads of a model run together, as far as it was ever loaded.
    together: BTreeMap<String, bool>,
    down: BTreeMap<String, (String, Instant)>,
}

impl OnnxModels {
    /// Loads ONNX Runtime, opens the folder and tries the provider with a small model. `is_on_device`: whether models take the device's memory.
    ///
    /// # Errors
    /// Why no model can be served here.
    pub async fn open(section: &ModelsSection, place: OnnxPlace, is_on_device: bool) -> Result<Arc<Self>, OnnxError> {
        let section = section.clone();
        let root = section.directory.clone().unwrap_or_default();
        let opening = move || {
            let directory = ModelDirectory::open(&root)?;
            let loader = Loader { runtime: OnnxRuntime::load(&section)?, place, is_on_device };
            loader.try_provider()?;
            let axes = section.batch_axis;
            let listed = Arc::new(Listed::now(&directory));
            Ok(Arc::new(Self { loader, directory, listed, axes, looked_at_every: LOOKED_AT_EVERY, state: Mutex::default() }))
        };
        let opened = tokio::task::spawn_blocking(opening).await;
        opened.unwrap_or_else(|_| Err(OnnxError::Provider { provider: place.name(), why: "its trial crashed".to_owned() }))
    }

    /// The same, looking for changed files at every use.
    #[cfg(test)]
    pub(super) fn looking_always(self: Arc<Self>) -> Arc<Self> {
        let mut this = Arc::into_inner(self).expect("nobody else has it yet");
        this.looked_at_every = Duration::ZERO;
        Arc::new(this)
    }

    /// Whether this file was tried, and could not take the place of the loaded one.
    #[cfg(test)]
    pub(super) fn refused(&self, name: &str, stamp: Stamp) -> bool {
        self.state().refused.get(name) == Some(&stamp)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of a model.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn find(self: &Arc<Self>, name: &str) -> Result<ModelFile, OnnxError> {
        let (this, name) = (Arc::clone(self), name.to_owned());
        let found = tokio::task::spawn_blocking(move || this.directory.find(&name)).await;
        found.unwrap_or_else(|_| Err(OnnxError::unreadable("models.directory".as_ref(), &"the look into it crashed")))
    }

    /// Whether payloads of this model may run together, as far as that is known.
    pub(super) fn runs_together(&self, name: &str) -> bool {
        self.state().together.get(name).copied().unwrap_or_default()
    }

    /// Whether a kind that needs this model can run now; without a model, one that needs any.
    ///
    /// # Errors
    /// Why it cannot.
    pub(super) fn is_up(&self, name: &str) -> Result<(), String> {
        let now = Instant::now();
        let mut state = self.state();
        state.down.retain(|_, (_, until)| *until > now);
        state.down.get(name).map_or(Ok(()), |(why, _)| Err(why.clone()))
    }

    fn loaded(&self, name: &str, came_out: &Result<OnnxModel, OnnxError>) {
        let mut state = self.state();
        match came_out {
            Ok(model) => {
                state.together.insert(name.to_owned(), model.axis.is_some());
                state.down.remove(name);
            }
            Err(error) => drop(state.down.insert(name.to_owned(), (error.to_string(), Instant::now() + DOWN_FOR))),
        }
    }

    /// The model, loaded now if it is not yet. Where its file has changed since, the new one is loaded beside it meanwhile, and takes its place once it has shown that it runs.
    ///
    /// # Errors
    /// Those of the load and of the cache.
    pub(super) async fn get(
        self: &Arc<Self>,
        cache: &Arc<ModelCache>,
        name: &str,
        device: &Arc<dyn Device>,
    ) -> Result<InUse<OnnxModel>, Failure> {
        let model = cache.get(self, name, device).await?;
        if self.is_time_to_look(name) {
            let (this, cache, device) = (Arc::clone(self), Arc::clone(cache), Arc::clone(device));
            let (name, stamp) = (name.to_owned(), model.stamp());
            tokio::spawn(async move { this.look_again(&cache, &name, &device, stamp).await });
        }
        Ok(model)
    }

    fn is_time_to_look(&self, name: &str) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        match state.looked_at.get_mut(name) {
            Some(at) if now.duration_since(*at) < self.looked_at_every => false,
            Some(at) => {
                *at = now;
                true
            }
            None => {
                state.looked_at.insert(name.to_owned(), now);
                // It was loaded a moment ago, perhaps.
                self.looked_at_every.is_zero()
            }
        }
    }

    /// A load that was under way already, or began a moment later, may have read another file than the one that was looked at: only what was read is given up.
    pub(super) fn refuse_if_it_failed(&self, name: &str, looked_at: Stamp) {
        let mut state = self.state();
        if state.failed.get(name) == Some(&looked_at) {
            state.refused.insert(name.to_owned(), looked_at);
        }
    }

    /// A file that is gone, or that cannot be used, leaves what is loaded in its place.
    async fn look_again(self: &Arc<Self>, cache: &ModelCache, name: &str, device: &Arc<dyn Device>, loaded: Stamp) {
        let Ok(file) = self.find(name).await else { return };
        if file.stamp == loaded || self.state().refused.get(name) == Some(&file.stamp) {
            return;
        }
        match cache.replace(self, name, device).await {
            Ok(()) => tracing::info!(model = name, version = file.version, "the model was loaded anew, since its file has changed"),
            Err(failure) if failure.code == ErrorCode::OutOfMemory.name() => {
                self.state().looked_at.insert(name.to_owned(), Instant::now() + NEXT_TURN_AFTER);
                tracing::warn!(
                    model = name,
                    version = file.version,
                    reason = failure.message,
                    "there is no room for the new file of this model beside the old one, which goes on; `gpufleet models unload` makes room"
                );
            }
            Err(failure) => {
                self.refuse_if_it_failed(name, file.stamp);
                // The old one runs: the kind is not down.
                self.state().down.remove(name);
                tracing::warn!(
                    model = name,
                    version = file.version,
                    reason = failure.message,
                    "the new file of this model cannot be used; the old model goes on"
                );
            }
        }
    }
}

/// What the folder had when it was looked into last.
struct Listed(Mutex<Looked>);

struct Looked {
    at: Instant,
    is_looking: bool,
    models: Vec<ListedModel>,
}

impl Listed {
    /// Blocks.
    fn now(directory: &ModelDirectory) -> Self {
        Self(Mutex::new(Looked { at: Instant::now(), is_looking: false, models: models_in(directory) }))
    }

    fn state(&self) -> MutexGuard<'_, Looked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks again, on a thread of its own, where the last look was long ago.
    fn refresh(self: &Arc<Self>, directory: &ModelDirectory) {
        let Ok(runtime) = Handle::try_current() else { return };
        {
            let mut state = self.state();
            if state.is_looking || state.at.elapsed() < LISTED_EVERY {
                return;
            }
            state.is_looking = true;
        }
        let (this, directory) = (Arc::clone(self), directory.clone());
        runtime.spawn_blocking(move || {
            let models = models_in(&directory);
            *this.state() = Looked { at: Instant::now(), is_looking: false, models };
        });
    }
}

fn models_in(directory: &ModelDirectory) -> Vec<ListedModel> {
    directory.list().into_iter().map(|(name, version)| ListedModel { name, version }).collect()
}

#[async_trait]
impl ModelSource for OnnxModels {
    type Model = OnnxModel;

    fn name(&self) -> &'static str {
        SOURCE
    }

    async fn load(&self, name: &str) -> Result<Loaded<OnnxModel>, Failure> {
        let (loader, directory) = (self.loader.clone(), self.directory.clone());
        let model = name.split('@').next().unwrap_or(name);
        let (axis, asked) = (self.axes.get(model).cloned(), name.to_owned());
        let began = Instant::now();
        let loading = tokio::task::spawn_blocking(move || {
            let file = match directory.find(&asked) {
                Ok(file) => file,
                Err(error) => return (None, Err(error)),
            };
            (Some(file.stamp), loader.load(file, axis.as_deref()))
        });
        let (read, came_out) = loading.await.map_err(|_| Failure::transient(format!("loading model {name} crashed")))?;
        if let (Some(stamp), Err(_)) = (read, &came_out) {
            self.state().failed.insert(name.to_owned(), stamp);
        }
        // A name that nobody knows says nothing of what is here.
        if !matches!(came_out, Err(OnnxError::Unknown { .. })) {
            self.loaded(name, &came_out);
        }
        let model = came_out.map_err(|error| error.failure())?;
        let load_ms = began.elapsed().as_millis() as u64;
        tracing::info!(model = name, version = model.file.version, provider = model.place.name(), load_ms, "model loaded");
        Ok(Loaded { memory_mb: model.memory_mb, model })
    }

    /// As the folder was a moment ago: who asks is not held up by it, and the next one has what is new.
    fn list(&self) -> Vec<ListedModel> {
        self.listed.refresh(&self.directory);
        self.listed.state().models.clone()
    }

    async fn has(&self, name: &str) -> bool {
        let (directory, name) = (self.directory.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || directory.find(&name).is_ok()).await.unwrap_or_default()
    }

    async fn memory_mb(&self, name: &str) -> u64 {
        let (directory, name) = (self.directory.clone(), name.to_owned());
        let looking = move || directory.find(&name).map_or(0, |file| memory_mb(file.bytes()));
        tokio::task::spawn_blocking(looking).await.unwrap_or_default()
    }

    fn is_on_device(&self) -> bool {
        self.loader.is_on_device
    }
}
