//! The models that this GPU is to keep: those that are pinned are loaded, and what operators wish is done, both beside work and in line behind none of it.
//!
//! Wishes come with the settings that every heartbeat brings, so within a third of a lease. They are done once, one after the other; what came of them is in the row.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use executors::Shelf;
use protocol::{ModelAction, ModelWish, ModelWishes, gpu::ModelState};

use crate::context::{Context, Gpu};

/// How long a load is waited for before the next wish has its turn. The load itself goes on.
const LOADED_IN: Duration = Duration::from_secs(300);
/// A worker that starts does what was wished so shortly before, and nothing older: its models of then may be long out of use. What is pinned is in the settings.
const BEFORE_THE_START: Duration = Duration::from_secs(120);
/// The pauses between two tries to load what is pinned.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// The errors of so many models are kept.
const ERRORS_MAX: usize = 16;

/// What came of wishes.
#[derive(Debug, Default)]
pub(crate) struct ModelsWished {
    done: AtomicU64,
    errors: Mutex<BTreeMap<String, String>>,
}

impl ModelsWished {
    fn errors(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn came_out(&self, model: &str, outcome: Result<(), String>) {
        let mut errors = self.errors();
        match outcome {
            Ok(()) => drop(errors.remove(model)),
            Err(why) => {
                if errors.len() >= ERRORS_MAX && !errors.contains_key(model) {
                    errors.pop_first();
                }
                errors.insert(model.to_owned(), why);
            }
        }
    }

    /// What the row says of models.
    pub(crate) fn state(&self, gpu: &Gpu) -> ModelState {
        let mut state = gpu.executors.model_state();
        state.model_errors.extend(self.errors().clone());
        state.model_wishes_done = self.done.load(Ordering::Relaxed);
        state
    }
}

/// Keeps the models of this GPU, until the worker stops.
pub(crate) async fn keep(context: Arc<Context>) {
    let stopped = context.ports.stop.now.clone();
    let keeper = Keeper { started_ms: context.ports.now_ms(), context, let_go: BTreeSet::new() };
    tokio::select! {
        biased;
        () = stopped.cancelled() => {}
        () = keeper.keep() => {}
    }
}

struct Keeper {
    context: Arc<Context>,
    /// When it began, in Unix milliseconds.
    started_ms: u64,
    /// What the configuration pins and an operator has unpinned since.
    let_go: BTreeSet<String>,
}

impl Keeper {
    async fn keep(mut self) {
        let mut settings = self.context.signals.settings.subscribe();
        let mut pause = PAUSES[0];
        loop {
            let wishes = settings.borrow_and_update().models.clone();
            for wish in self.to_do(&wishes) {
                self.carry_out(&wish).await;
            }
            // Those that are not for this GPU are done by that.
            self.done(wishes.number);
            let missing = self.load_pinned(&wishes).await;
            pause = if missing { pause } else { PAUSES[0] };
            tokio::select! {
                biased;
                changed = settings.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause), if missing => pause = (pause * 2).min(PAUSES[1]),
            }
        }
    }

    /// The wishes that are for this GPU and not done, oldest first.
    fn to_do(&self, wishes: &ModelWishes) -> Vec<ModelWish> {
        let done = self.context.gpu.models_wished.done.load(Ordering::Relaxed);
        let oldest_ms = self.started_ms.saturating_sub(BEFORE_THE_START.as_millis() as u64);
        let is_for_us = |wish: &&ModelWish| wish.number > done && wish.made_ms >= oldest_ms && wish.is_for(&self.context.me.gpu_id);
        wishes.latest.iter().filter(is_for_us).cloned().collect()
    }

    fn done(&self, number: u64) {
        if self.context.gpu.models_wished.done.fetch_max(number, Ordering::Relaxed) < number {
            self.context.signals.nudge.notify_one();
        }
    }

    async fn carry_out(&mut self, wish: &ModelWish) {
        let (model, action) = (wish.model.as_str(), wish.action);
        let shelves = self.shelves_with(model);
        let mut outcome = Ok(());
        if shelves.is_empty() {
            let kinds: Vec<&str> = self.context.gpu.executors.shelves().iter().map(|shelf| shelf.source()).collect();
            outcome = Err(format!("no kind of this GPU has a model {model:?} (kinds that keep models: {})", kinds.join(", ")));
        }
        match action {
            ModelAction::Pin => _ = self.let_go.remove(model),
            ModelAction::Unpin => _ = self.let_go.insert(model.to_owned()),
            ModelAction::Load | ModelAction::Unload => {}
        }
        for shelf in shelves {
            let came_out = self.carry_out_on(shelf.as_ref(), model, action).await;
            outcome = outcome.and(came_out);
        }
        match &outcome {
            Ok(()) => tracing::info!(gpu_id = %self.context.me.gpu_id, model, action = action.name(), "an operator's wish is done"),
            Err(error) => {
                tracing::warn!(gpu_id = %self.context.me.gpu_id, model, action = action.name(), error, "an operator's wish could not be done");
            }
        }
        self.context.gpu.models_wished.came_out(model, outcome);
        self.done(wish.number);
    }

    async fn carry_out_on(&self, shelf: &dyn Shelf, model: &str, action: ModelAction) -> Result<(), String> {
        let (cache, source) = (shelf.cache(), shelf.source());
        match action {
            ModelAction::Load => self.load(shelf, model).await,
            ModelAction::Pin => {
                cache.pin(source, model);
                self.load(shelf, model).await
            }
            ModelAction::Unpin => {
                cache.unpin(source, model);
                Ok(())
            }
            ModelAction::Unload if cache.is_pinned(source, model) => Err("it is pinned; unpin it first".to_owned()),
            ModelAction::Unload => {
                cache.forget(source, model);
                Ok(())
            }
        }
    }

    async fn load(&self, shelf: &dyn Shelf, model: &str) -> Result<(), String> {
        match tokio::time::timeout(LOADED_IN, shelf.load(model, &self.context.gpu.device)).await {
            Ok(loaded) => loaded.map_err(|failure| failure.message),
            Err(_) => Err(format!("it was not loaded within {} s; the load goes on", LOADED_IN.as_secs())),
        }
    }

    /// Pins what the settings and the configuration pin here, lets go of what they do not, and loads what is pinned and not loaded. Whether anything is still not.
    async fn load_pinned(&self, wishes: &ModelWishes) -> bool {
        let mut missing = false;
        for shelf in self.context.gpu.executors.shelves() {
            let (cache, source) = (Arc::clone(shelf.cache()), shelf.source());
            let configured = cache.pinned_at_the_start().iter().filter(|model| !self.let_go.contains(*model)).map(String::as_str);
            let wanted: BTreeSet<&str> = configured.chain(wishes.pinned_on(&self.context.me.gpu_id)).collect();
            for model in cache.pinned_of(source).iter().filter(|model| !wanted.contains(model.as_str())) {
                cache.unpin(source, model);
            }
            for model in wanted.into_iter().filter(|model| shelf.has(model)) {
                cache.pin(source, model);
                let is_loaded = cache.models_of(source).iter().any(|loaded| loaded == model);
                missing |= !is_loaded && self.load(shelf.as_ref(), model).await.is_err();
            }
        }
        missing
    }

    fn shelves_with(&self, model: &str) -> Vec<Arc<dyn Shelf>> {
        let mut shelves = self.context.gpu.executors.shelves();
        shelves.retain(|shelf| shelf.has(model));
        shelves
    }
}
