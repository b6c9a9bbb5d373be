//! What the numbers of a bench or a soak were measured on.

use std::{fs, process::Command};

use serde::Serialize;

/// The machine, the servers and the code.
#[derive(Debug, Serialize)]
pub struct Facts {
    cores: usize,
    processor: String,
    rabbitmq: String,
    redis: String,
    commit: String,
    /// Whether tracked files differ from that commit.
    changed: bool,
    optimised: bool,
    /// Runnable processes over the last minute, at the start: above the number of cores the machine had other work.
    load_before: f64,
}

impl Facts {
    /// What is not to be found out is `unknown`. `redis`: the version that the server says.
    #[must_use]
    pub fn gather(redis: Option<String>) -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: processor().unwrap_or_else(unknown),
            rabbitmq: rabbitmq_version().unwrap_or_else(unknown),
            redis: redis.unwrap_or_else(unknown),
            commit: git(&["rev-parse", "HEAD"]).unwrap_or_else(unknown),
            changed: git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty()),
            optimised: !cfg!(debug_assertions),
            load_before: load().unwrap_or(f64::NAN),
        }
    }

    /// All of it in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { cores, processor, rabbitmq, redis, commit, load_before, .. } = self;
        let build = if self.optimised { "release" } else { "DEBUG BUILD: the numbers mean nothing" };
        let commit: String = commit.chars().take(12).collect();
        let changed = if self.changed { " (changed)" } else { "" };
        format!(
            "{cores} cores of {processor}, load {load_before:.1}; RabbitMQ {rabbitmq}, Redis {redis}, all on this machine; commit {commit}{changed}; {build}"
        )
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// From the name of the folder that the package installs: asking the server's own tool takes seconds.
fn rabbitmq_version() -> Option<String> {
    let mut names = fs::read_dir("/usr/lib/rabbitmq/lib").ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.find_map(|name| name.strip_prefix("rabbitmq_server-").map(str::to_owned))
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
