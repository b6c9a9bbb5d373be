//! The table on Redis: every operation is one atomic script.
//!
//! Scripts run by EVALSHA; a server that has lost them (restart, failover, `SCRIPT FLUSH`) is given them again in passing. One multiplexed connection
//! serves all callers and reconnects by itself. It connects at the first operation, so that a worker starts while Redis is away. Where the connection
//! broke, an operation is sent once more at once: every operation is idempotent, so one that had happened already gives the same answer.
//!
//! What it promises beyond the port: the cost of a claim grows with the number of *classes* of GPUs (the same compute capability, memory and kinds),
//! not with the number of GPUs. What it gives up for that: a claim that needs memory looks at the first 64 GPUs of each class, and one call sweeps at
//! most 128 dead rows and offers.

mod answers;
mod arguments;
mod keys;
mod scripts;

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use protocol::{
    ClaimAnswer, ClaimRequest, DescribedKind, GpuId, Incarnation, KindDescription, Offer, PoolName, TensorName, TensorRecord, Unserved,
    claim::Settings, config::SecretUrl, gpu::GpuView,
};
use redis::{FromRedisValue, Script, ScriptInvocation};
use redis_link::{Link, LinkError, Ridden, Rider};

use self::scripts::Scripts;
use crate::{
    Beat, GpuTable, Heartbeat, Leases, Seen, Sighting, TENSOR_NAMES_MAX, TableError, Telling, UNSERVED_FOR, VersionDraw, copies::in_order,
};

/// A table on a Redis server, 7.0 or later. Cheap to share; share one per process.
pub struct RedisTable {
    link: Link,
    scripts: Scripts,
    prefix: String,
    leases: Leases,
    /// A cluster keeps what rides along somewhere else.
    lives_apart: AtomicBool,
    /// Added to the server's time, in ms: 0 except in tests.
    offset_ms: AtomicU64,
    /// [`TENSOR_NAMES_MAX`] except in tests.
    tensor_names_max: AtomicUsize,
}

/// What the operation is called in errors.
const CLAIM: &str = "claim a GPU";
/// How long the mark of a probe lives.
const PROBE_LIVES: Duration = Duration::from_secs(10);

impl RedisTable {
    /// A table on the server at `url`, all keys of which begin with `prefix`. Connects at the first operation; use [`GpuTable::ping`] to know at once.
    /// Must be called inside a tokio runtime. No operation takes longer than `response_timeout`, reconnecting included.
    ///
    /// # Errors
    /// [`TableError::BadUrl`] if `url` is not a Redis URL.
    pub fn connect(url: &SecretUrl, prefix: &str, leases: Leases, response_timeout: Duration) -> Result<Self, TableError> {
        let link = Link::open(url, response_timeout).map_err(|reason| TableError::BadUrl { url: url.redacted(), reason })?;
        Ok(Self {
            link,
            scripts: Scripts::new(),
            prefix: prefix.to_owned(),
            leases,
            lives_apart: AtomicBool::new(false),
            offset_ms: AtomicU64::new(0),
            tensor_names_max: AtomicUsize::new(TENSOR_NAMES_MAX),
        })
    }

    async fn run<T: FromRedisValue>(
        &self,
        operation: &'static str,
        pool: &PoolName,
        script: &Script,
        arguments: Vec<String>,
    ) -> Result<T, TableError> {
        let mut invocation = script.key(keys::base(&self.prefix, pool));
        invocation.arg(self.offset_ms.load(Ordering::Relaxed)).arg(arguments);
        self.link.invoke(&invocation).await.map_err(|error| self.failed(operation, error))
    }

    /// As [`RedisTable::run`], for what is large: it holds up no claim.
    async fn run_large<T: FromRedisValue>(
        &self,
        operation: &'static str,
        pool: &PoolName,
        script: &Script,
        arguments: Vec<String>,
    ) -> Result<T, TableError> {
        let mut invocation = script.key(keys::base(&self.prefix, pool));
        invocation.arg(self.offset_ms.load(Ordering::Relaxed)).arg(arguments);
        self.link.invoke_large(&invocation).await.map_err(|error| self.failed(operation, error))
    }

