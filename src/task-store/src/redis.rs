//! The store on Redis: every operation one function of a script, one round trip, together with whatever else the process has to tell the server at that moment.
//!
//! Records outlive this process and the connection; they do not outlive a server without an append-only file. An operation that failed may have
//! happened: all of them are idempotent, so the caller repeats it.

mod answers;
mod batch_answers;
mod batches;
mod calls;
mod groups;
mod journal;
mod keys;
mod reply_bytes;
mod result_bytes;
mod scripts;
mod server;
mod split_lines;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::{BodyHash, GpuId, Kind, PoolName, Slice, TaskId, TaskStatus, Token, config::SecretUrl};
use redis_link::{Item, Ridden, Rider};
use tokio::task::JoinHandle;

pub use self::server::ServerFacts;
use self::{answers::Answer, calls::Calls, journal::Teller, keys::Keys, reply_bytes::ReplyBytes};
use crate::{
    Begin, BeginRequest, Cancel, DelayRequest, Fence, FenceRequest, GroupStore, Journal, KnownGpu, Look, LookRequest, ProgressAnswer,
    ProgressRequest, Reach, Record, RecordRequest, Reopen, RetryAnswer, RetryRequest, SliceRecord, SliceRecordRequest, SplitAnswer,
    SplitRequest, StoreError, StoreOptions, Submission, TaskStore, Totals, Verdict,
};

/// What the operation is called in errors.
const BEGIN: &str = "begin an attempt";
/// How long the mark of a probe lives, in ms.
const PROBE_LIVES_MS: u64 = 10_000;

/// A [`TaskStore`] on Redis. Share it by `Arc`; when it is dropped, it ends its background exchange of counts, and sends what it was told of steps or loses it.
#[derive(Debug)]
pub struct RedisStore {
    calls: Calls,
    keys: Keys,
    options: StoreOptions,
    reply_bytes: Arc<ReplyBytes>,
    exchange: JoinHandle<()>,
    teller: Arc<Teller>,
    /// Added to the server's time, in ms: 0 except in tests.
    offset_ms: Arc<AtomicU64>,
}

impl RedisStore {
    /// Connects to `redis://[user:password@]host[:port][/database]`. Every key begins with `prefix`; every operation, this one included, takes at
    /// most `response_timeout`, and as long again where it reads a kept reply. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::BadUrl`]; [`StoreError::Unavailable`] if the server does not answer or refuses the login.
    pub async fn connect(url: &SecretUrl, prefix: &str, options: StoreOptions, response_timeout: Duration) -> Result<Self, StoreError> {
        let calls = server::reach(url, response_timeout).await?;
        let (keys, offset_ms) = (Keys::new(prefix), Arc::new(AtomicU64::new(0)));
        let reply_bytes = Arc::new(ReplyBytes::new(calls.clone(), [keys.reply_bytes(), keys.result_bytes()], options, offset_ms.clone()));
        let exchange = reply_bytes.clone().exchange_regularly();
        let teller = Arc::new(Teller::new(calls.clone(), keys.steps(), options.journal, offset_ms.clone()));
        Ok(Self { calls, keys, options, reply_bytes, exchange, teller, offset_ms })
    }

