//! A fleet in this process, with the real GPU and no server: queue, table and store are the embedded ones, the worker is the worker.

use std::{path::Path, sync::Arc, time::Duration};

use devices::Device;
use executors::Executors;
use gpu_worker::{GpuWorker, Stop, WorkerError, WorkerMetrics, WorkerOptions, WorkerParts};
use producer::{NewTask, Producer, ProducerOptions};
use prometheus::{Registry, TextEncoder};
use protocol::{GpuId, Kind, Outcome, Reply, TaskBody, config::Configuration, gpu::GpuView};
use serde_json::Value;
use service::{Backends, Embedded, system_environment};
use tokio::task::JoinHandle;

use crate::Fault;

const PATIENCE: Duration = Duration::from_secs(45);

pub struct Fleet {
    pub producer: Producer,
    backends: Backends,
    configuration: Configuration,
    registry: Registry,
    stop: Stop,
    workers: Vec<JoinHandle<Result<(), WorkerError>>>,
}

/// What a fleet is made of.
pub struct Plan {
    pub configuration: Configuration,
    pub executors: Executors,
    /// One worker for each.
    pub devices: Vec<Arc<dyn Device>>,
}

impl Plan {
    /// One worker with 8 slots, and the kinds of every worker; kernels come from `modules`.
    pub fn of(device: Arc<dyn Device>, modules: &Path) -> Self {
        let executors = Executors::new().with(executors::echo()).with(executors::matmul()).with(executors::kernel(modules.to_owned()));
        Self { configuration: Configuration::default(), executors, devices: vec![device] }
    }
}

impl Fleet {
    /// As [`Plan::of`] says.
    pub async fn start(device: impl Device, modules: &Path) -> Result<Self, Fault> {
        Self::of(Plan::of(Arc::new(device), modules)).await
    }

    pub async fn of(plan: Plan) -> Result<Self, Fault> {
        let Plan { configuration, executors, devices } = plan;
        let environment = system_environment();
        let (embedded, registry) = (Embedded::new(&configuration, &environment.clock), Registry::new());
        let (backends, metrics) = (embedded.connect(), Arc::new(WorkerMetrics::new(&registry)?));
        let (stop, wanted) = (Stop::default(), devices.len());
        let start = |device| {
            let Backends { queue, table, store, bodies } = embedded.connect();
            let parts = WorkerParts {
                queue,
                table,
                store,
                device,
                executors: executors.clone(),
                environment: environment.clone(),
                options: WorkerOptions::of(&configuration, "here"),
                metrics: Arc::clone(&metrics),
                bodies,
            };
            tokio::spawn(GpuWorker::new(parts, stop.clone()).run())
        };
        let workers = devices.into_iter().map(start).collect();
        let options = ProducerOptions { body_bytes_max: configuration.worker.body_bytes_max, ..ProducerOptions::default() };
        let producer = Producer::new(Arc::clone(&backends.queue), Arc::clone(&backends.store), environment, options);
        let fleet = Self { producer, backends, configuration, registry, stop, workers };
        fleet.until("its GPUs are eligible", |rows| rows.iter().filter(|view| view.eligible).count() == wanted).await?;
        Ok(fleet)
    }

    /// Waits until the table shows this, and gives its rows.
    pub async fn until(&self, what: &str, holds: impl Fn(&[GpuView]) -> bool) -> Result<Vec<GpuView>, Fault> {
        let mut rows = Vec::new();
        for _ in 0..2_000 {
            rows = self.backends.table.rows(&self.configuration.worker.pool).await?;
            if holds(&rows) {
                return Ok(rows);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(format!("waited in vain until {what}: {rows:?}").into())
    }

    /// Runs one task and gives its reply.
    pub async fn reply(&self, kind: &str, payload: Value) -> Result<Reply, Fault> {
        self.reply_to(task(kind, payload)?).await
    }

    /// Runs this task and gives its reply.
    pub async fn reply_to(&self, task: NewTask) -> Result<Reply, Fault> {
        Ok(self.producer.submit_and_wait(task, PATIENCE).await?)
    }

    /// Runs one task that must succeed.
    pub async fn result(&self, kind: &str, payload: Value) -> Result<Value, Fault> {
        let reply = self.reply(kind, payload).await?;
        if reply.outcome == Outcome::Succeeded {
            Ok(reply.result.to()?)
        } else {
            Err(format!("{kind} ended otherwise: {:?}", reply.error).into())
        }
    }

    /// How often work was split for want of memory.
    pub fn splits(&self) -> Result<f64, Fault> {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather())?;
        let split = |line: &&str| line.starts_with("gpufleet_memory_relief_total{") && line.contains("what=\"split\"");
        let counted = text.lines().find(split).and_then(|line| line.rsplit(' ').next());
        Ok(counted.map_or(Ok(0.0), str::parse)?)
    }

    /// Stops it, and frees the GPU.
    pub async fn end(self) -> Result<(), Fault> {
        self.stop.gently.cancel();
        for worker in self.workers {
            worker.await??;
        }
        Ok(())
    }
}

/// A task of this kind.
pub fn task(kind: &str, payload: Value) -> Result<NewTask, Fault> {
    Ok(NewTask::new(Kind::new(kind)?, TaskBody { payload: payload.into(), ..TaskBody::default() }))
}

/// The same task for this GPU alone, tried once.
pub fn once_on(gpu_id: &GpuId, mut task: NewTask) -> NewTask {
    task.body.gpu_options.specific_gpu_id = Some(gpu_id.clone());
    task.body.limits.max_attempts = Some(1);
    task
}
