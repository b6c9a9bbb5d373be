//! A store whose group calls are counted, and that fails, hangs or is slow where a test wants it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::{BodyHash, GpuId, GroupName, GroupStatus, Kind, Outcome, PoolName, Slice, TaskId, TaskStatus, Token};
use task_store::{
    Arrival, Begin, BeginRequest, Cancel, Counted, DelayRequest, Fence, FenceRequest, GroupCancel, GroupStore, Join, Journal, KnownGpu,
    Look, LookRequest, MemberEnd, MembersPage, MembersRequest, ProgressAnswer, ProgressRequest, Reach, Record, RecordRequest, Reopen,
    RetryAnswer, RetryRequest, SliceRecord, SliceRecordRequest, SplitAnswer, SplitRequest, StoreError, Submission, TaskStore,
};

/// What a test wants of the store, and what it counted.
#[derive(Debug, Default)]
pub struct Controls {
    /// Calls of any operation on groups.
    pub calls: AtomicU64,
    /// So many of the next ends are not counted: the store is away.
    pub fail_ends: AtomicU64,
    /// Ends are not counted, and not answered.
    pub hang_ends: AtomicBool,
    /// That a slice has ended is recorded at once, and answered a little later.
    pub slow_slices: AtomicBool,
    /// Whether a cancel of a batch was asked for is not answered; of a slice it is.
    pub silent_on_batches: AtomicBool,
}

fn away() -> StoreError {
    StoreError::Unavailable { operation: "test", url: "redis://nowhere".to_owned(), reason: "as the test wants it".to_owned() }
}

/// See the module's text.
pub struct ControlledStore {
    pub inner: Arc<dyn TaskStore>,
    pub controls: Arc<Controls>,
}

impl ControlledStore {
    fn called(&self) -> &dyn GroupStore {
        self.controls.calls.fetch_add(1, Relaxed);
        self.inner.groups()
    }
}

#[async_trait]
impl GroupStore for ControlledStore {
    async fn join(&self, group: &GroupName, task_id: &TaskId, submission: Submission) -> Result<Join, StoreError> {
        self.called().join(group, task_id, submission).await
    }

    async fn leave(&self, group: &GroupName, task_id: &TaskId) -> Result<(), StoreError> {
        self.called().leave(group, task_id).await
    }

    async fn arrive(&self, group: &GroupName, task_id: &TaskId, published_s: Option<u64>) -> Result<Arrival, StoreError> {
        self.called().arrive(group, task_id, published_s).await
    }

    fn note_begun(&self, group: &GroupName, task_id: &TaskId, attempt: u32) {
        self.called().note_begun(group, task_id, attempt);
    }

    fn note_retried(&self, group: &GroupName, task_id: &TaskId, attempt: u32) {
        self.called().note_retried(group, task_id, attempt);
    }

    async fn note_ended(&self, group: &GroupName, task_id: &TaskId, outcome: Outcome) -> Result<Counted, StoreError> {
        if self.controls.hang_ends.load(Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.controls.fail_ends.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Err(away());
        }
        self.called().note_ended(group, task_id, outcome).await
    }

    async fn note_reopened(&self, group: &GroupName, task_id: &TaskId) -> Result<(), StoreError> {
        self.called().note_reopened(group, task_id).await
    }

    async fn cancel_all(&self, group: &GroupName) -> Result<GroupCancel, StoreError> {
        self.called().cancel_all(group).await
    }

    async fn show(&self, group: &GroupName) -> Result<Option<GroupStatus>, StoreError> {
        self.called().show(group).await
    }

    async fn members(&self, request: &MembersRequest) -> Result<Option<MembersPage>, StoreError> {
        self.called().members(request).await
    }

    async fn ends(&self, group: &GroupName, after: u64, limit: u32) -> Result<Vec<MemberEnd>, StoreError> {
        self.called().ends(group, after, limit).await
    }

    async fn names(&self, after: Option<&GroupName>, limit: u32) -> Result<Option<Vec<GroupName>>, StoreError> {
        self.called().names(after, limit).await
    }