    /// For tests: from now on this store (not others on the same server) reads the server's time as later by `duration` more.
    #[doc(hidden)]
    pub fn move_time(&self, duration: Duration) {
        self.offset_ms.fetch_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// For tests: what all stores on the server have counted and hold, after this one told its own counts.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the server does not answer.
    #[doc(hidden)]
    pub async fn totals(&self) -> Result<Totals, StoreError> {
        self.reply_bytes.exchange().await
    }

    /// An item on a task's record, whose first argument is the offset of time.
    fn on_task(&self, function: &'static str, task_id: &TaskId) -> Arguments {
        Arguments::new(function, vec![self.keys.record(task_id)]).with(self.offset_ms.load(Relaxed))
    }

    /// The same, of a slice on what it needs of its batch as well.
    fn on_any_task(&self, function: &'static str, task_id: &TaskId) -> Arguments {
        Arguments::new(function, self.keys.with_batch(task_id)).with(self.offset_ms.load(Relaxed))
    }

    /// The same as [`RedisStore::on_task`], on its reply as well.
    fn on_task_and_reply(&self, function: &'static str, task_id: &TaskId) -> Arguments {
        let mut item = self.on_task(function, task_id);
        item.0.keys.push(self.keys.reply(task_id));
        item
    }

    /// An answer of which part `index` says whether the task's reply is kept, with the reply in that place.
    async fn with_reply(&self, mut answer: Answer, index: usize, task_id: &TaskId) -> Result<Answer, StoreError> {
        let kept: Option<String> = answer.optional(index)?;
        let reply: Option<Vec<u8>> = match kept {
            Some(_) => self.calls.query_large("read a kept reply", redis::cmd("GET").arg(self.keys.reply(task_id))).await?,
            None => None,
        };
        answer.put(index, reply);
        Ok(answer)
    }

    /// Runs an item that may be answered with what is recorded of the task's end, and with the kept reply then.
    async fn run(&self, operation: &'static str, task_id: &TaskId, item: Arguments) -> Result<Answer, StoreError> {
        self.with_kept_reply(self.calls.run(operation, item.0).await?, task_id).await
    }

    /// The answer with the kept reply, if it is what is recorded of the task's end.
    async fn with_kept_reply(&self, answer: Answer, task_id: &TaskId) -> Result<Answer, StoreError> {
        if answer.word() == "ended" { self.with_reply(answer, 4, task_id).await } else { Ok(answer) }
    }

    /// What stands against running an attempt, without the reply of one that ended.
    async fn look_answer(&self, request: &LookRequest) -> Result<Answer, StoreError> {
        let item = self.on_any_task("look", &request.task_id).with(request.body_hash.as_str()).with(request.attempt);
        self.calls.run("look at a task", item.with_published(request.published_s).0).await
    }

    fn begin_item(&self, request: &BeginRequest) -> Arguments {
        let item = self.on_any_task("begin", &request.task_id).with(request.body_hash.as_str()).with(self.options.outcome_retention_ms());
        let item = item.with(request.kind.as_str()).with(request.attempt).with(request.delivery.0).with(request.gpu_id.as_str());
        let item = item.with(request.incarnation.as_str()).with(u8::from(request.alone)).with(request.crashes_max);
        item.with_verdict(request.verdict).with_published(request.published_s)
    }

    async fn record_answer(&self, request: &RecordRequest, keep: Keep) -> Result<Answer, StoreError> {
        let token = request.token.map_or_else(String::new, |token| token.0.to_string());
        let item = self.on_task_and_reply("record", &request.task_id);
        let item = item.with(request.body_hash.as_str()).with(self.options.outcome_retention_ms());
        let item = item.with(request.kind.as_ref().map_or("", Kind::as_str)).with(request.outcome.name()).with(request.attempt);
        let item = item.with(token).with(BodyHash::of(&request.reply).as_str());
        let item = match keep {
            Keep::Reply => item.with(self.options.reply_retention_ms()).with_bytes(&request.reply),
            Keep::OutcomeOnly => item.with(0).with(""),
        };
        self.run("record an outcome", &request.task_id, item).await
    }
}

/// An item under construction.
struct Arguments(Item);

impl Arguments {
    fn new(function: &'static str, keys: Vec<String>) -> Self {
        Self(Item { function, keys, arguments: Vec::new() })
    }

    fn with(mut self, argument: impl ToString) -> Self {
        self.0.arguments.push(argument.to_string().into_bytes());
        self
    }

    fn with_bytes(mut self, argument: &[u8]) -> Self {
        self.0.arguments.push(argument.to_vec());
        self
    }

    /// The token of the holder that was judged, or nothing, and whether its worker is gone.
    fn with_verdict(self, verdict: Option<Verdict>) -> Self {
        match verdict {
            Some(verdict) => self.with(verdict.token.0).with(u8::from(verdict.gone)),
            None => self.with("").with(0),
        }
    }

    /// When the message was published, or nothing.
    fn with_published(self, published_s: Option<u64>) -> Self {
        self.with(published_s.map_or_else(String::new, |second| second.to_string()))
    }
}

/// What of an outcome is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Reply,
    OutcomeOnly,
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.exchange.abort();
        self.teller.close();
    }
}

#[async_trait]
impl TaskStore for RedisStore {
    async fn submitted(&self, task_id: &TaskId, kind: &Kind, body_hash: &BodyHash) -> Result<Submission, StoreError> {
        let item = self.on_task("submitted", task_id).with(self.options.outcome_retention_ms());
        let item = item.with(kind.as_str()).with(body_hash.as_str());
        self.calls.run("note a submitted task", item.0).await?.submission()
    }

