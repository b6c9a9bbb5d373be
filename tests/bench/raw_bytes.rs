//! Part l: 1 MB of raw bytes there and back, one task at a time, beside the same bytes through a pair of pipes.
//!
//! The pipes are what any two programs on one machine pay at least: there and back, each byte is written once and read once each way. The fleet's way goes over the broker's disk and, back, through the store.

use std::{
    io::{PipeReader, PipeWriter, Read, Write, pipe},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use protocol::{Reply, Segments};
use serde::Serialize;
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::{
    Fault,
    client::Client,
    load::closed_loop,
    options::Pace,
    report::{Bound, PartReport},
    servers::Servers,
    statistics::{Percentiles, Spread},
    workers::{Workers, WorkersPlan},
};

const BYTES: usize = 1_000_000;
/// Rounds through the pipes in one sample.
const COPIES: usize = 200;
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
    let segments = Segments::of(vec![bytes()]);
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
        let pipes_ms = Percentiles::of_times(spawn_blocking(through_pipes).await??);
        samples.push(Sample { round, fleet_ms, pipes_ms });
    }
    let _names = workers.stop().await;
    report(&samples)
}

/// Bytes of every value, none of which could be left out.
fn bytes() -> Bytes {
    (0..BYTES).map(|place| (place * 31 % 251) as u8).collect()
}

/// How long each round takes: the bytes through one pipe to another thread, which sends them back through a second one when it has them all.
fn through_pipes() -> Result<Vec<Duration>, std::io::Error> {
    let ((mut there, mut forth), (mut back, mut home)) = (pipe()?, pipe()?);
    let echo = thread::spawn(move || (0..COPIES).try_for_each(|_| carry(&mut there, &mut home)));
    let (sent, mut took) = (bytes(), Vec::with_capacity(COPIES));
    for _ in 0..COPIES {
        let started = Instant::now();
        forth.write_all(&sent)?;
        let mut came = vec![0; BYTES];
        back.read_exact(&mut came)?;
        took.push(started.elapsed());
    }
    echo.join().map_err(|_| std::io::Error::other("the other end of the pipes ended before its time"))??;
    Ok(took)
}

fn carry(from: &mut PipeReader, to: &mut PipeWriter) -> Result<(), std::io::Error> {
    let mut bytes = vec![0; BYTES];
    from.read_exact(&mut bytes)?;
    to.write_all(&bytes)
}

fn report(samples: &[Sample]) -> Result<PartReport, Fault> {
    let mut part = PartReport::new("l: 1 MB of raw bytes there and back by echo, one at a time, durable and confirmed; beside two pipes");
    part.row("fleet, p50 / p95 / p99 in ms", Percentiles::medians(samples.iter().map(|sample| sample.fleet_ms)));
    part.row("through two pipes, p50 / p95 / p99 in ms", Percentiles::medians(samples.iter().map(|sample| sample.pipes_ms)));
    let ratio = Spread::of(samples.iter().map(|sample| sample.fleet_ms.p50 / sample.pipes_ms.p50));
    part.ratio("latency p50, fleet / pipes", ratio);
    part.aim("latency p50, fleet / pipes", ratio.median, Bound::AtMost(AIM));
    part.keep_raw(samples)?;
    Ok(part)
}
