//! Part c: claims per second on one table, and what one claim costs Redis as the pool grows.
//!
//! Of each pool 95 % of the GPUs are full, and some rows' leases have passed when a sample begins, so that its claims sweep them.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use gpu_table::{GpuTable, Heartbeat, Leases, RedisTable, Telling};
use protocol::{
    ClaimAnswer, ClaimMode, ClaimRequest, GpuDescription, GpuId, GpuRow, GpuSample, Health, Holding, Incarnation, Kind, Needs, PoolName,
    TaskId, claim::Settings, gpu::Hardware, task::ComputeCapability,
};
use redis::aio::MultiplexedConnection;
use serde::Serialize;
use tests::redis::{Persistence, PrivateRedis};
use tokio::time::{Instant, sleep};

use crate::{
    Fault,
    commands::{calls, redis_cpu_us},
    options::Pace,
    report::{Bound, PartReport},
    statistics::Spread,
};

const SIZES: [usize; 3] = [8, 64, 1_000];
const STRATEGIES: [&str; 3] = ["least_loaded", "round_robin", "task_specific"];
const IN_FLIGHT: usize = 64;
/// Slots of a GPU that is not full: room for every claim of a sample.
const ROOM: u32 = 100_000;
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than the part takes: nothing lapses but what is meant to.
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(20);
const AIM: f64 = 1.5;

/// One sample.
#[derive(Debug, Serialize)]
struct Sample {
    round: usize,
    gpus: usize,
    strategy: &'static str,
    claims_per_second: f64,
    /// Redis's processor time for one claim, reading and answering it included, and for one telling of a slot that is free again.
    claim_cpu_us: f64,
    tell_cpu_us: f64,
    /// Time on the clock inside the script of one claim: other work on the machine shows in it.
    claim_script_us: f64,
}

/// One pool of the table.
struct Subject {
    gpus: usize,
    full: usize,
    dead: usize,
    pool: PoolName,
    table: RedisTable,
    /// The same table, on which rows lapse at once.
    lapsing: RedisTable,
    claimed: usize,
    /// What each GPU's worker told last.
    holdings: BTreeMap<GpuId, Holding>,
}

pub(crate) async fn measure(pace: Pace) -> Result<PartReport, Fault> {
    // A Redis of its own, without a file: the table is soft state.
    let redis = PrivateRedis::start(Persistence::Nothing).await;
    let mut connection = redis.connection().await;
    let mut subjects = Vec::new();
    for gpus in SIZES {
        subjects.push(Subject::fill(&redis, gpus).await?);
    }
    let mut samples = Vec::new();
    for round in 0..pace.rounds {
        for strategy in STRATEGIES {
            for subject in &mut subjects {
                samples.push(subject.sample(&mut connection, round, strategy, pace.claims).await?);
            }
        }
    }
    report(&samples)
}

impl Subject {
    async fn fill(redis: &PrivateRedis, gpus: usize) -> Result<Self, Fault> {
        let table = |held| RedisTable::connect(&redis.url(), "bench", Leases { held, offered: held }, TIMEOUT);
        let (table, lapsing) = (table(LONG)?, table(SHORT)?);
        let pool = PoolName::new(format!("of-{gpus}"))?;
        let mut subject =
            Self { gpus, full: gpus * 95 / 100, dead: (gpus / 20).max(1), pool, table, lapsing, claimed: 0, holdings: BTreeMap::new() };
        for number in 0..gpus {
            let is_full = number < subject.full;
            let heartbeat = subject.row(&format!("gpu-{number}"), if is_full { 1 } else { ROOM }, u32::from(is_full))?;
            subject.table.heartbeat(&heartbeat).await?;
            subject.holdings.insert(heartbeat.row.gpu.gpu_id, heartbeat.holding);
        }
        Ok(subject)
    }

    async fn sample(
        &mut self,
        connection: &mut MultiplexedConnection,
        round: usize,
        strategy: &'static str,
        claims: usize,
    ) -> Result<Sample, Fault> {
        self.let_rows_die().await?;
        let requests = self.requests(strategy, claims)?;
        let (calls_before, cpu_before) = (calls(connection).await?, redis_cpu_us(connection).await?);
        let started = Instant::now();
        let asked = stream::iter(&requests)
            .map(async |request| Ok::<_, Fault>((request.asker.clone(), self.table.claim(request).await?)))
            .buffer_unordered(IN_FLIGHT);
        let answers: Vec<(GpuId, ClaimAnswer)> = asked.try_collect().await?;
        let took = started.elapsed();
        let (cpu_claimed, calls) = (redis_cpu_us(connection).await?, calls(connection).await? - calls_before);
        let tellings = self.tellings(answers)?;
        let told = stream::iter(&tellings).map(|telling| self.table.tell(telling)).buffer_unordered(IN_FLIGHT);
        let _all: Vec<()> = told.try_collect().await?;
        let per_claim = |us: f64| us / claims as f64;
        Ok(Sample {
            round,
            gpus: self.gpus,
            strategy,
            claims_per_second: claims as f64 / took.as_secs_f64(),
            claim_cpu_us: per_claim(cpu_claimed - cpu_before),
            tell_cpu_us: per_claim(redis_cpu_us(connection).await? - cpu_claimed),
            claim_script_us: calls.script_us / calls.scripts,
        })
    }

    /// Rows with a slot held each, whose leases then pass.
    async fn let_rows_die(&self) -> Result<(), Fault> {
        let dying = (0..self.dead).map(async |number| {
            let gpu = format!("dead-{number}");
            self.lapsing.heartbeat(&self.row(&gpu, 2, 1)?).await?;
            Ok::<_, Fault>(())
        });
        try_join_all(dying).await?;
        sleep(SHORT * 2).await;
        Ok(())
    }

