//! The store on Redis: every operation one script, one round trip, over one multiplexed connection.
//!
//! Records outlive this process and the connection; they do not outlive a server without an append-only file. An operation that failed may have
//! happened: all of them are idempotent, so the caller repeats it.

mod answers;
mod connection;
mod keys;
mod reply_bytes;
mod scripts;
mod server;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use protocol::{BodyHash, GpuId, Kind, PoolName, TaskId, TaskStatus, Token, config::SecretUrl};
use redis::{Script, ScriptInvocation};
use tokio::task::JoinHandle;

pub use self::server::ServerFacts;
use self::{answers::Answer, connection::Connection, keys::Keys, reply_bytes::ReplyBytes, scripts::Scripts};
use crate::{
    Begin, BeginRequest, Cancel, KnownGpu, Look, ProgressAnswer, ProgressRequest, Record, RecordRequest, Reopen, RetryAnswer, RetryRequest,
    StoreError, StoreOptions, TaskStore, Totals,
};

/// A [`TaskStore`] on Redis. Share it by `Arc`; it ends its background exchange of counts when it is dropped.
#[derive(Debug)]
pub struct RedisStore {
    connection: Connection,
    keys: Keys,
    scripts: Scripts,
    options: StoreOptions,
    reply_bytes: Arc<ReplyBytes>,
    exchange: JoinHandle<()>,
    /// Added to the server's time, in ms: 0 except in tests.
    offset_ms: Arc<AtomicU64>,
}

impl RedisStore {
    /// Connects to `redis://[user:password@]host[:port][/database]`. Every key begins with `prefix`; every operation, this one included, takes at
    /// most `response_timeout`. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::BadUrl`]; [`StoreError::Unavailable`] if the server does not answer or refuses the login.
    pub async fn connect(url: &SecretUrl, prefix: &str, options: StoreOptions, response_timeout: Duration) -> Result<Self, StoreError> {
        let connection = Connection::open(url, response_timeout).await?;
        let (keys, scripts, offset_ms) = (Keys::new(prefix), Scripts::new(), Arc::new(AtomicU64::new(0)));
        let meter = ReplyBytes::new(connection.clone(), scripts.reply_bytes.clone(), keys.reply_bytes(), options, offset_ms.clone());
        let reply_bytes = Arc::new(meter);
        let exchange = reply_bytes.clone().exchange_regularly();
        Ok(Self { connection, keys, scripts, options, reply_bytes, exchange, offset_ms })
    }

    /// How the server is set up.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn server_facts(&self) -> Result<ServerFacts, StoreError> {
        ServerFacts::of(&self.connection).await
    }

    /// For tests: from now on this store (not others on the same server) reads the server's time as later by `duration` more.
    #[doc(hidden)]
    pub fn move_time(&self, duration: Duration) {
        self.offset_ms.fetch_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// A call of `script` on a task: KEYS are its record and its reply, the first argument is the offset of time.
    fn on_task<'script>(&self, script: &'script Script, task_id: &TaskId) -> ScriptInvocation<'script> {
        let mut call = script.key(self.keys.record(task_id));
        call.key(self.keys.reply(task_id)).arg(self.offset_ms.load(Relaxed));
        call
    }

    async fn record_answer(&self, request: &RecordRequest, keep: Keep) -> Result<Answer, StoreError> {
        let mut call = self.on_task(&self.scripts.record, &request.task_id);
        call.arg(request.body_hash.as_str()).arg(self.options.outcome_retention_ms());
        call.arg(request.kind.as_ref().map_or("", Kind::as_str)).arg(request.outcome.name()).arg(request.attempt);
        call.arg(request.token.map_or_else(String::new, |token| token.0.to_string())).arg(BodyHash::of(&request.reply).as_str());
        match keep {
            Keep::Reply => call.arg(self.options.reply_retention_ms()).arg(request.reply.as_ref()),
            Keep::OutcomeOnly => call.arg(0).arg(""),
        };
        self.connection.invoke("record an outcome", &call).await
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
    }
}

#[async_trait]
impl TaskStore for RedisStore {
    async fn submitted(&self, task_id: &TaskId, kind: &Kind) -> Result<(), StoreError> {
        let mut call = self.on_task(&self.scripts.submitted, task_id);
        call.arg(self.options.outcome_retention_ms()).arg(kind.as_str());
        self.connection.invoke("note a submitted task", &call).await.map(drop)
    }

    async fn forget(&self, task_id: &TaskId) -> Result<(), StoreError> {
        let call = self.on_task(&self.scripts.forget, task_id);
        self.connection.invoke("forget a refused task", &call).await.map(drop)
    }

    async fn look(&self, task_id: &TaskId, body_hash: &BodyHash, attempt: u32) -> Result<Look, StoreError> {
        let mut call = self.on_task(&self.scripts.look, task_id);
        call.arg(body_hash.as_str()).arg(attempt);
        self.connection.invoke("look at a task", &call).await?.look()
    }

