//! A fleet in this process, with the real GPU and no server: queue, table and store are the embedded ones, the worker is the worker.

use std::{path::Path, sync::Arc, time::Duration};

use devices::NvidiaGpu;
use executors::Executors;
use gpu_worker::{GpuWorker, Stop, WorkerError, WorkerMetrics, WorkerOptions, WorkerParts};
use producer::{NewTask, Producer, ProducerOptions};
use protocol::{Kind, Outcome, Reply, TaskBody, config::Configuration};
use serde_json::Value;
use service::{Backends, Embedded, system_environment};
use tokio::task::JoinHandle;

use crate::Fault;

const PATIENCE: Duration = Duration::from_secs(120);

pub struct Fleet {
    pub producer: Producer,
    backends: Backends,
    configuration: Configuration,
    stop: Stop,
    worker: JoinHandle<Result<(), WorkerError>>,
}

impl Fleet {
    /// One worker with 8 slots on this GPU; kernels come from `modules`.
    pub async fn start(gpu: NvidiaGpu, modules: &Path) -> Result<Self, Fault> {
        let (configuration, environment) = (Configuration::default(), system_environment());
        let backends = Embedded::new(&configuration, &environment.clock).connect();
        let executors = Executors::new().with(executors::echo()).with(executors::matmul()).with(executors::kernel(modules.to_owned()));
        let parts = WorkerParts {
            queue: Arc::clone(&backends.queue),
            table: Arc::clone(&backends.table),
            store: Arc::clone(&backends.store),
            device: Arc::new(gpu),
            executors,
            environment: environment.clone(),
            options: WorkerOptions::of(&configuration, "here"),
            metrics: Arc::new(WorkerMetrics::new(&prometheus::Registry::new())?),
        };
        let stop = Stop::default();
        let worker = tokio::spawn(GpuWorker::new(parts, stop.clone()).run());
        let producer = Producer::new(Arc::clone(&backends.queue), Arc::clone(&backends.store), environment, ProducerOptions::default());
        let fleet = Self { producer, backends, configuration, stop, worker };
        fleet.eligible().await?;
        Ok(fleet)
    }

    async fn eligible(&self) -> Result<(), Fault> {
        for _ in 0..1_000 {
            let rows = self.backends.table.rows(&self.configuration.worker.pool).await?;
            if rows.iter().any(|view| view.eligible) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("the worker's GPU never became eligible".into())
    }

    /// Runs one task and gives its reply.
    pub async fn reply(&self, kind: &str, payload: Value) -> Result<Reply, Fault> {
        Ok(self.producer.submit_and_wait(task(kind, payload)?, PATIENCE).await?)
    }

    /// Runs one task that must succeed.
    pub async fn result(&self, kind: &str, payload: Value) -> Result<Value, Fault> {
        let reply = self.reply(kind, payload).await?;
        if reply.outcome == Outcome::Succeeded {
            Ok(reply.result)
        } else {
            Err(format!("{kind} ended otherwise: {:?}", reply.error).into())
        }
    }

    /// Stops it, and frees the GPU.
    pub async fn end(self) -> Result<(), Fault> {
        self.stop.gently.cancel();
        Ok(self.worker.await??)
    }
}

/// A task of this kind.
pub fn task(kind: &str, payload: Value) -> Result<NewTask, Fault> {
    Ok(NewTask::new(Kind::new(kind)?, TaskBody { payload, ..TaskBody::default() }))
}
