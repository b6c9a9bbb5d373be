//! What this process itself has of its GPU's memory.

use std::sync::atomic::{AtomicU64, Ordering};

/// What NVML counts as in use and is not others'. Bytes.
#[derive(Debug, Default)]
pub(super) struct Account {
    buffers: AtomicU64,
    pool: AtomicU64,
    resident: AtomicU64,
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

    /// Memory that stays is so much more. It counts as that of buffers does: from before it is allocated until after it is freed.
    pub(super) fn take_resident(&self, bytes: u64) {
        self.resident.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Memory that stays is so much less.
    pub(super) fn give_resident(&self, bytes: u64) {
        self.resident.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// What stays between tasks. It never lies in the pool.
    pub(super) fn resident(&self) -> u64 {
        self.resident.load(Ordering::Relaxed)
    }

    /// What buffers hold.
    pub(super) fn buffers(&self) -> u64 {
        self.buffers.load(Ordering::Relaxed)
    }

    /// What is not others'.
    pub(super) fn own(&self) -> u64 {
        self.resident() + self.buffers().max(self.pool.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_stays_counts_beside_the_pool_in_which_buffers_lie() {
        let account = Account::default();
        account.take(10);
        account.pool_has(30);
        account.take_resident(100);
        assert_eq!((account.own(), account.buffers(), account.resident()), (130, 10, 100));
        account.pool_has(0);
        account.give_resident(100);
        assert_eq!(account.own(), 10);
    }
}
