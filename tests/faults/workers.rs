//! Workers as processes of their own, to kill.

use protocol::{GpuId, config::QueueType};
use tests::{
    fleet::{Fleet, ServerUrls},
    program::Program,
};

/// The processes of a fleet's workers, each with some simulated GPUs.
pub struct Workers {
    command: Vec<String>,
    gpus_of_each: usize,
    running: Vec<Running>,
    /// Those of every process that ever was: the ids of its GPUs begin with it.
    prefixes: Vec<String>,
}

struct Running {
    prefix: String,
    program: Program,
}

impl Workers {
    /// Starts so many processes with so many GPUs each. They go by the fleet's configuration, as far as faults have to do with it.
    pub fn start(fleet: &Fleet, urls: &ServerUrls, (processes, gpus_of_each): (usize, usize)) -> Self {
        let mut workers = Self { command: command(fleet, urls), gpus_of_each, running: Vec::new(), prefixes: Vec::new() };
        for _ in 0..processes {
            workers.add();
        }
        workers
    }

    /// Starts one process more.
    pub fn add(&mut self) {
        let prefix = self.fresh_prefix();
        let running = self.one(prefix);
        self.running.push(running);
    }

    /// How many processes there are.
    pub fn count(&self) -> usize {
        self.running.len()
    }

    /// Ends a process as the kernel does it when memory is short, and starts another one for the same GPUs.
    pub async fn kill(&mut self, number: usize) {
        let prefix = self.running[number].prefix.clone();
        self.end_and_start(number, prefix).await;
    }

    /// The same, but the next one has GPUs that nobody has heard of: those of this one are gone for good.
    pub async fn replace(&mut self, number: usize) {
        let prefix = self.fresh_prefix();
        self.end_and_start(number, prefix).await;
    }

    /// Stops a process as an orderly restart does, waits until it has ended, and starts another one for the same GPUs.
    pub async fn restart(&mut self, number: usize) {
        let Running { program, prefix } = &self.running[number];
        program.signal("TERM");
        assert_eq!(program.exit_code().await, 0, "{}", program.log());
        let again = self.one(prefix.clone());
        self.running[number] = again;
    }

    /// Ends a process for good, as whoever takes its machine away does it.
    pub async fn remove(&mut self, number: usize) {
        let Running { program, .. } = self.running.remove(number);
        program.signal("KILL");
        assert_eq!(program.exit_code().await, 137);
    }

    /// The ids of the GPUs of a process.
    pub fn gpus_of(&self, number: usize) -> Vec<GpuId> {
        let prefix = &self.running[number].prefix;
        (0..self.gpus_of_each).map(|gpu| GpuId::new(format!("{prefix}-{gpu}")).unwrap()).collect()
    }

    /// The ids of all GPUs that ever were.
    pub fn all_gpus(&self) -> Vec<GpuId> {
        let ids = self.prefixes.iter().flat_map(|prefix| (0..self.gpus_of_each).map(move |gpu| format!("{prefix}-{gpu}")));
        ids.map(|id| GpuId::new(id).unwrap()).collect()
    }

    async fn end_and_start(&mut self, number: usize, prefix: String) {
        let program = &self.running[number].program;
        program.signal("KILL");
        assert_eq!(program.exit_code().await, 137);
        self.running[number] = self.one(prefix);
    }

    fn one(&self, prefix: String) -> Running {
        let own = ["--simulated".to_owned(), self.gpus_of_each.to_string(), "--id-prefix".to_owned(), prefix.clone()];
        Running { program: Program::start(self.command.iter().cloned().chain(own), &[]), prefix }
    }

    fn fresh_prefix(&mut self) -> String {
        let prefix = format!("process-{}", self.prefixes.len());
        self.prefixes.push(prefix.clone());
        prefix
    }
}

/// What all of them are started with.
fn command(fleet: &Fleet, urls: &ServerUrls) -> Vec<String> {
    let configuration = fleet.configuration();
    let (amqp, redis, worker) = (&configuration.amqp, &configuration.redis, &configuration.worker);
    let queue_type = match amqp.queue_type {
        QueueType::Classic => "classic",
        QueueType::Quorum => "quorum",
    };
    let settings = [
        format!("amqp.prefix={}", amqp.prefix),
        format!("amqp.queue_type={queue_type}"),
        format!("amqp.gpu_queue_ttl_ms={}", amqp.gpu_queue_ttl_ms),
        format!("redis.store_url={}", urls.store.reveal()),
        format!("redis.prefix={}", redis.prefix),
        format!("redis.response_timeout_ms={}", redis.response_timeout_ms),
        format!("worker.lease_ms={}", worker.lease_ms),
        format!("worker.offer_ms={}", worker.offer_ms),
        format!("worker.crashes_max={}", worker.crashes_max),
        format!("gpu.multi_gpu.max_concurrent_tasks_per_gpu={}", configuration.gpu.multi_gpu.max_concurrent_tasks_per_gpu),
    ];
    let servers = ["worker", "--amqp-url", urls.amqp.reveal(), "--redis-url", urls.table.reveal()];
    let settings = settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]);
    servers.into_iter().map(str::to_owned).chain(settings).collect()
}
