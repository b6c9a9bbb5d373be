//! Part p: `embed` (MiniLM on ONNX Runtime) through the fleet, beside the same executor called in a loop.
//!
//! The loop runs in the bench's own process, on a session that is set up as a worker's is: the same library, model and number of threads. It has the same texts at hand, and gives as many of them to each run as the
//! fleet may have, so that what is compared is everything between a client and the model. It, too, reads payloads, cuts texts into words and writes vectors down.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use devices::Device;
use executors::{
    Executor, ModelBounds, ModelCache, RunBatch,
    onnx::{OnnxModels, OnnxPlace, embed},
};
use protocol::{Reply, Segments, Task, config::ModelsSection};
use serde::Serialize;
use serde_json::{Value, json};
use tests::executing::{member_of, simulated_gpu, task};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    Fault,
    client::{Client, Question},
    load::{Flow, closed_loop},
    meter::{Cost, Meter},
    namespace::Namespace,
    options::Pace,
    report::{Bound, PartReport},
    servers::Servers,
    statistics::Spread,
    workers::Workers,
};

const KIND: &str = "embed";
/// Where `scripts/fetch-models target/onnx` puts the library and the model.
const FOLDER: &str = "target/onnx";
const MODEL: &str = "all-MiniLM-L6-v2";
/// Most texts of one run, as the kind has it.
const LARGEST: usize = 32;
/// Room for two full runs: one gathers while the other is under way.
const SLOTS: u16 = 64;
const IN_FLIGHT: [usize; 3] = [1, 8, 64];
const TEXTS: usize = 64;
/// Of the loop's texts per second.
const AIM: f64 = 0.9;

/// Who asks the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Side {
    Loop,
    Fleet,
}

/// One sample.
#[derive(Debug, Serialize)]
struct Sample {
    round: usize,
    in_flight: usize,
    side: Side,
    texts_per_s: f64,
    texts_per_run: f64,
    /// Of the loop, `client_us` is all there is.
    cost: Cost,
}

/// The executor, in this process.
struct Bare {
    embed: Arc<dyn Executor>,
    device: Arc<dyn Device>,
    tasks: Vec<Task>,
    next: AtomicUsize,
}

/// The fleet, and who asks it.
struct Fleet {
    client: Client,
    workers: Workers,
    questions: Vec<Question>,
    next: AtomicUsize,
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let (folder, mut meter) = (fetched()?, servers.meter().await);
    let bare = Bare::open(&folder).await?;
    let fleet = Fleet::start(servers, folder).await?;
    agree(&bare, &fleet).await?;
    let mut samples = Vec::new();
    // The first round, which is left out, warms up.
    for round in 0..=pace.rounds {
        for in_flight in IN_FLIGHT {
            for side in [Side::Loop, Side::Fleet] {
                let sample = sampled(&bare, &fleet, &mut meter, (round, in_flight, side, pace.scaling)).await?;
                samples.extend(Some(sample).filter(|sample| sample.round > 0));
            }
        }
    }
    let _names = fleet.workers.stop().await;
    report(&samples)
}

fn fetched() -> Result<PathBuf, Fault> {
    let missing = |_| format!("{FOLDER}/{MODEL} is missing: `scripts/fetch-models {FOLDER}` fetches it, with ONNX Runtime");
    Path::new(FOLDER).join(MODEL).canonicalize().map_err(missing)?;
    Ok(Path::new(FOLDER).canonicalize()?)
}

/// Texts of 4 to 40 words, each another one.
fn texts() -> Vec<Value> {
    const WORDS: [&str; 8] = ["the", "river", "runs", "under", "a", "bridge", "of", "stone"];
    let text =
        |number: usize| (0..4 + number * 7 % 37).map(|place| WORDS[(number + place * 3) % WORDS.len()]).collect::<Vec<_>>().join(" ");
    (0..TEXTS).map(|number| json!({"text": text(number)})).collect()
}

/// How many loops ask at once, and how many texts each gives to a run.
const fn shared_out(in_flight: usize) -> (usize, usize) {
    if in_flight <= LARGEST { (1, in_flight) } else { (in_flight / LARGEST, LARGEST) }
}

impl Bare {
    async fn open(folder: &Path) -> Result<Self, Fault> {
        let section = ModelsSection { directory: Some(folder.to_owned()), ..ModelsSection::default() };
        let models = OnnxModels::open(&section, OnnxPlace::Cpu, true).await?;
        let embed = embed(models, Arc::new(ModelCache::new(ModelBounds::default())), Some(MODEL.to_owned())).await?;
        let tasks = texts().into_iter().map(|payload| task(KIND, payload, Segments::none())).collect();
        Ok(Self { embed, device: simulated_gpu(), tasks, next: AtomicUsize::new(0) })
    }

    /// Gives the next texts to one run; their results.
    async fn run(&self, count: usize) -> Result<Vec<Value>, Fault> {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let members = (first..first + count).map(|place| member_of(&self.tasks[place % TEXTS])).collect();
        let answers = self.embed.run_batch(RunBatch { device: &self.device, members, cancel: CancellationToken::new() }).await;
        answers.into_iter().map(|answer| -> Result<Value, Fault> { Ok(answer.map_err(|failure| failure.message)?.json.to()?) }).collect()
    }

