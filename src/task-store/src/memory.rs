//! The store inside the process: the embedded default, tests, and deterministic simulation.
//!
//! Nothing here outlives the process. Time is the injected clock's. An expired record is never answered; what it occupies is given back a few
//! records at a time by the operations that follow, so that no operation ever pays for many.

mod batches;
mod deadlines;
mod group_port;
mod groups;
mod journal;
mod record;
mod split_batch;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::{BodyHash, GpuId, Kind, PoolName, Slice, TaskId, TaskStatus, Token, environment::Clock};

use self::{groups::Groups, journal::Course, state::State};
use crate::{
    Begin, BeginRequest, Cancel, DelayRequest, Fence, FenceRequest, GroupStore, Journal, KnownGpu, Look, LookRequest, ProgressAnswer,
    ProgressRequest, Reach, Record, RecordRequest, Reopen, RetryAnswer, RetryRequest, SliceRecord, SliceRecordRequest, SplitAnswer,
    SplitRequest, StoreError, StoreOptions, Submission, TaskStore, Totals,
};

/// How many expired records one operation clears away. More than one operation can add, so that they never pile up.
const CLEARED_PER_OPERATION: usize = 4;

/// A [`TaskStore`] in memory. Share it by `Arc`: every holder sees the same records.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    groups: Mutex<Groups>,
    course: Mutex<Course>,
}

impl MemoryStore {
    /// An empty store that reads the time from `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, options: StoreOptions) -> Self {
        let course = Mutex::new(Course::new(options.journal));
        Self { clock, state: Mutex::new(State::new(options)), groups: Mutex::new(Groups::new(options)), course }
    }

    /// Forgets everything, as a Redis that loses its data does. For tests and simulations of that loss.
    pub fn clear(&self) {
        let (mut state, _) = self.enter();
        state.clear();
        self.enter_groups().0.clear();
        self.clear_course();
    }

    /// For tests: what the store has counted and holds. Clears away all that is due first.
    #[doc(hidden)]
    #[must_use]
    pub fn totals(&self) -> Totals {
        let (mut state, now_ms) = self.enter();
        state.clear_expired(now_ms, usize::MAX);
        state.totals()
    }

    /// The records with what is due cleared away (a bounded part of it), and the time.
    fn enter(&self) -> (MutexGuard<'_, State>, u64) {
        let now_ms = self.clock.now_ms();
        // Every change is made of infallible steps, so a panic elsewhere never leaves half a record behind.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clear_expired(now_ms, CLEARED_PER_OPERATION);
        (state, now_ms)
    }

    /// The groups, and the time.
    fn enter_groups(&self) -> (MutexGuard<'_, Groups>, u64) {
        (self.groups.lock().unwrap_or_else(PoisonError::into_inner), self.clock.now_ms())
    }
}

#[async_trait]
impl TaskStore for MemoryStore {
    async fn submitted(&self, task_id: &TaskId, kind: &Kind, body_hash: &BodyHash) -> Result<Submission, StoreError> {
        let (mut state, now_ms) = self.enter();
        Ok(state.submitted(task_id, (kind, body_hash), now_ms))
    }

    async fn forget(&self, task_id: &TaskId) -> Result<(), StoreError> {
        let (mut state, now_ms) = self.enter();
        state.forget(task_id, now_ms);
        Ok(())
    }

    async fn delayed(&self, request: &DelayRequest) -> Result<(), StoreError> {
        let (mut state, now_ms) = self.enter();
        state.delayed(request, now_ms);
        Ok(())
    }

    async fn look(&self, request: &LookRequest) -> Result<Look, StoreError> {
        let (mut state, now_ms) = self.enter();
        Ok(state.look(request, now_ms))
    }

    async fn split(&self, request: &SplitRequest) -> Result<SplitAnswer, StoreError> {
        let (mut state, _) = self.enter();
        Ok(state.split(request, self.clock.now_us()))
    }

