//! A table that is a map.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use protocol::{TensorName, TensorRecord};

use crate::{Destination, Directory, DirectoryError};

#[derive(Default)]
pub(crate) struct TestDirectory {
    records: Mutex<Vec<TensorRecord>>,
    destinations: Mutex<Vec<Destination>>,
    failing_announcements: AtomicUsize,
    pub(crate) pool_mb: AtomicU64,
}

impl TestDirectory {
    pub(crate) fn add(&self, destination: Destination) {
        self.destinations.lock().unwrap().push(destination);
    }

    /// The next so many announcements fail.
    pub(crate) fn fail_announcements(&self, count: usize) {
        self.failing_announcements.store(count, Ordering::SeqCst);
    }

    pub(crate) fn records(&self) -> Vec<TensorRecord> {
        self.records.lock().unwrap().clone()
    }

    /// Puts a record in, whoever it is of.
    pub(crate) fn put(&self, record: TensorRecord) {
        self.records.lock().unwrap().push(record);
    }
}

#[async_trait]
impl Directory for TestDirectory {
    async fn find(&self, names: &[TensorName]) -> Result<Vec<TensorRecord>, DirectoryError> {
        Ok(self.records().into_iter().filter(|record| names.contains(&record.name)).collect())
    }

    async fn announce(&self, announced: &[TensorRecord]) -> Result<(), DirectoryError> {
        let fails = self.failing_announcements.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if fails.is_ok() {
            return Err(DirectoryError { message: "away".to_owned(), is_transient: true });
        }
        let mut records = self.records.lock().unwrap();
        for record in announced {
            records.retain(|other| (&other.name, &other.gpu_id) != (&record.name, &record.gpu_id));
            records.push(record.clone());
        }
        Ok(())
    }

    /// Of all GPUs, where the real one knows whose plane asks: in tests each version is made once, so that only copies could be meant by mistake.
    async fn withdraw(&self, copies: &[(TensorName, u64)]) -> Result<(), DirectoryError> {
        let mut records = self.records.lock().unwrap();
        records.retain(|record| !copies.iter().any(|(name, version)| (name, version) == (&record.name, &record.version)));
        Ok(())
    }

    async fn destinations(&self) -> Result<Vec<Destination>, DirectoryError> {
        Ok(self.destinations.lock().unwrap().clone())
    }

    async fn pool_mb(&self) -> Result<u64, DirectoryError> {
        Ok(self.pool_mb.load(Ordering::SeqCst))
    }
}
