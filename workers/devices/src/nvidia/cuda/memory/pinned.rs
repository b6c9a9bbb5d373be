//! Pinned memory of the host, through which copies go whose other end the GPU does not reach by itself.

use std::{
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cudarc::driver::{CudaEvent, result};

use super::{
    super::{CudaError, Lane},
    freeing::{Freed, Freeing},
};

/// How large a chunk is, in bytes: large enough that what a copy costs to begin does not show, and small enough that the first and the last one, with which nothing overlaps, do not.
pub(super) const CHUNK: usize = 4 << 20;
/// How many are in flight at once: one is copied by the GPU while the processor copies another.
pub(super) const IN_FLIGHT: usize = 2;
/// How many stages are kept for the next copies. Each has 8 MiB.
const KEPT: usize = 4;

/// A chunk.
pub(super) struct Pinned {
    start: NonNull<u8>,
    freeing: Freeing,
}

// SAFETY: it belongs to the process, not to a thread, and has one owner.
unsafe impl Send for Pinned {}

impl Pinned {
    fn allocate(lane: &Lane, freeing: &Freeing) -> Result<Self, CudaError> {
        const PIN: &str = "allocate pinned memory";
        lane.shared.check("enter the context", lane.shared.context.bind_to_thread())?;
        // SAFETY: the lane's thread has the context; nobody reads what is in the memory before it was written.
        let start = lane.shared.check(PIN, unsafe { result::malloc_host(CHUNK, 0) })?;
        let start = NonNull::new(start.cast()).ok_or(CudaError::OutOfMemory { operation: PIN })?;
        Ok(Self { start, freeing: freeing.clone() })
    }

    /// Where it begins.
    pub(super) const fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.freeing.give(Freed::Pinned(self.start.as_ptr().expose_provenance()));
    }
}

/// The chunks of one copy, and for each the event behind its last use.
pub(super) struct Stage {
    chunks: Vec<(Pinned, CudaEvent)>,
    home: Arc<Stages>,
}

impl Stage {
    /// The chunk that a copy's nth piece goes through.
    pub(super) fn chunk(&self, number: usize) -> &(Pinned, CudaEvent) {
        &self.chunks[number % IN_FLIGHT]
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let mut idle = self.home.idle();
        if idle.len() < KEPT {
            idle.push(std::mem::take(&mut self.chunks));
        }
    }
}

/// Stages that no copy uses now.
pub(super) struct Stages {
    idle: Mutex<Vec<Vec<(Pinned, CudaEvent)>>>,
    freeing: Freeing,
}

impl Stages {
    pub(super) const fn new(freeing: Freeing) -> Self {
        Self { idle: Mutex::new(Vec::new()), freeing }
    }

    /// A stage for one copy, which must have waited for all of its pieces before it drops it.
    ///
    /// # Errors
    /// The driver has no pinned memory left, or the GPU is lost.
    pub(super) fn take(self: &Arc<Self>, lane: &Lane) -> Result<Stage, CudaError> {
        let kept = self.idle().pop();
        let make = || Ok((Pinned::allocate(lane, &self.freeing)?, lane.event()?));
        let chunks = kept.map_or_else(|| (0..IN_FLIGHT).map(|_| make()).collect(), Ok)?;
        Ok(Stage { chunks, home: Arc::clone(self) })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Vec<(Pinned, CudaEvent)>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stages {
    fn drop(&mut self) {
        let kept = std::mem::take(&mut *self.idle());
        kept.into_iter().for_each(|chunks| self.freeing.give(Freed::Stage(chunks)));
    }
}
