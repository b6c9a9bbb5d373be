//! Tensors on the GPU: how fast they come and go beside bare copies, and what it spares tasks that they stay there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use devices::{Device, HostBytes, SharedMemory, SharedPart};
use executors::Executors;
use producer::NewTask;
use protocol::{KeepAs, Outcome, Reply, Segments, TensorName};
use serde_json::{Value, json};

use crate::{
    Fault,
    bare_copies::{self, COPIES, Rates, rate},
    bench::Bench,
    finding::{Checked, Finding},
    fleet::{Fleet, Plan, task},
    numbers::{quantile, random},
    resident::fresh,
    work::modules,
};

/// Products of a chain.
const PRODUCTS: usize = 3;
/// What all products of a chain have in common.
const WEIGHTS: &str = "weights";

/// What was measured in some rounds, of the fleet and of the bare loop.
#[derive(Default)]
struct Beside {
    fleet: Vec<f64>,
    bare: Vec<f64>,
}

impl Beside {
    fn add(&mut self, fleet: f64, bare: f64) {
        self.fleet.push(fleet);
        self.bare.push(bare);
    }

    /// Both, and the one over the other.
    fn described(&self) -> String {
        let ratios: Vec<f64> = self.fleet.iter().zip(&self.bare).map(|(fleet, bare)| fleet / bare).collect();
        format!(
            "{:.1} and {:.1}, ratio {:.2} [{:.2}..{:.2}]",
            quantile(&self.fleet, 0.5),
            quantile(&self.bare, 0.5),
            quantile(&ratios, 0.5),
            quantile(&ratios, 0.0),
            quantile(&ratios, 1.0)
        )
    }
}

pub async fn copies(bench: &Bench) -> Finding {
    let (bytes, rounds) = (bench.scale.of(64 << 20, 1 << 20), bench.scale.of(5, 1));
    let (mut to_gpu, mut from_gpu) = (Beside::default(), Beside::default());
    for _ in 0..rounds {
        let bare = bare_copies::rates(bytes).await?;
        let own = rates(bench, bytes).await?;
        to_gpu.add(own.to_gpu, bare.to_gpu);
        from_gpu.add(own.from_gpu, bare.from_gpu);
    }
    Ok(Checked::Passed(format!(
        "{} MiB in pinned memory of the host, GB/s of the fleet (memory that processes share) and of bare cudarc: to the GPU {}, from it {}; {rounds} interleaved rounds of {COPIES} copies each (the aim is 0.95)",
        bytes >> 20,
        to_gpu.described(),
        from_gpu.described()
    )))
}

/// Those of the memory for tensors.
async fn rates(bench: &Bench, bytes: usize) -> Result<Rates, Fault> {
    let gpu = bench.open().await?;
    let memory = gpu.memory().ok_or("the GPU has no memory for tensors")?;
    let (data, shared) = (fresh(bench, bytes), Arc::new(SharedMemory::allocate(bytes)?));
    shared.write_at(0, &data);
    let part = || SharedPart { memory: Arc::clone(&shared), range: 0..bytes };
    let buffer = memory.allocate(bytes as u64).await?;
    // The first copy pins the memory, and is not counted.
    memory.write(&buffer, 0, HostBytes::Shared(part())).await?;
    let started = Instant::now();
    for _ in 0..COPIES {
        memory.write(&buffer, 0, HostBytes::Shared(part())).await?;
    }
    let to_gpu = rate(bytes, started.elapsed());
    // What is there at the end came from the GPU.
    shared.write_at(0, &vec![0; bytes]);
    memory.read_to(&buffer, 0, part()).await?;
    let started = Instant::now();
    for _ in 0..COPIES {
        memory.read_to(&buffer, 0, part()).await?;
    }
    let from_gpu = rate(bytes, started.elapsed());
    let mut back = vec![0; bytes];
    shared.read_at(0, &mut back);
    if back == data { Ok(Rates { to_gpu, from_gpu }) } else { Err("the bytes that came back are others".into()) }
}

/// Square matrices of whole numbers, of which three products are exact in single precision, in whatever order they are summed.
struct Matrices {
    side: usize,
    x: Bytes,
    weights: Bytes,
}

impl Matrices {
    fn new(bench: &Bench, side: usize) -> Self {
        let whole = |stream: u64| -> Bytes {
            let numbers = random(bench.seed, stream, side * side).into_iter();
            // A zero without a sign, which a product might lose.
            numbers.flat_map(|number| (number.round() as f32 + 0.0).to_le_bytes()).collect()
        };
        Self { side, x: whole(21), weights: whole(22) }
    }

