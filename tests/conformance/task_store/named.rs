//! A store whose tokens the tests choose: the real ones are given out by the store, and depend on its clock.
//!
//! An attempt's token is named by the number of the delivery that it begins for. A number that names none stands for itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::{BodyHash, GpuId, Kind, PoolName, Slice, TaskId, TaskStatus, Token};
use task_store::{
    Begin, BeginRequest, Cancel, DelayRequest, Fence, FenceRequest, GroupStore, Holder, Journal, KnownGpu, Look, LookRequest,
    ProgressAnswer, ProgressRequest, Reach, Record, RecordRequest, Reopen, RetryAnswer, RetryRequest, SliceRecord, SliceRecordRequest,
    Split, SplitAnswer, SplitRequest, StoreError, Stored, Submission, TaskStore, Verdict,
};

/// The name of the token that a fence is given.
pub const FENCE: Token = Token(1_000);
/// The name of the first split's token; a later split's is the next number.
const FIRST_SPLIT: u64 = 2_000;

/// See the module's text.
pub struct NamedTokens {
    pub store: Arc<dyn TaskStore>,
    given: Mutex<BTreeMap<Token, Token>>,
    splits: Mutex<Vec<Token>>,
}

impl NamedTokens {
    pub fn new(store: Arc<dyn TaskStore>) -> Self {
        Self { store, given: Mutex::default(), splits: Mutex::default() }
    }

    fn given(&self) -> MutexGuard<'_, BTreeMap<Token, Token>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store gave this token out; a later one of the same name must be larger, or the same.
    fn gave(&self, name: Token, real: Token) -> Token {
        let before = self.given().insert(name, real);
        assert!(before.is_none_or(|before| before <= real), "tokens grow: {before:?}, then {real:?}");
        name
    }

    fn real(&self, name: Token) -> Token {
        self.given().get(&name).copied().unwrap_or(name)
    }

    fn name(&self, real: Token) -> Token {
        self.given().iter().find(|(_, given)| **given == real).map_or(real, |(name, _)| *name)
    }

    fn verdict(&self, verdict: Option<Verdict>) -> Option<Verdict> {
        verdict.map(|verdict| Verdict { token: self.real(verdict.token), ..verdict })
    }

    fn holder(&self, holder: Holder) -> Holder {
        Holder { token: self.name(holder.token), ..holder }
    }

    fn stored(&self, stored: Stored) -> Stored {
        Stored { token: stored.token.map(|token| self.name(token)), ..stored }
    }

    fn look(&self, look: Look) -> Look {
        match look {
            Look::Ended(stored) => Look::Ended(self.stored(stored)),
            Look::Unfinished(holder) => Look::Unfinished(self.holder(holder)),
            Look::Split(split) => Look::Split(self.split_named(split)),
            look => look,
        }
    }

    fn split_named(&self, split: Split) -> Split {
        let mut splits = self.splits.lock().unwrap_or_else(PoisonError::into_inner);
        let place = splits.iter().position(|token| *token == split.token).unwrap_or_else(|| {
            assert!(splits.last().is_none_or(|last| *last < split.token), "tokens grow: {splits:?}, then {:?}", split.token);
            splits.push(split.token);
            splits.len() - 1
        });
        Split { token: Token(FIRST_SPLIT + place as u64), ..split }
    }
}

#[async_trait]
impl TaskStore for NamedTokens {
    async fn submitted(&self, task_id: &TaskId, kind: &Kind, body_hash: &BodyHash) -> Result<Submission, StoreError> {
        self.store.submitted(task_id, kind, body_hash).await
    }

    async fn forget(&self, task_id: &TaskId) -> Result<(), StoreError> {
        self.store.forget(task_id).await
    }

    async fn delayed(&self, request: &DelayRequest) -> Result<(), StoreError> {
        self.store.delayed(request).await
    }

    async fn look(&self, request: &LookRequest) -> Result<Look, StoreError> {
        self.store.look(request).await.map(|look| self.look(look))
    }

    async fn look_briefly(&self, request: &LookRequest) -> Result<Look, StoreError> {
        self.store.look_briefly(request).await.map(|look| self.look(look))
    }

    async fn split(&self, request: &SplitRequest) -> Result<SplitAnswer, StoreError> {
        Ok(match self.store.split(request).await? {
            SplitAnswer::Not(look) => SplitAnswer::Not(self.look(look)),
            SplitAnswer::Split(split) => SplitAnswer::Split(self.split_named(split)),
            other => other,
        })
    }

