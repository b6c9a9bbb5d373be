//! Part d: how the throughput grows with the number of GPUs, each with one slot and 20 ms of work a task.

use serde::Serialize;

use crate::{
    Fault,
    client::{Client, Question},
    load::closed_loop,
    options::Pace,
    pool::{Pool, PoolPlan},
    report::{Bound, PartReport},
    servers::Servers,
    simulated_work,
    statistics::Spread,
};

/// How many GPUs, and the least multiple of one GPU's throughput that is aimed at.
const SIZES: [(usize, f64); 4] = [(1, 1.0), (2, 1.95), (4, 3.9), (8, 7.7)];
/// Tasks in flight per GPU: one runs, the others wait in the queue.
const IN_FLIGHT: usize = 4;

/// One sample.
#[derive(Debug, Serialize)]
struct Sample {
    round: usize,
    gpus: usize,
    per_second: f64,
    forwards_per_task: f64,
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let client = Client::connect(&servers.amqp()).await?;
    let mut pools = Vec::new();
    for (gpus, _) in SIZES {
        let plan = PoolPlan::new(format!("scaling-{gpus}"), gpus, 1);
        let pool = Pool::start(servers, plan).await?;
        let question = pool.question("simulate", simulated_work())?;
        pools.push((gpus, pool, question));
    }
    let mut samples = Vec::new();
    for round in 0..pace.rounds {
        for (gpus, pool, question) in &pools {
            samples.push(sample(&client, pool, question, Size { round, gpus: *gpus }, pace).await?);
        }
    }
    for (_, pool, _) in pools {
        pool.stop().await;
    }
    report(&samples)
}

struct Size {
    round: usize,
    gpus: usize,
}

async fn sample(client: &Client, pool: &Pool, question: &Question, size: Size, pace: Pace) -> Result<Sample, Fault> {
    let Size { round, gpus } = size;
    let forwards = pool.forwards();
    let flow = closed_loop(gpus * IN_FLIGHT, pace.scaling, || {
        let asking = client.clone().ask(question.clone());
        async move { Ok(asking.await?.latency) }
    })
    .await?;
    let forwards_per_task = (pool.forwards() - forwards) / flow.tasks as f64;
    Ok(Sample { round, gpus, per_second: flow.per_second(), forwards_per_task })
}

fn report(samples: &[Sample]) -> Result<PartReport, Fault> {
    let mut part = PartReport::new(format!("d: GPUs of one slot, tasks of 20 ms, {IN_FLIGHT} in flight per GPU"));
    let of = |wanted: usize| samples.iter().filter(move |sample| sample.gpus == wanted);
    for (gpus, aim) in SIZES {
        let per_second = Spread::of(of(gpus).map(|sample| sample.per_second));
        let forwards = Spread::of(of(gpus).map(|sample| sample.forwards_per_task));
        let multiple = Spread::of(of(gpus).zip(of(1)).map(|(many, one)| many.per_second / one.per_second));
        part.row(format!("{gpus} GPUs"), format!("{per_second}/s; {multiple} x one GPU; {:.3} forwards a task", forwards.median));
        if gpus > 1 {
            part.aim(format!("{gpus} GPUs: multiple of one"), multiple.median, Bound::AtLeast(aim));
        }
    }
    part.keep_raw(samples)?;
    Ok(part)
}
