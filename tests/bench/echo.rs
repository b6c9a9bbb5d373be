//! Parts a and b: the fleet's `echo` beside a bare echo on the same broker.
//!
//! The same bare client asks both, so the ratio measures the fleet's side alone; our own producer is measured beside it. Samples of all sides
//! alternate within a round, and ratios are paired within it, because the host's speed drifts by a quarter while the bench runs.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use producer::{NewTask, Producer};
use protocol::{Kind, TaskBody};
use serde::Serialize;
use serde_json::Value;

use crate::{
    Fault,
    bare::{BareEcho, QueueKind},
    client::{Client, Question},
    load::closed_loop,
    meter::{Cost, Meter},
    options::Pace,
    pool::{Pool, PoolPlan},
    report::{Bound, PartReport},
    servers::Servers,
    statistics::{Percentiles, Spread},
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

/// One sample.
#[derive(Debug, Serialize)]
struct Sample {
    round: usize,
    workers: usize,
    in_flight: usize,
    side: Side,
    per_second: f64,
    latency_ms: Percentiles,
    forwards_per_task: f64,
    /// Why tasks were sent on, and what the table answered, over the life of the pool so far.
    forwards: BTreeMap<String, f64>,
    claims: BTreeMap<String, f64>,
    cost: Cost,
}

/// Both sides, of one size.
struct Sides {
    workers: usize,
    pool: Pool,
    client: Client,
    producer: Producer,
    bare: BareEcho,
    plain: BareEcho,
    fleet_question: Question,
    meter: Meter,
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let mut samples = Vec::new();
    for workers in [1, 8] {
        let mut sides = Sides::start(servers, workers).await?;
        for round in 0..pace.rounds {
            sides.round(round, IN_FLIGHT, pace.sample, &mut samples).await?;
        }
        if workers == 1 {
            for round in 0..pace.rounds {
                sides.round(round, 1, pace.single, &mut samples).await?;
            }
        }
        sides.pool.stop().await;
    }
    report(&samples)
}

impl Sides {
    async fn start(servers: &Servers, workers: usize) -> Result<Self, Fault> {
        let amqp = servers.amqp();
        let plan = PoolPlan { name: format!("echo-{workers}"), gpus: workers, slots: crate::SLOTS, occupancy: None };
        let mut pool = Pool::start(servers, plan).await?;
        Ok(Self {
            workers,
            client: Client::connect(&amqp).await?,
            producer: pool.producer(servers).await?,
            bare: BareEcho::start(&amqp, &format!("bare-{workers}"), QueueKind::Priorities, workers).await?,
            plain: BareEcho::start(&amqp, &format!("plain-{workers}"), QueueKind::Plain, workers).await?,
            fleet_question: pool.question("echo", payload())?,
            meter: servers.meter().await,
            pool,
        })
    }

    /// One sample of each side, one after the other.
    async fn round(&mut self, round: usize, in_flight: usize, lasting: Duration, samples: &mut Vec<Sample>) -> Result<(), Fault> {
        for side in SIDES {
            let (before, forwards) = (self.meter.read().await?, self.pool.forwards());
            let flow = match side {
                Side::Fleet => self.ask(in_flight, lasting, &self.fleet_question).await?,
                Side::Bare => self.ask(in_flight, lasting, &self.bare_question(&self.bare)).await?,
                Side::BarePlain => self.ask(in_flight, lasting, &self.bare_question(&self.plain)).await?,
                Side::FleetByProducer => self.submit(in_flight, lasting).await?,
            };
            samples.push(Sample {
                round,
                workers: self.workers,
                in_flight,
                side,
                per_second: flow.per_second(),
                latency_ms: flow.latencies_ms(),
                forwards_per_task: (self.pool.forwards() - forwards) / flow.tasks as f64,
                forwards: self.pool.counts("gpufleet_forwarded_total", "reason"),
                claims: self.pool.counts("gpufleet_claims_total", "answer"),
                cost: self.meter.read().await?.since(before, flow.tasks),
            });
        }
        Ok(())
    }

    fn bare_question(&self, echo: &BareEcho) -> Question {
        Question { queue: echo.queue.clone(), ..self.fleet_question.clone() }
    }

    async fn ask(&self, in_flight: usize, lasting: Duration, question: &Question) -> Result<crate::load::Flow, Fault> {
        closed_loop(in_flight, lasting, || {
            let asking = self.client.clone().ask(question.clone());
            async move { Ok(asking.await?.latency) }
        })
        .await
    }

    async fn submit(&self, in_flight: usize, lasting: Duration) -> Result<crate::load::Flow, Fault> {
        let task = NewTask::new(Kind::new("echo")?, TaskBody { payload: payload(), ..TaskBody::default() });
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
    for (workers, in_flight) in [(1, IN_FLIGHT), (8, IN_FLIGHT), (1, 1)] {
        let of = |side: Side| -> Vec<&Sample> {
            let wanted = |sample: &&Sample| (sample.workers, sample.in_flight, sample.side) == (workers, in_flight, side);
            samples.iter().filter(wanted).collect()
        };
        for side in SIDES {
            describe(&mut part, &format!("{workers} x 8, {in_flight} in flight: {}", name(side)), &of(side));
        }
        let paired = |side: Side, value: fn(&Sample) -> f64| {
            Spread::of(of(side).iter().zip(of(Side::Bare)).map(|(sample, bare)| value(sample) / value(bare)).collect::<Vec<_>>())
        };
        let value: fn(&Sample) -> f64 = if in_flight == 1 { |sample| sample.latency_ms.p50 } else { |sample| sample.per_second };
        let what = if in_flight == 1 { "latency p50" } else { "throughput" };
        for side in [Side::Fleet, Side::FleetByProducer, Side::BarePlain] {
            part.row(format!("{workers} x 8, {in_flight} in flight: {what}, {} / bare", name(side)), paired(side, value));
        }
        let cpu: fn(&Sample) -> f64 = |sample| sample.cost.bench_us + sample.cost.redis_us + sample.cost.broker_us;
        part.row(format!("{workers} x 8, {in_flight} in flight: CPU a task, fleet / bare"), paired(Side::Fleet, cpu));
        if in_flight > 1 {
            part.aim(format!("{workers} x 8: throughput, fleet / bare"), paired(Side::Fleet, value).median, Bound::AtLeast(AIM));
        }
    }
    part.keep_raw(samples)?;
    Ok(part)
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
    let middle = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(|sample| value(sample)));
    let latency = Percentiles {
        p50: middle(|sample| sample.latency_ms.p50).median,
        p95: middle(|sample| sample.latency_ms.p95).median,
        p99: middle(|sample| sample.latency_ms.p99).median,
    };
    part.row(what, format!("{}/s; p50/95/99 {latency} ms", middle(|sample| sample.per_second)));
    let cost = format!(
        "CPU: bench {:.0} + Redis {:.0} + broker {:.0} us (strangers had {:.0} %); {:.1} scripts; {:.3} forwards",
        middle(|sample| sample.cost.bench_us).median,
        middle(|sample| sample.cost.redis_us).median,
        middle(|sample| sample.cost.broker_us).median,
        middle(|sample| sample.cost.strangers_share * 100.0).median,
        middle(|sample| sample.cost.script_calls).median,
        middle(|sample| sample.forwards_per_task).median,
    );
    part.row("    per task", cost);
}
