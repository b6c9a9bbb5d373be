//! A pipeline of two stages over four GPUs: the second stage takes what the first one left on another GPU. Beside it the same work, each chain of which stays on one GPU.
//!
//! A task takes 20 ms, whatever else its GPU does, and a copy a quarter of that. Chains come evenly, so many that they keep one of the two slots of each GPU busy, as the work of a real GPU would keep it busy: the other
//! slot is there for copies to overlap with the work, and where they do, the last chain ends no later for them. What a copy adds to a chain's own time is told beside it; and what it costs where both slots are busy all
//! the time, so that a copy takes time from the work.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use devices::simulated::LinkSpeed;
use futures::future::{BoxFuture, FutureExt};
use protocol::{GpuId, GpuOptions, KeepAs, Segments, TaskBody, TensorName};
use serde::Serialize;
use serde_json::{Value, json};

use super::planes::content;
use crate::{
    Fault, SERVICE,
    client::{Client, Question},
    load::{closed_loop, open_loop},
    options::Pace,
    pool::Pool,
    report::{Bound, PartReport},
    statistics::{Percentiles, Spread},
};

pub(super) const GPUS: usize = 4;
pub(super) const SLOTS: u16 = 2;
/// Over it a copy takes a quarter of a task's time.
pub(super) const LINK: LinkSpeed = LinkSpeed::gb_s(0.2);
/// Of each tensor, in bytes, and the numbers that it has.
const BYTES: usize = 1_000_000;
const NUMBERS: usize = BYTES / size_of::<f32>();
/// Tasks of a chain.
const STAGES: usize = 2;
/// Chains in flight where all slots are to be busy: as many as there are slots, and as many that wait.
const IN_FLIGHT: usize = 2 * GPUS * SLOTS as usize;
/// So many names are written in turns: a name is written again when its last chain has long ended.
const NAMES: usize = 64;
const AIM: f64 = 1.05;

/// Where the stages run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Layout {
    /// The first on two GPUs, the second on the two others.
    Moving,
    /// Both on the same GPU, each of the four in turn.
    Staying,
}

const LAYOUTS: [Layout; 2] = [Layout::Staying, Layout::Moving];

impl Layout {
    const fn name(self) -> &'static str {
        match self {
            Self::Moving => "moving",
            Self::Staying => "staying",
        }
    }

    /// The GPU of each stage of a chain.
    const fn gpus(self, chain: usize) -> [usize; STAGES] {
        match self {
            Self::Moving => [chain % (GPUS / STAGES), GPUS / STAGES + chain % (GPUS / STAGES)],
            Self::Staying => [chain % GPUS; STAGES],
        }
    }
}

/// One round of one layout.
#[derive(Debug, Serialize)]
pub(super) struct Sample {
    round: usize,
    layout: Layout,
    chains: usize,
    /// From the first chain's beginning to the last one's end, chains coming evenly.
    makespan_ms: f64,
    /// Of a chain, meanwhile.
    latency_ms: Percentiles,
    /// Where all slots are busy.
    chains_per_second: f64,
}

pub(super) async fn measure(client: &Client, pool: &Pool, pace: Pace) -> Result<Vec<Sample>, Fault> {
    for gpu in 0..GPUS {
        client.clone().ask(seed(pool, gpu)?).await?;
    }
    let mut samples = Vec::new();
    // The first round, which is left out, warms up.
    for round in 0..=pace.rounds {
        let lasting = if round == 0 { pace.scaling / 5 } else { pace.scaling };
        for layout in LAYOUTS {
            let sample = Chains { client, pool, layout, begun: AtomicUsize::new(0) }.sample(round, lasting).await?;
            samples.extend(Some(sample).filter(|sample| sample.round > 0));
        }
    }
    Ok(samples)
}

/// Chains of one layout.
struct Chains<'a> {
    client: &'a Client,
    pool: &'a Pool,
    layout: Layout,
    begun: AtomicUsize,
}

