//! Part i: how long a batch takes that is split over GPUs of one slot, beside what those GPUs could do at best; and what batches cost the single tasks beside them.

use std::time::Duration;

use futures::future::try_join_all;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Fault,
    client::{Client, Question},
    options::Pace,
    pool::{Pool, PoolPlan},
    report::{Bound, PartReport},
    servers::Servers,
    statistics::{Spread, mean},
};

const GPUS: [usize; 4] = [1, 2, 4, 8];
const ITEMS: [u32; 4] = [1, 8, 64, 512];
/// What an item takes on a GPU of full speed.
const ITEM: Duration = Duration::from_millis(5);
/// From so many items on a batch is held against the aims.
const AIMED_FROM: u32 = 64;
const AIM: f64 = 1.15;
const AIM_UNEQUAL: f64 = 1.25;
/// Single tasks of a backlog, and batches among them.
const SINGLES: usize = 400;
const BATCHES: usize = 4;
const AIM_BESIDE: f64 = 1.1;

/// One batch.
#[derive(Debug, Serialize)]
struct Sample {
    round: usize,
    gpus: usize,
    /// One of them at half speed.
    unequal: bool,
    items: u32,
    makespan_ms: f64,
    /// What the GPUs could do at best, if each item went where it ends first.
    ideal_ms: f64,
}

impl Sample {
    fn ratio(&self) -> f64 {
        self.makespan_ms / self.ideal_ms
    }
}

/// A backlog of single tasks, with batches among them and with their items as single tasks.
#[derive(Debug, Serialize)]
struct Beside {
    round: usize,
    with_batches_ms: f64,
    with_single_items_ms: f64,
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let client = Client::connect(&servers.amqp()).await?;
    let (mut samples, mut beside) = (Vec::new(), Vec::new());
    let fleets = GPUS.map(|gpus| (gpus, false)).into_iter().chain([(4, true), (8, true)]);
    for (gpus, unequal) in fleets {
        let name = format!("batches-{gpus}-{unequal}");
        let pool = Pool::start(servers, PoolPlan { slowed: usize::from(unequal), ..PoolPlan::new(name, gpus, 1) }).await?;
        // Learns what an item takes.
        makespan(&client, &pool, 64).await?;
        for round in 0..pace.rounds {
            for items in ITEMS {
                let makespan_ms = makespan(&client, &pool, items).await?;
                samples.push(Sample { round, gpus, unequal, items, makespan_ms, ideal_ms: ideal_ms(items, gpus, unequal) });
            }
            if (gpus, unequal) == (4, false) {
                beside.push(backlog(&client, &pool, round).await?);
            }
        }
        pool.stop().await;
    }
    report(&samples, &beside)
}

async fn makespan(client: &Client, pool: &Pool, items: u32) -> Result<f64, Fault> {
    let answer = client.clone().ask(pool.batch("simulate", vec![item(); items as usize])?).await?;
    Ok(answer.latency.as_secs_f64() * 1e3)
}

fn item() -> Value {
    json!({"duration_ms": u64::try_from(ITEM.as_millis()).unwrap_or(u64::MAX)})
}

/// Each item to the GPU that has done with it first.
fn ideal_ms(items: u32, gpus: usize, unequal: bool) -> f64 {
    let item_ms = ITEM.as_secs_f64() * 1e3;
    let takes: Vec<f64> = (0..gpus).map(|gpu| if unequal && gpu == 0 { 2.0 * item_ms } else { item_ms }).collect();
    let mut busy_ms = vec![0.0; gpus];
    for _ in 0..items {
        let ends = |gpu: &usize| busy_ms[*gpu] + takes[*gpu];
        let Some(first) = (0..gpus).min_by(|one, other| ends(one).total_cmp(&ends(other))) else { break };
        busy_ms[first] += takes[first];
    }
    busy_ms.into_iter().fold(0.0, f64::max)
}

/// A backlog that is published at once: mean latency of its single tasks.
async fn backlog(client: &Client, pool: &Pool, round: usize) -> Result<Beside, Fault> {
    const OF_A_BATCH: usize = 64;
    let single = pool.question("simulate", item())?;
    let batch = pool.batch("simulate", vec![item(); OF_A_BATCH])?;
    let others = |of: Vec<Question>| vec![of; BATCHES];
    let with_batches_ms = mean_wait(client, &single, others(vec![batch])).await?;
    let with_single_items_ms = mean_wait(client, &single, others(vec![single.clone(); OF_A_BATCH])).await?;
    Ok(Beside { round, with_batches_ms, with_single_items_ms })
}

/// Publishes the single tasks, with each of the others at its place among them, in this order. The mean latency of the single tasks, in ms.
async fn mean_wait(client: &Client, single: &Question, others: Vec<Vec<Question>>) -> Result<f64, Fault> {
    let run = SINGLES / others.len().max(1);
    let mut asked: Vec<(bool, Question)> = Vec::new();
    for other in others {
        asked.extend(std::iter::repeat_n((true, single.clone()), run));
        asked.extend(other.into_iter().map(|question| (false, question)));
    }
    // All at once: they are published in this order by one channel.
    let answers = try_join_all(asked.into_iter().map(|(counts, question)| {
        let asking = client.clone().ask(question);
        async move { Ok::<_, Fault>((counts, asking.await?.latency)) }
    }))
    .await?;
    let waits: Vec<f64> = answers.into_iter().filter(|(counts, _)| *counts).map(|(_, latency)| latency.as_secs_f64() * 1e3).collect();
    Ok(mean(&waits))
}

fn report(samples: &[Sample], beside: &[Beside]) -> Result<PartReport, Fault> {
    let mut part = PartReport::new("i: batches of 5 ms an item, split over GPUs of one slot; makespan over the best that they could do");
    for (gpus, unequal) in GPUS.map(|gpus| (gpus, false)).into_iter().chain([(4, true), (8, true)]) {
        for items in ITEMS {
            let of = || samples.iter().filter(|sample| (sample.gpus, sample.unequal, sample.items) == (gpus, unequal, items));
            let ratio = Spread::of(of().map(Sample::ratio));
            let (made, ideal) = (Spread::of(of().map(|sample| sample.makespan_ms)), Spread::of(of().map(|sample| sample.ideal_ms)));
            let fleet = if unequal { format!("{gpus} GPUs, one at half speed") } else { format!("{gpus} GPUs") };
            part.row(format!("{fleet}, {items} items"), format!("{:.1} ms of {:.1}: {ratio}", made.median, ideal.median));
            if items >= AIMED_FROM {
                let aim = if unequal { AIM_UNEQUAL } else { AIM };
                part.aim(format!("{fleet}, {items} items: makespan over ideal"), ratio.median, Bound::AtMost(aim));
            }
        }
    }
    let ratio = Spread::of(beside.iter().map(|sample| sample.with_batches_ms / sample.with_single_items_ms));
    part.ratio("a backlog's single tasks: latency beside batches over beside their items as tasks", ratio);
    part.aim("single tasks beside batches", ratio.median, Bound::AtMost(AIM_BESIDE));
    part.keep_raw(json!({"batches": samples, "beside": beside}))?;
    Ok(part)
}
