//! What this process itself has of its GPU's memory.

use std::sync::atomic::{AtomicU64, Ordering};

/// What NVML counts as in use and is not others'. Bytes.
#[derive(Debug, Default)]
pub(super) struct Account {
    buffers: AtomicU64,
    pool: AtomicU64,
}

impl Account {
    /// Buffers hold so much more. They count from before they are allocated until after they are freed: a sample in between would otherwise take them for others'.
    pub(super) fn take(&self, bytes: u64) {
        self.buffers.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Buffers hold so much less.
    pub(super) fn give(&self, bytes: u64) {
        self.buffers.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The driver's pool has so much in all: what buffers hold, and what it keeps for the next ones.
    pub(super) fn pool_has(&self, bytes: u64) {
        self.pool.store(bytes, Ordering::Relaxed);
    }

    /// What buffers hold.
    pub(super) fn buffers(&self) -> u64 {
        self.buffers.load(Ordering::Relaxed)
    }

    /// What is not others'.
    pub(super) fn own(&self) -> u64 {
        self.buffers().max(self.pool.load(Ordering::Relaxed))
    }
}
