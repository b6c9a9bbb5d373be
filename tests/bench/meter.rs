//! What a sample cost: processor time by process, and calls of scripts in Redis.

use std::{fs, ops::Sub};

use redis::aio::MultiplexedConnection;
use serde::Serialize;

use crate::{Fault, servers::info};

/// Clock ticks of `/proc` per second: 100 on every Linux since 2.6 that a distribution ships.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads what was spent so far.
pub(crate) struct Meter {
    connection: MultiplexedConnection,
    redis_pid: Option<u32>,
    broker_pid: Option<u32>,
}

/// Sums since some start; only differences mean something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    bench_s: f64,
    redis_s: f64,
    broker_s: f64,
    machine_s: f64,
    scripts: Scripts,
}

/// Calls of scripts in Redis.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Scripts {
    pub(crate) calls: f64,
    pub(crate) us: f64,
}

/// What one task cost, in µs of processor time unless said otherwise.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Cost {
    /// This process: client and consumers or workers.
    pub(crate) bench_us: f64,
    pub(crate) redis_us: f64,
    pub(crate) broker_us: f64,
    /// The share of the machine's busy time that neither of these had: strangers. Much of it makes a sample doubtful.
    pub(crate) strangers_share: f64,
    /// Scripts run in Redis per task, and the time inside them.
    pub(crate) script_calls: f64,
    pub(crate) script_us: f64,
}

impl Meter {
    pub(crate) fn new(connection: MultiplexedConnection, redis_pid: Option<u32>, broker_pid: Option<u32>) -> Self {
        Self { connection, redis_pid, broker_pid }
    }

    pub(crate) async fn read(&mut self) -> Result<Reading, Fault> {
        let of = |pid: Option<u32>| pid.and_then(|pid| process_s(&pid.to_string())).unwrap_or(f64::NAN);
        Ok(Reading {
            bench_s: process_s("self").unwrap_or(f64::NAN),
            redis_s: of(self.redis_pid),
            broker_s: of(self.broker_pid),
            machine_s: machine_s().unwrap_or(f64::NAN),
            scripts: scripts(&mut self.connection).await?,
        })
    }
}

impl Reading {
    /// What each of `tasks` cost from `before` until this reading.
    pub(crate) fn since(self, before: Self, tasks: usize) -> Cost {
        let per_task = |sum: f64| sum / tasks.max(1) as f64;
        let (bench, redis) = (self.bench_s - before.bench_s, self.redis_s - before.redis_s);
        let (broker, machine) = (self.broker_s - before.broker_s, self.machine_s - before.machine_s);
        let scripts = self.scripts - before.scripts;
        Cost {
            bench_us: per_task(bench * 1e6),
            redis_us: per_task(redis * 1e6),
            broker_us: per_task(broker * 1e6),
            strangers_share: (machine - bench - redis - broker) / machine,
            script_calls: per_task(scripts.calls),
            script_us: per_task(scripts.us),
        }
    }
}

impl Sub for Scripts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { calls: self.calls - before.calls, us: self.us - before.us }
    }
}

/// Calls of scripts, and the time inside them, since the server started.
pub(crate) async fn scripts(connection: &mut MultiplexedConnection) -> Result<Scripts, Fault> {
    let text = info(connection, "commandstats").await?;
    let Some(line) = text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:")) else { return Ok(Scripts::default()) };
    let field = |name: &str| line.split(',').find_map(|pair| pair.strip_prefix(name)?.parse::<f64>().ok()).unwrap_or_default();
    Ok(Scripts { calls: field("calls="), us: field("usec=") })
}

/// Processor time that Redis says it has used, in µs: finer than `/proc`, and blind to whatever else ran on its core.
pub(crate) async fn redis_cpu_us(connection: &mut MultiplexedConnection) -> Result<f64, Fault> {
    let text = info(connection, "cpu").await?;
    let seconds = ["used_cpu_sys:", "used_cpu_user:"].map(|name| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        value.unwrap_or(f64::NAN)
    });
    Ok(seconds.iter().sum::<f64>() * 1e6)
}

/// Processor time of a process, user and system.
fn process_s(pid: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, a name in parentheses, may hold spaces.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / TICKS_PER_SECOND)
}

/// The process of the broker that listens on `port`, by its environment: it is started through scripts, so it is no child of ours.
pub(crate) fn broker_pid(port: u16) -> Option<u32> {
    let wanted = format!("RABBITMQ_NODE_PORT={port}");
    let is_broker = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        name.trim() == "beam.smp" && environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find(is_broker)
}

/// Busy processor time of the whole machine.
fn machine_s() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<f64> = text.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
    let busy: f64 = [0, 1, 2, 5, 6].iter().filter_map(|index| fields.get(*index)).sum();
    Some(busy / TICKS_PER_SECOND)
}
