//! The table on Redis: every operation is one atomic script.
//!
//! Scripts run by EVALSHA; a server that has lost them (restart, failover, `SCRIPT FLUSH`) is given them again in passing. One multiplexed connection
//! serves all callers and reconnects by itself. It connects at the first operation, so that a worker starts while Redis is away. Where the connection
//! broke, an operation is sent once more at once: every operation is idempotent, so one that had happened already gives the same answer.
//!
//! What it promises beyond the port: the cost of a claim grows with the number of *classes* of GPUs (the same compute capability, memory and kinds),
//! not with the number of GPUs. What it gives up for that: a claim that needs memory looks at the first 64 GPUs of each class, and one call sweeps at
//! most 128 dead rows and 128 dead claims.

mod answers;
mod arguments;
mod connection;
mod keys;
mod scripts;

use std::time::Duration;

use async_trait::async_trait;
use protocol::{
    Claim, ClaimAnswer, ClaimRequest, GpuId, Incarnation, PoolName, TaskId, Token, claim::Settings, config::SecretUrl, gpu::GpuView,
};
use redis::{FromRedisValue, Script};

use self::{connection::Connection, scripts::Scripts};
use crate::{Beat, GpuTable, Heartbeat, Leases, TableError};

/// A table on a Redis server, 7.0 or later. Cheap to share; share one per process.
pub struct RedisTable {
    connection: Connection,
    scripts: Scripts,
    prefix: String,
    leases: Leases,
}

impl RedisTable {
    /// A table on the server at `url`, all keys of which begin with `prefix`. Connects at the first operation; use [`GpuTable::ping`] to know at once.
    /// Must be called inside a tokio runtime. No operation takes longer than `response_timeout`, reconnecting included.
    ///
    /// # Errors
    /// [`TableError::BadUrl`] if `url` is not a Redis URL.
    pub fn connect(url: &SecretUrl, prefix: &str, leases: Leases, response_timeout: Duration) -> Result<Self, TableError> {
        let connection = Connection::open(url, response_timeout)?;
        Ok(Self { connection, scripts: Scripts::new(), prefix: prefix.to_owned(), leases })
    }

    async fn run<T: FromRedisValue>(
        &self,
        operation: &'static str,
        pool: &PoolName,
        script: &Script,
        arguments: Vec<String>,
    ) -> Result<T, TableError> {
        let mut invocation = script.key(keys::base(&self.prefix, pool));
        invocation.arg(arguments);
        self.connection.invoke(operation, &invocation).await
    }

    async fn claim_after(&self, operation: &'static str, done: Option<&Claim>, request: &ClaimRequest) -> Result<ClaimAnswer, TableError> {
        let arguments = arguments::claim(self.leases, request, done);
        let answer: Vec<String> = self.run(operation, &request.pool, &self.scripts.claim, arguments).await?;
        answers::claim(operation, request, &answer)
    }
}

impl std::fmt::Debug for RedisTable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { connection, prefix, leases, .. } = self;
        formatter.debug_struct("RedisTable").field("url", &connection.url()).field("prefix", prefix).field("leases", leases).finish()
    }
}

#[async_trait]
impl GpuTable for RedisTable {
    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<Beat, TableError> {
        let operation = "write a heartbeat";
        let arguments = arguments::heartbeat(self.leases, heartbeat);
        let (settings, draining, lost) = self
            .run::<redis::Value>(operation, &heartbeat.row.pool, &self.scripts.heartbeat, arguments)
            .await
            .and_then(|answer| answers::beat(operation, answer))?;
        Ok(Beat { settings, lost, draining })
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimAnswer, TableError> {
        self.claim_after("claim a GPU", None, request).await
    }

    async fn hand_over(&self, done: &Claim, next: &ClaimRequest) -> Result<ClaimAnswer, TableError> {
        self.claim_after("hand a slot over", Some(done), next).await
    }

    async fn release(&self, claim: &Claim) -> Result<bool, TableError> {
        let arguments = vec![claim.task_id.to_string(), claim.token.0.to_string()];
        self.run("release a claim", &claim.pool, &self.scripts.release, arguments).await
    }

    async fn renew(&self, pool: &PoolName, task_id: &TaskId, token: Token) -> Result<bool, TableError> {
        let arguments = vec![task_id.to_string(), token.0.to_string(), arguments::milliseconds(self.leases.held)];
        self.run("renew a claim", pool, &self.scripts.renew, arguments).await
    }

    async fn rows(&self, pool: &PoolName) -> Result<Vec<GpuView>, TableError> {
        let operation = "read the rows";
        let rows: Vec<answers::Row> = self.run(operation, pool, &self.scripts.rows, Vec::new()).await?;
        answers::views(operation, rows)
    }

    async fn known(&self, pool: &PoolName) -> Result<Vec<GpuId>, TableError> {
        let operation = "read the known GPUs";
        let ids: Vec<String> = self.run(operation, pool, &self.scripts.known, Vec::new()).await?;
        answers::gpu_ids(operation, ids)
    }

    async fn steady(&self, pool: &PoolName) -> Result<Duration, TableError> {
        let arguments = vec![arguments::milliseconds(self.leases.held)];
        self.run("read how long the table is steady", pool, &self.scripts.steady, arguments).await.map(Duration::from_millis)
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

    async fn change_settings(&self, pool: &PoolName, settings: &Settings) -> Result<Settings, TableError> {
        let operation = "change the settings";
        let changed = Settings { version: settings.version + 1, ..settings.clone() };
        let arguments = std::iter::once(settings.version.to_string()).chain(arguments::settings(&changed)).collect();
        let json: String = self.run(operation, pool, &self.scripts.change_settings, arguments).await?;
        answers::settings(operation, &json)
    }

    async fn ping(&self) -> Result<(), TableError> {
        self.connection.ping().await
    }
}
