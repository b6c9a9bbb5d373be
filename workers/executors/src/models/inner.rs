//! What the cache of one GPU holds, behind one lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use protocol::ErrorCode;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    ModelBounds, ModelCounts,
    kept::Kept,
    room::{Held, Lies},
    times::LoadTimes,
};
use crate::Failure;

/// The name of a source, and of a model of it.
pub(super) type Key = (&'static str, String);

/// How a load came out; `None` while it is under way.
pub(super) type Outcome = Option<Result<Arc<Kept>, Failure>>;

/// What is called when the models in memory, or the pinned ones, have changed.
pub(super) type Told = Arc<dyn Fn() + Send + Sync>;

pub(super) struct Inner {
    pub(super) bounds: ModelBounds,
    pub(super) began: Instant,
    /// What models take, also those that are being loaded.
    pub(super) held: Held,
    /// Something may have become free.
    pub(super) freed: Notify,
    uses: AtomicU64,
    state: Mutex<State>,
    told: Mutex<Vec<Told>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) kept: BTreeMap<Key, Arc<Kept>>,
    pub(super) loading: BTreeMap<Key, watch::Receiver<Outcome>>,
    /// What is never evicted, loaded or not.
    pub(super) pinned: BTreeSet<Key>,
    /// What must have been loaded before its source's kinds are offered, and why it is not yet.
    pub(super) required: BTreeMap<Key, String>,
    /// The last error of each model that could not be loaded, until it can.
    pub(super) errors: BTreeMap<Key, LoadError>,
    pub(super) learnt: LoadTimes,
    pub(super) counts: ModelCounts,
}

/// Why a model could not be loaded, and when that was.
pub(super) struct LoadError {
    pub(super) why: String,
    at: Instant,
}

impl LoadError {
    /// For so long it is told.
    const TOLD_FOR: Duration = Duration::from_secs(600);

    pub(super) fn is_told(&self) -> bool {
        self.at.elapsed() < Self::TOLD_FOR
    }
}

impl Inner {
    pub(super) fn new(bounds: ModelBounds) -> Self {
        Self {
            bounds,
            began: Instant::now(),
            held: Held::default(),
            freed: Notify::new(),
            uses: AtomicU64::new(0),
            state: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Nothing that is dropped under this lock may take it: a [`Kept`] may be dropped, its memory is counted outside.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn touch(&self, kept: &Kept) {
        kept.used_at_ms.store(self.now_ms(), Ordering::Relaxed);
        kept.used_as.store(self.uses.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether waiting may help: something is in use, but for what a load is to replace, which stays until that has ended.
    pub(super) fn any_in_use(&self, replaced: Option<&Arc<Kept>>) -> bool {
        let state = self.state();
        let is_replaced = |kept: &Arc<Kept>| replaced.is_some_and(|replaced| Arc::ptr_eq(replaced, kept));
        // A load that is under way holds memory that it may give back.
        state.loading.len() > 1 || state.kept.values().any(|kept| kept.is_in_use() && !is_replaced(kept))
    }

    /// What would be free there if everything were evicted that may be, in MB.
    pub(super) fn idle_mb(&self, lies: Lies) -> u64 {
        self.state().idle(lies).map(|(_, kept)| kept.room.memory_mb).sum()
    }

    /// Evicts the model that was used longest ago of those that lie there, that nobody uses and that are not pinned. Whether there was one.
    pub(super) fn evict_one(&self, lies: Lies) -> bool {
        let evicted = {
            let mut state = self.state();
            let oldest = state.idle(lies).min_by_key(|(_, kept)| kept.used_as.load(Ordering::Relaxed)).map(|(key, _)| key.clone());
            oldest.and_then(|key| {
                state.counts.evictions += 1;
                state.kept.remove_entry(&key)
            })
        };
        let Some(((source, model), kept)) = evicted else { return false };
        tracing::info!(source, model, memory_mb = kept.room.memory_mb, "model evicted");
        drop(kept);
        self.tell();
        true
    }

    /// The load has ended: what it gave is kept, in place of an older one.
    pub(super) fn ended(&self, key: &Key, came_out: Result<Arc<Kept>, Failure>, took: Duration) -> Result<Arc<Kept>, Failure> {
        let replaced = {
            let mut state = self.state();
            state.loading.remove(key);
            match &came_out {
                Ok(kept) => {
                    state.counts.loads += 1;
                    state.counts.load_seconds += took.as_secs_f64();
                    state.learnt.learn(&key.1, took);
                    state.errors.remove(key);
                    state.required.remove(key);
                    state.kept.insert(key.clone(), Arc::clone(kept))
                }
                Err(failure) => {
                    state.counts.load_failures += 1;
                    state.failed(key, failure);
                    None
                }
            }
        };
        match &came_out {
            Ok(kept) => {
                tracing::info!(
                    source = key.0,
                    model = key.1,
                    memory_mb = kept.room.memory_mb,
                    load_ms = took.as_millis() as u64,
                    "model loaded"
                );
            }
            Err(failure) => tracing::warn!(source = key.0, model = key.1, error = failure.message, "a model could not be loaded"),
        }
        drop(replaced);
        self.tell();
        came_out
    }

    pub(super) fn tell(&self) {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        told.iter().for_each(|told| told());
    }

    pub(super) fn on_change(&self, told: Told) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }
}

impl State {
    /// The errors of so many models are kept.
    const ERRORS_MAX: usize = 16;

    /// What may be evicted.
    fn idle(&self, lies: Lies) -> impl Iterator<Item = (&Key, &Arc<Kept>)> {
        let is_there = move |kept: &Kept| lies == Lies::Anywhere || kept.room.is_on_device;
        self.kept.iter().filter(move |(key, kept)| is_there(kept) && !kept.is_in_use() && !self.pinned.contains(*key))
    }

    /// What a payload did wrong, such as to name a model that is not there, says nothing of the models of this GPU.
    fn failed(&mut self, key: &Key, failure: &Failure) {
        let why = &failure.message;
        if let Some(reason) = self.required.get_mut(key) {
            *reason = format!("model {} cannot be loaded: {why}", key.1);
        }
        if failure.code == ErrorCode::InvalidPayload.name() {
            return;
        }
        if self.errors.len() >= Self::ERRORS_MAX && !self.errors.contains_key(key) {
            let oldest = self.errors.iter().min_by_key(|(_, error)| error.at).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| self.errors.remove(&oldest));
        }
        self.errors.insert(key.clone(), LoadError { why: why.chars().take(300).collect(), at: Instant::now() });
    }
}
