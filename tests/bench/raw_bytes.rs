//! Part l: 1 MB of raw bytes there and back, one task at a time, beside the same bytes through a pair of pipes.
//!
//! The fleet's way is longer than the pipes': there through the broker, which writes the task down; back through the store, which keeps the reply, and the broker again. That is five connections and a disk, and the
//! price of a task that nothing loses. What a handler's socket takes by itself is in part o.

use bytes::Bytes;
use protocol::{Reply, Segments};
use serde::Serialize;
use serde_json::json;

use crate::{
    Fault,
    client::Client,
    load::closed_loop,
    options::Pace,
    pipes::{self, BYTES},
    report::{Bound, PartReport},
    servers::Servers,
    statistics::{Percentiles, Spread},
    workers::{Workers, WorkersPlan},
};

const AIM: f64 = 3.0;

/// One round of both.
#[derive(Debug, Serialize)]
struct Sample {
    round: usize,
    fleet_ms: Percentiles,
    pipes_ms: Percentiles,
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let plan = WorkersPlan { name: "raw-bytes".to_owned(), processes: 1, gpus: 1, slots: crate::SLOTS };
    let workers = Workers::start(servers, plan).await?;
    let client = Client::connect(&servers.amqp()).await?;
    let segments = Segments::of(vec![pipes::bytes()]);
    let question = workers.names.framed("echo", json!({"$segment": 0, "dtype": "u8", "shape": [BYTES]}), segments.clone());
    let first = client.clone().ask(question.clone()).await?;
    if Reply::read(&Bytes::from(first.body))?.segments != segments {
        return Err("the bytes came back as others".into());
    }
    let mut samples = Vec::new();
    for round in 0..pace.rounds {
        let flow = closed_loop(1, pace.single, || {
            let asking = client.clone().ask(question.clone());
            async move { Ok(asking.await?.latency) }
        });
        let fleet_ms = flow.await?.latencies_ms();
        samples.push(Sample { round, fleet_ms, pipes_ms: pipes::measure().await? });
    }
    let _names = workers.stop().await;
    report(&samples)
}

fn report(samples: &[Sample]) -> Result<PartReport, Fault> {
    let mut part = PartReport::new("l: 1 MB of raw bytes there and back by echo, one at a time, durable and confirmed; beside two pipes");
    part.row("fleet (broker's disk, store), p50 / p95 / p99 in ms", Percentiles::medians(samples.iter().map(|sample| sample.fleet_ms)));
    part.row("through two pipes alone, p50 / p95 / p99 in ms", Percentiles::medians(samples.iter().map(|sample| sample.pipes_ms)));
    let ratio = Spread::of(samples.iter().map(|sample| sample.fleet_ms.p50 / sample.pipes_ms.p50));
    part.ratio("latency p50, fleet / pipes", ratio);
    part.aim("latency p50, fleet / pipes", ratio.median, Bound::AtMost(AIM));
    part.keep_raw(samples)?;
    Ok(part)
}
