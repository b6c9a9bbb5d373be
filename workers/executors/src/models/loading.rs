//! One load: it goes on to its end, whoever still waits for it.

use std::sync::{Arc, atomic::AtomicU64};

use devices::Device;
use tokio::{sync::watch, time::Instant};

use super::{
    inner::{Inner, Key, Outcome},
    kept::{Kept, Replaced},
    room::{Place, Room},
    source::{Loaded, ModelSource},
};
use crate::Failure;

/// A load that is under way: registered, so that whoever wants the same model waits for it.
pub(super) struct Load<S> {
    pub(super) source: Arc<S>,
    pub(super) device: Arc<dyn Device>,
    pub(super) registered: Registered,
    /// The loaded model that it is to replace: it stays until the new one is there, and if that fails.
    pub(super) replaces: Option<Replaced>,
}

/// The place of a load among those under way. Dropped before its end (the source panicked, the process stops) it makes way for the next one.
pub(super) struct Registered {
    inner: Arc<Inner>,
    key: Key,
    told: watch::Sender<Outcome>,
    began: Instant,
    has_ended: bool,
}

impl Registered {
    /// To be put among those under way by the caller, who holds the lock.
    pub(super) fn new(inner: &Arc<Inner>, key: &Key) -> (Self, watch::Receiver<Outcome>) {
        let (told, outcome) = watch::channel(None);
        let registered = Self { inner: Arc::clone(inner), key: key.clone(), told, began: Instant::now(), has_ended: false };
        (registered, outcome)
    }

    fn ended(mut self, came_out: Result<Arc<Kept>, Failure>) {
        self.has_ended = true;
        let came_out = self.inner.ended(&self.key, came_out, self.began.elapsed());
        // Nobody may wait any more.
        let _ = self.told.send(Some(came_out));
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if !self.has_ended {
            self.inner.state().loading.remove(&self.key);
        }
    }
}

impl<S: ModelSource> Load<S> {
    pub(super) async fn finish(self) {
        let came_out = self.bring().await;
        let Self { registered, replaces, .. } = self;
        // Before the end is told: whoever hears of it finds the memory of the old one free.
        drop(replaces);
        registered.ended(came_out.map(Arc::new));
    }

    async fn bring(&self) -> Result<Kept, Failure> {
        let (inner, name) = (&self.registered.inner, self.registered.key.1.as_str());
        let place = Place {
            name,
            device: &self.device,
            is_on_device: self.source.is_on_device(),
            replaces: self.replaces.as_ref().map(Replaced::kept),
        };
        let room = Room::take(inner, &place, self.source.memory_mb(name).await).await?;
        let Loaded { model, memory_mb } = self.source.load(name).await?;
        let room = room.fitted(&place, memory_mb).await?;
        let kept = Kept { model: Box::new(model), used_at_ms: AtomicU64::new(0), used_as: AtomicU64::new(0), room };
        inner.touch(&kept);
        Ok(kept)
    }
}

/// Waits for the end of a load.
pub(super) async fn came_out(mut outcome: watch::Receiver<Outcome>, name: &str) -> Result<Arc<Kept>, Failure> {
    let ended = outcome.wait_for(Option::is_some).await.ok().and_then(|ended| (*ended).clone());
    ended.unwrap_or_else(|| Err(Failure::transient(format!("loading model {name} broke off"))))
}