    async fn forget(&self, task_id: &TaskId) -> Result<(), StoreError> {
        self.calls.run("forget a refused task", self.on_task("forget", task_id).0).await.map(drop)
    }

    async fn delayed(&self, request: &DelayRequest) -> Result<(), StoreError> {
        let item = self.on_task("delayed", &request.task_id).with(self.options.outcome_retention_ms());
        let item = item.with(request.kind.as_str()).with(request.body_hash.as_str()).with(request.not_before_ms).with(request.left_ms);
        self.calls.run("note that a task is delayed", item.0).await.map(drop)
    }

    async fn look(&self, request: &LookRequest) -> Result<Look, StoreError> {
        self.with_kept_reply(self.look_answer(request).await?, &request.task_id).await?.look()
    }

    async fn look_briefly(&self, request: &LookRequest) -> Result<Look, StoreError> {
        let mut answer = self.look_answer(request).await?;
        if answer.word() == "ended" {
            answer.put(4, None);
        }
        answer.look()
    }

    async fn split(&self, request: &SplitRequest) -> Result<SplitAnswer, StoreError> {
        self.split_batch(request).await
    }

    async fn record_slice(&self, request: &SliceRecordRequest) -> Result<SliceRecord, StoreError> {
        self.record_slice_end(request).await
    }

    async fn slice_results(&self, batch: &TaskId, from: u32, bytes_max: usize) -> Result<Vec<(Slice, Bytes)>, StoreError> {
        self.results_from(batch, from, bytes_max).await
    }

    fn forget_slices(&self, batch: &TaskId, keep_results: bool) {
        self.forget_later(batch, keep_results);
    }

    async fn begin(&self, request: &BeginRequest) -> Result<Begin, StoreError> {
        self.run(BEGIN, &request.task_id, self.begin_item(request)).await?.begin()
    }

    fn begin_rider(&self, request: &BeginRequest) -> Option<Rider> {
        Some(Rider { server: self.calls.server().clone(), function: scripts::BEGIN, item: self.begin_item(request).0 })
    }

    async fn begin_ridden(&self, task_id: &TaskId, ridden: Ridden) -> Result<Begin, StoreError> {
        self.with_kept_reply(self.calls.answer(BEGIN, ridden)?, task_id).await?.begin()
    }

    async fn fence(&self, request: &FenceRequest) -> Result<Fence, StoreError> {
        let item = self.on_any_task("fence", &request.task_id).with(request.body_hash.as_str()).with(self.options.outcome_retention_ms());
        let item = item.with(request.attempt).with(request.gpu_id.as_str()).with(request.incarnation.as_str());
        self.run("fence off the attempts of a task", &request.task_id, item.with_verdict(request.verdict)).await?.fence()
    }

    async fn hand_back(&self, task_id: &TaskId, token: Token) -> Result<(), StoreError> {
        let item = self.on_any_task("hand_back", task_id).with(self.options.outcome_retention_ms()).with(token.0);
        self.calls.run("hand an attempt back", item.0).await.map(drop)
    }

    async fn progress(&self, request: &ProgressRequest) -> Result<ProgressAnswer, StoreError> {
        let item = self.on_any_task("progress", &request.task_id).with(self.options.outcome_retention_ms()).with(request.token.0);
        let item = item.with(request.fraction.get()).with(request.message.as_deref().unwrap_or_default());
        let item = match request.items {
            Some(items) => {
                let failed = items.failed.map_or_else(String::new, |failed| failed.to_string());
                item.with(items.of).with(items.done).with(failed)
            }
            None => item,
        };
        self.calls.run("note progress", item.0).await?.progress()
    }

    async fn record(&self, request: &RecordRequest) -> Result<Record, StoreError> {
        let bytes = request.reply.len() as u64;
        let keep = if self.reply_bytes.admits(bytes) { Keep::Reply } else { Keep::OutcomeOnly };
        let answer = self.record_answer(request, keep).await?;
        match (answer.word(), keep) {
            ("recorded", Keep::Reply) => self.reply_bytes.kept(bytes),
            ("recorded", Keep::OutcomeOnly) => self.reply_bytes.not_kept(),
            _ => {}
        }
        answer.record()
    }

