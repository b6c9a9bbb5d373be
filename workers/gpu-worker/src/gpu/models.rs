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
use tokio::time::Instant;

use crate::context::{Context, Gpu};

/// How long a load is waited for before the next wish has its turn. The load itself goes on.
const LOADED_IN: Duration = Duration::from_secs(300);
/// A worker that starts does what was wished so shortly before, and nothing older: its models of then may be long out of use. What is pinned is in the settings.
const BEFORE_THE_START: Duration = Duration::from_secs(120);
/// The pauses between two tries to load what is pinned.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// The errors of so many models are kept.
const ERRORS_MAX: usize = 16;
/// For so long the error of a wish is told.
const TOLD_FOR: Duration = Duration::from_secs(600);
/// What is said of a model that the configuration pins and nobody knows.
const UNKNOWN_PIN: &str = "models.pinned names it, and no kind of this GPU has it";

/// What came of wishes, and of what is pinned.
#[derive(Debug, Default)]
pub(crate) struct ModelsWished {
    done: AtomicU64,
    state: Mutex<CameOut>,
}

#[derive(Debug, Default)]
struct CameOut {
    errors: BTreeMap<String, WishError>,
    /// What the configuration pins and no kind has.
    unknown_pins: BTreeSet<String>,
}

/// Why a wish for a model could not be done, and when that was.
#[derive(Debug)]
struct WishError {
    why: String,
    at: Instant,
    /// It was to be loaded: that is over once it is.
    is_of_load: bool,
}

impl ModelsWished {
    fn came_out(&self) -> MutexGuard<'_, CameOut> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wish_came_out(&self, wish: &ModelWish, outcome: Result<(), String>) {
        let mut came_out = self.came_out();
        let errors = &mut came_out.errors;
        let Err(why) = outcome else {
            errors.remove(&wish.model);
            return;
        };
        if errors.len() >= ERRORS_MAX && !errors.contains_key(&wish.model) {
            let oldest = errors.iter().min_by_key(|(_, error)| error.at).map(|(model, _)| model.clone());
            oldest.and_then(|oldest| errors.remove(&oldest));
        }
        let is_of_load = matches!(wish.action, ModelAction::Load | ModelAction::Pin);
        errors.insert(wish.model.clone(), WishError { why, at: Instant::now(), is_of_load });
    }

    /// What the row says of models.
    pub(crate) fn state(&self, gpu: &Gpu) -> ModelState {
        let mut state = gpu.executors.model_state();
        let is_loaded = |model: &str| state.model_details.iter().any(|details| details.name == model);
        let mut came_out = self.came_out();
        came_out.errors.retain(|model, error| error.at.elapsed() < TOLD_FOR && !(error.is_of_load && is_loaded(model)));
        let unknown = came_out.unknown_pins.iter().map(|model| (model.clone(), UNKNOWN_PIN.to_owned()));
        let of_wishes = came_out.errors.iter().map(|(model, error)| (model.clone(), error.why.clone()));
        state.model_errors.extend(unknown.chain(of_wishes));
        state.model_wishes_done = self.done.load(Ordering::Relaxed);
        state
    }
}

/// Keeps the models of this GPU, until the worker stops.
pub(crate) async fn keep(context: Arc<Context>) {
    let stopped = context.ports.stop.now.clone();
    let keeper = Keeper { started_ms: context.ports.now_ms(), context, let_go: BTreeSet::new(), known: ModelWishes::default() };
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
    /// The wishes as they were at the last look.
    known: ModelWishes,
}

