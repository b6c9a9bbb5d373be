//! What the results of slices take, as far as this client has not told it yet.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Bytes by bucket of the time at which they were written.
type Buckets = BTreeMap<u64, u64>;

/// Counts of results, in buckets of time. Where a count may have been told or not, it errs upwards: what was kept is told again, what is gone is not.
#[derive(Debug)]
pub struct ResultBytes {
    bucket_ms: u64,
    pending: Mutex<Pending>,
}

/// What has not been told yet.
#[derive(Debug, Default, Clone)]
pub struct Pending {
    kept: Buckets,
    gone: Buckets,
}

impl Pending {
    /// What each bucket grows by, or shrinks.
    pub fn changes(&self) -> Vec<(u64, i128)> {
        let mut changes: BTreeMap<u64, i128> = BTreeMap::new();
        for (bucket, bytes) in &self.kept {
            *changes.entry(*bucket).or_default() += i128::from(*bytes);
        }
        for (bucket, bytes) in &self.gone {
            *changes.entry(*bucket).or_default() -= i128::from(*bytes);
        }
        changes.into_iter().filter(|(_, change)| *change != 0).collect()
    }
}

impl ResultBytes {
    pub fn new(bucket_ms: u64) -> Self {
        Self { bucket_ms, pending: Mutex::default() }
    }

    /// Results were written then, in Unix ms of the server's clock.
    pub fn kept(&self, written_ms: u64, bytes: u64) {
        add(&mut self.lock().kept, written_ms / self.bucket_ms, bytes);
    }

    /// Results that were written then are gone.
    pub fn gone(&self, written_ms: u64, bytes: u64) {
        add(&mut self.lock().gone, written_ms / self.bucket_ms, bytes);
    }

    /// What was kept and has not been told.
    pub fn pending(&self) -> u64 {
        self.lock().kept.values().copied().fold(0, u64::saturating_add)
    }

    pub fn is_pending(&self) -> bool {
        let pending = self.lock();
        !pending.kept.is_empty() || !pending.gone.is_empty()
    }

    /// What is to be told now. What is gone is taken out: if the telling fails, it leaves the sum by its age.
    pub fn take_changes(&self) -> Pending {
        let mut pending = self.lock();
        Pending { kept: pending.kept.clone(), gone: std::mem::take(&mut pending.gone) }
    }

    /// This was told.
    pub fn told(&self, told: &Pending) {
        let mut pending = self.lock();
        for (bucket, bytes) in &told.kept {
            if let Some(left) = pending.kept.get_mut(bucket) {
                *left = left.saturating_sub(*bytes);
            }
        }
        pending.kept.retain(|_, left| *left > 0);
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(buckets: &mut Buckets, bucket: u64, bytes: u64) {
    let sum = buckets.entry(bucket).or_default();
    *sum = sum.saturating_add(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_and_gone_is_told_by_the_time_at_which_it_was_written() {
        let results = ResultBytes::new(1_000);
        results.kept(1_700, 5);
        results.kept(1_999, 6);
        results.kept(2_000, 7);
        results.gone(900, 3);
        results.gone(2_500, 7);
        assert_eq!(results.pending(), 18);
        let taken = results.take_changes();
        assert_eq!(taken.changes(), [(0, -3), (1, 11)]);
        results.kept(1_500, 1);
        results.told(&taken);
        assert_eq!((results.pending(), results.take_changes().changes()), (1, vec![(1, 1)]));
    }

    #[test]
    fn where_the_telling_failed_the_sum_errs_upwards() {
        let results = ResultBytes::new(1_000);
        results.kept(1_000, 5);
        results.gone(500, 3);
        assert_eq!(results.take_changes().changes(), [(0, -3), (1, 5)]);
        assert_eq!(results.take_changes().changes(), [(1, 5)]);
    }
}