impl Chains<'_> {
    async fn sample(&self, round: usize, lasting: Duration) -> Result<Sample, Fault> {
        let arrivals = evenly(lasting);
        let answers = open_loop(&arrivals, || self.begin()).await?;
        let ends = answers.iter().map(|(asked, took)| *asked + *took).max().unwrap_or_default();
        let flow = closed_loop(IN_FLIGHT, lasting, || self.begin()).await?;
        Ok(Sample {
            round,
            layout: self.layout,
            chains: answers.len(),
            makespan_ms: ends.as_secs_f64() * 1e3,
            latency_ms: Percentiles::of_times(answers.iter().map(|(_, took)| *took)),
            chains_per_second: flow.per_second(),
        })
    }

    /// The next chain: its stages one after the other, and how long it took.
    fn begin(&self) -> BoxFuture<'static, Result<Duration, Fault>> {
        let (client, questions) = (self.client.clone(), self.questions());
        async move {
            let mut took = Duration::ZERO;
            for question in questions? {
                took += client.clone().ask(question).await?.latency;
            }
            Ok(took)
        }
        .boxed()
    }

    fn questions(&self) -> Result<[Question; STAGES], Fault> {
        let chain = self.begun.fetch_add(1, Ordering::Relaxed);
        let [first, second] = self.layout.gpus(chain);
        let name = |stage: usize| format!("{}.{stage}.{}", self.layout.name(), chain % NAMES);
        let stage = |gpu: usize, input: &str, output: &str| {
            let duration_ms = SERVICE.as_millis() as u64;
            let body = TaskBody {
                keep_as: Some(KeepAs::one(TensorName::new(output)?)),
                ..on(gpu, json!({"duration_ms": duration_ms, "inputs": [{"tensor": input}]}))?
            };
            Ok::<_, Fault>(self.pool.asking("simulate", &body))
        };
        Ok([stage(first, &seed_of(first), &name(0))?, stage(second, &name(0), &name(1))?])
    }
}

/// When chains begin that keep one slot of each GPU busy.
fn evenly(lasting: Duration) -> Vec<Duration> {
    let every = SERVICE * STAGES as u32 / GPUS as u32;
    (0..).map(|chain| every * chain).take_while(|at| *at < lasting).collect()
}

/// A task for one GPU.
pub(super) fn on(gpu: usize, payload: Value) -> Result<TaskBody, Fault> {
    let gpu_options = GpuOptions { specific_gpu_id: Some(GpuId::new(format!("sim-{gpu}"))?), ..GpuOptions::default() };
    Ok(TaskBody { payload: payload.into(), gpu_options, ..TaskBody::default() })
}

/// What first stages on a GPU begin with.
fn seed_of(gpu: usize) -> String {
    format!("seed.{gpu}")
}

fn seed(pool: &Pool, gpu: usize) -> Result<Question, Fault> {
    let value = json!({"$segment": 0, "dtype": "f32", "shape": [NUMBERS]});
    let body = on(gpu, json!({"name": seed_of(gpu), "value": value}))?;
    Ok(pool.asking("tensor.put", &TaskBody { segments: Segments::of(vec![content(BYTES)]), ..body }))
}

pub(super) fn report(part: &mut PartReport, samples: &[Sample]) {
    let of = |layout: Layout| samples.iter().filter(move |sample| sample.layout == layout);
    let ratio = |value: fn(&Sample) -> f64| {
        Spread::of(of(Layout::Moving).zip(of(Layout::Staying)).map(|(moving, staying)| value(moving) / value(staying)))
    };
    for layout in LAYOUTS {
        let makespan = Spread::of(of(layout).map(|sample| sample.makespan_ms));
        let chains = Spread::of(of(layout).map(|sample| sample.chains as f64)).median;
        part.row(format!("pipeline, {}: {chains} chains of 2 x 20 ms, evenly", layout.name()), format!("{makespan} ms"));
        let latency = Percentiles::medians(of(layout).map(|sample| sample.latency_ms));
        part.row("    a chain, p50 / p95 / p99 in ms", latency);
        part.row("    with all slots busy", format!("{} chains/s", Spread::of(of(layout).map(|sample| sample.chains_per_second))));
    }
    let makespan = ratio(|sample| sample.makespan_ms);
    part.ratio("pipeline: time for all chains, moving / staying", makespan);
    part.ratio("pipeline: a chain's p50, moving / staying", ratio(|sample| sample.latency_ms.p50));
    part.ratio("pipeline: chains/s with all slots busy, moving / staying", ratio(|sample| sample.chains_per_second));
    part.aim("pipeline: time for all chains, moving / staying", makespan.median, Bound::AtMost(AIM));
}