    async fn record_slice(&self, request: &SliceRecordRequest) -> Result<SliceRecord, StoreError> {
        let (mut state, now_ms) = self.enter();
        Ok(state.record_slice(request, now_ms))
    }

    async fn slice_results(&self, batch: &TaskId, from: u32, bytes_max: usize) -> Result<Vec<(Slice, Bytes)>, StoreError> {
        let (state, now_ms) = self.enter();
        Ok(state.slice_results(batch, (from, bytes_max), now_ms))
    }

    fn forget_slices(&self, batch: &TaskId, keep_results: bool) {
        let (mut state, now_ms) = self.enter();
        state.forget_slices(batch, keep_results, now_ms);
    }

    async fn begin(&self, request: &BeginRequest) -> Result<Begin, StoreError> {
        let (mut state, _) = self.enter();
        Ok(state.begin(request, self.clock.now_us()))
    }

    async fn fence(&self, request: &FenceRequest) -> Result<Fence, StoreError> {
        let (mut state, _) = self.enter();
        Ok(state.fence(request, self.clock.now_us()))
    }

    async fn hand_back(&self, task_id: &TaskId, token: Token) -> Result<(), StoreError> {
        let (mut state, now_ms) = self.enter();
        state.hand_back(task_id, token, now_ms);
        Ok(())
    }

    async fn progress(&self, request: &ProgressRequest) -> Result<ProgressAnswer, StoreError> {
        let (mut state, now_ms) = self.enter();
        Ok(state.progress(request, now_ms))
    }

    async fn record(&self, request: &RecordRequest) -> Result<Record, StoreError> {
        let (mut state, now_ms) = self.enter();
        Ok(state.record_outcome(request, now_ms))
    }

    async fn retry(&self, request: &RetryRequest) -> Result<RetryAnswer, StoreError> {
        let (mut state, now_ms) = self.enter();
        Ok(state.retry(request, now_ms))
    }

    async fn reopen(&self, task_id: &TaskId, body_hash: &BodyHash) -> Result<Reopen, StoreError> {
        let (mut state, now_ms) = self.enter();
        Ok(state.reopen(task_id, body_hash, now_ms))
    }

    async fn cancel(&self, task_id: &TaskId, reach: Reach) -> Result<Cancel, StoreError> {
        let (mut state, now_ms) = self.enter();
        Ok(state.cancel(task_id, reach, now_ms))
    }

    async fn cancel_asked(&self, task_id: &TaskId) -> Result<bool, StoreError> {
        let (mut state, now_ms) = self.enter();
        let against = state.against_slice(task_id, now_ms).is_some();
        Ok(against || state.record(task_id, now_ms).is_some_and(|record| record.cancelled.is_some()))
    }

    fn note_published(&self, task_id: &TaskId, to: &str) {
        let (mut state, now_ms) = self.enter();
        state.published(task_id, to, now_ms);
    }

    async fn waits_for(&self, task_id: &TaskId, kind: &Kind, reason: &str) -> Result<(), StoreError> {
        let (mut state, now_ms) = self.enter();
        state.waits_for(task_id, kind, reason, now_ms);
        Ok(())
    }

    async fn status(&self, task_id: &TaskId) -> Result<Option<TaskStatus>, StoreError> {
        let (mut state, now_ms) = self.enter();
        state.status(task_id, now_ms).transpose()
    }

    fn groups(&self) -> &dyn GroupStore {
        self
    }

    fn journal(&self) -> &dyn Journal {
        self
    }

    async fn announce(&self, gpu_id: &GpuId, pool: &PoolName) -> Result<(), StoreError> {
        let (mut state, now_ms) = self.enter();
        state.announce(gpu_id, pool, now_ms);
        Ok(())
    }

    async fn announced(&self) -> Result<Vec<KnownGpu>, StoreError> {
        Ok(self.enter().0.announced())
    }

    async fn withdraw(&self, gpu: &KnownGpu) -> Result<(), StoreError> {
        self.enter().0.withdraw(gpu);
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("MemoryStore")
    }
}
