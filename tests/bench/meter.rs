//! What a sample cost: processor time by process, and commands in Redis.

use redis::aio::MultiplexedConnection;
use serde::Serialize;

use crate::{
    Fault,
    commands::{Calls, calls},
    proc::{machine_s, processor_s},
    statistics::Spread,
};

/// Reads what was spent so far.
pub(crate) struct Meter {
    connection: MultiplexedConnection,
    redis_pid: Option<u32>,
    broker_pid: Option<u32>,
}

/// Sums since some start; only differences mean something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    client_s: f64,
    workers_s: f64,
    redis_s: f64,
    broker_s: f64,
    machine_s: f64,
    calls: Calls,
}

/// What one task cost, in µs of processor time unless said otherwise.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Cost {
    /// This process, which asks.
    pub(crate) client_us: f64,
    /// The processes that answer: workers, or bare consumers.
    pub(crate) workers_us: f64,
    pub(crate) redis_us: f64,
    pub(crate) broker_us: f64,
    /// The share of the machine's busy time that none of these had: strangers. Much of it makes a sample doubtful.
    pub(crate) strangers_share: f64,
    /// Commands run in Redis per task, those inside scripts included.
    pub(crate) redis_commands: f64,
    /// Scripts run in Redis per task, and the time inside them.
    pub(crate) script_calls: f64,
    pub(crate) script_us: f64,
}

impl Meter {
    pub(crate) fn new(connection: MultiplexedConnection, redis_pid: Option<u32>, broker_pid: Option<u32>) -> Self {
        Self { connection, redis_pid, broker_pid }
    }

    /// `workers`: the processes that answer.
    pub(crate) async fn read(&mut self, workers: &[u32]) -> Result<Reading, Fault> {
        let of = |pid: u32| processor_s(&pid.to_string()).unwrap_or(f64::NAN);
        Ok(Reading {
            client_s: processor_s("self").unwrap_or(f64::NAN),
            workers_s: workers.iter().copied().map(of).sum(),
            redis_s: self.redis_pid.map_or(f64::NAN, of),
            broker_s: self.broker_pid.map_or(f64::NAN, of),
            machine_s: machine_s().unwrap_or(f64::NAN),
            calls: self.calls().await?,
        })
    }

    /// Redis's commands so far.
    pub(crate) async fn calls(&mut self) -> Result<Calls, Fault> {
        calls(&mut self.connection).await
    }
}

impl Reading {
    /// What each of `tasks` cost from `before` until this reading.
    pub(crate) fn since(self, before: Self, tasks: usize) -> Cost {
        let per_task = |sum: f64| sum / tasks.max(1) as f64;
        let (client, workers) = (self.client_s - before.client_s, self.workers_s - before.workers_s);
        let (redis, broker) = (self.redis_s - before.redis_s, self.broker_s - before.broker_s);
        let machine = self.machine_s - before.machine_s;
        let calls = self.calls - before.calls;
        Cost {
            client_us: per_task(client * 1e6),
            workers_us: per_task(workers * 1e6),
            redis_us: per_task(redis * 1e6),
            broker_us: per_task(broker * 1e6),
            strangers_share: (machine - client - workers - redis - broker) / machine,
            redis_commands: per_task(calls.commands),
            script_calls: per_task(calls.scripts),
            script_us: per_task(calls.script_us),
        }
    }
}

impl Cost {
    /// Of all processes of the comparison.
    pub(crate) fn total_us(&self) -> f64 {
        self.client_us + self.workers_us + self.redis_us + self.broker_us
    }

    /// The medians of some samples, in words.
    pub(crate) fn describe(costs: &[&Self]) -> String {
        let middle = |value: fn(&Self) -> f64| Spread::of(costs.iter().map(|cost| value(cost))).median;
        format!(
            "CPU: client {:.0} + workers {:.0} + RabbitMQ {:.0} + Redis {:.0} us (strangers had {:.0} %); {:.1} Redis commands, {:.1} scripts",
            middle(|cost| cost.client_us),
            middle(|cost| cost.workers_us),
            middle(|cost| cost.broker_us),
            middle(|cost| cost.redis_us),
            middle(|cost| cost.strangers_share * 100.0),
            middle(|cost| cost.redis_commands),
            middle(|cost| cost.script_calls),
        )
    }
}