    /// Fresh tasks, which the workers of all GPUs ask for in turn: those that have a free slot with one of their own.
    fn requests(&mut self, strategy: &str, claims: usize) -> Result<Vec<ClaimRequest>, Fault> {
        let first = self.claimed;
        self.claimed += claims;
        (first..self.claimed).map(|number| self.request(number % self.gpus, format!("task-{number}"), strategy)).collect()
    }

    fn request(&mut self, number: usize, task: String, strategy: &str) -> Result<ClaimRequest, Fault> {
        let asker = GpuId::new(format!("gpu-{number}"))?;
        let has_slot = number >= self.full;
        Ok(ClaimRequest {
            pool: self.pool.clone(),
            task_id: TaskId::new(task)?,
            kind: Kind::new("echo")?,
            needs: Needs::default(),
            specific_gpu_id: None,
            strategy: Some(strategy.to_owned()),
            incarnation: Incarnation::new(format!("of-{asker}"))?,
            holding: self.holding(&asker, u32::from(has_slot)),
            asker,
            has_slot,
            mode: ClaimMode::Choose,
            data: None,
        })
    }

    /// What frees again the slots that were given: a worker whose claim gave it a slot has done the task, one that was offered to has taken it and done it.
    fn tellings(&mut self, asked: Vec<(GpuId, ClaimAnswer)>) -> Result<Vec<Telling>, Fault> {
        let mut tellings = Vec::new();
        for (asker, answer) in asked {
            let taken = match answer {
                ClaimAnswer::Own(_) => None,
                ClaimAnswer::Other(offer) => Some(offer),
                refused => return Err(format!("a claim was answered {refused:?}").into()),
            };
            let gpu_id = taken.as_ref().map_or(asker, |offer| offer.gpu_id.clone());
            tellings.push(Telling {
                pool: self.pool.clone(),
                incarnation: Incarnation::new(format!("of-{gpu_id}"))?,
                holding: self.holding(&gpu_id, 0),
                gpu_id,
                taken: taken.into_iter().map(|offer| offer.task_id).collect(),
            });
        }
        Ok(tellings)
    }

    /// What this GPU's worker tells next: the slots that it held at the beginning, and `more` for the task it asks for.
    fn holding(&mut self, gpu_id: &GpuId, more: u32) -> Holding {
        let holding = self.holdings.entry(gpu_id.clone()).or_default();
        holding.number += 1;
        Holding { slots: holding.slots + more, number: holding.number }
    }

    fn row(&self, gpu: &str, slots: u32, held: u32) -> Result<Heartbeat, Fault> {
        let row = GpuRow {
            gpu: GpuDescription {
                gpu_id: GpuId::new(gpu)?,
                name: "Simulated GPU".to_owned(),
                memory_total_mb: 80_000,
                compute_capability: ComputeCapability { major: 9, minor: 0 },
                hardware: Hardware::default(),
            },
            sample: GpuSample {
                memory_used_mb: 1_000,
                utilization_percent: 10.0,
                temperature_celsius: 40.0,
                power_watts: 100.0,
                sm_clock_mhz: 1_500.0,
                age_ms: 0,
                ..GpuSample::default()
            },
            pool: self.pool.clone(),
            incarnation: Incarnation::new(format!("of-{gpu}"))?,
            host: "bench".to_owned(),
            slots,
            health: Health::Healthy,
            health_reason: String::new(),
            consuming: true,
            stopping: false,
            kinds: vec![Kind::new("echo")?],
            models: Vec::new(),
            model_state: Default::default(),
            data: Default::default(),
            servers: Default::default(),
            emptied: false,
            foreign_utilization_percent: 0.0,
            waiting: 0,
            running: Vec::new(),
            item_ms: BTreeMap::new(),
            kinds_down: BTreeMap::new(),
            run_ms: BTreeMap::new(),
        };
        let holding = Holding { slots: held, number: 1 };
        Ok(Heartbeat { row, holding, taken: Vec::new(), settings: Settings::default() })
    }
}

fn report(samples: &[Sample]) -> Result<PartReport, Fault> {
    let mut part = PartReport::new(format!("c: claims, {IN_FLIGHT} in flight on one table; 95 % of the GPUs full, 5 % more dead"));
    for strategy in STRATEGIES {
        let of = |gpus: usize, value: fn(&Sample) -> f64| -> Vec<f64> {
            samples.iter().filter(|sample| (sample.gpus, sample.strategy) == (gpus, strategy)).map(value).collect()
        };
        for gpus in SIZES {
            let per_second = Spread::of(of(gpus, |sample| sample.claims_per_second));
            let claim = Spread::of(of(gpus, |sample| sample.claim_cpu_us));
            let script = Spread::of(of(gpus, |sample| sample.claim_script_us));
            let tell = Spread::of(of(gpus, |sample| sample.tell_cpu_us));
            let costs = format!("Redis CPU {claim} us a claim (script {script}), {tell} us a telling");
            part.row(format!("{strategy}, {gpus} GPUs"), format!("{per_second} claims/s; {costs}"));
        }
        let cost = |gpus| of(gpus, |sample: &Sample| sample.claim_cpu_us);
        let [few, .., many] = SIZES;
        let ratio = Spread::of(cost(many).iter().zip(cost(few)).map(|(many, few)| many / few));
        part.row(format!("{strategy}: cost of a claim, {many} / {few} GPUs"), ratio);
        part.aim(format!("{strategy}: cost of a claim, {many} / {few} GPUs"), ratio.median, Bound::AtMost(AIM));
    }
    part.keep_raw(samples)?;
    Ok(part)
}
