//! A table that is a map.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use protocol::{GpuId, TensorName, TensorRecord};

use crate::{Destination, Directory, DirectoryError, Draw};

#[derive(Default)]
pub(crate) struct TestDirectory {
    records: Mutex<Vec<TensorRecord>>,
    destinations: Mutex<Vec<Destination>>,
    failing_announcements: AtomicUsize,
    withdrawals_hang: AtomicBool,
    /// By name: the latest version, the newest token for which one was drawn, and that one.
    drawn: Mutex<BTreeMap<TensorName, (u64, u64, u64)>>,
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

    /// Whether withdrawals find no answer from now on.
    pub(crate) fn set_withdrawals_hang(&self, hang: bool) {
        self.withdrawals_hang.store(hang, Ordering::SeqCst);
    }

    pub(crate) fn records(&self) -> Vec<TensorRecord> {
        self.records.lock().unwrap().clone()
    }
}

/// The table, as one GPU's plane sees it.
pub(crate) struct TableOf(pub(crate) Arc<TestDirectory>, pub(crate) GpuId);

#[async_trait]
impl Directory for TableOf {
    async fn find(&self, names: &[TensorName]) -> Result<Vec<TensorRecord>, DirectoryError> {
        Ok(self.0.records().into_iter().filter(|record| names.contains(&record.name)).collect())
    }

    async fn draw_version(&self, draw: &Draw<'_>) -> Result<u64, DirectoryError> {
        let told = self.0.records().into_iter().filter(|record| record.name == *draw.name).map(|record| record.version).max();
        let mut all = self.0.drawn.lock().unwrap();
        let (latest, token, of_token) = all.entry(draw.name.clone()).or_default();
        if let Some(wanted) = draw.token.filter(|wanted| *token > 0 && *wanted <= *token) {
            return Ok(if wanted == *token { *of_token } else { wanted });
        }
        *latest = draw.wanted().max(told.unwrap_or(0).max(*latest).saturating_add(1));
        if let Some(wanted) = draw.token {
            (*token, *of_token) = (wanted, *latest);
        }
        Ok(*latest)
    }

    async fn announce(&self, announced: &[TensorRecord]) -> Result<(), DirectoryError> {
        let failing = &self.0.failing_announcements;
        if failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(DirectoryError { message: "away".to_owned(), is_transient: true });
        }
        let mut records = self.0.records.lock().unwrap();
        for record in announced {
            records.retain(|other| (&other.name, &other.gpu_id) != (&record.name, &record.gpu_id));
            records.push(record.clone());
        }
        Ok(())
    }

    async fn withdraw(&self, copies: &[(TensorName, u64)]) -> Result<(), DirectoryError> {
        if self.0.withdrawals_hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let mut records = self.0.records.lock().unwrap();
        let is_meant = |record: &TensorRecord| copies.iter().any(|(name, version)| (name, *version) == (&record.name, record.version));
        records.retain(|record| record.gpu_id != self.1 || !is_meant(record));
        Ok(())
    }

    async fn destinations(&self) -> Result<Vec<Destination>, DirectoryError> {
        Ok(self.0.destinations.lock().unwrap().clone())
    }

    async fn pool_mb(&self) -> Result<u64, DirectoryError> {
        Ok(self.0.pool_mb.load(Ordering::SeqCst))
    }
}
