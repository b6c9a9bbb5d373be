//! Table and store as one worker of a simulated fleet has them. What passes is told to the [`World`], which judges it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use gpu_table::{Beat, GpuTable, Heartbeat, Seen, Sighting, TableError, Telling, VersionDraw};
use protocol::{
    BodyHash, ClaimAnswer, ClaimRequest, DescribedKind, GpuId, Holding, Incarnation, Kind, KindDescription, Offer, PoolName, Slice, TaskId,
    TaskStatus, TensorName, TensorRecord, Token, Unserved, claim::Settings, gpu::GpuView,
};
use task_store::{
    Begin, BeginRequest, Cancel, DelayRequest, Fence, FenceRequest, GroupStore, Journal, KnownGpu, Look, LookRequest, ProgressAnswer,
    ProgressRequest, Reach, Record, RecordRequest, Reopen, RetryAnswer, RetryRequest, SliceRecord, SliceRecordRequest, Split, SplitAnswer,
    SplitRequest, StoreError, Submission, TaskStore,
};

use super::{
    bugs::{Bug, MostHeld},
    chaos::Chaos,
    world::World,
};

/// A worker's way to the table.
pub struct ChaosTable {
    pub inner: Arc<dyn GpuTable>,
    pub chaos: Arc<Chaos>,
    pub bug: Option<Bug>,
    pub most_held: MostHeld,
}

/// A worker's way to the store.
pub struct ChaosStore {
    pub inner: Arc<dyn TaskStore>,
    pub chaos: Arc<Chaos>,
    pub bug: Option<Bug>,
    pub world: Arc<World>,
    pub last_answer: Mutex<Option<Begin>>,
    /// What the slices of each batch were last at, as this worker heard.
    pub splits: Mutex<BTreeMap<TaskId, Split>>,
}

fn no_table() -> TableError {
    TableError::Unavailable { operation: "simulated", url: "redis://simulated".to_owned(), reason: "as the fault wants it".to_owned() }
}

fn no_store() -> StoreError {
    StoreError::Unavailable { operation: "simulated", url: "redis://simulated".to_owned(), reason: "as the fault wants it".to_owned() }
}

impl ChaosTable {
    async fn call<T>(&self, site: &'static str, call: impl Future<Output = Result<T, TableError>>) -> Result<T, TableError> {
        self.chaos.around(("table", site), call, no_table).await
    }

    fn told(&self, holding: Holding) -> Holding {
        if self.bug == Some(Bug::SlotsNeverGivenUp) { self.most_held.tell(holding) } else { holding }
    }
}

impl ChaosStore {
    async fn call<T>(&self, site: &'static str, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.chaos.around(("store", site), call, no_store).await
    }
}

