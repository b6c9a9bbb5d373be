//! Part o: `echo` by a handler in Python (one process, 8 tasks at once) beside the built-in `echo`, in one worker process; and raw bytes through a handler without a fleet (`handler_bytes.rs`).
//!
//! Both kinds are asked in turns by the same client, over the same broker, store and worker. What differs is the handler: its socket, its process, its Python. Its own cost a task is the difference in the processor time of
//! worker and handler together.

use std::path::{Path, PathBuf};

use protocol::config::HandlerSection;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Fault,
    client::Client,
    handler_bytes::{self, BytesSample},
    load::closed_loop,
    meter::{Cost, Meter},
    namespace::Namespace,
    options::Pace,
    proc::{descendants, processor_s},
    report::{Bound, PartReport},
    servers::Servers,
    statistics::{Percentiles, Spread},
    workers::Workers,
};

/// The handler's kind: `echo` is taken.
pub(crate) const KIND: &str = "echo.python";
const IN_FLIGHT: usize = 256;
/// What is echoed, in characters.
const CHARACTERS: usize = 1_000;
/// Of the built-in kind's throughput.
const AIM: f64 = 0.6;

/// Who runs the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Side {
    BuiltIn,
    Handler,
}

impl Side {
    const BOTH: [Self; 2] = [Self::BuiltIn, Self::Handler];

    const fn kind(self) -> &'static str {
        match self {
            Self::BuiltIn => "echo",
            Self::Handler => KIND,
        }
    }
}

/// One sample.
#[derive(Debug, Serialize)]
struct Sample {
    round: usize,
    side: Side,
    per_second: f64,
    latency_ms: Percentiles,
    /// `workers_us` is that of the worker and of the handler's process.
    cost: Cost,
    /// The part of it that the handler's process had.
    handler_us: f64,
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let (client, mut meter) = (Client::connect(&servers.amqp()).await?, servers.meter().await);
    let mut names = Namespace::new("handlers", crate::SLOTS);
    names.configuration.handlers = vec![section()];
    let workers = Workers::start_under(servers, names, (1, 1)).await?;
    workers.names.until_served(servers, KIND).await?;
    let mut samples = Vec::new();
    // The first round, which is left out, warms up.
    for round in 0..=pace.rounds {
        for side in Side::BOTH {
            let sample = sampled(&client, &mut meter, &workers, (round, side, pace)).await?;
            samples.extend(Some(sample).filter(|sample| sample.round > 0));
        }
    }
    let _names = workers.stop().await;
    let bytes = handler_bytes::measure(pace).await?;
    report(&samples, &bytes)
}

/// The handler: a file in this folder, and the package out of this repository.
pub(crate) fn section() -> HandlerSection {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package: PathBuf = tests.join("../workers/python");
    let environment = [("PYTHONPATH".to_owned(), package.display().to_string())].into();
    HandlerSection { file: Some(tests.join("bench/echo.py")), environment, ..HandlerSection::default() }
}

async fn sampled(client: &Client, meter: &mut Meter, workers: &Workers, (round, side, pace): (usize, Side, Pace)) -> Result<Sample, Fault> {
    let question = workers.question(side.kind(), Value::String("x".repeat(CHARACTERS)))?;
    let handler: Vec<u32> = workers.pids().into_iter().flat_map(descendants).collect();
    let all = [workers.pids(), handler.clone()].concat();
    let (before, handler_before) = (meter.read(&all).await?, processor_of(&handler));
    let flow = closed_loop(IN_FLIGHT, pace.sample, || {
        let asking = client.clone().ask(question.clone());
        async move { Ok(asking.await?.latency) }
    })
    .await?;
    let cost = meter.read(&all).await?.since(before, flow.tasks);
    let handler_us = (processor_of(&handler) - handler_before) * 1e6 / flow.tasks as f64;
    Ok(Sample { round, side, per_second: flow.per_second(), latency_ms: flow.latencies_ms(), cost, handler_us })
}

fn processor_of(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| processor_s(&pid.to_string()).unwrap_or(f64::NAN)).sum()
}

fn report(samples: &[Sample], bytes: &[BytesSample]) -> Result<PartReport, Fault> {
    let mut part = PartReport::new(format!(
        "o: echo of 1 kB by a handler in Python, one process of {} tasks at once; the built-in echo in the same worker",
        crate::SLOTS
    ));
    report_echo(&mut part, samples);
    handler_bytes::report(&mut part, bytes);
    part.keep_raw(json!({"echo": samples, "bytes": bytes}))?;
    Ok(part)
}

fn report_echo(part: &mut PartReport, samples: &[Sample]) {
    let of = |side: Side| samples.iter().filter(move |sample| sample.side == side);
    for (side, name) in [(Side::BuiltIn, "built-in"), (Side::Handler, "handler")] {
        let per_second = Spread::of(of(side).map(|sample| sample.per_second));
        let latency = Percentiles::medians(of(side).map(|sample| sample.latency_ms));
        part.row(format!("{IN_FLIGHT} in flight: {name}"), format!("{per_second}/s; p50/95/99 {latency} ms"));
        part.row("    per task", Cost::describe(&of(side).map(|sample| &sample.cost).collect::<Vec<_>>()));
    }
    part.row("    of it the handler's process, us", Spread::of(of(Side::Handler).map(|sample| sample.handler_us)));
    let pairs = || of(Side::Handler).zip(of(Side::BuiltIn));
    let own = Spread::of(pairs().map(|(handler, built_in)| handler.cost.workers_us - built_in.cost.workers_us));
    part.row("what the handler adds to a task, worker and its process, us", own);
    let ratio = Spread::of(pairs().map(|(handler, built_in)| handler.per_second / built_in.per_second));
    part.ratio("tasks per second, handler / built-in", ratio);
    part.aim("tasks per second, handler / built-in", ratio.median, Bound::AtLeast(AIM));
}
