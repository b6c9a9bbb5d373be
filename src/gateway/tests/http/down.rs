//! A table and a store that do not answer.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use gpu_table::{Beat, GpuTable, Heartbeat, Seen, Sighting, TableError, Telling};
use protocol::{
    BodyHash, ClaimAnswer, ClaimRequest, GpuId, Incarnation, Kind, Offer, PoolName, TaskId, TaskStatus, Token, Unserved, claim::Settings,
    gpu::GpuView,
};
use task_store::{
    Begin, BeginRequest, Cancel, DelayRequest, Fence, FenceRequest, KnownGpu, Look, LookRequest, ProgressAnswer, ProgressRequest, Reach,
    Record, RecordRequest, Reopen, RetryAnswer, RetryRequest, StoreError, Submission, TaskStore,
};

pub struct DownTable;

fn no_table<T>() -> Result<T, TableError> {
    Err(TableError::Unavailable { operation: "test", url: "redis://nowhere".into(), reason: "refused".into() })
}

#[async_trait]
impl GpuTable for DownTable {
    async fn heartbeat(&self, _: &Heartbeat) -> Result<Beat, TableError> {
        no_table()
    }
    async fn claim(&self, _: &ClaimRequest) -> Result<ClaimAnswer, TableError> {
        no_table()
    }
    async fn tell(&self, _: &Telling) -> Result<(), TableError> {
        no_table()
    }
    async fn withdraw(&self, _: &Offer) -> Result<(), TableError> {
        no_table()
    }
    async fn seen(&self, _: &PoolName, _: &GpuId) -> Result<Seen, TableError> {
        no_table()
    }
    async fn rows(&self, _: &PoolName) -> Result<Vec<GpuView>, TableError> {
        no_table()
    }
    async fn known(&self, _: &PoolName) -> Result<Vec<GpuId>, TableError> {
        no_table()
    }
    async fn steady(&self, _: &PoolName) -> Result<Duration, TableError> {
        no_table()
    }
    async fn leave(&self, _: &PoolName, _: &GpuId, _: &Incarnation) -> Result<(), TableError> {
        no_table()
    }
    async fn settings(&self, _: &PoolName, _: &Settings) -> Result<Settings, TableError> {
        no_table()
    }
    async fn current_settings(&self, _: &PoolName) -> Result<Option<Settings>, TableError> {
        no_table()
    }
    async fn change_settings(&self, _: &PoolName, _: &Settings) -> Result<Settings, TableError> {
        no_table()
    }
    async fn note_unserved(&self, _: &PoolName, _: &Sighting) -> Result<(), TableError> {
        no_table()
    }
    async fn forget_unserved(&self, _: &PoolName, _: &str) -> Result<(), TableError> {
        no_table()
    }
    async fn unserved(&self, _: &PoolName) -> Result<Vec<Unserved>, TableError> {
        no_table()
    }
    async fn ping(&self) -> Result<(), TableError> {
        no_table()
    }
    async fn probe(&self, _: &PoolName) -> Result<(), TableError> {
        no_table()
    }
}

/// A store that takes nothing.
#[derive(Debug, Default)]
pub struct DownStore {
    /// Whether it answers a ping all the same.
    pub answers: bool,
    /// How often it was probed.
    pub probes: AtomicU32,
}

fn no_store<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable { operation: "test", url: "redis://nowhere".into(), reason: "refused".into() })
}

#[async_trait]
impl TaskStore for DownStore {
    async fn submitted(&self, _: &TaskId, _: &Kind, _: &BodyHash) -> Result<Submission, StoreError> {
        no_store()
    }
    async fn forget(&self, _: &TaskId) -> Result<(), StoreError> {
        no_store()
    }
    async fn delayed(&self, _: &DelayRequest) -> Result<(), StoreError> {
        no_store()
    }
    async fn look(&self, _: &LookRequest) -> Result<Look, StoreError> {
        no_store()
    }
    async fn retry(&self, _: &RetryRequest) -> Result<RetryAnswer, StoreError> {
        no_store()
    }
    async fn reopen(&self, _: &TaskId, _: &BodyHash) -> Result<Reopen, StoreError> {
        no_store()
    }
    async fn cancel(&self, _: &TaskId, _: Reach) -> Result<Cancel, StoreError> {
        no_store()
    }
    async fn cancel_asked(&self, _: &TaskId) -> Result<bool, StoreError> {
        no_store()
    }
    async fn begin(&self, _: &BeginRequest) -> Result<Begin, StoreError> {
        no_store()
    }
    async fn hand_back(&self, _: &TaskId, _: Token) -> Result<(), StoreError> {
        no_store()
    }
    async fn progress(&self, _: &ProgressRequest) -> Result<ProgressAnswer, StoreError> {
        no_store()
    }
    async fn record(&self, _: &RecordRequest) -> Result<Record, StoreError> {
        no_store()
    }
    async fn fence(&self, _: &FenceRequest) -> Result<Fence, StoreError> {
        no_store()
    }
    fn note_published(&self, _: &TaskId, _: &str) {}
    async fn waits_for(&self, _: &TaskId, _: &Kind, _: &str) -> Result<(), StoreError> {
        no_store()
    }
    async fn status(&self, _: &TaskId) -> Result<Option<TaskStatus>, StoreError> {
        no_store()
    }
    async fn announce(&self, _: &GpuId, _: &PoolName) -> Result<(), StoreError> {
        no_store()
    }
    async fn announced(&self) -> Result<Vec<KnownGpu>, StoreError> {
        no_store()
    }
    async fn withdraw(&self, _: &KnownGpu) -> Result<(), StoreError> {
        no_store()
    }
    async fn ping(&self) -> Result<(), StoreError> {
        if self.answers { Ok(()) } else { no_store() }
    }
    async fn probe(&self) -> Result<(), StoreError> {
        self.probes.fetch_add(1, Ordering::Relaxed);
        no_store()
    }
}