    async fn record_slice(&self, request: &SliceRecordRequest) -> Result<SliceRecord, StoreError> {
        let token = request.token.map(|token| self.real(token));
        Ok(match self.store.record_slice(&SliceRecordRequest { token, ..request.clone() }).await? {
            SliceRecord::Recorded(split) => SliceRecord::Recorded(self.split_named(split)),
            other => other,
        })
    }

    async fn slice_results(&self, batch: &TaskId, from: u32, bytes_max: usize) -> Result<Vec<(Slice, Bytes)>, StoreError> {
        self.store.slice_results(batch, from, bytes_max).await
    }

    fn forget_slices(&self, batch: &TaskId, keep_results: bool) {
        self.store.forget_slices(batch, keep_results);
    }

    async fn begin(&self, request: &BeginRequest) -> Result<Begin, StoreError> {
        let named = BeginRequest { verdict: self.verdict(request.verdict), ..request.clone() };
        Ok(match self.store.begin(&named).await? {
            Begin::Begun(token) => Begin::Begun(self.gave(Token(request.delivery.0), token)),
            Begin::Unfinished(holder) => Begin::Unfinished(self.holder(holder)),
            Begin::Not(look) => Begin::Not(self.look(look)),
            other => other,
        })
    }

    async fn fence(&self, request: &FenceRequest) -> Result<Fence, StoreError> {
        let named = FenceRequest { verdict: self.verdict(request.verdict), ..request.clone() };
        Ok(match self.store.fence(&named).await? {
            Fence::Fenced(token) => Fence::Fenced(self.gave(FENCE, token)),
            Fence::Unfinished(holder) => Fence::Unfinished(self.holder(holder)),
            Fence::Not(look) => Fence::Not(self.look(look)),
        })
    }

    async fn hand_back(&self, task_id: &TaskId, token: Token) -> Result<(), StoreError> {
        self.store.hand_back(task_id, self.real(token)).await
    }

    async fn progress(&self, request: &ProgressRequest) -> Result<ProgressAnswer, StoreError> {
        self.store.progress(&ProgressRequest { token: self.real(request.token), ..request.clone() }).await
    }

    async fn record(&self, request: &RecordRequest) -> Result<Record, StoreError> {
        let named = RecordRequest { token: request.token.map(|token| self.real(token)), ..request.clone() };
        Ok(match self.store.record(&named).await? {
            Record::EndedBefore(stored) => Record::EndedBefore(self.stored(stored)),
            other => other,
        })
    }

    async fn retry(&self, request: &RetryRequest) -> Result<RetryAnswer, StoreError> {
        let answer = self.store.retry(&RetryRequest { token: self.real(request.token), ..request.clone() }).await?;
        Ok(match answer {
            RetryAnswer::Not(look) => RetryAnswer::Not(self.look(look)),
            other => other,
        })
    }

    async fn reopen(&self, task_id: &TaskId, body_hash: &BodyHash) -> Result<Reopen, StoreError> {
        self.store.reopen(task_id, body_hash).await
    }

    async fn cancel(&self, task_id: &TaskId, reach: Reach) -> Result<Cancel, StoreError> {
        self.store.cancel(task_id, reach).await
    }

    async fn cancel_asked(&self, task_id: &TaskId) -> Result<bool, StoreError> {
        self.store.cancel_asked(task_id).await
    }

    fn note_published(&self, task_id: &TaskId, to: &str) {
        self.store.note_published(task_id, to);
    }

    async fn waits_for(&self, task_id: &TaskId, kind: &Kind, reason: &str) -> Result<(), StoreError> {
        self.store.waits_for(task_id, kind, reason).await
    }

    async fn status(&self, task_id: &TaskId) -> Result<Option<TaskStatus>, StoreError> {
        self.store.status(task_id).await
    }

    fn groups(&self) -> &dyn GroupStore {
        self.store.groups()
    }

    fn journal(&self) -> &dyn Journal {
        self.store.journal()
    }

    async fn announce(&self, gpu_id: &GpuId, pool: &PoolName) -> Result<(), StoreError> {
        self.store.announce(gpu_id, pool).await
    }

    async fn announced(&self) -> Result<Vec<KnownGpu>, StoreError> {
        self.store.announced().await
    }

    async fn withdraw(&self, gpu: &KnownGpu) -> Result<(), StoreError> {
        self.store.withdraw(gpu).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.store.ping().await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.store.probe().await
    }
}