#[async_trait]
impl GpuTable for ChaosTable {
    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<Beat, TableError> {
        let heartbeat = Heartbeat { holding: self.told(heartbeat.holding), ..heartbeat.clone() };
        self.call("heartbeat", self.inner.heartbeat(&heartbeat)).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimAnswer, TableError> {
        self.call("claim", self.inner.claim(request)).await
    }

    async fn tell(&self, telling: &Telling) -> Result<(), TableError> {
        let telling = Telling { holding: self.told(telling.holding), ..telling.clone() };
        self.call("tell", self.inner.tell(&telling)).await
    }

    async fn withdraw(&self, offer: &Offer) -> Result<(), TableError> {
        self.call("withdraw", self.inner.withdraw(offer)).await
    }

    async fn seen(&self, pool: &PoolName, gpu_id: &GpuId) -> Result<Seen, TableError> {
        let seen = self.call("seen", self.inner.seen(pool, gpu_id)).await?;
        Ok(if self.bug == Some(Bug::TrustsAnyTable) { Seen { steady: Duration::MAX, ..seen } } else { seen })
    }

    async fn rows(&self, pool: &PoolName) -> Result<Vec<GpuView>, TableError> {
        self.call("rows", self.inner.rows(pool)).await
    }

    async fn steady(&self, pool: &PoolName) -> Result<Duration, TableError> {
        self.call("steady", self.inner.steady(pool)).await
    }

    async fn known(&self, pool: &PoolName) -> Result<Vec<GpuId>, TableError> {
        self.call("known", self.inner.known(pool)).await
    }

    async fn leave(&self, pool: &PoolName, gpu_id: &GpuId, incarnation: &Incarnation) -> Result<(), TableError> {
        self.call("leave", self.inner.leave(pool, gpu_id, incarnation)).await
    }

    async fn settings(&self, pool: &PoolName, initial: &Settings) -> Result<Settings, TableError> {
        self.call("settings", self.inner.settings(pool, initial)).await
    }

    async fn current_settings(&self, pool: &PoolName) -> Result<Option<Settings>, TableError> {
        self.call("current settings", self.inner.current_settings(pool)).await
    }

    async fn change_settings(&self, pool: &PoolName, settings: &Settings) -> Result<Settings, TableError> {
        self.call("change settings", self.inner.change_settings(pool, settings)).await
    }

    async fn note_unserved(&self, pool: &PoolName, sighting: &Sighting) -> Result<(), TableError> {
        self.call("note unserved", self.inner.note_unserved(pool, sighting)).await
    }

    async fn forget_unserved(&self, pool: &PoolName, wanted: &str) -> Result<(), TableError> {
        self.call("forget unserved", self.inner.forget_unserved(pool, wanted)).await
    }

    async fn unserved(&self, pool: &PoolName) -> Result<Vec<Unserved>, TableError> {
        self.call("unserved", self.inner.unserved(pool)).await
    }

    async fn announce_tensors(&self, pool: &PoolName, records: &[TensorRecord]) -> Result<(), TableError> {
        self.call("announce tensors", self.inner.announce_tensors(pool, records)).await
    }

    async fn draw_tensor_version(&self, pool: &PoolName, draw: &VersionDraw) -> Result<u64, TableError> {
        self.call("draw a version of a tensor", self.inner.draw_tensor_version(pool, draw)).await
    }

    async fn withdraw_tensors(
        &self,
        pool: &PoolName,
        gpu_id: &GpuId,
        incarnation: &Incarnation,
        copies: &[(TensorName, u64)],
    ) -> Result<(), TableError> {
        self.call("withdraw tensors", self.inner.withdraw_tensors(pool, gpu_id, incarnation, copies)).await
    }

    async fn find_tensors(&self, pool: &PoolName, names: &[TensorName]) -> Result<Vec<TensorRecord>, TableError> {
        self.call("find tensors", self.inner.find_tensors(pool, names)).await
    }

    async fn tensors(&self, pool: &PoolName, after: Option<&TensorName>, names_max: usize) -> Result<Vec<TensorRecord>, TableError> {
        self.call("tensors", self.inner.tensors(pool, after, names_max)).await
    }

    async fn describe_kinds(&self, pool: &PoolName, kinds: &[KindDescription]) -> Result<(), TableError> {
        self.call("describe kinds", self.inner.describe_kinds(pool, kinds)).await
    }

    async fn kinds(&self, pool: &PoolName) -> Result<Vec<DescribedKind>, TableError> {
        self.call("kinds", self.inner.kinds(pool)).await
    }

    async fn ping(&self) -> Result<(), TableError> {
        self.inner.ping().await
    }

    async fn probe(&self, pool: &PoolName) -> Result<(), TableError> {
        self.inner.probe(pool).await
    }
}

#[async_trait]
impl TaskStore for ChaosStore {
    async fn submitted(&self, task_id: &TaskId, kind: &Kind, body_hash: &BodyHash) -> Result<Submission, StoreError> {
        self.inner.submitted(task_id, kind, body_hash).await
    }

    async fn forget(&self, task_id: &TaskId) -> Result<(), StoreError> {
        self.inner.forget(task_id).await
    }

    async fn delayed(&self, request: &DelayRequest) -> Result<(), StoreError> {
        self.call("note a delay", self.inner.delayed(request)).await
    }

    async fn look(&self, request: &LookRequest) -> Result<Look, StoreError> {
        self.call("look", self.inner.look(request)).await
    }

    async fn begin(&self, request: &BeginRequest) -> Result<Begin, StoreError> {
        if request.verdict.is_some_and(|verdict| verdict.gone) {
            self.world.convicted(&request.task_id);
        }
        let beginning = async {
            let answer = self.inner.begin(request).await;
            let before = answer.as_ref().ok().and_then(|answer| self.last_answer.lock().unwrap().replace(answer.clone()));
            let token = self.world.began_last(&request.task_id);
            let answer = answer.map(|answer| self.bug.map_or(answer.clone(), |bug| bug.begin(answer, (token, before))));
            if let Ok(Begin::Begun(token)) = answer {
                self.world.began(request, token);
            }
            answer
        };
        self.call("begin", beginning).await
    }

    async fn split(&self, request: &SplitRequest) -> Result<SplitAnswer, StoreError> {
        let splitting = async {
            let answer = self.inner.split(request).await?;
            if let SplitAnswer::Split(split) = &answer {
                self.world.note(format!("{} is split into {}", request.task_id, split.slices.len()));
                self.splits.lock().unwrap().insert(request.task_id.clone(), split.clone());
            }
            Ok(answer)
        };
        self.call("split", splitting).await
    }