    async fn known(&self) -> Result<u64, StoreError> {
        self.called().known().await
    }
}

#[async_trait]
impl TaskStore for ControlledStore {
    async fn submitted(&self, task_id: &TaskId, kind: &Kind, body_hash: &BodyHash) -> Result<Submission, StoreError> {
        self.inner.submitted(task_id, kind, body_hash).await
    }

    async fn delayed(&self, request: &DelayRequest) -> Result<(), StoreError> {
        self.inner.delayed(request).await
    }

    async fn forget(&self, task_id: &TaskId) -> Result<(), StoreError> {
        self.inner.forget(task_id).await
    }

    async fn look(&self, request: &LookRequest) -> Result<Look, StoreError> {
        self.inner.look(request).await
    }

    async fn begin(&self, request: &BeginRequest) -> Result<Begin, StoreError> {
        self.inner.begin(request).await
    }

    async fn split(&self, request: &SplitRequest) -> Result<SplitAnswer, StoreError> {
        self.inner.split(request).await
    }

    async fn record_slice(&self, request: &SliceRecordRequest) -> Result<SliceRecord, StoreError> {
        let answer = self.inner.record_slice(request).await;
        if self.controls.slow_slices.load(Relaxed) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        answer
    }

    async fn slice_results(&self, batch: &TaskId, from: u32, bytes_max: usize) -> Result<Vec<(Slice, Bytes)>, StoreError> {
        self.inner.slice_results(batch, from, bytes_max).await
    }

    fn forget_slices(&self, batch: &TaskId, keep_results: bool) {
        self.inner.forget_slices(batch, keep_results);
    }

    async fn fence(&self, request: &FenceRequest) -> Result<Fence, StoreError> {
        self.inner.fence(request).await
    }

    async fn hand_back(&self, task_id: &TaskId, token: Token) -> Result<(), StoreError> {
        self.inner.hand_back(task_id, token).await
    }

    async fn progress(&self, request: &ProgressRequest) -> Result<ProgressAnswer, StoreError> {
        self.inner.progress(request).await
    }

    async fn record(&self, request: &RecordRequest) -> Result<Record, StoreError> {
        self.inner.record(request).await
    }

    async fn retry(&self, request: &RetryRequest) -> Result<RetryAnswer, StoreError> {
        self.inner.retry(request).await
    }

    async fn reopen(&self, task_id: &TaskId, body_hash: &BodyHash) -> Result<Reopen, StoreError> {
        self.inner.reopen(task_id, body_hash).await
    }

    async fn cancel(&self, task_id: &TaskId, reach: Reach) -> Result<Cancel, StoreError> {
        self.inner.cancel(task_id, reach).await
    }

    async fn cancel_asked(&self, task_id: &TaskId) -> Result<bool, StoreError> {
        if task_id.slice().is_none() && self.controls.silent_on_batches.load(Relaxed) {
            return Err(away());
        }
        self.inner.cancel_asked(task_id).await
    }

    fn note_published(&self, task_id: &TaskId, to: &str) {
        self.inner.note_published(task_id, to);
    }

    async fn waits_for(&self, task_id: &TaskId, kind: &Kind, reason: &str) -> Result<(), StoreError> {
        self.inner.waits_for(task_id, kind, reason).await
    }

    async fn status(&self, task_id: &TaskId) -> Result<Option<TaskStatus>, StoreError> {
        self.inner.status(task_id).await
    }

    fn groups(&self) -> &dyn GroupStore {
        self
    }

    fn journal(&self) -> &dyn Journal {
        self.inner.journal()
    }

    async fn announce(&self, gpu_id: &GpuId, pool: &PoolName) -> Result<(), StoreError> {
        self.inner.announce(gpu_id, pool).await
    }

    async fn announced(&self) -> Result<Vec<KnownGpu>, StoreError> {
        self.inner.announced().await
    }

    async fn withdraw(&self, gpu: &KnownGpu) -> Result<(), StoreError> {
        self.inner.withdraw(gpu).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.inner.probe().await
    }
}