    async fn retry(&self, request: &RetryRequest) -> Result<RetryAnswer, StoreError> {
        let item = self.on_any_task("retry", &request.task_id).with(request.body_hash.as_str()).with(self.options.outcome_retention_ms());
        let item = item.with(request.attempt).with(request.token.0).with(request.after_ms).with(&request.error);
        self.run("record a retry", &request.task_id, item).await?.retry()
    }

    async fn reopen(&self, task_id: &TaskId, body_hash: &BodyHash) -> Result<Reopen, StoreError> {
        let item = self.on_task_and_reply("reopen", task_id).with(body_hash.as_str());
        let answer = self.reopen_all(task_id, item).await?;
        match answer.word() {
            "open" => Ok(Reopen::Open),
            "not_ended" => Ok(Reopen::NotEnded),
            "reused" => Ok(Reopen::ReusedId),
            _ => Err(answer.garbled()),
        }
    }

    async fn cancel(&self, task_id: &TaskId, reach: Reach) -> Result<Cancel, StoreError> {
        let item = self.on_task("cancel", task_id).with(self.options.outcome_retention_ms());
        self.calls.run("cancel a task", item.with(u8::from(reach == Reach::Ahead)).0).await?.cancel()
    }

    async fn cancel_asked(&self, task_id: &TaskId) -> Result<bool, StoreError> {
        let operation = "ask for a cancel";
        if task_id.slice().is_none() {
            return self.calls.query(operation, redis::cmd("HEXISTS").arg(self.keys.record(task_id)).arg("cancelled")).await;
        }
        let answer = self.calls.run(operation, self.on_any_task("cancel_asked", task_id).0).await?;
        match answer.word() {
            "asked" => Ok(true),
            "not_asked" => Ok(false),
            _ => Err(answer.garbled()),
        }
    }

    fn note_published(&self, task_id: &TaskId, to: &str) {
        self.calls.run_quietly(self.on_task("published", task_id).with(to).0);
    }

    async fn waits_for(&self, task_id: &TaskId, kind: &Kind, reason: &str) -> Result<(), StoreError> {
        let item = self.on_any_task("waits_for", task_id).with(self.options.outcome_retention_ms()).with(kind.as_str()).with(reason);
        self.calls.run("note why a task waits", item.0).await.map(drop)
    }

    async fn status(&self, task_id: &TaskId) -> Result<Option<TaskStatus>, StoreError> {
        let answer = self.calls.run("read a task's status", self.on_any_task("status", task_id).0).await?;
        self.with_reply(answer, 10, task_id).await?.status(task_id)
    }

    fn groups(&self) -> &dyn GroupStore {
        self
    }

    fn journal(&self) -> &dyn Journal {
        self
    }

    async fn announce(&self, gpu_id: &GpuId, pool: &PoolName) -> Result<(), StoreError> {
        let item = Arguments::new("announce", vec![self.keys.gpus()]).with(self.offset_ms.load(Relaxed));
        self.calls.run("announce a GPU", item.with(gpu_id.as_str()).with(pool.as_str()).0).await.map(drop)
    }

    async fn announced(&self) -> Result<Vec<KnownGpu>, StoreError> {
        let operation = "list the announced GPUs";
        let pairs: Vec<(String, String)> = self.calls.query_large(operation, redis::cmd("HGETALL").arg(self.keys.gpus())).await?;
        let read = |(gpu_id, value): (String, String)| {
            known_gpu(&gpu_id, &value).ok_or(StoreError::Garbled { operation, answer: format!("{gpu_id}: {value}") })
        };
        let mut gpus = pairs.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        gpus.sort();
        Ok(gpus)
    }

    async fn withdraw(&self, gpu: &KnownGpu) -> Result<(), StoreError> {
        let item = Arguments::new("withdraw", vec![self.keys.gpus()]).with(gpu.gpu_id.as_str()).with(gpu.announced_ms);
        self.calls.run("withdraw a GPU", item.0).await.map(drop)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.calls.query::<String>("ping", &redis::cmd("PING")).await.map(drop)
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let item = Arguments::new("probe", vec![self.keys.probe()]).with(PROBE_LIVES_MS);
        self.calls.run("try a write", item.0).await.map(drop)
    }
}

/// Reads `<Unix ms> <pool>`.
fn known_gpu(gpu_id: &str, value: &str) -> Option<KnownGpu> {
    let (announced_ms, pool) = value.split_once(' ')?;
    Some(KnownGpu { gpu_id: gpu_id.parse().ok()?, pool: pool.parse().ok()?, announced_ms: announced_ms.parse().ok()? })
}
