//! Opens the three ports that a configuration asks for: on servers where it names them, else in this process.

use std::{sync::Arc, time::Duration};

use gpu_table::{GpuTable, Leases, MemoryTable, RedisTable, TableError};
use protocol::{
    config::{Configuration, SecretUrl},
    environment::Clock,
};
use task_queue::{BodyBudget, MemoryBroker, QueueError, QueueOptions, RabbitMq, TaskQueue};
use task_store::{MemoryStore, RedisStore, StoreError, StoreOptions, TaskStore};
use tokio::time::Instant;

use crate::redis_servers::redis_servers;

/// Pause after the first failed try to reach a server; it doubles with each.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The three ports, and the memory for the bodies that pass through them. Clones share them.
#[derive(Clone)]
pub struct Backends {
    /// How tasks and replies travel.
    pub queue: Arc<dyn TaskQueue>,
    /// Who holds which GPU.
    pub table: Arc<dyn GpuTable>,
    /// What became of tasks.
    pub store: Arc<dyn TaskStore>,
    /// The process's budget for bodies in hand, whatever the ports are.
    pub bodies: BodyBudget,
}

/// The back ends inside this process, and its budget for bodies. All workers and producers of the process share one.
pub struct Embedded {
    broker: MemoryBroker,
    table: Arc<MemoryTable>,
    store: Arc<MemoryStore>,
    bodies: BodyBudget,
}

/// A back end that cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The broker.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The table's Redis.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The store's Redis.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BackendError {
    /// Whether a later retry can succeed without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Queue(error) => error.is_transient(),
            Self::Table(error) => error.is_transient(),
            Self::Store(error) => error.is_transient(),
        }
    }
}

impl Embedded {
    /// Empty back ends on `clock`. Needs a tokio runtime.
    #[must_use]
    pub fn new(configuration: &Configuration, clock: &Arc<dyn Clock>) -> Self {
        Self {
            broker: MemoryBroker::new(QueueOptions::from(&configuration.amqp)),
            table: Arc::new(MemoryTable::new(Arc::clone(clock), leases(configuration))),
            store: Arc::new(MemoryStore::new(Arc::clone(clock), StoreOptions::from(configuration))),
            bodies: BodyBudget::new(configuration.memory.bodies_mb),
        }
    }

    /// The ports for one more worker or producer: a connection of its own to the broker, the shared table and store.
    #[must_use]
    pub fn connect(&self) -> Backends {
        Backends {
            queue: Arc::new(self.broker.connect()),
            table: self.table.clone(),
            store: self.store.clone(),
            bodies: self.bodies.clone(),
        }
    }

    /// The process's budget for bodies in hand.
    #[must_use]
    pub const fn bodies(&self) -> &BodyBudget {
        &self.bodies
    }
}

impl Backends {
    /// Opens the ports for one worker or producer: each on the server that `configuration` names, else in `embedded`. Returns when every server
    /// has answered; one that does not is tried again, with growing pauses, for `patience` (zero: one try). Warns in the log where a Redis is
    /// set up to lose data.
    ///
    /// Cancel safe: dropping it closes what was opened.
    ///
    /// # Errors
    /// [`BackendError`] of the first server that stayed away or refused.
    pub async fn open(configuration: &Configuration, embedded: &Embedded, patience: Duration) -> Result<Self, BackendError> {
        let mut backends = embedded.connect();
        if let Some(url) = &configuration.amqp.url {
            backends.queue = patiently(patience, async || queue_at(url, configuration).await).await?;
        }
        if let Some(url) = &configuration.redis.url {
            backends.table = patiently(patience, async || table_at(url, configuration).await).await?;
        }
        if let Some(url) = configuration.redis.store_url.as_ref().or(configuration.redis.url.as_ref()) {
            backends.store = patiently(patience, async || store_at(url, configuration).await).await?;
        }
        warn(configuration).await;
        Ok(backends)
    }
}

async fn queue_at(url: &SecretUrl, configuration: &Configuration) -> Result<Arc<dyn TaskQueue>, BackendError> {
    Ok(Arc::new(RabbitMq::connect(url, QueueOptions::from(&configuration.amqp)).await?))
}

async fn table_at(url: &SecretUrl, configuration: &Configuration) -> Result<Arc<dyn GpuTable>, BackendError> {
    let table = RedisTable::connect(url, &configuration.redis.prefix, leases(configuration), response_timeout(configuration))?;
    table.ping().await?;
    Ok(Arc::new(table))
}

async fn store_at(url: &SecretUrl, configuration: &Configuration) -> Result<Arc<dyn TaskStore>, BackendError> {
    let options = StoreOptions::from(configuration);
    Ok(Arc::new(RedisStore::connect(url, &configuration.redis.prefix, options, response_timeout(configuration)).await?))
}