    /// What stands for one that comes as raw bytes.
    fn reference(&self, segment: usize) -> Value {
        json!({"$segment": segment, "dtype": "f32", "shape": [self.side, self.side]})
    }

    /// Sends both to each product, and takes it back.
    async fn sent(&self, fleet: &Fleet) -> Result<(Bytes, Duration), Fault> {
        let started = Instant::now();
        let mut product = self.x.clone();
        for _ in 0..PRODUCTS {
            let mut task = task("matmul", json!({"a": self.reference(0), "b": self.reference(1)}))?;
            task.body.segments = Segments::of(vec![product, self.weights.clone()]);
            product = segment(&succeeded(fleet, task).await?)?;
        }
        Ok((product, started.elapsed()))
    }

    /// Puts one on the GPU.
    async fn put(&self, fleet: &Fleet, name: &str, matrix: &Bytes) -> Result<(), Fault> {
        let mut task = task("tensor.put", json!({"name": name, "value": self.reference(0)}))?;
        task.body.segments = Segments::of(vec![matrix.clone()]);
        succeeded(fleet, task).await.map(drop)
    }

    /// Multiplies what stays on the GPU, and leaves it there: how long the products took, and all of it, with the putting before and the getting after.
    async fn kept(&self, fleet: &Fleet) -> Result<(Bytes, [Duration; 2]), Fault> {
        let started = Instant::now();
        self.put(fleet, &product(0), &self.x).await?;
        let multiplying = Instant::now();
        for number in 0..PRODUCTS {
            let mut task = task("matmul", json!({"a": {"tensor": product(number)}, "b": {"tensor": WEIGHTS}}))?;
            task.body.keep_as = Some(KeepAs::one(TensorName::new(product(number + 1))?));
            succeeded(fleet, task).await?;
        }
        let products = multiplying.elapsed();
        let last = succeeded(fleet, task("tensor.get", json!({"tensor": product(PRODUCTS)}))?).await?;
        Ok((segment(&last)?, [products, started.elapsed()]))
    }
}

/// What is called so after so many products.
fn product(number: usize) -> String {
    format!("product.{number}")
}

async fn succeeded(fleet: &Fleet, task: NewTask) -> Result<Reply, Fault> {
    let reply = fleet.reply_to(task).await?;
    if reply.outcome == Outcome::Succeeded { Ok(reply) } else { Err(format!("a task ended otherwise: {:?}", reply.error).into()) }
}

fn segment(reply: &Reply) -> Result<Bytes, Fault> {
    Ok(reply.segments.get(0).ok_or("a result has no raw bytes")?.clone())
}

pub async fn chain(bench: &Bench) -> Finding {
    let (side, rounds) = (bench.scale.of(1_792, 64), bench.scale.of(5, 1));
    let modules = modules()?;
    let gpu: Arc<dyn Device> = Arc::new(bench.open().await?);
    let mut plan = Plan::of(gpu, modules.path());
    plan.configuration.worker.body_bytes_max = 64 << 20;
    plan.executors = executors::data_kinds().into_iter().fold(plan.executors, Executors::with);
    let (fleet, matrices) = (Fleet::of(plan).await?, Matrices::new(bench, side));
    matrices.put(&fleet, WEIGHTS, &matrices.weights).await?;
    let (mut sent_ms, mut kept_ms, mut in_all_ms) = (Vec::new(), Vec::new(), Vec::new());
    // The first round, which is not counted, loads what cuBLAS needs.
    for round in 0..=rounds {
        let (product, sent) = matrices.sent(&fleet).await?;
        let (same, [kept, in_all]) = matrices.kept(&fleet).await?;
        if product != same {
            return Err("the products of tensors that stay on the GPU are others than those of matrices that are sent".into());
        }
        if round > 0 {
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            sent_ms.push(ms(sent));
            kept_ms.push(ms(kept));
            in_all_ms.push(ms(in_all));
        }
    }
    fleet.end().await?;
    let over = |times: &[f64]| quantile(&sent_ms.iter().zip(times).map(|(sent, kept)| sent / kept).collect::<Vec<_>>(), 0.5);
    Ok(Checked::Passed(format!(
        "{PRODUCTS} products of {side}x{side} one after the other, ms: {:.2} on tensors that stay ({:.2} with putting the first and reading the last), {:.2} where each is sent both matrices and sends its product back: {:.1} times \
         ({:.1} times) as fast, and the same to the last bit; medians of {rounds} rounds",
        quantile(&kept_ms, 0.5),
        quantile(&in_all_ms, 0.5),
        quantile(&sent_ms, 0.5),
        over(&kept_ms),
        over(&in_all_ms)
    )))
}
