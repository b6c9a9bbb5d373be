//! Part c: claims per second on one table, and what one claim costs Redis as the pool grows.
//!
//! Of each pool 95 % of the GPUs are full, and some rows' leases have passed when a sample begins, so that its claims sweep them.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use gpu_table::{GpuTable, Heartbeat, Leases, RedisTable};
use protocol::{
    Claim, ClaimAnswer, ClaimMode, ClaimRequest, DeliveryId, GpuDescription, GpuId, GpuRow, GpuSample, Health, Incarnation, Kind, Needs,
    PoolName, TaskId, claim::Settings, gpu::Hardware, task::ComputeCapability,
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
    /// Redis's processor time for one claim, reading and answering it included, and for one release.
    claim_cpu_us: f64,
    release_cpu_us: f64,
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
        let subject = Self { gpus, full: gpus * 95 / 100, dead: (gpus / 20).max(1), pool, table, lapsing, claimed: 0 };
        for number in 0..gpus {
            let slots = if number < subject.full { 1 } else { ROOM };
            subject.table.heartbeat(&subject.row(&format!("gpu-{number}"), slots)?).await?;
        }
        for number in 0..subject.full {
            let gpu = format!("gpu-{number}");
            let request = ClaimRequest { mode: ClaimMode::Here, ..subject.request(&gpu, format!("fills-{number}"), "least_loaded")? };
            own(subject.table.claim(&request).await?)?;
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
        let asked = stream::iter(&requests).map(|request| self.table.claim(request)).buffer_unordered(IN_FLIGHT);
        let answers: Vec<ClaimAnswer> = asked.try_collect().await?;
        let took = started.elapsed();
        let (cpu_claimed, calls) = (redis_cpu_us(connection).await?, calls(connection).await? - calls_before);
        let given: Vec<Claim> = answers.into_iter().map(own).collect::<Result<_, _>>()?;
        let released = stream::iter(&given).map(|claim| self.table.release(claim)).buffer_unordered(IN_FLIGHT);
        let _all: Vec<bool> = released.try_collect().await?;
        let per_claim = |us: f64| us / claims as f64;
        Ok(Sample {
            round,
            gpus: self.gpus,
            strategy,
            claims_per_second: claims as f64 / took.as_secs_f64(),
            claim_cpu_us: per_claim(cpu_claimed - cpu_before),
            release_cpu_us: per_claim(redis_cpu_us(connection).await? - cpu_claimed),
            claim_script_us: calls.script_us / calls.scripts,
        })
    }

    /// Rows with a claim each, whose leases then pass.
    async fn let_rows_die(&self) -> Result<(), Fault> {
        let dying = (0..self.dead).map(async |number| {
            let gpu = format!("dead-{number}");
            self.lapsing.heartbeat(&self.row(&gpu, 2)?).await?;
            let request = ClaimRequest { mode: ClaimMode::Here, ..self.request(&gpu, format!("dies-{number}"), "least_loaded")? };
            self.lapsing.claim(&request).await?;
            Ok::<_, Fault>(())
        });
        try_join_all(dying).await?;
        sleep(SHORT * 2).await;
        Ok(())
    }

    /// Fresh tasks, offered by the workers of all GPUs in turn.
    fn requests(&mut self, strategy: &str, claims: usize) -> Result<Vec<ClaimRequest>, Fault> {
        let first = self.claimed;
        self.claimed += claims;
        (first..self.claimed)
            .map(|number| self.request(&format!("gpu-{}", number % self.gpus), format!("task-{number}"), strategy))
            .collect()
    }

    fn request(&self, gpu: &str, task: String, strategy: &str) -> Result<ClaimRequest, Fault> {
        Ok(ClaimRequest {
            pool: self.pool.clone(),
            task_id: TaskId::new(task)?,
            kind: Kind::new("echo")?,
            attempt: 1,
            needs: Needs::default(),
            specific_gpu_id: None,
            strategy: Some(strategy.to_owned()),
            offered_by: GpuId::new(gpu)?,
            incarnation: Incarnation::new(format!("of-{gpu}"))?,
            delivery: DeliveryId(1),
            mode: ClaimMode::Choose,
        })
    }

    fn row(&self, gpu: &str, slots: u32) -> Result<Heartbeat, Fault> {
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
            foreign_utilization_percent: 0.0,
            waiting: 0,
        };
        Ok(Heartbeat { row, held: Vec::new(), settings: Settings::default() })
    }
}

fn own(answer: ClaimAnswer) -> Result<Claim, Fault> {
    match answer {
        ClaimAnswer::Own(claim) | ClaimAnswer::Other(claim) => Ok(claim),
        refused => Err(format!("a claim was answered {refused:?}").into()),
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
            let release = Spread::of(of(gpus, |sample| sample.release_cpu_us));
            let costs = format!("Redis CPU {claim} us a claim (script {script}), {release} us a release");
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
