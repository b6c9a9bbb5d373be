//! What the fleet costs beside a bare loop on the same GPU, in the same minute.

use std::{
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use devices::{Device, nvidia::cuda::Source};
use futures::StreamExt;
use producer::{Many, NewTask};
use protocol::{Outcome, Reply, Segments};
use serde_json::{Value, json};

use crate::{
    Fault,
    bare::{self, small_bytes},
    bench::Bench,
    finding::{Checked, Finding},
    fleet::{Fleet, Plan, task},
    numbers::quantile,
    stamps::{Launch, Stamp, Stamped},
    work::{SAXPY, modules},
};

/// A small kernel: a thousand numbers there and back.
pub const COUNT: usize = 1_000;

fn small() -> Value {
    let numbers = vec![1.0; COUNT];
    let arguments = json!([{"u32": COUNT}, {"f32": 2.0}, {"in": {"f32": numbers}}, {"inout": {"f32": numbers}}]);
    json!({"module": "saxpy", "blocks": 4, "threads": 256, "arguments": arguments})
}

fn of_lists() -> Result<NewTask, Fault> {
    task("kernel", small())
}

/// The same work, whose numbers travel as they are.
fn of_raw_bytes() -> Result<NewTask, Fault> {
    let reference = |number: usize| json!({"$segment": number, "dtype": "f32", "shape": [COUNT]});
    let arguments = json!([{"u32": COUNT}, {"f32": 2.0}, {"in": reference(0)}, {"inout": reference(1)}]);
    let mut task = task("kernel", json!({"module": "saxpy", "blocks": 4, "threads": 256, "arguments": arguments}))?;
    task.body.segments = Segments::of(vec![small_bytes().into(), small_bytes().into()]);
    Ok(task)
}

/// Whether a reply to such a task is right: 2 × 1 + 1, a thousand times.
fn is_right(reply: &Reply) -> bool {
    let threes: Vec<u8> = [3.0_f32; COUNT].iter().flat_map(|number| number.to_le_bytes()).collect();
    reply.segments.get(0).is_some_and(|segment| *segment == threes)
}

/// One at a time, in milliseconds.
#[derive(Default)]
struct Parts {
    round_trip: Vec<f64>,
    to_executor: Vec<f64>,
    waited: Vec<f64>,
    run: Vec<f64>,
    device: Vec<f64>,
    to_launch: Vec<f64>,
}

pub async fn overhead(bench: &Bench) -> Finding {
    let count = bench.scale.of(300, 10);
    let parts = parts(bench, count).await?;
    let bare_ms = bare::each_ms(bench, count).await?;
    let p = |values: &[f64]| format!("{:.3} / {:.3}", quantile(values, 0.5), quantile(values, 0.99));
    Ok(Checked::Passed(format!(
        "ms, median / 99 %, fleet embedded, {count} of each. From submit to the executor's call {} (of it from the worker's receipt to the attempt's start {}); from submit to the launch of a kernel \
         whose numbers do not travel as JSON {}. With {COUNT} numbers as JSON there and back: round trip {}, of it the executor {}, of that the kernel by the GPU's clock {}. The same work in a bare \
         loop {}",
        p(&parts.to_executor),
        p(&parts.waited),
        p(&parts.to_launch),
        p(&parts.round_trip),
        p(&parts.run),
        p(&parts.device),
        p(&bare_ms)
    )))
}

async fn parts(bench: &Bench, count: usize) -> Result<Parts, Fault> {
    let (modules, gpu) = (modules()?, Arc::new(bench.open().await?));
    let (called, launched) = (Stamp::default(), Stamp::default());
    let cuda = gpu.cuda().ok_or("no CUDA")?;
    let source = Source { name: "saxpy.cu".to_owned(), text: SAXPY.to_owned() };
    let module = cuda.compile(&source, gpu.description().compute_capability)?;
    let mut plan = Plan::of(Arc::clone(&gpu) as Arc<dyn Device>, modules.path());
    let stamped = Stamped { executor: executors::kernel(modules.path().to_owned()), called: called.clone() };
    plan.executors = plan.executors.with(Arc::new(stamped)).with(Arc::new(Launch { module, launched: launched.clone() }));
    let fleet = Fleet::of(plan).await?;
    let mut parts = Parts::default();
    // The first of each compiles, and makes what the others find.
    fleet.result("kernel", small()).await?;
    fleet.result(Launch::KIND, Value::Null).await?;
    for _ in 0..count {
        let submitted = Instant::now();
        let reply = fleet.reply("kernel", small()).await?;
        parts.round_trip.push(submitted.elapsed().as_secs_f64() * 1e3);
        parts.to_executor.push(called.since(submitted).ok_or("the executor was not called")?);
        parts.waited.push(reply.timings.waited_ms);
        parts.run.push(reply.timings.run_ms);
        parts.device.push(reply.timings.device_ms.ok_or("the reply has no device time")?);
        let submitted = Instant::now();
        fleet.result(Launch::KIND, Value::Null).await?;
        parts.to_launch.push(launched.since(submitted).ok_or("the kernel was not launched")?);
    }
    fleet.end().await?;
    Ok(parts)
}

pub async fn throughput(bench: &Bench) -> Finding {
    against_the_bare_loop(bench, (of_lists, "JSON in and out")).await
}

pub async fn raw_throughput(bench: &Bench) -> Finding {
    against_the_bare_loop(bench, (of_raw_bytes, "raw bytes in and out; the aim is 0.5")).await
}

/// What a task is made by, and how it travels, in words.
type Made = (fn() -> Result<NewTask, Fault>, &'static str);

async fn against_the_bare_loop(bench: &Bench, (made, travels): Made) -> Finding {
    let (rounds, tasks) = (bench.scale.of(3, 1), bench.scale.of(2_000, 40));
    let mut ratios = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..rounds {
        let bare = bare::per_second(bench, tasks).await?;
        let fleet = fleet_per_second(bench, tasks, made).await?;
        ratios.push(fleet / bare);
        rates.push((fleet, bare));
    }
    let (fleet, bare): (Vec<f64>, Vec<f64>) = rates.into_iter().unzip();
    Ok(Checked::Passed(format!(
        "{:.0} tasks/s by the fleet (8 slots, {travels}), {:.0}/s by a bare loop on one stream: ratio {:.2} [{:.2}..{:.2}] in {rounds} interleaved rounds of {tasks}",
        quantile(&fleet, 0.5),
        quantile(&bare, 0.5),
        quantile(&ratios, 0.5),
        quantile(&ratios, 0.0),
        quantile(&ratios, 1.0)
    )))
}

async fn fleet_per_second(bench: &Bench, count: usize, made: fn() -> Result<NewTask, Fault>) -> Result<f64, Fault> {
    let modules = modules()?;
    let fleet = Fleet::start(bench.open().await?, modules.path()).await?;
    fleet.result("kernel", small()).await?;
    let tasks = (0..count).map(|_| made()).collect::<Result<Vec<_>, _>>()?;
    let many = Many { in_flight: NonZeroUsize::new(64).ok_or("64 is not 0")?, timeout: Duration::from_secs(60) };
    let started = Instant::now();
    let replies: Vec<_> = fleet.producer.submit_and_wait_many(tasks, many).collect().await;
    let rate = count as f64 / started.elapsed().as_secs_f64();
    for (_, reply) in replies {
        let reply = reply?;
        if reply.outcome != Outcome::Succeeded {
            return Err(format!("a task of {count} ended otherwise: {:?}", reply.error).into());
        }
        if !reply.segments.is_empty() && !is_right(&reply) {
            return Err("a task's raw bytes are not those expected".into());
        }
    }
    fleet.end().await?;
    Ok(rate)
}
