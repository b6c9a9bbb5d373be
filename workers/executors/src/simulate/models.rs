//! Models of the kind `simulate`: they take memory and time to load, and are nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use devices::Device;
use protocol::{Needs, config::SimulatedModel, task::Limits};
use tokio::time::Instant;

use crate::{Failure, InUse, ListedModel, Loaded, ModelCache, ModelSource, Shelf, ShelfOf, payload::Fields};

/// The name of the source.
pub(super) const SOURCE: &str = "simulate";

/// So many models that payloads told of are known, beside the configured ones. Of one beyond them nothing is remembered once it is evicted.
const SEEN_MAX: usize = 64;

/// What a payload says of its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    memory_mb: Option<u64>,
    load_ms: Option<u64>,
}

impl Wanted {
    /// The fields `model`, `model_mb` and `load_ms` of a payload.
    pub(super) fn read(fields: &mut Fields) -> Result<Option<Self>, Failure> {
        let name = fields.text("model")?;
        let memory_mb = fields.whole("model_mb", 0, 100_000_000)?;
        let load_ms = fields.whole("load_ms", 0, Limits::LONGEST_MS)?;
        let Some(name) = name else {
            let alone = [("model_mb", memory_mb), ("load_ms", load_ms)].into_iter().find(|(_, value)| value.is_some());
            return match alone {
                Some((field, _)) => Err(Failure::invalid(fields.path(field), "says something of a model, and there is no `model`")),
                None => Ok(None),
            };
        };
        let characters = name.chars().count();
        if characters == 0 || characters > Needs::MODEL_CHARACTERS_MAX {
            let message = format!("must be text of 1 to {} characters, not {characters}", Needs::MODEL_CHARACTERS_MAX);
            return Err(Failure::invalid(fields.path("model"), message));
        }
        Ok(Some(Self { name, memory_mb, load_ms }))
    }
}

/// Where the models come from: the configuration, and what payloads have told.
pub(super) struct Simulated {
    configured: BTreeMap<String, SimulatedModel>,
    seen: Mutex<BTreeMap<String, SimulatedModel>>,
    /// The GPU that loads them: one, since its cache belongs to one.
    device: OnceLock<Arc<dyn Device>>,
}

impl Simulated {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, SimulatedModel>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn model(&self, name: &str) -> Option<SimulatedModel> {
        self.configured.get(name).cloned().or_else(|| self.seen().get(name).cloned())
    }

    /// Takes note of what a payload says of a model that is not configured.
    fn told(&self, wanted: &Wanted) {
        if self.configured.contains_key(&wanted.name) {
            return;
        }
        let mut seen = self.seen();
        if seen.len() >= SEEN_MAX && !seen.contains_key(&wanted.name) {
            seen.pop_first();
        }
        let model = seen.entry(wanted.name.clone()).or_insert_with(|| SimulatedModel::named(&wanted.name));
        model.memory_mb = wanted.memory_mb.unwrap_or(model.memory_mb);
        model.load_ms = wanted.load_ms.unwrap_or(model.load_ms);
    }
}

#[async_trait]
impl ModelSource for Simulated {
    type Model = SimulatedModel;

    fn name(&self) -> &'static str {
        SOURCE
    }

    async fn load(&self, name: &str) -> Result<Loaded<SimulatedModel>, Failure> {
        let model = self.model(name).ok_or_else(|| Failure::invalid("payload.model", format!("there is no simulated model {name:?}")))?;
        if let Some(device) = self.device.get() {
            let takes = Duration::from_millis(model.load_ms).div_f64(device.speed());
            device.sleeper().sleep_until(Instant::now() + takes).await;
        }
        Ok(Loaded { memory_mb: model.memory_mb, model })
    }

    fn list(&self) -> Vec<ListedModel> {
        let seen: Vec<String> = self.seen().keys().cloned().collect();
        let mut names: Vec<String> = self.configured.keys().cloned().chain(seen).collect();
        names.sort();
        names.into_iter().map(|name| ListedModel { name, version: String::new() }).collect()
    }

    async fn memory_mb(&self, name: &str) -> u64 {
        self.model(name).map_or(0, |model| model.memory_mb)
    }
}

/// The models of one GPU.
pub(super) struct Models {
    source: Arc<Simulated>,
    cache: Arc<ModelCache>,
    shelf: ShelfOf<Simulated>,
}

impl Models {
    pub(super) fn new(cache: Arc<ModelCache>, configured: &[SimulatedModel]) -> Arc<Self> {
        let configured = configured.iter().map(|model| (model.name.clone(), model.clone())).collect();
        let source = Arc::new(Simulated { configured, seen: Mutex::default(), device: OnceLock::new() });
        Arc::new(Self { shelf: ShelfOf::new(Arc::clone(&cache), Arc::clone(&source)), source, cache })
    }

    /// The model that a payload wants, loaded.
    pub(super) async fn get(&self, wanted: &Wanted, device: &Arc<dyn Device>) -> Result<InUse<SimulatedModel>, Failure> {
        self.loads_on(device);
        self.source.told(wanted);
        self.cache.get(&self.source, &wanted.name, device).await
    }

    fn loads_on(&self, device: &Arc<dyn Device>) {
        self.source.device.get_or_init(|| Arc::clone(device));
    }
}

#[async_trait]
impl Shelf for Models {
    fn cache(&self) -> &Arc<ModelCache> {
        &self.cache
    }

    fn source(&self) -> &'static str {
        SOURCE
    }

    fn list(&self) -> Vec<ListedModel> {
        self.shelf.list()
    }

    async fn has(&self, name: &str) -> bool {
        self.shelf.has(name).await
    }

    async fn load(&self, name: &str, device: &Arc<dyn Device>) -> Result<(), Failure> {
        self.loads_on(device);
        self.shelf.load(name, device).await
    }
}
