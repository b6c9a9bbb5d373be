//! Names of one's own on the shared private servers, and `gpufleet` on them.

use std::{path::Path, sync::Arc, time::Duration};

use gpu_table::{GpuTable, Leases, RedisTable};
use producer::{Producer, ProducerOptions};
use protocol::{
    config::{Configuration, SecretUrl},
    gpu::GpuView,
};
use task_queue::{QueueOptions, RabbitMq};
use task_store::{RedisStore, StoreOptions};
use tests::{
    program::{Ended, Program, gpufleet},
    rabbitmq::PrivateRabbitMq,
    redis::PrivateRedis,
    until::until,
};

/// RabbitMQ and Redis under a prefix that no other test has.
pub struct Servers {
    /// As the programs are told.
    pub configuration: Configuration,
    amqp: SecretUrl,
    redis: SecretUrl,
    table: RedisTable,
}

impl Servers {
    /// The shared servers under a fresh prefix.
    pub async fn fresh() -> Self {
        Self::with_redis(PrivateRedis::shared().await.url()).await
    }

    /// The shared broker under a fresh prefix, and a Redis of the test's own.
    pub async fn with_redis(redis: SecretUrl) -> Self {
        let amqp = PrivateRabbitMq::shared().await.url();
        let mut configuration = Configuration::default();
        configuration.amqp.prefix = PrivateRedis::fresh_prefix();
        configuration.redis.prefix.clone_from(&configuration.amqp.prefix);
        let worker = &configuration.worker;
        let leases = Leases { held: Duration::from_millis(worker.lease_ms), offered: Duration::from_millis(worker.offer_ms) };
        let table =
            RedisTable::connect(&redis, &configuration.redis.prefix, leases, response_timeout(&configuration)).expect("a valid URL");
        Self { configuration, amqp, redis, table }
    }

    /// The first part of every name.
    pub fn prefix(&self) -> &str {
        &self.configuration.amqp.prefix
    }

    /// The name of the pool's queue.
    pub fn pool_queue(&self) -> String {
        format!("{}.tasks.default", self.prefix())
    }

    /// The broker's URL.
    pub const fn amqp(&self) -> &SecretUrl {
        &self.amqp
    }

    /// The variables by which commands in a shell find them.
    pub fn variables(&self) -> [(&'static str, String); 4] {
        let Configuration { amqp, redis, .. } = &self.configuration;
        [
            ("GPUFLEET_AMQP_URL", self.amqp.reveal().to_owned()),
            ("GPUFLEET_REDIS_URL", self.redis.reveal().to_owned()),
            ("GPUFLEET__AMQP__PREFIX", amqp.prefix.clone()),
            ("GPUFLEET__REDIS__PREFIX", redis.prefix.clone()),
        ]
    }

    /// A command line for these servers.
    pub fn command_line(&self, arguments: &[&str]) -> Vec<String> {
        let Configuration { amqp, redis, .. } = &self.configuration;
        let names = [format!("amqp.prefix={}", amqp.prefix), format!("redis.prefix={}", redis.prefix)];
        let urls = ["--amqp-url", self.amqp.reveal(), "--redis-url", self.redis.reveal()].map(str::to_owned);
        let names = names.into_iter().flat_map(|name| ["--set".to_owned(), name]);
        arguments.iter().map(|text| (*text).to_owned()).chain(urls).chain(names).collect()
    }

    /// Starts a program that serves.
    pub fn start(&self, arguments: &[&str]) -> Program {
        Program::start(self.command_line(arguments), &[])
    }

    /// Starts `up` with simulated GPUs `sim-0`, `sim-1`, …, on a free port, and waits until all can be claimed.
    pub async fn up(&self, gpus: usize, more: &[&str]) -> Program {
        let gpus_text = gpus.to_string();
        let program = self.start(&[&["up", "--simulated", &gpus_text, "--listen", "127.0.0.1:0"], more].concat());
        program.url().await;
        self.eligible(gpus).await;
        program
    }

    /// Runs a command to its end.
    pub async fn run(&self, arguments: &[&str]) -> Ended {
        gpufleet(Path::new("/"), self.command_line(arguments), &[]).await
    }

    /// The queue, as the fleet's own programs have it.
    pub async fn queue(&self) -> Arc<RabbitMq> {
        Arc::new(RabbitMq::connect(&self.amqp, QueueOptions::from(&self.configuration.amqp)).await.expect("the private broker"))
    }

    /// A producer of our own.
    pub async fn producer(&self) -> Producer {
        let (configuration, queue) = (&self.configuration, self.queue().await);
        let (options, timeout) = (StoreOptions::from(configuration), response_timeout(configuration));
        let store = RedisStore::connect(&self.redis, &configuration.redis.prefix, options, timeout).await.expect("the private Redis");
        Producer::new(queue, Arc::new(store), service::system_environment(), ProducerOptions::default())
    }

    /// The rows of the table.
    pub async fn rows(&self) -> Vec<GpuView> {
        self.table.rows(&self.configuration.worker.pool).await.expect("the table answers")
    }

    /// Waits until exactly `gpus` GPUs are there and eligible.
    pub async fn eligible(&self, gpus: usize) {
        until(&format!("{gpus} GPUs are eligible"), async || {
            let rows = self.rows().await;
            rows.len() == gpus && rows.iter().all(|view| view.eligible)
        })
        .await;
    }
}

fn response_timeout(configuration: &Configuration) -> Duration {
    Duration::from_millis(configuration.redis.response_timeout_ms)
}