/// Tries until it succeeds, fails for good, or `patience` is used up.
async fn patiently<T>(patience: Duration, open: impl AsyncFn() -> Result<T, BackendError>) -> Result<T, BackendError> {
    let until = Instant::now() + patience;
    let (mut pause, mut told) = (PAUSE, false);
    loop {
        match open().await {
            Err(error) if error.is_transient() && Instant::now() + pause <= until => {
                if std::mem::replace(&mut told, true) {
                    tracing::debug!(%error, "a server is still away");
                } else {
                    tracing::warn!(%error, "a server is away; trying again");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            outcome => return outcome,
        }
    }
}

async fn warn(configuration: &Configuration) {
    if configuration.amqp.url.is_some() != configuration.redis.url.is_some() {
        tracing::warn!("only one of amqp.url and redis.url is set: what is in memory is not shared with other processes");
    }
    match redis_servers(configuration).await {
        Ok(servers) => {
            for server in servers {
                server.fault().into_iter().chain(server.warnings()).for_each(|warning| tracing::warn!("Redis {} {warning}", server.url));
            }
        }
        Err(error) => tracing::warn!(%error, "the set-up of Redis was not checked"),
    }
}

fn leases(configuration: &Configuration) -> Leases {
    let worker = &configuration.worker;
    Leases { held: Duration::from_millis(worker.lease_ms), offered: Duration::from_millis(worker.offer_ms) }
}

fn response_timeout(configuration: &Configuration) -> Duration {
    Duration::from_millis(configuration.redis.response_timeout_ms)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use protocol::{BodyHash, GpuId, Kind, PoolName, TaskId};
    use task_queue::Queue;

    use super::*;
    use crate::system_environment;

    fn embedded(configuration: &Configuration) -> Embedded {
        Embedded::new(configuration, &system_environment().clock)
    }

    #[tokio::test]
    async fn without_urls_all_workers_of_the_process_share_the_embedded_back_ends() {
        let configuration = Configuration::default();
        let embedded = embedded(&configuration);
        let one = Backends::open(&configuration, &embedded, Duration::ZERO).await.unwrap();
        let other = Backends::open(&configuration, &embedded, Duration::ZERO).await.unwrap();
        let (task_id, pool) = (TaskId::new("a").unwrap(), PoolName::default());

        one.store.submitted(&task_id, &Kind::new("echo").unwrap(), &BodyHash::of(b"{}")).await.unwrap();
        assert!(other.store.status(&task_id).await.unwrap().is_some());
        one.queue.declare(&Queue::Pool(pool.clone())).await.unwrap();
        one.queue.close().await;
        assert!(other.queue.depth(&Queue::Pool(pool)).await.unwrap().is_some(), "each has a connection of its own");
        other.table.ping().await.unwrap();
        let _share = one.bodies.try_take(1).unwrap();
        assert!(other.bodies.in_use_bytes() > 0, "they share the memory for bodies");
        one.store.announce(&GpuId::new("g").unwrap(), &PoolName::default()).await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_named_without_its_password() {
        // Nobody but a privileged program could listen there.
        let port = 1;
        let mut configuration = Configuration::default();
        configuration.redis.url = Some(SecretUrl::new(format!("redis://:s3cret@127.0.0.1:{port}")));
        let Err(error) = Backends::open(&configuration, &embedded(&configuration), Duration::ZERO).await else { panic!("nobody listens") };
        assert!(error.is_transient(), "{error}");
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")) && !error.to_string().contains("s3cret"), "{error}");
    }

    fn away() -> BackendError {
        StoreError::Unavailable { operation: "connect", url: "redis://h".to_owned(), reason: "refused".to_owned() }.into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_comes_late_is_waited_for() {
        let tries = AtomicU32::new(0);
        let opened = patiently(Duration::from_secs(30), async || if tries.fetch_add(1, Relaxed) < 3 { Err(away()) } else { Ok(()) });
        assert_eq!(opened.await, Ok(()));
        assert_eq!(tries.load(Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_a_refusal_is_not_tried_again() {
        let started = Instant::now();
        assert_eq!(patiently::<()>(Duration::from_secs(30), async || Err(away())).await, Err(away()));
        assert!((Duration::from_secs(28)..=Duration::from_secs(30)).contains(&started.elapsed()), "{:?}", started.elapsed());

        let refused = BackendError::from(StoreError::BadUrl { url: "x".to_owned(), reason: "y".to_owned() });
        let started = Instant::now();
        assert_eq!(patiently::<()>(Duration::from_secs(30), async || Err(refused.clone())).await, Err(refused.clone()));
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
