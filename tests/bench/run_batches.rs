//! Part j: tasks of one kind that run together, beside the same tasks one by one, and, where they come at random, beside the ideal queue of such runs.
//!
//! A run takes 10 ms and 0.2 ms more for each of its tasks. One GPU has one run of the kind at a time: alone, a task takes 10.2 ms, and 16 together take 13.2 ms. Both sides are processes
//! of the real worker. The one that gathers has slots for two runs, so that one gathers while one is under way. The one that does not has a single slot: more would run beside each
//! other.

use std::time::Duration;

use protocol::{Kind, Reply, config::BatchSection};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Fault,
    client::{Answer, Client},
    ideal::{RanTogether, RunsTogether},
    load::{closed_loop, open_loop, poisson},
    meter::{Cost, Meter},
    namespace::Namespace,
    options::Pace,
    report::{Bound, PartReport},
    servers::Servers,
    statistics::{Percentiles, Spread},
    workers::Workers,
};

const KIND: &str = "simulate";
/// Most tasks of a run. At 70 % of what such runs can do 848 tasks come in a second. That is about half of what a worker beside its broker, its Redis and its client can do with
/// the two cores of the machine that this was made on, so that it is the GPU that tasks wait for.
const LARGEST: u32 = 16;
const SLOTS: u16 = 32;
const FIXED: Duration = Duration::from_millis(10);
const ITEM: Duration = Duration::from_micros(200);
/// Tasks in flight for each slot in the closed loop: one runs or gathers, the others wait in the queue.
const IN_FLIGHT: usize = 4;
/// Of the Poisson arrivals, as a share of what full runs can do.
const LOAD: f64 = 0.7;
/// `batch.wait_ms` of those who gather.
const WAITS_MS: [u64; 2] = [0, 2];
const AIM: f64 = 5.0;

/// A worker, and how it runs the kind.
struct Side {
    runs: RunsTogether,
    slots: u16,
    workers: Workers,
}

/// One sample of the closed loop.
#[derive(Debug, Serialize)]
struct Throughput {
    round: usize,
    largest: u32,
    per_second: f64,
    /// NaN where each runs by itself.
    tasks_per_run: f64,
    cost: Cost,
}

/// One run with Poisson arrivals.
#[derive(Debug, Serialize)]
struct Arrivals {
    seed: u64,
    /// `batch.wait_ms`.
    gathers_ms: f64,
    tasks: usize,
    fleet: Served,
    /// The ideal queue, for the moments at which the fleet was really asked.
    ideal: Served,
    cost: Cost,
}

/// How tasks were served that ran together.
#[derive(Debug, Clone, Copy, Serialize)]
struct Served {
    latency_ms: Percentiles,
    /// The latency without what the task's run takes.
    wait_ms: Percentiles,
    tasks_per_run: f64,
}

impl Served {
    fn of(tasks: &[RanTogether]) -> Self {
        // Each run counts once: every one of its tasks is a part of it.
        let runs: f64 = tasks.iter().map(|task| 1.0 / f64::from(task.together)).sum();
        Self {
            latency_ms: Percentiles::of_times(tasks.iter().map(|task| task.wait + task.run)),
            wait_ms: Percentiles::of_times(tasks.iter().map(|task| task.wait)),
            tasks_per_run: tasks.len() as f64 / runs,
        }
    }
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let (client, mut meter) = (Client::connect(&servers.amqp()).await?, servers.meter().await);
    let alone = Side::start(servers, alone(), 1).await?;
    let mut gathering = Vec::new();
    for wait_ms in WAITS_MS {
        gathering.push(Side::start(servers, together(wait_ms), SLOTS).await?);
    }
    let mut throughput = Vec::new();
    for round in 0..pace.rounds {
        // In a closed loop nothing waits for others: the first of those who gather stands for all.
        for side in std::iter::once(&alone).chain(gathering.first()) {
            throughput.push(side.throughput(&client, &mut meter, (round, pace.scaling)).await?);
        }
    }
    let mut arrivals = Vec::new();
    // The first, seed 0, warms up.
    for seed in 0..=pace.arrival_runs {
        let lasting = if seed == 0 { pace.arrivals / 10 } else { pace.arrivals };
        for side in &gathering {
            let run = side.arrivals(&client, &mut meter, (seed, lasting)).await?;
            arrivals.extend(Some(run).filter(|run| run.seed > 0));
        }
    }
    for side in gathering.into_iter().chain([alone]) {
        let _names = side.workers.stop().await;
    }
    report(&throughput, &arrivals)
}

