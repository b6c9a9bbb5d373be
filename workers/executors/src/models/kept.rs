//! A loaded model, and its use by a task.

use std::{
    any::Any,
    fmt,
    marker::PhantomData,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{inner::Inner, room::Room};
use crate::Failure;

/// A model in memory. The cache holds one reference to it, each use another one: so one reference means that nobody uses it.
pub(super) struct Kept {
    pub(super) model: Box<dyn Any + Send + Sync>,
    /// When it was last used, in ms since the cache began.
    pub(super) used_at_ms: AtomicU64,
    /// The number of its last use among all uses.
    pub(super) used_as: AtomicU64,
    // After the model, so that its memory is free only when it is gone.
    pub(super) room: Room,
}

impl Kept {
    pub(super) fn is_in_use(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
    }
}

/// A model in use: it is not evicted before this is dropped. What was unloaded or replaced meanwhile stays in memory until then.
pub struct InUse<M> {
    kept: Arc<Kept>,
    // After the model: what waits for memory is woken when the use is over.
    over: Over,
    of: PhantomData<fn() -> M>,
}

impl<M: Send + Sync + 'static> InUse<M> {
    pub(super) fn of(kept: Arc<Kept>, inner: &Arc<Inner>, name: &str) -> Result<Self, Failure> {
        if !kept.model.is::<M>() {
            return Err(Failure::transient(format!(
                "model {name} was loaded by another source that has the same name: a bug of its executor"
            )));
        }
        inner.touch(&kept);
        Ok(Self { kept, over: Over(Arc::clone(inner)), of: PhantomData })
    }
}

impl<M> fmt::Debug for InUse<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "InUse(number {})", self.kept.used_as.load(Ordering::Relaxed))
    }
}

impl<M: Send + Sync + 'static> Deref for InUse<M> {
    type Target = M;

    fn deref(&self) -> &M {
        self.kept.model.downcast_ref().expect("its type was asked for when the use began")
    }
}

impl<M> Drop for InUse<M> {
    fn drop(&mut self) {
        self.over.0.touch(&self.kept);
    }
}

/// A model that is held in memory by a load that is to replace it.
pub(super) struct Replaced {
    kept: Arc<Kept>,
    // After the model, as of a use.
    _over: Over,
}

impl Replaced {
    pub(super) fn of(kept: Arc<Kept>, inner: &Arc<Inner>) -> Self {
        Self { kept, _over: Over(Arc::clone(inner)) }
    }

    pub(super) const fn kept(&self) -> &Arc<Kept> {
        &self.kept
    }
}

struct Over(Arc<Inner>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.freed.notify_waiters();
    }
}
