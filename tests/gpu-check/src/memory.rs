//! A GPU that has not enough memory.

use std::sync::{Arc, mpsc};

use devices::{
    Cuda, CudaError, Device, Use,
    nvidia::cuda::{Buffer, Lane},
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    Fault,
    bench::Bench,
    finding::{Checked, Finding},
    fleet::{Fleet, Plan},
    work::modules,
};

/// Blocks below this are not worth holding, in bytes.
const SMALLEST: usize = 64 << 10;

pub async fn out_of_memory(bench: &Bench) -> Finding {
    let gpu = bench.open().await?;
    let cuda = gpu.cuda().ok_or("no CUDA")?;
    let memory = cuda.memory().await?;
    let too_much = memory.free as usize + (64 << 20);
    let refused = cuda.run(move |lane: &Lane| lane.zeros::<u8>(too_much).map(|_| ())).await;
    if !refused.as_ref().is_err_and(CudaError::is_out_of_memory) {
        return Err(format!("an allocation of more than is free gave {refused:?}").into());
    }
    let most = memory.free as usize / 10 * 9;
    cuda.run(move |lane: &Lane| lane.zeros::<u8>(most).map(|_| ())).await?;
    let wanted = Use { memory_mb: gpu.description().memory_total_mb * 95 / 100, compute_share: 1.0 };
    let accounted = gpu.begin(wanted).err().ok_or("a reservation above memory_threshold was taken")?;
    gpu.probe().await?;
    let after = cuda.memory().await?;
    Ok(Checked::Passed(format!(
        "asking for 64 MiB more than is free is refused, 90 % of it is given; {accounted}; afterwards {} of {} MB are free",
        after.free / 1_000_000,
        after.total / 1_000_000
    )))
}

/// A product of small whole numbers: in double precision it is exact, in whatever order it is summed.
struct Product {
    rows: usize,
    inner: usize,
    columns: usize,
}

impl Product {
    /// What it takes of the GPU at once.
    fn bytes(&self) -> usize {
        (self.rows * self.inner + self.inner * self.columns + self.rows * self.columns) * size_of::<f64>()
    }

    /// Its first rows.
    fn first(&self, rows: usize) -> Value {
        let matrix = |rows: usize, columns: usize, step: usize| -> Value {
            (0..rows).map(|row| (0..columns).map(|column| Value::from((row * step + column) % 7)).collect::<Value>()).collect()
        };
        json!({"a": matrix(rows, self.inner, 3), "b": matrix(self.inner, self.columns, 5), "dtype": "f64", "check": true})
    }
}

/// Fills the GPU but for half of what a product takes, and computes it all the same.
pub async fn pieces(bench: &Bench) -> Finding {
    let asked = bench.scale.of(Product { rows: 16_384, inner: 1_024, columns: 96 }, Product { rows: 512, inner: 64, columns: 32 });
    let modules = modules()?;
    // CUDA itself is to refuse. A quick product is smaller than the megabytes in which a GPU's memory is accounted.
    let gpu = Arc::new(bench.open_up_to(bench.scale.of(1.0, 2.0)).await?);
    let cuda = gpu.cuda().ok_or("no CUDA")?.clone();
    let mut plan = Plan::of(Arc::clone(&gpu) as Arc<dyn Device>, modules.path());
    plan.configuration.worker.body_bytes_max = 256 << 20;
    // Nor is the table, because the GPU is full.
    plan.configuration.gpu.multi_gpu.memory_threshold = 2.0;
    let fleet = Fleet::of(plan).await?;
    let mut hold = Hold::on_its_lane(&cuda).await?;
    // Loads what cuBLAS needs of the GPU for products of these sizes.
    for rows in [asked.rows / 4, asked.rows / 2] {
        fleet.result("matmul", asked.first(rows)).await?;
    }
    let whole = fleet.result("matmul", asked.first(asked.rows)).await?;
    let before = fleet.splits()?;
    hold.all_but(asked.bytes() / 2).await?;
    let free = cuda.memory().await?.free;
    let in_pieces = fleet.result("matmul", asked.first(asked.rows)).await?;
    let splits = fleet.splits()? - before;
    hold.end().await?;
    let after = cuda.memory().await?.free;
    fleet.end().await?;
    if splits < 1.0 {
        return Err(format!("with {free} bytes free, a product of {} bytes was not split", asked.bytes()).into());
    }
    if in_pieces != whole || whole["max_error"] != json!(0.0) {
        return Err(
            format!("in pieces it is not the same; largest errors: {} whole, {}", whole["max_error"], in_pieces["max_error"]).into()
        );
    }
    Ok(Checked::Passed(format!(
        "with {:.1} MB free, a product that takes {:.1} MB was split {splits} times in two, and is the same as in one piece; {} MB are free again",
        free as f64 / 1e6,
        asked.bytes() as f64 / 1e6,
        after / 1_000_000
    )))
}

/// Memory that is kept on a lane of its own.
struct Hold {
    fill: mpsc::Sender<usize>,
    filled: oneshot::Receiver<()>,
    holding: tokio::task::JoinHandle<Result<(), CudaError>>,
}

impl Hold {
    /// Takes the lane, and no memory yet: the next work gets another lane.
    async fn on_its_lane(cuda: &Cuda) -> Result<Self, Fault> {
        let (fill, asked) = mpsc::channel();
        let (there, ready) = oneshot::channel();
        let (tell, filled) = oneshot::channel();
        let cuda = cuda.clone();
        let work = move |lane: &Lane| {
            // Whoever waits for these may be gone; then the channel of the next step is closed.
            let _waits = there.send(());
            let Ok(left) = asked.recv() else { return Ok(()) };
            let _held = all_but(lane, left)?;
            let _waits = tell.send(());
            let _until_the_end = asked.recv();
            Ok(())
        };
        let holding = tokio::spawn(async move { cuda.run(work).await.map(|_| ()) });
        ready.await?;
        Ok(Self { fill, filled, holding })
    }

    async fn all_but(&mut self, bytes: usize) -> Result<(), Fault> {
        self.fill.send(bytes)?;
        match (&mut self.filled).await {
            Ok(()) => Ok(()),
            Err(_) => Err("the GPU was not filled".into()),
        }
    }

    async fn end(self) -> Result<(), Fault> {
        drop(self.fill);
        Ok(self.holding.await??)
    }
}

/// All memory that is to be had, in blocks of falling size, but for `left` bytes. What is free is not asked for: a driver gives memory in larger pieces than it is asked for.
fn all_but(lane: &Lane, left: usize) -> Result<Vec<Buffer<'_, u8>>, CudaError> {
    let spared = lane.zeros::<u8>(left)?;
    let (mut held, mut block) = (Vec::new(), 1 << 40);
    while block >= SMALLEST {
        match lane.zeros::<u8>(block) {
            Ok(buffer) => held.push(buffer),
            Err(error) if error.is_out_of_memory() => block /= 2,
            Err(error) => return Err(error),
        }
    }
    drop(spared);
    lane.wait()?;
    Ok(held)
}