    async fn begin(&self, request: &BeginRequest) -> Result<Begin, StoreError> {
        let mut call = self.on_task(&self.scripts.begin, &request.task_id);
        call.arg(request.body_hash.as_str()).arg(self.options.outcome_retention_ms()).arg(request.kind.as_str());
        call.arg(request.attempt).arg(request.token.0).arg(request.gpu_id.as_str()).arg(request.incarnation.as_str());
        call.arg(u8::from(request.alone)).arg(request.crashes_max);
        match request.verdict {
            Some(verdict) => call.arg(verdict.token.0).arg(u8::from(verdict.gone)),
            None => call.arg("").arg(0),
        };
        self.connection.invoke("begin an attempt", &call).await?.begin()
    }

    async fn hand_back(&self, task_id: &TaskId, token: Token) -> Result<(), StoreError> {
        let mut call = self.on_task(&self.scripts.hand_back, task_id);
        call.arg(self.options.outcome_retention_ms()).arg(token.0);
        self.connection.invoke("hand an attempt back", &call).await.map(drop)
    }

    async fn progress(&self, request: &ProgressRequest) -> Result<ProgressAnswer, StoreError> {
        let mut call = self.on_task(&self.scripts.progress, &request.task_id);
        call.arg(self.options.outcome_retention_ms()).arg(request.token.0).arg(request.fraction.get().to_string());
        call.arg(request.message.as_deref().unwrap_or_default());
        self.connection.invoke("note progress", &call).await?.progress()
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
        let mut call = self.on_task(&self.scripts.retry, &request.task_id);
        call.arg(request.body_hash.as_str()).arg(self.options.outcome_retention_ms()).arg(request.attempt).arg(request.token.0);
        call.arg(request.after_ms).arg(&request.error);
        self.connection.invoke("record a retry", &call).await?.retry()
    }

    async fn reopen(&self, task_id: &TaskId, body_hash: &BodyHash) -> Result<Reopen, StoreError> {
        let mut call = self.on_task(&self.scripts.reopen, task_id);
        call.arg(body_hash.as_str());
        let answer = self.connection.invoke("reopen a task", &call).await?;
        match answer.word() {
            "open" => Ok(Reopen::Open),
            "not_ended" => Ok(Reopen::NotEnded),
            "reused" => Ok(Reopen::ReusedId),
            _ => Err(answer.garbled()),
        }
    }

    async fn cancel(&self, task_id: &TaskId) -> Result<Cancel, StoreError> {
        let mut call = self.on_task(&self.scripts.cancel, task_id);
        call.arg(self.options.outcome_retention_ms());
        self.connection.invoke("cancel a task", &call).await?.cancel()
    }

    async fn cancel_asked(&self, task_id: &TaskId) -> Result<bool, StoreError> {
        self.connection.query("ask for a cancel", redis::cmd("HEXISTS").arg(self.keys.record(task_id)).arg("cancelled")).await
    }

    async fn published(&self, task_id: &TaskId, to: &str) -> Result<(), StoreError> {
        let mut call = self.on_task(&self.scripts.published, task_id);
        call.arg(to);
        self.connection.invoke("note a published reply", &call).await.map(drop)
    }

    async fn waits_for(&self, task_id: &TaskId, kind: &Kind, reason: &str) -> Result<(), StoreError> {
        let mut call = self.on_task(&self.scripts.waits_for, task_id);
        call.arg(self.options.outcome_retention_ms()).arg(kind.as_str()).arg(reason);
        self.connection.invoke("note why a task waits", &call).await.map(drop)
    }

    async fn status(&self, task_id: &TaskId) -> Result<Option<TaskStatus>, StoreError> {
        let call = self.on_task(&self.scripts.status, task_id);
        self.connection.invoke("read a task's status", &call).await?.status(task_id)
    }

    async fn announce(&self, gpu_id: &GpuId, pool: &PoolName) -> Result<(), StoreError> {
        let mut call = self.scripts.announce.key(self.keys.gpus());
        call.arg(self.offset_ms.load(Relaxed)).arg(gpu_id.as_str()).arg(pool.as_str());
        self.connection.invoke("announce a GPU", &call).await.map(drop)
    }

    async fn announced(&self) -> Result<Vec<KnownGpu>, StoreError> {
        let operation = "list the announced GPUs";
        let pairs: Vec<(String, String)> = self.connection.query(operation, redis::cmd("HGETALL").arg(self.keys.gpus())).await?;
        let read = |(gpu_id, value): (String, String)| {
            known_gpu(&gpu_id, &value).ok_or(StoreError::Garbled { operation, answer: format!("{gpu_id}: {value}") })
        };
        let mut gpus = pairs.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        gpus.sort();
        Ok(gpus)
    }

    async fn withdraw(&self, gpu: &KnownGpu) -> Result<(), StoreError> {
        let mut call = self.scripts.withdraw.key(self.keys.gpus());
        call.arg(gpu.gpu_id.as_str()).arg(gpu.announced_ms);
        self.connection.invoke("withdraw a GPU", &call).await.map(drop)
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        self.reply_bytes.exchange().await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.connection.query::<String>("ping", &redis::cmd("PING")).await.map(drop)
    }
}

/// Reads `<Unix ms> <pool>`.
fn known_gpu(gpu_id: &str, value: &str) -> Option<KnownGpu> {
    let (announced_ms, pool) = value.split_once(' ')?;
    Some(KnownGpu { gpu_id: gpu_id.parse().ok()?, pool: pool.parse().ok()?, announced_ms: announced_ms.parse().ok()? })
}
