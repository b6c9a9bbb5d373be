//! Part r: what the journal costs. Two processes of the real worker on the same servers, one that tells no steps (`journal.steps_max` 0) and one with the default, asked in turns under backlog.
//!
//! `echo` is all overhead, so that what the journal takes shows whole; `simulate` is a task that takes a millisecond. Both sides are asked by the same bare client, which tells nothing itself.

use std::time::Duration;

use protocol::config::JournalSection;
use redis::aio::MultiplexedConnection;
use serde::Serialize;
use serde_json::{Value, json};
use task_store::{StepCursor, TaskStore};

use crate::{
    Fault,
    client::Client,
    load::closed_loop,
    meter::{Cost, Meter},
    namespace::Namespace,
    options::Pace,
    report::{Bound, PartReport},
    servers::Servers,
    statistics::Spread,
    workers::Workers,
};

const IN_FLIGHT: usize = 256;
/// Steps of one page.
const PAGE: usize = 5_000;
/// The least of the throughput without a journal that is aimed at.
const AIM: f64 = 0.97;

/// A kind, and what it is asked for.
type Work = (&'static str, fn() -> Value);

const WORK: [Work; 2] =
    [("echo", || Value::String("x".repeat(1_000))), ("simulate", || json!({"duration_ms": 1, "result": "x".repeat(960)}))];

/// A worker, and whether it tells steps.
struct Side {
    tells: bool,
    workers: Workers,
}

/// One sample.
#[derive(Debug, Serialize)]
struct Sample {
    round: usize,
    kind: &'static str,
    tells: bool,
    tasks: usize,
    per_second: f64,
    cost: Cost,
}

/// What is in Redis once all is measured.
#[derive(Debug, Serialize)]
struct Kept {
    steps: usize,
    entries: u64,
    bytes: u64,
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let (client, mut meter) = (Client::connect(&servers.amqp()).await?, servers.meter().await);
    let sides = [Side::start(servers, false).await?, Side::start(servers, true).await?];
    let mut samples = Vec::new();
    // Twice as many rounds as elsewhere, for the difference is small; which side begins alternates. The first, which warms up, does not count.
    for round in 0..=pace.rounds * 2 {
        for work in WORK {
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for side in order {
                let sample = sides[side].sample(&client, &mut meter, (round, work, pace.sample)).await?;
                samples.extend(Some(sample).filter(|sample| sample.round > 0));
            }
        }
    }
    let [without, with] = sides;
    let _names = without.workers.stop().await;
    // What it told last goes with its end.
    let names = with.workers.stop().await;
    let kept = kept(servers, &names).await?;
    report(&samples, &kept)
}

impl Side {
    async fn start(servers: &Servers, tells: bool) -> Result<Self, Fault> {
        let mut names = Namespace::new(&format!("journal-{tells}"), crate::SLOTS);
        names.configuration.journal.steps_max = if tells { JournalSection::default().steps_max } else { 0 };
        Ok(Self { tells, workers: Workers::start_under(servers, names, (1, 1)).await? })
    }

    async fn sample(
        &self,
        client: &Client,
        meter: &mut Meter,
        (round, (kind, payload), lasting): (usize, Work, Duration),
    ) -> Result<Sample, Fault> {
        let (question, pids) = (self.workers.question(kind, payload())?, self.workers.pids());
        let before = meter.read(&pids).await?;
        let flow = closed_loop(IN_FLIGHT, lasting, || {
            let asking = client.clone().ask(question.clone());
            async move { Ok(asking.await?.latency) }
        })
        .await?;
        let cost = meter.read(&pids).await?.since(before, flow.tasks);
        Ok(Sample { round, kind, tells: self.tells, tasks: flow.tasks, per_second: flow.per_second(), cost })
    }
}

/// Counts what the journal has, and what it takes in Redis.
async fn kept(servers: &Servers, names: &Namespace) -> Result<Kept, Fault> {
    let store = names.store(servers).await?;
    let (mut steps, mut cursor) = (0, StepCursor::default());
    loop {
        let page = store.journal().steps_after(&cursor, PAGE).await?;
        (steps, cursor) = (steps + page.steps.len(), page.cursor);
        if !page.has_more {
            break;
        }
    }
    let mut connection = servers.connection().await;
    let key = |part: &str| format!("{}:store:{{steps}}:{part}", names.configuration.redis.prefix);
    let mut bytes = 0;
    for part in ["told", "sizes", "state"] {
        bytes += memory(&mut connection, &key(part)).await?;
    }
    let entries: u64 = redis::cmd("XLEN").arg(key("told")).query_async(&mut connection).await?;
    Ok(Kept { steps, entries, bytes })
}

/// What a key takes, in bytes; 0 where there is none.
async fn memory(connection: &mut MultiplexedConnection, key: &str) -> Result<u64, Fault> {
    let usage = redis::cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(0).to_owned();
    let bytes: Option<u64> = usage.query_async(connection).await?;
    Ok(bytes.unwrap_or(0))
}

fn report(samples: &[Sample], kept: &Kept) -> Result<PartReport, Fault> {
    let mut part =
        PartReport::new(format!("r: the journal; a worker of 8 slots that tells steps beside one that does not, {IN_FLIGHT} in flight"));
    for (kind, _) in WORK {
        let of = |tells: bool| samples.iter().filter(move |sample| (sample.kind, sample.tells) == (kind, tells));
        // Within a round in either order.
        let paired = |figure: fn(&Sample) -> f64| {
            let other = |one: &Sample| of(false).find(|other| other.round == one.round).map_or(f64::NAN, figure);
            Spread::of(of(true).map(|one| figure(one) / other(one)))
        };
        for tells in [false, true] {
            let costs: Vec<&Cost> = of(tells).map(|sample| &sample.cost).collect();
            let per_second = Spread::of(of(tells).map(|sample| sample.per_second));
            let what = if tells { "with the journal" } else { "without" };
            part.row(format!("{kind}, {what}"), format!("{per_second}/s; {}", Cost::describe(&costs)));
        }
        let throughput = paired(|sample| sample.per_second);
        part.ratio(format!("{kind}: throughput, with / without"), throughput);
        part.ratio(
            format!("{kind}: CPU of worker and Redis a task, with / without"),
            paired(|sample| sample.cost.workers_us + sample.cost.redis_us),
        );
        let commands = |tells: bool| Spread::of(of(tells).map(|sample| sample.cost.redis_commands)).median;
        part.row(format!("{kind}: Redis commands a task that the journal adds"), format!("{:.2}", commands(true) - commands(false)));
        part.aim(format!("{kind}: throughput, with / without"), throughput.median, Bound::AtLeast(AIM));
    }
    let per_step = kept.bytes as f64 / kept.steps.max(1) as f64;
    part.row("bytes of a step in Redis", format!("{per_step:.0}; {} steps in {} entries", kept.steps, kept.entries));
    part.keep_raw(json!({"samples": serde_json::to_value(samples)?, "kept": serde_json::to_value(kept)?}))?;
    Ok(part)
}