impl Keeper {
    async fn keep(mut self) {
        let mut settings = self.context.signals.settings.subscribe();
        let mut pause = PAUSES[0];
        loop {
            let wishes = settings.borrow_and_update().models.clone();
            self.begin_anew_with(&wishes);
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

    /// Fleet's settings that were lost begin anew, with wish number 1.
    fn begin_anew_with(&mut self, wishes: &ModelWishes) {
        let done = &self.context.gpu.models_wished.done;
        done.store(done_of(wishes, done.load(Ordering::Relaxed), &self.known), Ordering::Relaxed);
        if !wishes.is_empty() {
            self.known = wishes.clone();
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
        let shelves = self.shelves_with(model).await;
        let mut outcome = Ok(());
        // To let go of what nobody has is no failure: it takes back a pin.
        if shelves.is_empty() && action != ModelAction::Unpin {
            outcome = self.without_shelf(model, action);
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
        self.context.gpu.models_wished.wish_came_out(wish, outcome);
        self.done(wish.number);
    }

    /// What comes of a wish for a model that no shelf has.
    fn without_shelf(&self, model: &str, action: ModelAction) -> Result<(), String> {
        let executors = &self.context.gpu.executors;
        match executors.models_of_kinds().get(model) {
            Some(_) if action == ModelAction::Load => Ok(()),
            Some(kind) => Err(format!("its kind {kind} keeps it by itself, and nobody else can unload or pin it")),
            None => {
                let kinds: Vec<&str> = executors.shelves().iter().map(|shelf| shelf.source()).collect();
                Err(format!("no kind of this GPU has a model {model:?} (kinds that keep models: {})", kinds.join(", ")))
            }
        }
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
        let (mut missing, mut unknown) = (false, self.configured_pins());
        for shelf in self.context.gpu.executors.shelves() {
            let (cache, source) = (Arc::clone(shelf.cache()), shelf.source());
            let configured = self.configured_pins();
            let wanted: BTreeSet<&str> = configured.iter().map(String::as_str).chain(wishes.pinned_on(&self.context.me.gpu_id)).collect();
            for model in cache.pinned_of(source).iter().filter(|model| !wanted.contains(model.as_str())) {
                cache.unpin(source, model);
            }
            for model in wanted {
                if !shelf.has(model).await {
                    continue;
                }
                unknown.remove(model);
                cache.pin(source, model);
                let is_loaded = cache.models_of(source).iter().any(|loaded| loaded == model);
                missing |= !is_loaded && self.load(shelf.as_ref(), model).await.is_err();
            }
        }
        // It may come to be there.
        missing |= !unknown.is_empty();
        self.tell_unknown(unknown);
        missing
    }

    /// What the configuration pins, and no operator has unpinned since.
    fn configured_pins(&self) -> BTreeSet<String> {
        let shelves = self.context.gpu.executors.shelves();
        let named = shelves.iter().flat_map(|shelf| shelf.cache().pinned_at_the_start());
        named.filter(|model| !self.let_go.contains(*model)).cloned().collect()
    }

    /// The row says it as long as it is so, the log once.
    fn tell_unknown(&self, unknown: BTreeSet<String>) {
        let before = std::mem::replace(&mut self.context.gpu.models_wished.came_out().unknown_pins, unknown.clone());
        if before == unknown {
            return;
        }
        for model in unknown.difference(&before) {
            tracing::warn!(gpu_id = %self.context.me.gpu_id, model, "{UNKNOWN_PIN}; it is looked for again within a minute");
        }
        self.context.signals.nudge.notify_one();
    }

    async fn shelves_with(&self, model: &str) -> Vec<Arc<dyn Shelf>> {
        let mut shelves = Vec::new();
        for shelf in self.context.gpu.executors.shelves() {
            if shelf.has(model).await {
                shelves.push(shelf);
            }
        }
        shelves
    }
}

/// The number of the last of these wishes that is done, where that of the `known` ones was `done`. Wishes that were lost begin anew with number 1: then those are done that are no newer than
/// what was done before.
fn done_of(wishes: &ModelWishes, done: u64, known: &ModelWishes) -> u64 {
    let is_another = |wish: &ModelWish| known.latest.iter().any(|other| other.number == wish.number && other != wish);
    if wishes.is_empty() || wishes.number >= done && !wishes.latest.iter().any(is_another) {
        return done;
    }
    let before = known.latest.iter().filter(|wish| wish.number <= done);
    let until_ms = before.map(|wish| wish.made_ms).max().unwrap_or(0);
    wishes.latest.iter().filter(|wish| wish.made_ms <= until_ms).map(|wish| wish.number).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(made_ms: &[u64]) -> ModelWishes {
        let wishes = made_ms.iter().map(|made_ms| ModelWish::new("a", ModelAction::Load, *made_ms));
        wishes.fold(ModelWishes::default(), |all, wish| all.with(&wish))
    }

    #[test]
    fn wishes_that_begin_anew_are_done() {
        let known = made(&[10, 20, 30]);
        assert_eq!(done_of(&known, 3, &known), 3);
        assert_eq!(done_of(&made(&[10, 20, 30, 40]), 3, &known), 3, "the fourth is to be done");
        assert_eq!(done_of(&made(&[40, 50]), 3, &known), 0, "both are new");
        assert_eq!(done_of(&made(&[40, 50, 60, 70]), 3, &known), 0, "also where there are as many by now");
        assert_eq!(done_of(&made(&[10, 20]), 3, &known), 2, "a table that fell back has nothing new");
        assert_eq!(done_of(&ModelWishes::default(), 3, &known), 3, "nothing was wished since");
        assert_eq!(done_of(&made(&[10]), 0, &ModelWishes::default()), 0);
    }
}
