//! Part f: eight worker processes of one GPU with one slot each, beside eight bare consumers in processes of their own that do the same work.
//!
//! Both are asked by the same client, in turns within a round: in a closed loop that keeps every slot busy, and at the moments of one and the same
//! Poisson process. What the fleet adds shows beside the bare consumers; what any queue on this broker and machine adds shows beside the ideal queue.

use std::time::Duration;

use serde::Serialize;

use crate::{
    Fault, SERVICE,
    bare::{BareConsumers, BarePlan, QueueKind},
    client::{Client, Question},
    ideal,
    load::{closed_loop, open_loop, poisson},
    meter::{Cost, Meter},
    options::Pace,
    proc::memory_mib,
    report::PartReport,
    servers::Servers,
    simulated_work,
    statistics::{Percentiles, Spread},
    workers::{Workers, WorkersPlan},
};

const PROCESSES: usize = 8;
/// Of the closed loop: every slot is busy, and three tasks for each wait in the queue.
const IN_FLIGHT: usize = PROCESSES * 4;
/// Of the Poisson arrivals, as a share of what eight slots can do.
const LOAD: f64 = 0.7;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Side {
    Bare,
    Fleet,
}

/// One sample of the closed loop.
#[derive(Debug, Serialize)]
struct Throughput {
    round: usize,
    side: Side,
    per_second: f64,
    forwards_per_task: f64,
    cost: Cost,
}

/// One run with Poisson arrivals.
#[derive(Debug, Serialize)]
struct Latency {
    seed: u64,
    side: Side,
    tasks: usize,
    latency_ms: Percentiles,
    /// The ideal queue, for the moments at which this side was really asked.
    ideal_ms: Percentiles,
    forwards_per_task: f64,
    cost: Cost,
}

/// All samples.
#[derive(Debug, Default, Serialize)]
struct Samples {
    throughput: Vec<Throughput>,
    latency: Vec<Latency>,
    /// Memory of each side's processes together, after all of the above, with their shares of what they have in common.
    fleet_memory_mib: f64,
    bare_memory_mib: f64,
}

/// Both sides.
struct Sides {
    workers: Workers,
    bare: BareConsumers,
    client: Client,
    meter: Meter,
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let mut sides = Sides::start(servers).await?;
    let mut samples = Samples::default();
    for round in 0..pace.rounds {
        for side in [Side::Bare, Side::Fleet] {
            samples.throughput.push(sides.throughput(round, side, pace.scaling).await?);
        }
    }
    // The first, seed 0, warms up.
    for seed in 0..=pace.arrival_runs {
        let lasting = if seed == 0 { pace.arrivals / 10 } else { pace.arrivals };
        for side in [Side::Bare, Side::Fleet] {
            let run = sides.latency(seed, side, lasting).await?;
            samples.latency.extend(Some(run).filter(|run| run.seed > 0));
        }
    }
    let memory = |pids: Vec<u32>| pids.into_iter().map(|pid| memory_mib(pid).unwrap_or(f64::NAN)).sum();
    samples.fleet_memory_mib = memory(sides.pids(Side::Fleet));
    samples.bare_memory_mib = memory(sides.pids(Side::Bare));
    let _names = sides.workers.stop().await;
    report(&samples)
}

impl Sides {
    async fn start(servers: &Servers) -> Result<Self, Fault> {
        let plan = WorkersPlan { name: "processes".to_owned(), processes: PROCESSES, gpus: 1, slots: 1 };
        let queue = "bare-processes".to_owned();
        let bare = BarePlan { queue, kind: QueueKind::Priorities, consumers: 1, prefetch: 1, service: SERVICE };
        Ok(Self {
            workers: Workers::start(servers, plan).await?,
            bare: BareConsumers::start(servers, &bare, PROCESSES).await?,
            client: Client::connect(&servers.amqp()).await?,
            meter: servers.meter().await,
        })
    }

    fn pids(&self, side: Side) -> Vec<u32> {
        match side {
            Side::Bare => self.bare.pids(),
            Side::Fleet => self.workers.pids(),
        }
    }

    fn question(&self, side: Side) -> Result<Question, Fault> {
        let question = self.workers.question("simulate", simulated_work())?;
        Ok(match side {
            Side::Bare => Question { queue: self.bare.queue.clone(), ..question },
            Side::Fleet => question,
        })
    }

    async fn throughput(&mut self, round: usize, side: Side, lasting: Duration) -> Result<Throughput, Fault> {
        let (question, pids, forwards) = (self.question(side)?, self.pids(side), self.workers.forwards().await?);
        let before = self.meter.read(&pids).await?;
        let flow = closed_loop(IN_FLIGHT, lasting, || {
            let asking = self.client.clone().ask(question.clone());
            async move { Ok(asking.await?.latency) }
        })
        .await?;
        let cost = self.meter.read(&pids).await?.since(before, flow.tasks);
        let forwards_per_task = (self.workers.forwards().await? - forwards) / flow.tasks as f64;
        Ok(Throughput { round, side, per_second: flow.per_second(), forwards_per_task, cost })
    }

