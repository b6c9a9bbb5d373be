//! What Redis says of the commands that it has run.

use std::ops::Sub;

use redis::aio::MultiplexedConnection;

use crate::{Fault, servers::info};

/// The beginnings of commands that serve a connection or an observer, and no task: the bench's own questions are among them.
const NO_WORK: [&str; 11] = ["auth", "client", "cluster", "command", "config", "hello", "info", "ping", "quit", "readonly", "select"];
/// The commands that run a script or a function.
const SCRIPTS: [&str; 5] = ["eval", "evalsha", "evalsha_ro", "fcall", "fcall_ro"];

/// Commands run since the server started.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Calls {
    /// All that do work: those that clients sent, and those that scripts called.
    pub(crate) commands: f64,
    /// Scripts and functions.
    pub(crate) scripts: f64,
    /// Time on the clock inside scripts and functions, in µs.
    pub(crate) script_us: f64,
}

impl Sub for Calls {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            commands: self.commands - before.commands,
            scripts: self.scripts - before.scripts,
            script_us: self.script_us - before.script_us,
        }
    }
}

pub(crate) async fn calls(connection: &mut MultiplexedConnection) -> Result<Calls, Fault> {
    let text = info(connection, "commandstats").await?;
    let mut calls = Calls::default();
    for (name, values) in text.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(':')) {
        let value = |wanted: &str| values.split(',').find_map(|pair| pair.strip_prefix(wanted)?.parse::<f64>().ok()).unwrap_or_default();
        // A subcommand is named as `config|set`.
        let command = name.split('|').next().unwrap_or(name);
        if !NO_WORK.contains(&command) {
            calls.commands += value("calls=");
        }
        if SCRIPTS.contains(&command) {
            calls.scripts += value("calls=");
            calls.script_us += value("usec=");
        }
    }
    Ok(calls)
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