const fn alone() -> RunsTogether {
    RunsTogether { largest: 1, wait: Duration::ZERO, fixed: FIXED, item: ITEM }
}

const fn together(wait_ms: u64) -> RunsTogether {
    RunsTogether { largest: LARGEST, wait: Duration::from_millis(wait_ms), fixed: FIXED, item: ITEM }
}

/// What a GPU can do in a second where every run is full.
fn capacity(runs: RunsTogether) -> f64 {
    f64::from(runs.largest) / runs.takes(runs.largest).as_secs_f64()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Side {
    async fn start(servers: &Servers, runs: RunsTogether, slots: u16) -> Result<Self, Fault> {
        let wait_ms = u64::try_from(runs.wait.as_millis())?;
        let kind = Kind::new(KIND)?;
        let mut names = Namespace::new(&format!("run-batches-{}-{wait_ms}", runs.largest), slots);
        names.configuration.batch = BatchSection { wait_ms: [(kind.clone(), wait_ms)].into(), largest: [(kind, runs.largest)].into() };
        Ok(Self { runs, slots, workers: Workers::start_under(servers, names, (1, 1)).await? })
    }

    fn payload(&self) -> Value {
        json!({"batch_fixed_ms": milliseconds(self.runs.fixed), "batch_item_ms": milliseconds(self.runs.item)})
    }

    /// So many runs, and so many tasks in them, until now. None where each runs by itself.
    async fn ran(&self) -> Result<(f64, f64), Fault> {
        Ok((self.workers.counted("gpufleet_batch_size_count").await?, self.workers.counted("gpufleet_batch_size_sum").await?))
    }

    async fn throughput(&self, client: &Client, meter: &mut Meter, (round, lasting): (usize, Duration)) -> Result<Throughput, Fault> {
        let (question, pids) = (self.workers.question(KIND, self.payload())?, self.workers.pids());
        let (runs, tasks) = self.ran().await?;
        let before = meter.read(&pids).await?;
        let flow = closed_loop(usize::from(self.slots) * IN_FLIGHT, lasting, || {
            let asking = client.clone().ask(question.clone());
            async move { Ok(asking.await?.latency) }
        })
        .await?;
        let cost = meter.read(&pids).await?.since(before, flow.tasks);
        let (runs, tasks) = self.ran().await.map(|(runs_now, tasks_now)| (runs_now - runs, tasks_now - tasks))?;
        Ok(Throughput { round, largest: self.runs.largest, per_second: flow.per_second(), tasks_per_run: tasks / runs, cost })
    }

    async fn arrivals(&self, client: &Client, meter: &mut Meter, (seed, lasting): (u64, Duration)) -> Result<Arrivals, Fault> {
        let (question, pids) = (self.workers.question(KIND, self.payload())?, self.workers.pids());
        let planned = poisson(seed, LOAD * capacity(self.runs), lasting);
        let before = meter.read(&pids).await?;
        let answers = open_loop(&planned, || client.clone().ask(question.clone())).await?;
        let cost = meter.read(&pids).await?.since(before, answers.len());
        let asked: Vec<Duration> = answers.iter().map(|(asked, _)| *asked).collect();
        let served: Vec<RanTogether> = answers.iter().map(|(_, answer)| self.served(answer)).collect::<Result<_, _>>()?;
        Ok(Arrivals {
            seed,
            gathers_ms: milliseconds(self.runs.wait),
            tasks: answers.len(),
            fleet: Served::of(&served),
            ideal: Served::of(&self.runs.serve(&asked)),
            cost,
        })
    }

    /// How a task was served. The `run_ms` of its reply has the wait for its run in it, so the run's own time is that of a run of so many.
    fn served(&self, answer: &Answer) -> Result<RanTogether, Fault> {
        let reply: Reply = serde_json::from_slice(&answer.body)?;
        let together = reply.timings.batch_size.ok_or("a reply does not say how many tasks ran together")?;
        let run = self.runs.takes(together);
        Ok(RanTogether { wait: answer.latency.saturating_sub(run), run, together })
    }
}

fn report(throughput: &[Throughput], arrivals: &[Arrivals]) -> Result<PartReport, Fault> {
    let title = format!("j: runs of 10 ms and 0.2 ms a task on one GPU, up to {LARGEST} tasks together; one worker process");
    let mut part = PartReport::new(title);
    report_throughput(&mut part, throughput);
    for wait_ms in WAITS_MS {
        report_arrivals(&mut part, arrivals, together(wait_ms));
    }
    part.keep_raw(json!({"throughput": throughput, "arrivals": arrivals}))?;
    Ok(part)
}

fn report_throughput(part: &mut PartReport, samples: &[Throughput]) {
    let of = |runs: RunsTogether| samples.iter().filter(move |sample| sample.largest == runs.largest);
    for (what, runs) in [("one by one", alone()), ("together", together(0))] {
        let per_second = Spread::of(of(runs).map(|sample| sample.per_second));
        let costs: Vec<&Cost> = of(runs).map(|sample| &sample.cost).collect();
        part.row(format!("{what}: tasks"), format!("{per_second}/s of {:.0}", capacity(runs)));
        part.row("    per task", Cost::describe(&costs));
    }
    let tasks_per_run = Spread::of(of(together(0)).map(|sample| sample.tasks_per_run));
    part.row("together: tasks per run", tasks_per_run);
    let ratio = Spread::of(of(together(0)).zip(of(alone())).map(|(many, one)| many.per_second / one.per_second));
    part.ratio("tasks per second, together / one by one", ratio);
    part.aim("together / one by one", ratio.median, Bound::AtLeast(AIM));
}

fn report_arrivals(part: &mut PartReport, samples: &[Arrivals], runs: RunsTogether) {
    let gathers_ms = milliseconds(runs.wait);
    let samples: Vec<&Arrivals> = samples.iter().filter(|sample| sample.gathers_ms.total_cmp(&gathers_ms).is_eq()).collect();
    let title = format!("wait_ms {gathers_ms}, {:.0}/s", LOAD * capacity(runs));
    let fleet: fn(&Arrivals) -> Served = |sample| sample.fleet;
    let ideal: fn(&Arrivals) -> Served = |sample| sample.ideal;
    let sides = [("fleet", fleet), ("ideal queue", ideal)];
    for (who, served) in sides {
        let percentiles = |of: fn(Served) -> Percentiles| Percentiles::medians(samples.iter().map(|sample| of(served(sample))));
        let tasks_per_run = Spread::of(samples.iter().map(|sample| served(sample).tasks_per_run)).median;
        part.row(format!("{title}: {who}, latency p50 / p95 / p99 in ms"), percentiles(|served| served.latency_ms));
        part.row("    wait for the run", format!("{}; {tasks_per_run:.2} tasks per run", percentiles(|served| served.wait_ms)));
    }
    let costs: Vec<&Cost> = samples.iter().map(|sample| &sample.cost).collect();
    part.row("    per task", Cost::describe(&costs));
    let many = Served::of(&runs.serve(&poisson(0, LOAD * capacity(runs), Duration::from_secs(600))));
    part.row("    check: wait in the ideal queue over ten minutes of arrivals", many.wait_ms);
    let more = Spread::of(samples.iter().map(|sample| sample.fleet.wait_ms.p99 - sample.ideal.wait_ms.p99));
    let bound = gathers_ms + milliseconds(runs.takes(runs.largest));
    part.row(format!("{title}: p99 of the wait, fleet - ideal"), format!("{more} ms"));
    part.aim(format!("wait_ms {gathers_ms}: p99 of the wait, fleet - ideal, in ms"), more.median, Bound::AtMost(bound));
}