    fn with_rider<'a>(&self, script: &'a Script, request: &ClaimRequest, rider: &Rider) -> ScriptInvocation<'a> {
        let claim = arguments::claim(self.leases, request);
        let mut invocation = script.key(keys::base(&self.prefix, &request.pool));
        rider.item.keys.iter().for_each(|key| {
            invocation.key(key);
        });
        invocation.arg(claim.len() + 1).arg(self.offset_ms.load(Ordering::Relaxed)).arg(claim);
        rider.item.arguments.iter().for_each(|argument| {
            invocation.arg(argument.as_slice());
        });
        invocation
    }

    fn failed(&self, operation: &'static str, error: LinkError) -> TableError {
        match error {
            LinkError::Garbled(answer) | LinkError::Scattered(answer) => TableError::Garbled { operation, answer },
            LinkError::Away(reason) => TableError::Unavailable { operation, url: self.link.url().to_owned(), reason },
            refused @ LinkError::Refused(_) => {
                TableError::Unavailable { operation, url: self.link.url().to_owned(), reason: refused.to_string() }
            }
        }
    }

    /// For tests: from now on this table (not others on the same server) reads the server's time as later by `duration` more.
    #[doc(hidden)]
    pub fn move_time(&self, duration: Duration) {
        self.offset_ms.fetch_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// For tests: how many names of tensors a pool has at most, for what this table writes from now on.
    #[doc(hidden)]
    pub fn bound_tensor_names(&self, names_max: usize) {
        self.tensor_names_max.store(names_max, Ordering::Relaxed);
    }

    async fn see(&self, operation: &'static str, pool: &PoolName, gpu_id: &str) -> Result<Seen, TableError> {
        let arguments = vec![arguments::milliseconds(self.leases.held), gpu_id.to_owned()];
        let answer = self.run::<redis::Value>(operation, pool, &self.scripts.seen, arguments).await?;
        answers::seen(operation, answer)
    }
}

impl std::fmt::Debug for RedisTable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { link, prefix, leases, .. } = self;
        formatter.debug_struct("RedisTable").field("url", &link.url()).field("prefix", prefix).field("leases", leases).finish()
    }
}

