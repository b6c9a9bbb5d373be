//! The list of checks, and how one is run.

use std::time::{Duration, Instant};

use futures::{FutureExt, future::BoxFuture};
use protocol::GpuId;
use serde_json::Value;

use crate::{
    bench::Bench,
    beside,
    finding::{Finding, Verdict},
    handlers, health, host, kept, memory, neighbours, onnx, own, processes, resident, speed, torch, work,
};

/// One check.
pub struct Check {
    pub name: &'static str,
    run: fn(&Bench) -> BoxFuture<'_, Finding>,
    limit: Duration,
    sees: Sees,
}

/// What CUDA shows to a check's process.
#[derive(Clone, Copy)]
enum Sees {
    Gpu,
    /// Nothing: it uses NVML alone, and leaves the GPU to the processes that it starts, even one that takes a single process at a time.
    Nothing,
}

/// What no CUDA device is called.
const NO_GPU: &str = "-1";
const LIMIT: Duration = Duration::from_secs(60);
/// A check that has no longer than this is not begun.
pub const SHORTEST: Duration = Duration::from_secs(2);
/// For what waits for kernels that never end, or moves a lot.
const LONG: Duration = Duration::from_secs(120);

const fn check(name: &'static str, run: fn(&Bench) -> BoxFuture<'_, Finding>) -> Check {
    Check { name, run, limit: LIMIT, sees: Sees::Gpu }
}

impl Check {
    const fn long(self) -> Self {
        Self { limit: LONG, ..self }
    }

    const fn without_cuda(self) -> Self {
        Self { sees: Sees::Nothing, ..self }
    }

    /// Runs it in a process of its own, for no longer than its limit and this one; also how long that took.
    pub async fn in_its_process(&self, arguments: &[String], gpu_id: &GpuId, limit: Duration) -> (Verdict, Duration) {
        let visible = match self.sees {
            Sees::Gpu => gpu_id.as_str(),
            Sees::Nothing => NO_GPU,
        };
        let started = Instant::now();
        let verdict = match own::run(arguments, Some(visible), self.limit.min(limit)).await {
            Ok(answer) => Verdict::of_json(&answer),
            Err(fault) => Verdict::of(Err(fault)),
        };
        (verdict, started.elapsed())
    }
}

/// Every check, in the order in which they run. The last ones take processes down.
pub const CHECKS: [Check; 29] = [
    check("libraries are found, with versions", |bench| host::libraries(bench).boxed()),
    check("GPUs are those that `nvidia-smi` lists", |bench| host::discovery(bench).boxed()).without_cuda(),
    check("samples agree with `nvidia-smi`", |bench| host::samples(bench).boxed()),
    check("`gpufleet doctor` describes the GPU", |bench| host::doctor(bench).boxed()),
    check("canary passes, with many seeds", |bench| work::canary(bench).boxed()),
    check("matmul agrees with double precision on the CPU", |bench| work::products(bench).boxed()),
    check("kernel is compiled, launched, and right", |bench| work::kernels(bench).boxed()),
    check("compile errors and wrong arguments are refused", |bench| work::refusals(bench).boxed()),
    check("out of memory is an answer", |bench| memory::out_of_memory(bench).boxed()),
    check("work goes on in pieces on a GPU that is full", |bench| memory::pieces(bench).boxed()).long(),
    check("memory that stays: every byte, sums, and how fast", |bench| resident::copies(bench).boxed()).long(),
    check("a GPU whose tasks fail is quarantined, and comes back", |bench| health::quarantine(bench).boxed()),
    check("fleet overhead per task, one at a time", |bench| speed::overhead(bench).boxed()),
    check("fleet throughput of a small kernel against a bare loop", |bench| speed::throughput(bench).boxed()).long(),
    check("the same, whose numbers travel as raw bytes", |bench| speed::raw_throughput(bench).boxed()).long(),
    check("tensors come to the GPU and go as fast as bare copies", |bench| kept::copies(bench).boxed()).long(),
    check("products of tensors that stay, beside sending them", |bench| kept::chain(bench).boxed()).long(),
    check("PyTorch and a worker share a GPU", |bench| beside::pytorch(bench).boxed()).long(),
    check("PyTorch's handler generates what plain PyTorch does", |bench| torch::generation(bench).boxed()).long(),
    check("PyTorch's handler gives the vectors of plain PyTorch", |bench| torch::embeddings(bench).boxed()).long(),
    check("ONNX models run on CUDA, or their kind is refused", |bench| onnx::cuda(bench).boxed()),
    check("a killed handler gives its memory back, and is started again", |bench| handlers::killed(bench).boxed()).long(),
    check("a fault in a handler's kernel ends that handler alone", |bench| handlers::fault(bench).boxed()).long(),
    check("a killed process is started again, and memory is given back", |bench| processes::killed(bench).boxed()).long().without_cuda(),
    check("another process reads a tensor where it lies", |bench| neighbours::handles(bench).boxed()),
    check("memory of tensors comes back, freed or killed", |bench| neighbours::given_back(bench).boxed()).long().without_cuda(),
    check("a fault on the GPU is noticed and ends its process alone", |bench| processes::fault(bench).boxed()).long(),
    check("the driver tells of the fault by a Xid event", |bench| processes::xid(bench).boxed()).long(),
    check("a kernel that never ends is noticed", |bench| processes::hang(bench).boxed()).long(),
];

/// Runs the check at this place in this process.
pub async fn one(place: usize, bench: &Bench) -> Value {
    let finding = match CHECKS.get(place) {
        Some(check) => (check.run)(bench).await,
        None => Err(format!("there is no check {place}").into()),
    };
    Verdict::of(finding).to_json()
}
