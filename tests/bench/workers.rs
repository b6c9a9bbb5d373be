//! Workers as their users run them: processes of the real `gpufleet worker`, with simulated GPUs, on the private servers. The gateway is started in the same way.

use futures::future::{join_all, try_join_all};
use protocol::config::Configuration;
use serde_json::Value;
use tests::program::{Program, beside_this};

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
        Self::start_under(servers, Namespace::new(&name, slots), (processes, gpus)).await
    }

    /// Starts so many processes of so many GPUs each as this configuration says, and returns once every GPU can be claimed.
    pub(crate) async fn start_under(servers: &Servers, names: Namespace, (processes, gpus): (usize, usize)) -> Result<Self, Fault> {
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
        self.counted("gpufleet_forwarded_total").await
    }

    /// What their metrics say under this name, all of its labels together.
    pub(crate) async fn counted(&self, name: &str) -> Result<f64, Fault> {
        let texts = try_join_all(self.metrics.iter().map(|url| async move { reqwest::get(url.trim()).await?.text().await })).await?;
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
        let counted = texts.iter().flat_map(|text| text.lines()).filter(of_name);
        Ok(counted.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
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
    let gpus = gpus.to_string();
    let listens = "worker.metrics_listen=127.0.0.1:0";
    start_gpufleet(servers, names, &["worker", "--simulated", &gpus, "--id-prefix", id_prefix, "--set", listens])
}

/// Starts `gpufleet` with these arguments, on the servers and as the configuration says.
pub(crate) fn start_gpufleet(servers: &Servers, names: &Namespace, arguments: &[&str]) -> Result<Program, Fault> {
    let Configuration { amqp, redis, gpu, batch, handlers, journal, models, predict, .. } = &names.configuration;
    let mut settings = vec![
        format!("amqp.prefix={}", amqp.prefix),
        format!("redis.prefix={}", redis.prefix),
        format!("gpu.multi_gpu.max_concurrent_tasks_per_gpu={}", gpu.multi_gpu.max_concurrent_tasks_per_gpu),
        format!("batch.largest={}", serde_json::to_string(&batch.largest)?),
        format!("batch.wait_ms={}", serde_json::to_string(&batch.wait_ms)?),
        format!("journal.steps_max={}", journal.steps_max),
        format!("handlers={}", serde_json::to_string(handlers)?),
    ];
    settings.extend(models.directory.iter().map(|folder| format!("models.directory={}", folder.display())));
    settings.extend(predict.model.iter().map(|model| format!("predict.model={}", model.display())));
    let (amqp_url, redis_url) = (servers.amqp(), servers.redis());
    let mut arguments: Vec<&str> = arguments.to_vec();
    arguments.extend(["--amqp-url", amqp_url.reveal(), "--redis-url", redis_url.reveal()]);
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting.as_str()]));
    Ok(Program::start_at(&beside_this()?, arguments, &[]))
}
