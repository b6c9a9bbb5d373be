//! Parts a and b: the fleet's `echo` beside a bare echo on the same broker.
//!
//! The same bare client asks both, so the ratio measures the fleet's side alone; our own producer is measured beside it. Who answers is a process of
//! its own: the real `gpufleet worker` with so many simulated GPUs, and as many bare consumers; so the client's processor time and theirs are told
//! apart. Samples of all sides alternate within a round, and ratios are paired within it, because the host's speed drifts by a quarter while the bench
//! runs.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use producer::{NewTask, Producer, ProducerOptions};
use protocol::{Kind, TaskBody};
use serde::Serialize;
use serde_json::Value;

use crate::{
    Fault,
    bare::{BareConsumers, BarePlan, QueueKind},
    client::{Client, Question},
    load::{Flow, closed_loop},
    meter::{Cost, Meter},
    namespace::environment,
    options::Pace,
    report::{Bound, PartReport},
    servers::Servers,
    statistics::{Percentiles, Spread},
    workers::{Workers, WorkersPlan},
};

/// Tasks in flight for throughput.
const IN_FLIGHT: usize = 256;
/// What is echoed, in bytes of JSON.
const PAYLOAD_BYTES: usize = 1_024;
/// Longest wait of our own producer.
const LIMIT: Duration = Duration::from_secs(30);
const AIM: f64 = 0.6;

/// Who answers, and who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Side {
    Bare,
    Fleet,
    /// The fleet, asked by our own producer.
    FleetByProducer,
    /// A bare echo on a queue without priorities.
    BarePlain,
}

const SIDES: [Side; 4] = [Side::Bare, Side::Fleet, Side::FleetByProducer, Side::BarePlain];

/// What is compared.
#[derive(Debug, Clone, Copy)]
struct Size {
    gpus: usize,
    in_flight: usize,
}

/// A figure of a sample.
type Figure = fn(&Sample) -> f64;

/// What a task costs is shared by these; each share over all that a bare echo costs, they add up to the ratio of the two sides' costs.
const SHARES: [(&str, Figure); 4] = [
    ("client", |sample| sample.cost.client_us),
    ("workers", |sample| sample.cost.workers_us),
    ("RabbitMQ", |sample| sample.cost.broker_us),
    ("Redis", |sample| sample.cost.redis_us),
];

/// One sample.
#[derive(Debug, Serialize)]
struct Sample {
    round: usize,
    /// And bare consumers.
    gpus: usize,
    in_flight: usize,
    side: Side,
    per_second: f64,
    latency_ms: Percentiles,
    forwards_per_task: f64,
    cost: Cost,
}

/// Both sides, of one size.
struct Sides {
    gpus: usize,
    workers: Workers,
    client: Client,
    producer: Producer,
    bare: BareConsumers,
    plain: BareConsumers,
    fleet_question: Question,
    meter: Meter,
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let mut samples = Vec::new();
    for gpus in [1, 8] {
        let mut sides = Sides::start(servers, gpus).await?;
        for round in 0..pace.rounds {
            sides.round(round, IN_FLIGHT, pace.sample, &mut samples).await?;
        }
        if gpus == 1 {
            for round in 0..pace.rounds {
                sides.round(round, 1, pace.single, &mut samples).await?;
            }
        }
        let _names = sides.workers.stop().await;
    }
    report(&samples)
}

impl Sides {
    async fn start(servers: &Servers, gpus: usize) -> Result<Self, Fault> {
        let workers =
            Workers::start(servers, WorkersPlan { name: format!("echo-{gpus}"), processes: 1, gpus, slots: crate::SLOTS }).await?;
        let (queue, store) = (workers.names.queue(servers).await?, workers.names.store(servers).await?);
        let bare = |name: &str, kind| BarePlan {
            queue: format!("{name}-{gpus}"),
            kind,
            consumers: gpus,
            prefetch: crate::SLOTS,
            service: Duration::ZERO,
        };
        Ok(Self {
            gpus,
            client: Client::connect(&servers.amqp()).await?,
            producer: Producer::new(queue, Arc::new(store), environment(), ProducerOptions::default()),
            bare: BareConsumers::start(servers, &bare("bare", QueueKind::Priorities), 1).await?,
            plain: BareConsumers::start(servers, &bare("plain", QueueKind::Plain), 1).await?,
            fleet_question: workers.question("echo", payload())?,
            meter: servers.meter().await,
            workers,
        })
    }

    /// One sample of each side, one after the other.
    async fn round(&mut self, round: usize, in_flight: usize, lasting: Duration, samples: &mut Vec<Sample>) -> Result<(), Fault> {
        for side in SIDES {
            let (pids, forwards) = (self.pids(side), self.workers.forwards().await?);
            let before = self.meter.read(&pids).await?;
            let flow = match side {
                Side::Fleet => self.ask(in_flight, lasting, &self.fleet_question).await?,
                Side::Bare => self.ask(in_flight, lasting, &self.bare_question(&self.bare)).await?,
                Side::BarePlain => self.ask(in_flight, lasting, &self.bare_question(&self.plain)).await?,
                Side::FleetByProducer => self.submit(in_flight, lasting).await?,
            };
            let cost = self.meter.read(&pids).await?.since(before, flow.tasks);
            samples.push(Sample {
                round,
                gpus: self.gpus,
                in_flight,
                side,
                per_second: flow.per_second(),
                latency_ms: flow.latencies_ms(),
                forwards_per_task: (self.workers.forwards().await? - forwards) / flow.tasks as f64,
                cost,
            });
        }
        Ok(())
    }

