//! Workers as their users run them: processes of the real `gpufleet worker`, with simulated GPUs, on the private servers.

use std::path::PathBuf;

use futures::future::{join_all, try_join_all};
use serde_json::Value;
use tests::program::Program;

use crate::{Fault, client::Question, namespace::Namespace, servers::Servers};

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct WorkersPlan {
    /// The first part of every name on the servers: two pools of one run never meet.
    pub(crate) name: String,
    pub(crate) processes: usize,
    /// Of each process.
    pub(crate) gpus: usize,
    /// Of each GPU.
    pub(crate) slots: u16,
}

/// Running processes. They end with the bench.
pub(crate) struct Workers {
    pub(crate) names: Namespace,
    programs: Vec<Program>,
    /// Where each tells its metrics.
    metrics: Vec<String>,
}

impl Workers {
    /// Starts them, and returns once every GPU can be claimed.
    pub(crate) async fn start(servers: &Servers, plan: WorkersPlan) -> Result<Self, Fault> {
        let WorkersPlan { name, processes, gpus, slots } = plan;
        let names = Namespace::new(&name, slots);
        let starting = (0..processes).map(|number| start_one(servers, &names, gpus, &format!("sim-{number}")));
        let programs: Vec<Program> = starting.collect::<Result<_, _>>()?;
        let metrics = join_all(programs.iter().map(|program| program.logged("metrics are at "))).await;
        names.until_eligible(servers, processes * gpus).await?;
        Ok(Self { names, programs, metrics })
    }

    /// Their process ids.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.programs.iter().map(Program::pid).collect()
    }

    /// A task for them, for a bare client.
    pub(crate) fn question(&self, kind: &'static str, payload: Value) -> Result<Question, Fault> {
        self.names.question(kind, payload)
    }

    /// How often they sent a task on so far.
    pub(crate) async fn forwards(&self) -> Result<f64, Fault> {
        let texts = try_join_all(self.metrics.iter().map(|url| async move { reqwest::get(url.trim()).await?.text().await })).await?;
        let forwarded = texts.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("gpufleet_forwarded_total{"));
        Ok(forwarded.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    }

    /// Asks them to leave, and waits until they have. Their queues stay.
    pub(crate) async fn stop(self) -> Namespace {
        self.programs.iter().for_each(|program| program.signal("TERM"));
        join_all(self.programs.iter().map(Program::exit_code)).await;
        self.names
    }
}

/// Starts one process and waits for nothing.
pub(crate) fn start_one(servers: &Servers, names: &Namespace, gpus: usize, id_prefix: &str) -> Result<Program, Fault> {
    let configuration = &names.configuration;
    let mut arguments: Vec<String> = ["worker", "--simulated", &gpus.to_string(), "--id-prefix", id_prefix].map(str::to_owned).into();
    arguments.extend(["--amqp-url".to_owned(), servers.amqp().reveal().to_owned()]);
    arguments.extend(["--redis-url".to_owned(), servers.redis().reveal().to_owned()]);
    let settings = [
        format!("amqp.prefix={}", configuration.amqp.prefix),
        format!("redis.prefix={}", configuration.redis.prefix),
        format!("gpu.multi_gpu.max_concurrent_tasks_per_gpu={}", configuration.gpu.multi_gpu.max_concurrent_tasks_per_gpu),
        "worker.metrics_listen=127.0.0.1:0".to_owned(),
    ];
    arguments.extend(settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]));
    Ok(Program::start_at(&gpufleet()?, arguments, &[]))
}

/// The `gpufleet` of the same build: it stands beside this program.
fn gpufleet() -> Result<PathBuf, Fault> {
    let program = std::env::current_exe()?.with_file_name("gpufleet");
    if program.exists() {
        return Ok(program);
    }
    Err(format!("{} is missing: `make bench` builds it", program.display()).into())
}
