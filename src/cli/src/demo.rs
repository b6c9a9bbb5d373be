//! `gpufleet demo`: the whole fleet in one process, and the proof that every task got its own right reply. A signal ends it before that.

mod load;
mod report;

use std::{process::ExitCode, time::Duration};

use futures::StreamExt;
use gpu_worker::Stop;
use indicatif::{ProgressBar, ProgressStyle};
use producer::{Producer, ProducerOptions};
use tokio::time::{Instant, timeout};

use crate::{
    arguments::{Common, Demo, set},
    configuration,
    demo::{load::Load, report::Report},
    fault::Fault,
    output, roles,
    servers::Servers,
    simulated::{self, Workers},
};

/// How long one task may take, and how long the fleet may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the demo. Exit code 0 only if every task got its own right reply.
pub(crate) async fn run(common: &Common, demo: Demo) -> Result<ExitCode, Fault> {
    let gpus = set("--gpus", "simulated.gpus", Some(demo.gpus)).into_iter().collect();
    let mut configuration = configuration::load_for_workers(common, gpus, &demo.handlers)?;
    configuration.amqp.url = None;
    configuration.redis.url = None;
    configuration.redis.store_url = None;
    configuration.worker.metrics_listen = None;
    configuration.predict.model = None;
    let slots = configuration.gpu.multi_gpu.max_concurrent_tasks_per_gpu as usize * demo.gpus as usize;
    let servers = Servers::embedded(configuration);
    let stop = roles::stop_on_signals()?;
    let mut workers = simulated::start(&servers, &service::telemetry::metrics_registry(), &stop).await?;
    let load = Load { tasks: demo.tasks, strategy: demo.strategy.map(|strategy| strategy.name().to_owned()) };
    let working = async {
        ready(&servers, demo.gpus as usize).await?;
        let ports = servers.connect().await?;
        let options = ProducerOptions { pool: servers.configuration().worker.pool.clone(), ..ProducerOptions::default() };
        let producer = Producer::new(ports.queue, ports.store, servers.environment().clone(), options);
        let mut report = drive(&producer, &load, slots).await;
        // Without the feature nobody serves it.
        if cfg!(feature = "predict") {
            report.note_text(producer.submit_and_wait(load::beginning(), PATIENCE).await);
        }
        Ok::<Report, Fault>(report)
    };
    let report = tokio::select! {
        biased;
        report = working => report?,
        () = stop.gently.cancelled() => {
            ended(&mut workers, &stop).await?;
            return Err(Fault::Failed("the demo was stopped before every task had its reply".to_owned()));
        }
    };
    report.print(common.json)?;
    stop.gently.cancel();
    ended(&mut workers, &stop).await?;
    servers.told().await;
    Ok(if report.all_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits for the workers, which were told to stop.
async fn ended(workers: &mut Workers, stop: &Stop) -> Result<(), Fault> {
    timeout(PATIENCE, workers.ended(stop)).await.map_err(|_| Fault::TimeLimit("the workers did not stop in time".to_owned()))?
}

async fn ready(servers: &Servers, gpus: usize) -> Result<(), Fault> {
    let table = servers.table().await?;
    let pool = &servers.configuration().worker.pool;
    let all_there = async {
        while table.rows(pool).await.is_ok_and(|rows| rows.iter().filter(|view| view.eligible).count() < gpus) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, all_there).await.map_err(|_| Fault::TimeLimit("the workers did not start in time".to_owned()))
}

/// Submits the load, with half as many tasks again under way as there are slots, so that some always wait by priority.
async fn drive(producer: &Producer, load: &Load, slots: usize) -> Report {
    let in_flight = slots + slots / 2;
    let progress = progress(load.tasks);
    let started = Instant::now();
    let mut report = Report::new(load);
    let waits = futures::stream::iter(0..load.tasks).map(|number| {
        let (producer, task) = (producer.clone(), load.task(number));
        async move {
            let submitted = Instant::now();
            (number, producer.submit_and_wait(task, PATIENCE).await, submitted.elapsed())
        }
    });
    let mut waits = std::pin::pin!(waits.buffer_unordered(in_flight));
    while let Some((number, reply, took)) = waits.next().await {
        report.note(load, number, reply, took);
        progress.inc(1);
    }
    progress.finish_and_clear();
    report.ended(started.elapsed());
    report
}

fn progress(tasks: u32) -> ProgressBar {
    if !output::is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} tasks, {per_sec}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(u64::from(tasks)).with_style(style)
}