    /// The processes that answer.
    fn pids(&self, side: Side) -> Vec<u32> {
        match side {
            Side::Fleet | Side::FleetByProducer => self.workers.pids(),
            Side::Bare => self.bare.pids(),
            Side::BarePlain => self.plain.pids(),
        }
    }

    fn bare_question(&self, consumers: &BareConsumers) -> Question {
        Question { queue: consumers.queue.clone(), ..self.fleet_question.clone() }
    }

    async fn ask(&self, in_flight: usize, lasting: Duration, question: &Question) -> Result<Flow, Fault> {
        closed_loop(in_flight, lasting, || {
            let asking = self.client.clone().ask(question.clone());
            async move { Ok(asking.await?.latency) }
        })
        .await
    }

    async fn submit(&self, in_flight: usize, lasting: Duration) -> Result<Flow, Fault> {
        let task = NewTask::new(Kind::new("echo")?, TaskBody { payload: payload().into(), ..TaskBody::default() });
        closed_loop(in_flight, lasting, || {
            let (producer, task) = (self.producer.clone(), task.clone());
            async move {
                let started = tokio::time::Instant::now();
                producer.submit_and_wait(task, LIMIT).await?;
                Ok(started.elapsed())
            }
        })
        .await
    }
}

fn payload() -> Value {
    Value::String("x".repeat(PAYLOAD_BYTES - Bytes::from_static(br#"{"payload":""}"#).len()))
}

fn report(samples: &[Sample]) -> Result<PartReport, Fault> {
    let mut part = PartReport::new("a, b: echo of 1 KiB, durable and confirmed; bare client library beside the fleet (8 slots each)");
    for (gpus, in_flight) in [(1, IN_FLIGHT), (8, IN_FLIGHT), (1, 1)] {
        report_size(&mut part, samples, Size { gpus, in_flight });
    }
    part.keep_raw(samples)?;
    Ok(part)
}

fn report_size(part: &mut PartReport, samples: &[Sample], size: Size) {
    let Size { gpus, in_flight } = size;
    let of = |side: Side| -> Vec<&Sample> {
        let wanted = |sample: &&Sample| (sample.gpus, sample.in_flight, sample.side) == (gpus, in_flight, side);
        samples.iter().filter(wanted).collect()
    };
    let paired = |side: Side, value: Figure, bare: Figure| {
        Spread::of(of(side).iter().zip(of(Side::Bare)).map(|(sample, other)| value(sample) / bare(other)))
    };
    let title = format!("{gpus} x 8, {in_flight} in flight");
    for side in SIDES {
        describe(part, &format!("{title}: {}", name(side)), &of(side));
    }
    let value: Figure = if in_flight == 1 { |sample| sample.latency_ms.p50 } else { |sample| sample.per_second };
    let what = if in_flight == 1 { "latency p50" } else { "throughput" };
    for side in [Side::Fleet, Side::FleetByProducer, Side::BarePlain] {
        part.ratio(format!("{title}: {what}, {} / bare", name(side)), paired(side, value, value));
    }
    let total: Figure = |sample| sample.cost.total_us();
    part.ratio(format!("{title}: CPU a task, fleet / bare"), paired(Side::Fleet, total, total));
    for (who, share) in SHARES {
        part.ratio(format!("    of it {who}"), paired(Side::Fleet, share, total));
        if who != "Redis" {
            part.ratio(format!("    {who}, fleet / bare"), paired(Side::Fleet, share, share));
        }
    }
    let commands = Spread::of(of(Side::Fleet).iter().map(|sample| sample.cost.redis_commands));
    part.row(format!("{title}: Redis commands a task, those inside scripts too"), commands);
    if in_flight > 1 {
        part.aim(format!("{gpus} x 8: throughput, fleet / bare"), paired(Side::Fleet, value, value).median, Bound::AtLeast(AIM));
    }
}

const fn name(side: Side) -> &'static str {
    match side {
        Side::Bare => "bare",
        Side::Fleet => "fleet",
        Side::FleetByProducer => "fleet, own producer",
        Side::BarePlain => "bare, no priorities",
    }
}

fn describe(part: &mut PartReport, what: &str, samples: &[&Sample]) {
    let latency = Percentiles::medians(samples.iter().map(|sample| sample.latency_ms));
    part.row(what, format!("{}/s; p50/95/99 {latency} ms", Spread::of(samples.iter().map(|sample| sample.per_second))));
    let costs: Vec<&Cost> = samples.iter().map(|sample| &sample.cost).collect();
    let forwards = Spread::of(samples.iter().map(|sample| sample.forwards_per_task)).median;
    part.row("    per task", format!("{}; {forwards:.3} forwards", Cost::describe(&costs)));
}
