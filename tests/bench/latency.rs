//! Part e: latency when tasks arrive at random at 70 % of what 8 GPUs can do, beside the ideal queue for the very same arrivals.

use std::time::Duration;

use protocol::Reply;
use serde::Serialize;

use crate::{
    Fault, SERVICE,
    client::{Answer, Client},
    ideal,
    load::{open_loop, poisson},
    options::Pace,
    pool::{Pool, PoolPlan},
    report::{Bound, PartReport},
    servers::Servers,
    simulated_work,
    statistics::{Percentiles, Spread, mean},
};

const GPUS: usize = 8;
const LOAD: f64 = 0.7;
const AIM: f64 = 1.2;

/// One run.
#[derive(Debug, Serialize)]
struct Sample {
    seed: u64,
    tasks: usize,
    latency_ms: Percentiles,
    ideal_ms: Percentiles,
    p99_ratio: f64,
    /// Means: how long a task ran, how long it was in the worker's hand before.
    run_ms: f64,
    in_hand_ms: f64,
    forwards_per_task: f64,
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let client = Client::connect(&servers.amqp()).await?;
    let plan = PoolPlan::new("latency".to_owned(), GPUS, 1);
    let pool = Pool::start(servers, plan).await?;
    let mut samples = Vec::new();
    // The first, seed 0, warms up.
    run(&client, &pool, 0, pace.arrivals / 10).await?;
    for seed in 1..=pace.arrival_runs {
        samples.push(run(&client, &pool, seed, pace.arrivals).await?);
    }
    pool.stop().await;
    report(&samples)
}

fn per_second() -> f64 {
    LOAD * GPUS as f64 / SERVICE.as_secs_f64()
}

async fn run(client: &Client, pool: &Pool, seed: u64, lasting: Duration) -> Result<Sample, Fault> {
    let question = pool.question("simulate", simulated_work())?;
    let forwards = pool.forwards();
    let planned = poisson(seed, per_second(), lasting);
    let answers = open_loop(&planned, || client.clone().ask(question.clone())).await?;
    let asked: Vec<Duration> = answers.iter().map(|(asked, _)| *asked).collect();
    let ideal = |service| Percentiles::of(ideal::latencies(&asked, GPUS, service).into_iter().map(milliseconds));
    let (latency_ms, ideal_ms) = (Percentiles::of(answers.iter().map(|(_, answer)| milliseconds(answer.latency))), ideal(SERVICE));
    let replies: Vec<Reply> = answers.iter().map(read).collect::<Result<_, _>>()?;
    let timing = |value: fn(&Reply) -> f64| mean(&replies.iter().map(value).collect::<Vec<_>>());
    Ok(Sample {
        seed,
        tasks: answers.len(),
        p99_ratio: latency_ms.p99 / ideal_ms.p99,
        latency_ms,
        ideal_ms,
        run_ms: timing(|reply| reply.timings.run_ms),
        in_hand_ms: timing(|reply| reply.timings.waited_ms),
        forwards_per_task: (pool.forwards() - forwards) / answers.len() as f64,
    })
}

fn read((_, answer): &(Duration, Answer)) -> Result<Reply, Fault> {
    Ok(serde_json::from_slice(&answer.body)?)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn report(samples: &[Sample]) -> Result<PartReport, Fault> {
    let mut part = PartReport::new("e: 8 GPUs of one slot, tasks of 20 ms, Poisson arrivals at 70 % load, least_loaded");
    let middle = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(value)).median;
    let percentiles = |of: fn(&Sample) -> Percentiles| Percentiles {
        p50: Spread::of(samples.iter().map(|sample| of(sample).p50)).median,
        p95: Spread::of(samples.iter().map(|sample| of(sample).p95)).median,
        p99: Spread::of(samples.iter().map(|sample| of(sample).p99)).median,
    };
    part.row("fleet, p50 / p95 / p99 in ms", percentiles(|sample| sample.latency_ms));
    part.row("ideal queue, the same arrivals (M/D/8)", percentiles(|sample| sample.ideal_ms));
    let (run, in_hand) = (middle(|sample| sample.run_ms), middle(|sample| sample.in_hand_ms));
    part.row("ran, mean ms", format!("{run:.2} (asked for: 20); in hand before: {in_hand:.2}"));
    part.row("forwards a task", format!("{:.3}", middle(|sample| sample.forwards_per_task)));
    let many = poisson(0, per_second(), Duration::from_secs(3_600));
    let check = Percentiles::of(ideal::latencies(&many, GPUS, SERVICE).into_iter().map(milliseconds));
    part.row("check: the ideal queue over an hour of arrivals", check);
    let ratio = Spread::of(samples.iter().map(|sample| sample.p99_ratio));
    part.row("p99, fleet / ideal", ratio);
    part.aim("p99, fleet / ideal", ratio.median, Bound::AtMost(AIM));
    part.keep_raw(samples)?;
    Ok(part)
}