    async fn latency(&mut self, seed: u64, side: Side, lasting: Duration) -> Result<Latency, Fault> {
        let (question, pids, forwards) = (self.question(side)?, self.pids(side), self.workers.forwards().await?);
        let arrivals = poisson(seed, LOAD * PROCESSES as f64 / SERVICE.as_secs_f64(), lasting);
        let before = self.meter.read(&pids).await?;
        let answers = open_loop(&arrivals, || self.client.clone().ask(question.clone())).await?;
        let cost = self.meter.read(&pids).await?.since(before, answers.len());
        let forwards_per_task = (self.workers.forwards().await? - forwards) / answers.len() as f64;
        let asked: Vec<Duration> = answers.iter().map(|(asked, _)| *asked).collect();
        Ok(Latency {
            seed,
            side,
            tasks: answers.len(),
            latency_ms: Percentiles::of_times(answers.iter().map(|(_, answer)| answer.latency)),
            ideal_ms: Percentiles::of_times(ideal::latencies(&asked, PROCESSES, SERVICE)),
            forwards_per_task,
            cost,
        })
    }
}

fn report(samples: &Samples) -> Result<PartReport, Fault> {
    let mut part =
        PartReport::new("f: 8 worker processes of one slot, tasks of 20 ms; 8 bare consumers in processes of their own beside them");
    report_throughput(&mut part, &samples.throughput);
    report_latency(&mut part, &samples.latency);
    let (fleet, bare) = (samples.fleet_memory_mib, samples.bare_memory_mib);
    part.row("memory of the 8 processes (PSS)", format!("fleet {fleet:.1} MiB, bare {bare:.1} MiB"));
    part.ratio("memory, fleet / bare", Spread::of([fleet / bare]));
    part.keep_raw(samples)?;
    Ok(part)
}

fn report_throughput(part: &mut PartReport, samples: &[Throughput]) {
    let of = |side: Side| samples.iter().filter(move |sample| sample.side == side);
    let paired =
        |value: fn(&Throughput) -> f64| Spread::of(of(Side::Fleet).zip(of(Side::Bare)).map(|(fleet, bare)| value(fleet) / value(bare)));
    for (side, name) in [(Side::Bare, "bare"), (Side::Fleet, "fleet")] {
        part.row(format!("{IN_FLIGHT} in flight: {name}"), format!("{}/s", Spread::of(of(side).map(|sample| sample.per_second))));
        part.row("    per task", costs(of(side).map(|sample| (&sample.cost, sample.forwards_per_task))));
    }
    part.ratio(format!("{IN_FLIGHT} in flight: throughput, fleet / bare"), paired(|sample| sample.per_second));
    part.ratio(format!("{IN_FLIGHT} in flight: CPU a task, fleet / bare"), paired(|sample| sample.cost.total_us()));
}

fn report_latency(part: &mut PartReport, samples: &[Latency]) {
    let of = |side: Side| samples.iter().filter(move |sample| sample.side == side);
    let paired =
        |value: fn(&Latency) -> f64| Spread::of(of(Side::Fleet).zip(of(Side::Bare)).map(|(fleet, bare)| value(fleet) / value(bare)));
    let to_ideal = |side: Side| Spread::of(of(side).map(|sample| sample.latency_ms.p99 / sample.ideal_ms.p99));
    for (side, name) in [(Side::Bare, "bare"), (Side::Fleet, "fleet")] {
        let latency = Percentiles::medians(of(side).map(|sample| sample.latency_ms));
        let ideal = Percentiles::medians(of(side).map(|sample| sample.ideal_ms));
        part.row(format!("Poisson at 70 %: {name}, p50 / p95 / p99 in ms"), format!("{latency}; ideal queue {ideal}"));
        part.row("    per task", costs(of(side).map(|sample| (&sample.cost, sample.forwards_per_task))));
    }
    part.ratio("Poisson at 70 %: p99, fleet / ideal queue", to_ideal(Side::Fleet));
    part.ratio("Poisson at 70 %: p99, bare / ideal queue", to_ideal(Side::Bare));
    part.ratio("Poisson at 70 %: p99, fleet / bare", paired(|sample| sample.latency_ms.p99));
    part.ratio("Poisson at 70 %: CPU a task, fleet / bare", paired(|sample| sample.cost.total_us()));
}

/// The medians of what a task cost, and of how often it was forwarded.
fn costs<'a>(samples: impl Iterator<Item = (&'a Cost, f64)>) -> String {
    let samples: Vec<(&Cost, f64)> = samples.collect();
    let forwards = Spread::of(samples.iter().map(|(_, forwards)| *forwards)).median;
    let costs: Vec<&Cost> = samples.into_iter().map(|(cost, _)| cost).collect();
    format!("{}; {forwards:.3} forwards", Cost::describe(&costs))
}