    async fn record_slice(&self, request: &SliceRecordRequest) -> Result<SliceRecord, StoreError> {
        let recording = async {
            let answer = self.inner.record_slice(request).await?;
            let SliceRecord::Recorded(split) = answer else { return Ok(answer) };
            self.world.note(format!("{} is recorded as {}", request.task_id, request.outcome.name()));
            self.splits.lock().unwrap().insert(request.task_id.batch(), split.clone());
            Ok(SliceRecord::Recorded(self.bug.map_or(split.clone(), |bug| bug.split(split))))
        };
        self.call("record a slice", recording).await
    }

    async fn slice_results(&self, batch: &TaskId, from: u32, bytes_max: usize) -> Result<Vec<(Slice, Bytes)>, StoreError> {
        let reading = async {
            let there = self.inner.slice_results(batch, from, bytes_max).await?;
            let split = self.splits.lock().unwrap().get(batch).cloned();
            Ok(match (self.bug, split) {
                (Some(bug), Some(split)) => bug.results(there, &split, from),
                _ => there,
            })
        };
        self.call("read the results of slices", reading).await
    }

    fn forget_slices(&self, batch: &TaskId, keep_results: bool) {
        if !self.chaos.loses_what_nobody_awaits("store") {
            self.inner.forget_slices(batch, keep_results);
        }
    }

    async fn fence(&self, request: &FenceRequest) -> Result<Fence, StoreError> {
        if request.verdict.is_some_and(|verdict| verdict.gone) {
            self.world.convicted(&request.task_id);
        }
        self.call("fence", self.inner.fence(request)).await
    }

    async fn hand_back(&self, task_id: &TaskId, token: Token) -> Result<(), StoreError> {
        self.call("hand back", self.inner.hand_back(task_id, token)).await
    }

    async fn progress(&self, request: &ProgressRequest) -> Result<ProgressAnswer, StoreError> {
        self.call("note progress", self.inner.progress(request)).await
    }

    async fn record(&self, request: &RecordRequest) -> Result<Record, StoreError> {
        if self.bug == Some(Bug::ReplyBeforeRecord) {
            let (inner, request) = (Arc::clone(&self.inner), request.clone());
            let late = tokio::spawn(async move {
                tokio::time::sleep(Bug::LAG).await;
                inner.record(&request).await
            });
            self.chaos.lifeline().add(late.abort_handle());
            return Ok(Record::Recorded);
        }
        let recording = async {
            let answer = match self.bug {
                Some(bug) => self.inner.record(&bug.outcome(request)).await,
                None => self.inner.record(request).await,
            };
            if matches!(answer, Ok(Record::Recorded)) {
                self.world.recorded(request);
            }
            answer
        };
        let of_a_batch = self.splits.lock().unwrap().contains_key(&request.task_id);
        self.call(if of_a_batch { "record a batch" } else { "record" }, recording).await
    }

    async fn retry(&self, request: &RetryRequest) -> Result<RetryAnswer, StoreError> {
        self.call("retry", self.inner.retry(request)).await
    }

    async fn reopen(&self, task_id: &TaskId, body_hash: &BodyHash) -> Result<Reopen, StoreError> {
        self.inner.reopen(task_id, body_hash).await
    }

    async fn cancel(&self, task_id: &TaskId, reach: Reach) -> Result<Cancel, StoreError> {
        self.inner.cancel(task_id, reach).await
    }

    async fn cancel_asked(&self, task_id: &TaskId) -> Result<bool, StoreError> {
        self.call("ask for a cancel", self.inner.cancel_asked(task_id)).await
    }

    fn note_published(&self, task_id: &TaskId, to: &str) {
        if !self.chaos.loses_what_nobody_awaits("store") {
            self.inner.note_published(task_id, to);
        }
    }

    async fn waits_for(&self, task_id: &TaskId, kind: &Kind, reason: &str) -> Result<(), StoreError> {
        self.call("note a wait", self.inner.waits_for(task_id, kind, reason)).await
    }

    async fn status(&self, task_id: &TaskId) -> Result<Option<TaskStatus>, StoreError> {
        self.inner.status(task_id).await
    }

    fn groups(&self) -> &dyn GroupStore {
        self.inner.groups()
    }

    fn journal(&self) -> &dyn Journal {
        self.inner.journal()
    }

    async fn announce(&self, gpu_id: &GpuId, pool: &PoolName) -> Result<(), StoreError> {
        self.call("announce", self.inner.announce(gpu_id, pool)).await
    }

    async fn announced(&self) -> Result<Vec<KnownGpu>, StoreError> {
        self.call("announced", self.inner.announced()).await
    }

    async fn withdraw(&self, gpu: &KnownGpu) -> Result<(), StoreError> {
        self.call("withdraw", self.inner.withdraw(gpu)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.inner.probe().await
    }
}
