//! 1 MB of raw bytes to a handler and back, without a fleet: what its socket, its process and its Python take, beside the same bytes through a pair of pipes.

use std::sync::Arc;

use devices::Device;
use executors::{
    Executor,
    handlers::{self, HandlerPlace},
};
use protocol::{Segments, Task};
use serde::Serialize;
use serde_json::json;
use tests::{
    executing::{place, run_of, simulated_gpu, task},
    program::beside_this,
    until::until,
};
use tokio::time::Instant;

use crate::{
    Fault,
    handlers::{KIND, section},
    load::{Flow, closed_loop},
    options::Pace,
    pipes,
    report::{Bound, PartReport},
    statistics::{Percentiles, Spread},
};

/// Payloads on their way at once.
const AT_ONCE: [usize; 2] = [1, 4];
const AIM: f64 = 3.0;

/// One round.
#[derive(Debug, Serialize)]
pub(crate) struct BytesSample {
    round: usize,
    pipes_ms: Percentiles,
    handler: Vec<Carried>,
}

/// What went through the handler with so many payloads on their way.
#[derive(Debug, Serialize)]
struct Carried {
    at_once: usize,
    latency_ms: Percentiles,
}

impl Carried {
    /// The time in which one payload was through: as many as were on their way share it.
    fn each_ms(&self) -> f64 {
        self.latency_ms.p50 / self.at_once as f64
    }
}

/// A handler beside a simulated GPU that nobody else uses.
struct Alone {
    executor: Arc<dyn Executor>,
    device: Arc<dyn Device>,
    task: Task,
}

pub(crate) async fn measure(pace: Pace) -> Result<Vec<BytesSample>, Fault> {
    let alone = Alone::start().await?;
    let mut samples = Vec::new();
    // The first round, which is left out, warms up.
    for round in 0..=pace.rounds {
        let pipes_ms = pipes::measure().await?;
        let mut handler = Vec::new();
        for at_once in AT_ONCE {
            handler.push(Carried { at_once, latency_ms: alone.carry(at_once, pace).await?.latencies_ms() });
        }
        samples.extend(Some(BytesSample { round, pipes_ms, handler }).filter(|sample| sample.round > 0));
    }
    alone.executor.stop().await;
    Ok(samples)
}

impl Alone {
    async fn start() -> Result<Self, Fault> {
        let place = HandlerPlace { slots: crate::SLOTS, ..place(&beside_this()?) };
        let executors = handlers::start(&section(), place).await?;
        let of_kind = executors.into_iter().find(|executor| executor.kind().as_str() == KIND);
        let executor = of_kind.ok_or_else(|| format!("the handler runs no {KIND}"))?;
        until("the handler is ready", async || executor.is_up().is_ok()).await;
        let segments = Segments::of(vec![pipes::bytes()]);
        let this = Self { executor, device: simulated_gpu(), task: task(KIND, json!({"$segment": 0}), segments.clone()) };
        if this.run().await? != segments {
            return Err("the bytes came back as others".into());
        }
        Ok(this)
    }

    async fn run(&self) -> Result<Segments, Fault> {
        let answer = self.executor.run(run_of(&self.task, &self.device)).await;
        Ok(answer.map_err(|failure| failure.message)?.segments)
    }

    async fn carry(&self, at_once: usize, pace: Pace) -> Result<Flow, Fault> {
        closed_loop(at_once, pace.single, move || async move {
            let started = Instant::now();
            self.run().await?;
            Ok(started.elapsed())
        })
        .await
    }
}

pub(crate) fn report(part: &mut PartReport, samples: &[BytesSample]) {
    let pipes = Percentiles::medians(samples.iter().map(|sample| sample.pipes_ms));
    part.row("1 MB through two pipes alone, p50 / p95 / p99 in ms", pipes);
    for (place, at_once) in AT_ONCE.into_iter().enumerate() {
        let carried = || samples.iter().map(|sample| (sample, &sample.handler[place]));
        let latency = Percentiles::medians(carried().map(|(_, carried)| carried.latency_ms));
        part.row(format!("1 MB through the handler alone, {at_once} at once, p50/95/99 in ms"), latency);
        let ratio = Spread::of(carried().map(|(sample, carried)| carried.each_ms() / sample.pipes_ms.p50));
        let what = format!("1 MB there and back, {at_once} at once, p50 for each, handler / pipes");
        part.ratio(what.clone(), ratio);
        part.aim(what, ratio.median, Bound::AtMost(AIM));
    }
}
