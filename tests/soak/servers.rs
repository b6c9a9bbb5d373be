//! The private servers of a soak, and how everything on them is configured.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use gpu_table::{Leases, RedisTable};
use protocol::config::{Configuration, HandlerSection, SecretUrl};
use redis::aio::MultiplexedConnection;
use task_queue::{QueueOptions, RabbitMq};
use task_store::{RedisStore, StoreOptions};
use tests::{
    rabbitmq::PrivateRabbitMq,
    redis::{Persistence, PrivateRedis},
};
use tokio::sync::Mutex;

use crate::Fault;

/// Dead letters that are kept at most: few, so that the bound is reached and held.
pub(crate) const DEAD_LETTERS_MAX: u32 = 200;
/// How long a task is remembered after its end: short, so that what is remembered is the same after a few minutes, and longer than any fault.
pub(crate) const OUTCOME_RETENTION: Duration = Duration::from_secs(120);
/// The first part of every name on the servers.
pub(crate) const PREFIX: &str = "soak";

/// A broker and a Redis of this run alone. They end with it.
pub(crate) struct Servers {
    pub(crate) configuration: Configuration,
    broker: PrivateRabbitMq,
    redis: Mutex<PrivateRedis>,
    redis_url: SecretUrl,
    broker_lives: AtomicU32,
    redis_lives: AtomicU32,
}

impl Servers {
    pub(crate) async fn start() -> Result<Self, Fault> {
        let (broker, redis) = tokio::join!(PrivateRabbitMq::start(), PrivateRedis::start(Persistence::AppendOnly));
        let redis_url = redis.url();
        let lives = || AtomicU32::new(1);
        let (redis, configuration) = (Mutex::new(redis), configuration());
        let servers = Self { configuration, broker, redis, redis_url, broker_lives: lives(), redis_lives: lives() };
        servers.sync_every_second().await?;
        Ok(servers)
    }

    pub(crate) fn amqp(&self) -> SecretUrl {
        self.broker.url()
    }

    pub(crate) fn broker_port(&self) -> u16 {
        self.broker.port()
    }

    /// Where the two listen.
    pub(crate) fn ports(&self) -> [u16; 2] {
        let redis = self.redis_url.reveal().rsplit([':', '/']).nth(1).and_then(|port| port.parse().ok());
        [self.broker.port(), redis.unwrap_or(0)]
    }

    /// How often each was started, broker and Redis.
    pub(crate) fn lives(&self) -> [u32; 2] {
        [&self.broker_lives, &self.redis_lives].map(|lives| lives.load(Ordering::Relaxed))
    }

    /// The process of Redis; `None` while it is restarted.
    pub(crate) fn redis_pid(&self) -> Option<u32> {
        self.redis.try_lock().ok()?.pid()
    }

    /// A connection of one's own to Redis.
    pub(crate) async fn redis_connection(&self) -> Result<MultiplexedConnection, Fault> {
        Ok(redis::Client::open(self.redis_url.reveal())?.get_multiplexed_async_connection().await?)
    }

    /// What Redis says that its version is.
    pub(crate) async fn redis_version(&self) -> Option<String> {
        let mut connection = self.redis_connection().await.ok()?;
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await.ok()?;
        info.lines().find_map(|line| line.strip_prefix("redis_version:")).map(str::to_owned)
    }

    /// How many channels each connection of the broker has, by the client's port. It starts the server's own tool, which takes a second or two of processor time.
    pub(crate) async fn channels(&self) -> Vec<(u16, u32)> {
        let listed = self.broker.listed(&["list_connections", "peer_port", "channels"]).await;
        let pair = |line: &str| {
            let (port, channels) = line.split_once('\t')?;
            Some((port.trim().parse().ok()?, channels.trim().parse().ok()?))
        };
        listed.lines().filter_map(pair).collect()
    }

    /// Stops the broker, in an orderly way or as a crash does, and starts it again.
    pub(crate) async fn restart_broker(&self, kill: bool) {
        if kill {
            self.broker.kill();
        } else {
            self.broker.stop().await;
        }
        self.broker.start_again().await;
        self.broker_lives.fetch_add(1, Ordering::Relaxed);
    }