#[async_trait]
impl GpuTable for RedisTable {
    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<Beat, TableError> {
        let operation = "write a heartbeat";
        let arguments = arguments::heartbeat(self.leases, heartbeat);
        let answer = self.run::<redis::Value>(operation, &heartbeat.row.pool, &self.scripts.heartbeat, arguments).await?;
        answers::beat(operation, answer)
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimAnswer, TableError> {
        let arguments = arguments::claim(self.leases, request);
        let answer: Vec<String> = self.run(CLAIM, &request.pool, &self.scripts.claim, arguments).await?;
        answers::claim(CLAIM, request, &answer)
    }

    async fn claim_with(&self, request: &ClaimRequest, rider: Option<&Rider>) -> Result<(ClaimAnswer, Option<Ridden>), TableError> {
        let here = rider.filter(|rider| rider.server == *self.link.server() && !self.lives_apart.load(Ordering::Relaxed));
        let riding = here.and_then(|rider| Some((rider, self.scripts.claim_with(rider.function)?)));
        let Some((rider, script)) = riding else { return Ok((self.claim(request).await?, None)) };
        match self.link.invoke(&self.with_rider(script, request, rider)).await {
            Ok(answer) => answers::claim_with(CLAIM, request, answer),
            Err(LinkError::Scattered(_)) => {
                self.lives_apart.store(true, Ordering::Relaxed);
                Ok((self.claim(request).await?, None))
            }
            Err(error) => Err(self.failed(CLAIM, error)),
        }
    }

    async fn tell(&self, telling: &Telling) -> Result<(), TableError> {
        let arguments = arguments::tell(telling);
        self.run::<bool>("tell the slots held", &telling.pool, &self.scripts.tell, arguments).await.map(drop)
    }

    async fn withdraw(&self, offer: &Offer) -> Result<(), TableError> {
        let arguments = vec![offer.task_id.to_string(), offer.gpu_id.to_string()];
        self.run::<bool>("withdraw an offer", &offer.pool, &self.scripts.withdraw, arguments).await.map(drop)
    }

    async fn seen(&self, pool: &PoolName, gpu_id: &GpuId) -> Result<Seen, TableError> {
        self.see("look for a worker", pool, gpu_id.as_str()).await
    }

    async fn rows(&self, pool: &PoolName) -> Result<Vec<GpuView>, TableError> {
        let operation = "read the rows";
        let rows: Vec<answers::Row> = self.run_large(operation, pool, &self.scripts.rows, Vec::new()).await?;
        answers::views(operation, rows)
    }

    async fn known(&self, pool: &PoolName) -> Result<Vec<GpuId>, TableError> {
        let operation = "read the known GPUs";
        let ids: Vec<String> = self.run(operation, pool, &self.scripts.known, Vec::new()).await?;
        answers::gpu_ids(operation, ids)
    }

    async fn steady(&self, pool: &PoolName) -> Result<Duration, TableError> {
        Ok(self.see("read how long the table is steady", pool, "").await?.steady)
    }

    async fn leave(&self, pool: &PoolName, gpu_id: &GpuId, incarnation: &Incarnation) -> Result<(), TableError> {
        let arguments = vec![gpu_id.to_string(), incarnation.to_string()];
        self.run("remove a row", pool, &self.scripts.leave, arguments).await
    }

    async fn settings(&self, pool: &PoolName, initial: &Settings) -> Result<Settings, TableError> {
        let operation = "read the settings";
        let json: String = self.run(operation, pool, &self.scripts.initial_settings, arguments::settings(initial)).await?;
        answers::settings(operation, &json)
    }

    async fn current_settings(&self, pool: &PoolName) -> Result<Option<Settings>, TableError> {
        let operation = "read the settings in force";
        let json: Option<String> = self.run(operation, pool, &self.scripts.current_settings, Vec::new()).await?;
        json.map(|json| answers::settings(operation, &json)).transpose()
    }

    async fn change_settings(&self, pool: &PoolName, settings: &Settings) -> Result<Settings, TableError> {
        let operation = "change the settings";
        let changed = Settings { version: settings.version + 1, ..settings.clone() };
        let arguments = std::iter::once(settings.version.to_string()).chain(arguments::settings(&changed)).collect();
        let json: String = self.run(operation, pool, &self.scripts.change_settings, arguments).await?;
        answers::settings(operation, &json)
    }

    async fn note_unserved(&self, pool: &PoolName, sighting: &Sighting) -> Result<(), TableError> {
        let arguments = arguments::note_unserved(sighting);
        self.run::<u64>("note tasks that nobody serves", pool, &self.scripts.note_unserved, arguments).await.map(drop)
    }

    async fn forget_unserved(&self, pool: &PoolName, wanted: &str) -> Result<(), TableError> {
        let operation = "forget tasks that nobody served";
        self.run::<bool>(operation, pool, &self.scripts.forget_unserved, vec![wanted.to_owned()]).await.map(drop)
    }

    async fn unserved(&self, pool: &PoolName) -> Result<Vec<Unserved>, TableError> {
        let operation = "read the tasks that nobody serves";
        let arguments = vec![arguments::milliseconds(UNSERVED_FOR)];
        let entries: Vec<answers::Entry> = self.run(operation, pool, &self.scripts.unserved, arguments).await?;
        answers::unserved(operation, entries)
    }

    async fn describe_kinds(&self, pool: &PoolName, kinds: &[KindDescription]) -> Result<(), TableError> {
        if kinds.is_empty() {
            return Ok(());
        }
        let operation = "say what kinds do";
        let arguments = arguments::renew_kinds(self.leases, kinds);
        // Schemas are long, and most often the table has them.
        let missing: Vec<usize> = self.run(operation, pool, &self.scripts.renew_kinds, arguments).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let arguments = arguments::describe_kinds(self.leases, missing.into_iter().filter_map(|place| kinds.get(place)));
        self.run_large::<u64>(operation, pool, &self.scripts.describe_kinds, arguments).await.map(drop)
    }

    async fn kinds(&self, pool: &PoolName) -> Result<Vec<DescribedKind>, TableError> {
        let operation = "read what kinds do";
        let told: Vec<String> = self.run_large(operation, pool, &self.scripts.kinds, vec![arguments::described_for(self.leases)]).await?;
        answers::kinds(operation, &told)
    }

    async fn announce_tensors(&self, pool: &PoolName, records: &[TensorRecord]) -> Result<(), TableError> {
        if records.is_empty() {
            return Ok(());
        }
        let names_max = self.tensor_names_max.load(Ordering::Relaxed);
        let arguments = arguments::announce_tensors(self.leases, names_max, records);
        let refused = self.run_large("announce tensors", pool, &self.scripts.announce_tensors, arguments).await?;
        TableError::if_refused(refused, names_max)
    }

    async fn draw_tensor_version(&self, pool: &PoolName, draw: &VersionDraw) -> Result<u64, TableError> {
        let operation = "draw a version of a tensor";
        let arguments = arguments::draw_tensor_version(self.leases, draw);
        let version: String = self.run(operation, pool, &self.scripts.draw_tensor_version, arguments).await?;
        version.parse().map_err(|_| answers::garbled(operation, &version))
    }

    async fn withdraw_tensors(
        &self,
        pool: &PoolName,
        gpu_id: &GpuId,
        incarnation: &Incarnation,
        copies: &[(TensorName, u64)],
    ) -> Result<(), TableError> {
        if copies.is_empty() {
            return Ok(());
        }
        let arguments = arguments::withdraw_tensors(gpu_id, incarnation, copies);
        self.run::<u64>("withdraw tensors", pool, &self.scripts.withdraw_tensors, arguments).await.map(drop)
    }

    async fn find_tensors(&self, pool: &PoolName, names: &[TensorName]) -> Result<Vec<TensorRecord>, TableError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let arguments = arguments::find_tensors(self.leases, names);
        let told: Vec<String> = self.run("find tensors", pool, &self.scripts.find_tensors, arguments).await?;
        Ok(in_order(answers::tensors(&told).collect()))
    }