    async fn ask(&self, in_flight: usize, lasting: Duration) -> Result<Flow, Fault> {
        let (loops, count) = shared_out(in_flight);
        closed_loop(loops, lasting, move || async move {
            let started = Instant::now();
            self.run(count).await?;
            Ok(started.elapsed())
        })
        .await
    }
}

impl Fleet {
    async fn start(servers: &Servers, folder: PathBuf) -> Result<Self, Fault> {
        let mut names = Namespace::new("embed", SLOTS);
        names.configuration.models.directory = Some(folder);
        let workers = Workers::start_under(servers, names, (1, 1)).await?;
        workers.names.until_served(servers, KIND).await?;
        let questions = texts().into_iter().map(|payload| workers.question(KIND, payload)).collect::<Result<Vec<_>, Fault>>()?;
        Ok(Self { client: Client::connect(&servers.amqp()).await?, workers, questions, next: AtomicUsize::new(0) })
    }

    async fn ask(&self, in_flight: usize, lasting: Duration) -> Result<Flow, Fault> {
        closed_loop(in_flight, lasting, || {
            let place = self.next.fetch_add(1, Ordering::Relaxed) % TEXTS;
            let asking = self.client.clone().ask(self.questions[place].clone());
            async move { Ok(asking.await?.latency) }
        })
        .await
    }

    /// So many runs of several texts, and so many texts in them, until now.
    async fn ran(&self) -> Result<(f64, f64), Fault> {
        Ok((self.workers.counted("gpufleet_batch_size_count").await?, self.workers.counted("gpufleet_batch_size_sum").await?))
    }
}

/// Both give the same vector for the same text: they run the same model.
async fn agree(bare: &Bare, fleet: &Fleet) -> Result<(), Fault> {
    let answer = fleet.client.clone().ask(fleet.questions[0].clone()).await?;
    let reply = Reply::read(&Bytes::from(answer.body))?;
    let by_fleet = vector(&reply.result.to::<Value>()?)?;
    let by_loop = bare.run(1).await?.first().map(vector).ok_or("the loop gave nothing")??;
    let product: f64 = by_fleet.iter().zip(&by_loop).map(|(one, other)| one * other).sum();
    if by_fleet.len() != by_loop.len() || product < 0.999 {
        return Err(format!("fleet and loop gave vectors that are no neighbours (their product is {product:.4})").into());
    }
    Ok(())
}

fn vector(result: &Value) -> Result<Vec<f64>, Fault> {
    Ok(serde_json::from_value(result["embedding"].clone())?)
}

async fn sampled(
    bare: &Bare,
    fleet: &Fleet,
    meter: &mut Meter,
    (round, in_flight, side, lasting): (usize, usize, Side, Duration),
) -> Result<Sample, Fault> {
    let pids = fleet.workers.pids();
    let (runs, texts) = fleet.ran().await?;
    let before = meter.read(&pids).await?;
    let (flow, texts_per_ask) = match side {
        Side::Loop => (bare.ask(in_flight, lasting).await?, shared_out(in_flight).1),
        Side::Fleet => (fleet.ask(in_flight, lasting).await?, 1),
    };
    let cost = meter.read(&pids).await?.since(before, flow.tasks * texts_per_ask);
    let (runs_now, texts_now) = fleet.ran().await?;
    let texts_per_run = match side {
        Side::Loop => texts_per_ask as f64,
        Side::Fleet => (texts_now - texts) / (runs_now - runs),
    };
    Ok(Sample { round, in_flight, side, texts_per_s: flow.per_second() * texts_per_ask as f64, texts_per_run, cost })
}

fn report(samples: &[Sample]) -> Result<PartReport, Fault> {
    let mut part =
        PartReport::new(format!("p: embed with {MODEL} on the CPU, texts of 4 to 40 words, up to {LARGEST} in a run; one worker process"));
    for in_flight in IN_FLIGHT {
        let of = |side: Side| samples.iter().filter(move |sample| (sample.in_flight, sample.side) == (in_flight, side));
        for (side, name) in [(Side::Loop, "loop"), (Side::Fleet, "fleet")] {
            let (per_second, per_run) =
                (Spread::of(of(side).map(|sample| sample.texts_per_s)), Spread::of(of(side).map(|sample| sample.texts_per_run)));
            part.row(format!("{in_flight} in flight: {name}"), format!("{per_second} texts/s; {:.1} in a run", per_run.median));
            part.row("    per text", Cost::describe(&of(side).map(|sample| &sample.cost).collect::<Vec<_>>()));
        }
        let ratio = Spread::of(of(Side::Fleet).zip(of(Side::Loop)).map(|(fleet, bare)| fleet.texts_per_s / bare.texts_per_s));
        let what = format!("{in_flight} in flight: texts per second, fleet / loop");
        part.ratio(what.clone(), ratio);
        part.aim(what, ratio.median, Bound::AtLeast(AIM));
    }
    part.keep_raw(json!({"texts": samples}))?;
    Ok(part)
}
