//! The private servers of one run.

use protocol::config::SecretUrl;
use redis::aio::MultiplexedConnection;
use tests::{
    rabbitmq::PrivateRabbitMq,
    redis::{Persistence, PrivateRedis},
};

use crate::{Fault, meter::Meter, proc::broker_pid};

/// A broker, and a Redis that is set up as a store should be. Both end with the bench.
pub(crate) struct Servers {
    rabbitmq: PrivateRabbitMq,
    redis: PrivateRedis,
}

impl Servers {
    pub(crate) async fn start() -> Result<Self, Fault> {
        let (rabbitmq, redis) = tokio::join!(PrivateRabbitMq::start(), PrivateRedis::start(Persistence::Nothing));
        // As the documentation asks of the store's Redis. The harness's own persistence syncs at every write, which nobody runs with.
        let mut connection = redis.connection().await;
        for (setting, value) in [("appendfsync", "everysec"), ("appendonly", "yes")] {
            redis::cmd("CONFIG").arg("SET").arg(setting).arg(value).exec_async(&mut connection).await?;
        }
        Ok(Self { rabbitmq, redis })
    }

    pub(crate) fn amqp(&self) -> SecretUrl {
        self.rabbitmq.url()
    }

    pub(crate) fn redis(&self) -> SecretUrl {
        self.redis.url()
    }

    /// A connection to the Redis.
    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        self.redis.connection().await
    }

    pub(crate) async fn redis_version(&self) -> Option<String> {
        let info = info(&mut self.redis.connection().await, "server").await.ok()?;
        info.lines().find_map(|line| line.strip_prefix("redis_version:")).map(str::to_owned)
    }

    /// A meter of what is spent on this machine and in this Redis.
    pub(crate) async fn meter(&self) -> Meter {
        let port = self.amqp().reveal().rsplit([':', '/']).nth(1).and_then(|port| port.parse().ok());
        Meter::new(self.redis.connection().await, self.redis.pid(), port.and_then(broker_pid))
    }
}

/// A section of what Redis says about itself.
pub(crate) async fn info(connection: &mut MultiplexedConnection, section: &str) -> Result<String, Fault> {
    Ok(redis::cmd("INFO").arg(section).query_async(connection).await?)
}
