//! What the workers of this process find unserved now: a metric, and a line of the log when it begins and when it ends, however many tasks and workers find it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prometheus::Gauge;
use protocol::PoolName;

/// What tasks ask for and no living GPU of the pool has → how many workers of this process know.
#[derive(Debug)]
pub(crate) struct UnservedNow {
    shown: Gauge,
    found: Mutex<BTreeMap<(PoolName, String), u32>>,
}

impl UnservedNow {
    /// Nothing yet. `shown` says how much it is.
    pub(crate) fn new(shown: Gauge) -> Self {
        Self { shown, found: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(PoolName, String), u32>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker begins to find tasks that ask for this. `reason`: why nobody serves them.
    pub(crate) fn begins(&self, pool: &PoolName, wanted: &str, reason: &str) {
        let is_first = {
            let mut found = self.lock();
            let workers = found.entry((pool.clone(), wanted.to_owned())).or_default();
            *workers += 1;
            let is_first = *workers == 1;
            self.shown.set(found.len() as f64);
            is_first
        };
        if is_first {
            tracing::warn!(%pool, wanted, reason, "unserved: no living GPU can run these tasks; `gpufleet unserved` lists them");
        }
    }

    /// A worker finds none any more. `why`: for the log.
    pub(crate) fn ends(&self, pool: &PoolName, wanted: &str, why: &str) {
        if self.is_over(pool, wanted) {
            tracing::info!(%pool, wanted, why, "no longer unserved");
        }
    }

    /// A worker finds none any more. Whether no other worker of this process does.
    pub(crate) fn is_over(&self, pool: &PoolName, wanted: &str) -> bool {
        let key = (pool.clone(), wanted.to_owned());
        let mut found = self.lock();
        let Some(workers) = found.get_mut(&key) else { return false };
        *workers = workers.saturating_sub(1);
        let is_over = *workers == 0;
        if is_over {
            found.remove(&key);
        }
        self.shown.set(found.len() as f64);
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_workers_find_is_one_thing_and_ends_with_the_last_of_them() {
        let shown = Gauge::new("unserved", "for the test").expect("a good name");
        let (now, pool) = (UnservedNow::new(shown.clone()), PoolName::default());
        for wanted in ["kind ecko", "kind ecko", "kind llama"] {
            now.begins(&pool, wanted, "because");
        }
        assert_eq!(shown.get(), 2.0);
        let over = ["kind ecko", "kind ecko", "kind ecko"].map(|wanted| now.is_over(&pool, wanted));
        assert_eq!((over, shown.get()), ([false, true, false], 1.0));
    }
}