    /// Stops Redis in an orderly way, so that it has forgotten nothing, and starts it again.
    pub(crate) async fn restart_redis(&self) -> Result<(), Fault> {
        let mut redis = self.redis.lock().await;
        redis.stop();
        redis.restart().await;
        drop(redis);
        self.redis_lives.fetch_add(1, Ordering::Relaxed);
        self.sync_every_second().await
    }

    /// The queues, as the fleet's own programs have them.
    pub(crate) async fn queue(&self) -> Result<Arc<RabbitMq>, Fault> {
        Ok(Arc::new(RabbitMq::connect(&self.amqp(), QueueOptions::from(&self.configuration.amqp)).await?))
    }

    pub(crate) async fn store(&self) -> Result<Arc<RedisStore>, Fault> {
        let options = StoreOptions::from(&self.configuration);
        Ok(Arc::new(RedisStore::connect(&self.redis_url, PREFIX, options, self.response_timeout()).await?))
    }

    pub(crate) fn table(&self) -> Result<RedisTable, Fault> {
        let worker = &self.configuration.worker;
        let leases = Leases { held: Duration::from_millis(worker.lease_ms), offered: Duration::from_millis(worker.offer_ms) };
        Ok(RedisTable::connect(&self.redis_url, PREFIX, leases, self.response_timeout())?)
    }

    fn response_timeout(&self) -> Duration {
        Duration::from_millis(self.configuration.redis.response_timeout_ms)
    }

    /// As the documentation asks of the store's Redis. The harness has it sync at every write, which is slow, and forgets the setting at each start.
    async fn sync_every_second(&self) -> Result<(), Fault> {
        let setting = redis::cmd("CONFIG").arg("SET").arg("appendfsync").arg("everysec").to_owned();
        Ok(setting.exec_async(&mut self.redis_connection().await?).await?)
    }

    /// What every program is started with, beside what is its own.
    pub(crate) fn arguments(&self) -> Result<Vec<String>, Fault> {
        let Configuration { amqp, gpu, worker, store, journal, handlers, data, .. } = &self.configuration;
        let settings = [
            format!("amqp.prefix={PREFIX}"),
            format!("redis.prefix={PREFIX}"),
            format!("amqp.dead_letters_max={}", amqp.dead_letters_max),
            format!("gpu.multi_gpu.max_concurrent_tasks_per_gpu={}", gpu.multi_gpu.max_concurrent_tasks_per_gpu),
            format!("worker.crashes_max={}", worker.crashes_max),
            format!("store.reply_retention_ms={}", store.reply_retention_ms),
            format!("store.outcome_retention_ms={}", store.outcome_retention_ms),
            format!("journal.steps_max={}", journal.steps_max),
            format!("journal.tasks_max={}", journal.tasks_max),
            format!("data.trial_mb={}", data.trial_mb),
            format!("handlers={}", serde_json::to_string(handlers)?),
            // A line for each task would fill the disk in hours.
            "log.level=warn".to_owned(),
        ];
        let urls = ["--amqp-url", self.amqp().reveal(), "--redis-url", self.redis_url.reveal()].map(str::to_owned);
        Ok(urls.into_iter().chain(settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting])).collect())
    }
}

/// Bounds that are reached within minutes: what is held at a bound can be told from what grows.
fn configuration() -> Configuration {
    let mut configuration = Configuration::default();
    PREFIX.clone_into(&mut configuration.amqp.prefix);
    PREFIX.clone_into(&mut configuration.redis.prefix);
    configuration.amqp.dead_letters_max = DEAD_LETTERS_MAX;
    configuration.gpu.multi_gpu.max_concurrent_tasks_per_gpu = 4;
    // The kills are nobody's fault: however often they meet the same task, it is not given up.
    configuration.worker.crashes_max = 100;
    configuration.store.reply_retention_ms = 60_000;
    configuration.store.outcome_retention_ms = u64::try_from(OUTCOME_RETENTION.as_millis()).unwrap_or(u64::MAX);
    configuration.journal.steps_max = 20_000;
    configuration.journal.tasks_max = 2_000;
    configuration.data.trial_mb = 0;
    configuration.handlers = vec![handler()];
    configuration
}

/// The example of this repository, and the package beside it.
fn handler() -> HandlerSection {
    let root: &Path = tests::pages::root();
    let package: PathBuf = root.join("workers/python");
    let environment = [("PYTHONPATH".to_owned(), package.display().to_string())].into();
    HandlerSection { file: Some(root.join("examples/handler.py")), environment, ..HandlerSection::default() }
}
