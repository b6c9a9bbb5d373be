//! A table and a store that do not answer.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use gpu_table::{Beat, GpuTable, Heartbeat, Seen, Sighting, TableError, Telling, VersionDraw};
use protocol::{
    BodyHash, ClaimAnswer, ClaimRequest, DescribedKind, GpuId, GroupName, GroupStatus, HistoryPoint, HistorySpan, Incarnation, Kind,
    KindDescription, Offer, OperatorAction, Outcome, PoolName, Slice, TaskId, TaskStatus, TaskStep, TensorName, TensorRecord, Token,
    Unserved, claim::Settings, gpu::GpuView,
};
use task_store::{
    Arrival, Begin, BeginRequest, Cancel, Counted, DelayRequest, Fence, FenceRequest, GroupCancel, GroupStore, Join, Journal, KnownGpu,
    Look, LookRequest, MemberEnd, MembersPage, MembersRequest, ProgressAnswer, ProgressRequest, Reach, Record, RecordRequest, Reopen,
    RetryAnswer, RetryRequest, SliceRecord, SliceRecordRequest, SplitAnswer, SplitRequest, StepCursor, StepPage, StoreError, Submission,
    TaskStore,
};
use tokio::sync::Semaphore;

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
    async fn announce_tensors(&self, _: &PoolName, _: &[TensorRecord]) -> Result<(), TableError> {
        no_table()
    }
    async fn draw_tensor_version(&self, _: &PoolName, _: &VersionDraw) -> Result<u64, TableError> {
        no_table()
    }
    async fn withdraw_tensors(&self, _: &PoolName, _: &GpuId, _: &Incarnation, _: &[(TensorName, u64)]) -> Result<(), TableError> {
        no_table()
    }
    async fn find_tensors(&self, _: &PoolName, _: &[TensorName]) -> Result<Vec<TensorRecord>, TableError> {
        no_table()
    }
    async fn tensors(&self, _: &PoolName, _: Option<&TensorName>, _: usize) -> Result<Vec<TensorRecord>, TableError> {
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
    async fn describe_kinds(&self, _: &PoolName, _: &[KindDescription]) -> Result<(), TableError> {
        no_table()
    }
    async fn kinds(&self, _: &PoolName) -> Result<Vec<DescribedKind>, TableError> {
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
    /// What a cancel of a group waits for.
    pub cancels_held: Option<Semaphore>,
    /// How many cancels of groups began, and how many of them came to their end.
    pub cancels: [AtomicU32; 2],
    /// How often it was asked how many groups there are.
    pub counts: AtomicU32,
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
    async fn split(&self, _: &SplitRequest) -> Result<SplitAnswer, StoreError> {
        no_store()
    }
    async fn record_slice(&self, _: &SliceRecordRequest) -> Result<SliceRecord, StoreError> {
        no_store()
    }
    async fn slice_results(&self, _: &TaskId, _: u32, _: usize) -> Result<Vec<(Slice, Bytes)>, StoreError> {
        no_store()
    }
    fn forget_slices(&self, _: &TaskId, _: bool) {}
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
    fn groups(&self) -> &dyn GroupStore {
        self
    }
    fn journal(&self) -> &dyn Journal {
        self
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

#[async_trait]
impl GroupStore for DownStore {
    async fn join(&self, _: &GroupName, _: &TaskId, _: Submission) -> Result<Join, StoreError> {
        no_store()
    }
    async fn leave(&self, _: &GroupName, _: &TaskId) -> Result<(), StoreError> {
        no_store()
    }
    async fn arrive(&self, _: &GroupName, _: &TaskId, _: Option<u64>) -> Result<Arrival, StoreError> {
        no_store()
    }
    fn note_begun(&self, _: &GroupName, _: &TaskId, _: u32) {}
    fn note_retried(&self, _: &GroupName, _: &TaskId, _: u32) {}
    async fn note_ended(&self, _: &GroupName, _: &TaskId, _: Outcome) -> Result<Counted, StoreError> {
        no_store()
    }
    async fn note_reopened(&self, _: &GroupName, _: &TaskId) -> Result<(), StoreError> {
        no_store()
    }
    async fn cancel_all(&self, _: &GroupName) -> Result<GroupCancel, StoreError> {
        let [began, ended] = &self.cancels;
        began.fetch_add(1, Ordering::Relaxed);
        if let Some(held) = &self.cancels_held {
            let _turn = held.acquire().await;
        }
        ended.fetch_add(1, Ordering::Relaxed);
        no_store()
    }
    async fn show(&self, _: &GroupName) -> Result<Option<GroupStatus>, StoreError> {
        no_store()
    }
    async fn members(&self, _: &MembersRequest) -> Result<Option<MembersPage>, StoreError> {
        no_store()
    }
    async fn ends(&self, _: &GroupName, _: u64, _: u32) -> Result<Vec<MemberEnd>, StoreError> {
        no_store()
    }
    async fn names(&self, _: Option<&GroupName>, _: u32) -> Result<Option<Vec<GroupName>>, StoreError> {
        no_store()
    }
    async fn known(&self) -> Result<u64, StoreError> {
        self.counts.fetch_add(1, Ordering::Relaxed);
        no_store()
    }
}

#[async_trait]
impl Journal for DownStore {
    fn keeps_steps(&self) -> bool {
        true
    }
    fn tell(&self, _: TaskStep) {}
    fn steps_lost(&self) -> u64 {
        0
    }
    async fn flush(&self) {}
    async fn steps_after(&self, _: &StepCursor, _: usize) -> Result<StepPage, StoreError> {
        no_store()
    }
    async fn note_point(&self, _: HistorySpan, _: &HistoryPoint) -> Result<bool, StoreError> {
        no_store()
    }
    async fn points(&self, _: HistorySpan, _: u64) -> Result<Vec<HistoryPoint>, StoreError> {
        no_store()
    }
    async fn note_action(&self, _: &OperatorAction) -> Result<(), StoreError> {
        no_store()
    }
    async fn actions(&self, _: usize) -> Result<Vec<OperatorAction>, StoreError> {
        no_store()
    }
}
