//! A pool's names on the private servers, and what reaches it there.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use gpu_table::{GpuTable, Leases, RedisTable};
use protocol::{Environment, Segments, TaskBody, config::Configuration};
use serde_json::Value;
use task_queue::{Names, Queue, QueueOptions, RabbitMq};
use task_store::{RedisStore, StoreOptions};
use tests::{environment::seeded, until::until};

use crate::{Fault, client::Question, servers::Servers};

/// The configuration of a pool whose names no other pool of the run has.
pub(crate) struct Namespace {
    pub(crate) configuration: Configuration,
}

impl Namespace {
    /// `name` is the first part of every name on the servers.
    pub(crate) fn new(name: &str, slots: u16) -> Self {
        let mut configuration = Configuration::default();
        name.clone_into(&mut configuration.amqp.prefix);
        name.clone_into(&mut configuration.redis.prefix);
        configuration.gpu.multi_gpu.max_concurrent_tasks_per_gpu = slots.into();
        // What it measures goes beside nothing else.
        configuration.data.trial_mb = 0;
        Self { configuration }
    }

    /// Two connections of one's own to the broker.
    pub(crate) async fn queue(&self, servers: &Servers) -> Result<Arc<RabbitMq>, Fault> {
        Ok(Arc::new(RabbitMq::connect(&servers.amqp(), QueueOptions::from(&self.configuration.amqp)).await?))
    }

    pub(crate) fn table(&self, servers: &Servers) -> Result<RedisTable, Fault> {
        let worker = &self.configuration.worker;
        let leases = Leases { held: Duration::from_millis(worker.lease_ms), offered: Duration::from_millis(worker.offer_ms) };
        Ok(RedisTable::connect(&servers.redis(), &self.configuration.redis.prefix, leases, self.response_timeout())?)
    }

    pub(crate) async fn store(&self, servers: &Servers) -> Result<RedisStore, Fault> {
        let options = StoreOptions::from(&self.configuration);
        Ok(RedisStore::connect(&servers.redis(), &self.configuration.redis.prefix, options, self.response_timeout()).await?)
    }

    fn response_timeout(&self) -> Duration {
        Duration::from_millis(self.configuration.redis.response_timeout_ms)
    }

    /// Waits until so many GPUs can be claimed.
    pub(crate) async fn until_eligible(&self, servers: &Servers, gpus: usize) -> Result<(), Fault> {
        let table = self.table(servers)?;
        let of = &self.configuration.worker.pool;
        let all_eligible = async || table.rows(of).await.is_ok_and(|rows| rows.iter().filter(|row| row.eligible).count() == gpus);
        until(&format!("{gpus} GPUs are eligible"), all_eligible).await;
        Ok(())
    }

    /// Waits until every GPU serves this kind.
    pub(crate) async fn until_served(&self, servers: &Servers, kind: &str) -> Result<(), Fault> {
        let table = self.table(servers)?;
        let of = &self.configuration.worker.pool;
        let served = async || {
            table.rows(of).await.is_ok_and(|rows| rows.iter().all(|view| view.row.kinds.iter().any(|known| known.as_str() == kind)))
        };
        until(&format!("the kind {kind} is served"), served).await;
        Ok(())
    }

    /// A task for this pool, for a bare client.
    pub(crate) fn question(&self, kind: &'static str, payload: Value) -> Result<Question, Fault> {
        Ok(self.asks(kind, TaskBody { payload: payload.into(), ..TaskBody::default() }.to_bytes()))
    }

    /// A task with raw bytes for this pool, for a bare client.
    pub(crate) fn framed(&self, kind: &'static str, payload: Value, segments: Segments) -> Question {
        self.asks(kind, TaskBody { payload: payload.into(), segments, ..TaskBody::default() }.to_bytes())
    }

    /// A task as this body says, for a bare client.
    pub(crate) fn asking(&self, kind: &'static str, body: &TaskBody) -> Question {
        self.asks(kind, body.to_bytes())
    }

    /// A batch for this pool, for a bare client.
    pub(crate) fn batch(&self, kind: &'static str, items: Vec<Value>) -> Result<Question, Fault> {
        let items = items.into_iter().map(Into::into).collect();
        Ok(self.asks(kind, TaskBody { items: Some(items), ..TaskBody::default() }.to_bytes()))
    }

    fn asks(&self, kind: &'static str, body: Bytes) -> Question {
        let names = Names::new(self.configuration.amqp.prefix.clone());
        Question { queue: names.queue(&Queue::Pool(self.configuration.worker.pool.clone())), kind, body }
    }
}

/// Every environment has a seed of its own, so that no two draw the same ids.
pub(crate) fn environment() -> Environment {
    seeded(uuid::Uuid::new_v4().as_u64_pair().0)
}
