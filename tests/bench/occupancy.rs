//! A table that notes how long each slot is held: from the answer that gives the claim to the answer that ends it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use gpu_table::{Beat, GpuTable, Heartbeat, RedisTable, TableError};
use protocol::{Claim, ClaimAnswer, ClaimRequest, GpuId, Incarnation, PoolName, TaskId, Token, claim::Settings, gpu::GpuView};
use tokio::time::Instant;

/// What was noted; shared by the tables of one pool, since a claim may be made by one worker and released by another.
#[derive(Debug, Default)]
pub(crate) struct Occupancy {
    held: Mutex<HashMap<TaskId, Instant>>,
    ended_ms: Mutex<Vec<f64>>,
}

impl Occupancy {
    /// The times, in ms, for which slots were held since the last call.
    pub(crate) fn take_ms(&self) -> Vec<f64> {
        std::mem::take(&mut *lock(&self.ended_ms))
    }

    fn began(&self, answer: &ClaimAnswer) {
        if let ClaimAnswer::Own(claim) | ClaimAnswer::Other(claim) = answer {
            lock(&self.held).entry(claim.task_id.clone()).or_insert_with(Instant::now);
        }
    }

    fn ended(&self, claim: &Claim) {
        if let Some(since) = lock(&self.held).remove(&claim.task_id) {
            lock(&self.ended_ms).push(since.elapsed().as_secs_f64() * 1e3);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker's table, watched.
pub(crate) struct WatchedTable {
    pub(crate) table: RedisTable,
    pub(crate) occupancy: Arc<Occupancy>,
}

#[async_trait]
impl GpuTable for WatchedTable {
    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimAnswer, TableError> {
        let answer = self.table.claim(request).await?;
        self.occupancy.began(&answer);
        Ok(answer)
    }

    async fn hand_over(&self, done: &Claim, next: &ClaimRequest) -> Result<ClaimAnswer, TableError> {
        let answer = self.table.hand_over(done, next).await?;
        self.occupancy.ended(done);
        self.occupancy.began(&answer);
        Ok(answer)
    }

    async fn release(&self, claim: &Claim) -> Result<bool, TableError> {
        let released = self.table.release(claim).await?;
        self.occupancy.ended(claim);
        Ok(released)
    }

    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<Beat, TableError> {
        self.table.heartbeat(heartbeat).await
    }

    async fn renew(&self, pool: &PoolName, task_id: &TaskId, token: Token) -> Result<bool, TableError> {
        self.table.renew(pool, task_id, token).await
    }

    async fn rows(&self, pool: &PoolName) -> Result<Vec<GpuView>, TableError> {
        self.table.rows(pool).await
    }

    async fn steady(&self, pool: &PoolName) -> Result<Duration, TableError> {
        self.table.steady(pool).await
    }

    async fn known(&self, pool: &PoolName) -> Result<Vec<GpuId>, TableError> {
        self.table.known(pool).await
    }

    async fn leave(&self, pool: &PoolName, gpu_id: &GpuId, incarnation: &Incarnation) -> Result<(), TableError> {
        self.table.leave(pool, gpu_id, incarnation).await
    }

    async fn settings(&self, pool: &PoolName, initial: &Settings) -> Result<Settings, TableError> {
        self.table.settings(pool, initial).await
    }

    async fn change_settings(&self, pool: &PoolName, settings: &Settings) -> Result<Settings, TableError> {
        self.table.change_settings(pool, settings).await
    }

    async fn ping(&self) -> Result<(), TableError> {
        self.table.ping().await
    }
}
