//! Part m: four models on four GPUs that hold two each: how often a task finds its model loaded, by the strategy that asks for that and by the one that does not.
//!
//! A task takes 20 ms and a cold load 100 ms. Tasks of the four models come at random, so rarely that slots wait and the strategy chooses, also where every second task loads its model.

use std::time::Duration;

use protocol::Strategy;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::json;

use crate::{
    Fault, SERVICE,
    client::Client,
    load::{open_loop, poisson},
    options::Pace,
    pool::{KeptModels, Pool, PoolPlan},
    report::{Bound, PartReport},
    servers::Servers,
    statistics::{Percentiles, Spread},
};

const GPUS: usize = 4;
const SLOTS: u16 = 2;
const MODELS: [&str; 4] = ["a", "b", "c", "d"];
const MODEL_MB: u64 = 1_000;
const HELD: u64 = 2;
const LOAD: Duration = Duration::from_millis(100);
const PER_SECOND: f64 = 20.0;
/// How much more often a task finds its model.
const AIM: f64 = 1.5;

/// One run.
#[derive(Debug, Serialize)]
struct Sample {
    seed: u64,
    strategy: &'static str,
    tasks: usize,
    /// Share of the tasks that found their model loaded.
    found: f64,
    loads: u64,
    evictions: u64,
    latency_ms: Percentiles,
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let client = Client::connect(&servers.amqp()).await?;
    let mut pools = Vec::new();
    for strategy in [Strategy::TaskSpecific, Strategy::LeastLoaded] {
        let models = KeptModels { strategy, memory_mb: MODEL_MB * HELD };
        let plan = PoolPlan { models: Some(models), ..PoolPlan::new(format!("models-{}", strategy.name()), GPUS, SLOTS) };
        pools.push((strategy.name(), Pool::start(servers, plan).await?));
    }
    let mut samples = Vec::new();
    // The first, seed 0, warms up: the models are loaded for the first time.
    for seed in 0..=pace.arrival_runs {
        let lasting = if seed == 0 { pace.arrivals / 5 } else { pace.arrivals };
        for (strategy, pool) in &pools {
            let sample = run(&client, (*strategy, pool), seed, lasting).await?;
            samples.extend(Some(sample).filter(|sample| sample.seed > 0));
        }
    }
    for (_, pool) in pools {
        pool.stop().await;
    }
    report(&samples)
}

async fn run(client: &Client, (strategy, pool): (&'static str, &Pool), seed: u64, lasting: Duration) -> Result<Sample, Fault> {
    let before = pool.model_counts();
    let arrivals = poisson(seed, PER_SECOND, lasting);
    let questions = MODELS.map(|model| {
        let (model_mb, load_ms, duration_ms) = (MODEL_MB, LOAD.as_millis() as u64, SERVICE.as_millis() as u64);
        pool.question("simulate", json!({"model": model, "model_mb": model_mb, "load_ms": load_ms, "duration_ms": duration_ms}))
    });
    let questions = questions.into_iter().collect::<Result<Vec<_>, Fault>>()?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let answers = open_loop(&arrivals, || client.clone().ask(questions[random.random_range(0..MODELS.len())].clone())).await?;
    let after = pool.model_counts();
    let (hits, misses) = (after.hits - before.hits, after.misses - before.misses);
    Ok(Sample {
        seed,
        strategy,
        tasks: answers.len(),
        found: hits as f64 / (hits + misses) as f64,
        loads: after.loads - before.loads,
        evictions: after.evictions - before.evictions,
        latency_ms: Percentiles::of_times(answers.iter().map(|(_, answer)| answer.latency)),
    })
}

fn report(samples: &[Sample]) -> Result<PartReport, Fault> {
    let mut part =
        PartReport::new("m: 4 models on 4 GPUs of two slots that hold 2 models each, tasks of 20 ms, loads of 100 ms, 20 tasks a second");
    let of = move |strategy: Strategy| samples.iter().filter(move |sample| sample.strategy == strategy.name());
    for strategy in [Strategy::TaskSpecific, Strategy::LeastLoaded] {
        part.row(
            format!("{}: share of tasks that found their model", strategy.name()),
            Spread::of(of(strategy).map(|sample| sample.found)),
        );
        let latency = Percentiles::medians(of(strategy).map(|sample| sample.latency_ms));
        part.row(format!("{}: latency, p50 / p95 / p99 in ms", strategy.name()), latency);
        let loads = of(strategy).map(|sample| sample.loads as f64 / sample.tasks as f64);
        part.row(format!("{}: loads a task", strategy.name()), Spread::of(loads));
    }
    let pairs = of(Strategy::TaskSpecific).zip(of(Strategy::LeastLoaded));
    let ratio = Spread::of(pairs.map(|(specific, least)| specific.found / least.found));
    part.ratio("found, task_specific / least_loaded", ratio);
    part.aim("found, task_specific / least_loaded", ratio.median, Bound::AtLeast(AIM));
    part.keep_raw(samples)?;
    Ok(part)
}
