//! Part g: what workers cost that have nothing to do, and how long a new one takes to its first task's end.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    Fault,
    client::{Client, Question},
    load::closed_loop,
    options::Pace,
    proc::{fine_processor_s, memory_mib, wake_ups},
    report::PartReport,
    servers::Servers,
    simulated_work,
    statistics::Spread,
    workers::{Workers, WorkersPlan, start_one},
};

const PROCESSES: usize = 8;
/// How long the workers work before they rest, so that their memory is that of workers in use.
const WORK: Duration = Duration::from_secs(2);
/// How long what the work left behind may take to end, before the rest is measured.
const SETTLE: Duration = Duration::from_secs(2);

/// What eight processes cost while they rested.
#[derive(Debug, Serialize)]
struct Rest {
    seconds: f64,
    processor_ms: f64,
    wake_ups: f64,
    /// Those inside scripts included.
    redis_commands: f64,
    memory_mib: f64,
}

/// All samples.
#[derive(Debug, Serialize)]
struct Samples {
    rest: Rest,
    /// From the start of a process to the reply of its first task, which waited for it.
    first_task_ms: Vec<f64>,
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let plan = WorkersPlan { name: "rest".to_owned(), processes: PROCESSES, gpus: 1, slots: 1 };
    let workers = Workers::start(servers, plan).await?;
    let client = Client::connect(&servers.amqp()).await?;
    let work = workers.question("simulate", simulated_work())?;
    let _worked = closed_loop(PROCESSES * 2, WORK, || {
        let asking = client.clone().ask(work.clone());
        async move { Ok(asking.await?.latency) }
    })
    .await?;
    sleep(SETTLE).await;
    let rest = rest(servers, &workers, pace.rest).await?;
    let _names = workers.stop().await;
    let mut first_task_ms = Vec::new();
    for _ in 0..pace.rounds {
        first_task_ms.push(first_task(servers, &client).await?);
    }
    report(&Samples { rest, first_task_ms })
}

/// Looks at the processes for so long.
async fn rest(servers: &Servers, workers: &Workers, lasting: Duration) -> Result<Rest, Fault> {
    let (mut meter, pids) = (servers.meter().await, workers.pids());
    let sum = |value: fn(u32) -> Option<f64>| -> f64 { pids.iter().map(|pid| value(*pid).unwrap_or(f64::NAN)).sum() };
    let (calls, started) = (meter.calls().await?, Instant::now());
    let (processor_s, woken) = (sum(fine_processor_s), sum(wake_ups));
    sleep(lasting).await;
    let (processor_s, woken) = (sum(fine_processor_s) - processor_s, sum(wake_ups) - woken);
    let (calls, seconds) = (meter.calls().await? - calls, started.elapsed().as_secs_f64());
    Ok(Rest { seconds, processor_ms: processor_s * 1e3, wake_ups: woken, redis_commands: calls.commands, memory_mib: sum(memory_mib) })
}

/// Starts a process on queues that are there, with a task waiting in them. In ms.
async fn first_task(servers: &Servers, client: &Client) -> Result<f64, Fault> {
    let plan = WorkersPlan { name: format!("first-{}", uuid::Uuid::new_v4().simple()), processes: 1, gpus: 1, slots: 1 };
    let before = Workers::start(servers, plan).await?;
    let question: Question = before.question("echo", serde_json::Value::Null)?;
    let names = before.stop().await;
    let waiting = tokio::spawn(client.clone().ask(question));
    let started = Instant::now();
    let worker = start_one(servers, &names, 1, "sim-0")?;
    waiting.await??;
    let took = started.elapsed();
    worker.signal("TERM");
    worker.exit_code().await;
    Ok(took.as_secs_f64() * 1e3)
}

fn report(samples: &Samples) -> Result<PartReport, Fault> {
    let mut part = PartReport::new("g: 8 worker processes of one slot at rest; the start of one");
    let Rest { seconds, processor_ms, wake_ups, redis_commands, memory_mib } = &samples.rest;
    let each = |sum: &f64| sum / PROCESSES as f64 / seconds;
    part.row("a process at rest, a second: processor time", format!("{:.2} ms", each(processor_ms)));
    part.row("a process at rest, a second: wake-ups", format!("{:.1}", each(wake_ups)));
    part.row("a process at rest, a second: Redis commands", format!("{:.1}", each(redis_commands)));
    part.row("memory of the 8 processes (PSS)", format!("{memory_mib:.1} MiB"));
    let first = Spread::of(samples.first_task_ms.iter().copied());
    part.row("from the start of a process to its first task's reply", format!("{first} ms"));
    part.keep_raw(samples)?;
    Ok(part)
}