    async fn tensors(&self, pool: &PoolName, after: Option<&TensorName>, names_max: usize) -> Result<Vec<TensorRecord>, TableError> {
        let operation = "list the tensors";
        let (mut records, mut after, mut names_left) = (Vec::new(), after.map_or_else(String::new, ToString::to_string), names_max);
        while names_left > 0 {
            let arguments = arguments::list_tensors(self.leases, &after, names_left);
            let told: Vec<String> = self.run_large(operation, pool, &self.scripts.list_tensors, arguments).await?;
            let (next, told) = told.split_first().ok_or_else(|| answers::garbled(operation, "nothing"))?;
            records.extend(answers::tensors(told));
            let names: BTreeSet<&TensorName> = records.iter().map(|record: &TensorRecord| &record.name).collect();
            names_left = names_max.saturating_sub(names.len());
            if next.is_empty() {
                break;
            }
            after.clone_from(next);
        }
        Ok(in_order(records))
    }

    async fn ping(&self) -> Result<(), TableError> {
        self.link.query::<String>(&redis::cmd("PING")).await.map(drop).map_err(|error| self.failed("ping", error))
    }

    async fn probe(&self, pool: &PoolName) -> Result<(), TableError> {
        let arguments = vec![arguments::milliseconds(PROBE_LIVES)];
        self.run::<bool>("try a write", pool, &self.scripts.probe, arguments).await.map(drop)
    }
}
