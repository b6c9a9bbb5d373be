//! Where cases are played: a fleet of one simulated GPU of eight slots, on a real RabbitMQ and Redis.

use std::{sync::Arc, time::Duration};

use task_queue::RabbitMq;
use tests::{
    program::Program,
    redis::{Persistence, PrivateRedis},
};
use tokio::time::Instant;

use super::prepare::Step;
use crate::servers::Servers;

/// How many tasks its GPU runs at once.
pub const SLOTS: usize = 8;
/// Longest wait for what a case expects, unless the case gives more time. Generous: it bounds what a case that fails costs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at what is waited for.
const BETWEEN: Duration = Duration::from_millis(50);
/// How much of a log is shown.
const LOG_LINES: usize = 50;

/// A fleet and its servers.
pub struct Stage {
    pub servers: Servers,
    pub queue: Arc<RabbitMq>,
    /// The gateway.
    pub url: String,
    fleet: Program,
    /// Its own, to be broken. It stands behind the fleet, which ends first.
    redis: Option<PrivateRedis>,
}

impl Stage {
    /// For all cases that leave it as it is.
    pub async fn shared() -> Self {
        Self::with(Servers::fresh().await, None, &[]).await
    }

    /// For one case that will prepare it like this, with more arguments for its fleet. Redis is its own if a step is about Redis; the broker is shared, and the names on
    /// it are its own.
    pub async fn apart(steps: &[Step], arguments: &[&str]) -> Self {
        let mut arguments = arguments.to_vec();
        if steps.iter().any(|step| matches!(step, Step::Policy(_))) {
            // A queue with a bound of its own refuses publishes at a policy's bound too. What a policy drops, it drops of a queue without one.
            arguments.extend(["--set", "amqp.queue_length_max=null"]);
        }
        if !steps.iter().any(|step| matches!(step, Step::Redis(_))) {
            return Self::with(Servers::fresh().await, None, &arguments).await;
        }
        let redis = PrivateRedis::start(Persistence::Nothing).await;
        Self::with(Servers::with_redis(redis.url()).await, Some(redis), &arguments).await
    }

    async fn with(servers: Servers, redis: Option<PrivateRedis>, arguments: &[&str]) -> Self {
        let slots = format!("gpu.multi_gpu.max_concurrent_tasks_per_gpu={SLOTS}");
        let mut all = vec!["--set", slots.as_str()];
        all.extend_from_slice(arguments);
        let fleet = servers.up(1, &all).await;
        Self { queue: servers.queue().await, url: fleet.url().await, servers, fleet, redis }
    }

    /// Runs a command on its own Redis.
    pub async fn command_redis(&self, words: &[String]) {
        let redis = self.redis.as_ref().expect("a case that commands Redis has one of its own");
        let (name, arguments) = words.split_first().expect("a command");
        let mut command = redis::cmd(name);
        for argument in arguments {
            command.arg(argument);
        }
        command.exec_async(&mut redis.connection().await).await.expect("the private Redis takes the command");
    }

    /// The differences; if there are any, with the end of the fleet's log.
    pub fn with_log(&self, differences: Vec<String>) -> Vec<String> {
        with_log(differences, &self.fleet)
    }
}

/// The differences; if there are any, with the end of the program's log.
pub fn with_log(mut differences: Vec<String>, program: &Program) -> Vec<String> {
    if !differences.is_empty() {
        let log = program.log();
        let lines: Vec<&str> = log.lines().collect();
        differences.push(format!("the end of the log:\n{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")));
    }
    differences
}

/// How long something is waited for that a case wants within so many milliseconds: never for less than what a busy machine may need.
pub fn limit(within_ms: Option<u64>) -> Duration {
    PATIENCE.max(Duration::from_millis(within_ms.unwrap_or(0)))
}

/// Looks until nothing differs, for as long as [`limit`] says; what differed at last.
pub async fn settled(mut look: impl AsyncFnMut() -> Vec<String>) -> Vec<String> {
    let until = Instant::now() + limit(None);
    loop {
        let differences = look().await;
        if differences.is_empty() || Instant::now() >= until {
            return differences;
        }
        tokio::time::sleep(BETWEEN).await;
    }
}
