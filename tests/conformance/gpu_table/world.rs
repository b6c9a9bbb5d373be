//! A table of either back end whose time the test moves, and short ways to say what workers do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gpu_table::{Beat, GpuTable, Heartbeat, Leases, MemoryTable, RedisTable};
use protocol::{
    Claim, ClaimAnswer, ClaimMode, ClaimRequest, DeliveryId, GpuDescription, GpuId, GpuRow, GpuSample, Health, Incarnation, PoolName,
    TaskId,
    claim::{HeldClaim, Settings},
    environment::Clock,
    gpu::Hardware,
    task::ComputeCapability,
};
use tests::redis::PrivateRedis;

/// Minutes, where a test takes milliseconds: the time that really passes meanwhile on the server decides nothing.
pub const LEASES: Leases = Leases { held: Duration::from_secs(650), offered: Duration::from_secs(350) };
pub const HELD_SECONDS: u64 = 650;
pub const OFFERED_SECONDS: u64 = 350;

/// A clock that only the test moves.
pub struct MovedClock(AtomicU64);

impl Clock for MovedClock {
    fn now_us(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

enum BackEnd {
    Memory { clock: Arc<MovedClock>, table: Arc<MemoryTable> },
    Redis { prefix: String },
}

/// A table, and the power over its time and its life.
pub struct World {
    pub table: Arc<dyn GpuTable>,
    back_end: BackEnd,
}

impl World {
    pub fn memory() -> Self {
        let clock = Arc::new(MovedClock(AtomicU64::new(1_700_000_000_000_000)));
        let table = Arc::new(MemoryTable::new(clock.clone(), LEASES));
        Self { table: table.clone(), back_end: BackEnd::Memory { clock, table } }
    }

    pub async fn redis() -> Self {
        let prefix = PrivateRedis::fresh_prefix();
        let url = PrivateRedis::shared().await.url();
        let table = RedisTable::connect(&url, &prefix, LEASES, Duration::from_secs(60)).expect("a valid URL");
        Self { table: Arc::new(table), back_end: BackEnd::Redis { prefix } }
    }

    /// Lets time pass.
    pub async fn pass(&self, seconds: u64) {
        match &self.back_end {
            BackEnd::Memory { clock, .. } => _ = clock.0.fetch_add(seconds * 1_000_000, Ordering::SeqCst),
            BackEnd::Redis { prefix } => {
                let mut connection = PrivateRedis::shared().await.connection().await;
                let mut command = redis::cmd("INCRBY");
                command.arg(format!("{prefix}:{{default}}:clock-offset-ms")).arg(seconds * 1_000);
                command.exec_async(&mut connection).await.expect("time moves");
            }
        }
    }

    /// Makes the table forget everything but the time, which goes on: a token must not be given twice.
    pub async fn forget(&self) {
        self.pass(1).await;
        match &self.back_end {
            BackEnd::Memory { table, .. } => table.clear(),
            BackEnd::Redis { prefix } => {
                let mut connection = PrivateRedis::shared().await.connection().await;
                let pattern = format!("{prefix}:*");
                let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await.expect("the keys");
                let keys: Vec<String> = keys.into_iter().filter(|key| !key.ends_with("clock-offset-ms")).collect();
                redis::cmd("DEL").arg("nothing").arg(keys).exec_async(&mut connection).await.expect("the keys go");
            }
        }
    }

    pub async fn beat(&self, heartbeat: &Heartbeat) -> Beat {
        self.table.heartbeat(heartbeat).await.expect("a heartbeat")
    }

    /// A heartbeat with this row, holding nothing.
    pub async fn join(&self, row: GpuRow) {
        self.beat(&heartbeat(row, &[])).await;
    }

    /// GPUs `a`, `b`, … with two slots each.
    pub async fn with_gpus(self, names: &[&str]) -> Self {
        for name in names {
            self.join(row(name)).await;
        }
        self
    }

    pub async fn claim(&self, request: &ClaimRequest) -> ClaimAnswer {
        self.table.claim(request).await.expect("an answer")
    }

    /// Claims, and says which GPU got it.
    pub async fn placed(&self, request: &ClaimRequest) -> String {
        claim_of(self.claim(request).await).gpu_id.to_string()
    }

    pub async fn release(&self, claim: &Claim) -> bool {
        self.table.release(claim).await.expect("an answer")
    }

    /// Fills slots of a GPU: claims by its own worker.
    pub async fn occupy(&self, name: &str, slots: u32) -> Vec<Claim> {
        let mut claims = Vec::new();
        for slot in 0..slots {
            let answer = self.claim(&here(&format!("filler-{name}-{slot}"), name)).await;
            claims.push(claim_of(answer));
        }
        claims
    }
}

pub fn pool() -> PoolName {
    PoolName::default()
}

pub fn gpu_id(name: &str) -> GpuId {
    GpuId::new(name).expect("a good id")
}

pub fn task_id(name: &str) -> TaskId {
    TaskId::new(name).expect("a good id")
}

/// What a worker takes at its first start.
pub fn incarnation(name: &str) -> Incarnation {
    Incarnation::new(format!("{name}.1")).expect("a good id")
}

/// A healthy, idle GPU with two slots, 80 GB, capability 9.0, that runs `echo`.
pub fn row(name: &str) -> GpuRow {
    GpuRow {
        gpu: GpuDescription {
            gpu_id: gpu_id(name),
            name: "a GPU".to_owned(),
            memory_total_mb: 80_000,
            compute_capability: ComputeCapability { major: 9, minor: 0 },
            hardware: Hardware::default(),
        },
        sample: GpuSample {
            memory_used_mb: 0,
            utilization_percent: 0.0,
            temperature_celsius: 40.5,
            power_watts: 100.25,
            sm_clock_mhz: 1_980.0,
            age_ms: 3,
            ..GpuSample::default()
        },
        pool: pool(),
        incarnation: incarnation(name),
        host: "host".to_owned(),
        slots: 2,
        health: Health::Healthy,
        health_reason: String::new(),
        consuming: true,
        stopping: false,
        kinds: vec!["echo".parse().expect("a kind")],
        models: Vec::new(),
        foreign_utilization_percent: 0.0,
        waiting: 0,
    }
}

/// A row with something changed.
pub fn row_with(name: &str, change: impl FnOnce(&mut GpuRow)) -> GpuRow {
    let mut row = row(name);
    change(&mut row);
    row
}

pub fn heartbeat(row: GpuRow, held: &[&Claim]) -> Heartbeat {
    Heartbeat { row, held: held.iter().map(|claim| held_claim(claim)).collect(), settings: Settings::default() }
}

pub fn held_claim(claim: &Claim) -> HeldClaim {
    HeldClaim { task_id: claim.task_id.clone(), attempt: claim.attempt, token: claim.token, delivery: DeliveryId(1) }
}

/// Attempt 1 of a task of kind `echo`, in the hand of this GPU's worker as its delivery 1.
pub fn ask(task: &str, offered_by: &str) -> ClaimRequest {
    ClaimRequest {
        pool: pool(),
        task_id: task_id(task),
        kind: "echo".parse().expect("a kind"),
        attempt: 1,
        needs: protocol::Needs::default(),
        specific_gpu_id: None,
        strategy: None,
        offered_by: gpu_id(offered_by),
        incarnation: incarnation(offered_by),
        delivery: DeliveryId(1),
        mode: ClaimMode::Choose,
    }
}

/// A request with something changed.
pub fn ask_with(task: &str, offered_by: &str, change: impl FnOnce(&mut ClaimRequest)) -> ClaimRequest {
    let mut request = ask(task, offered_by);
    change(&mut request);
    request
}

pub fn here(task: &str, offered_by: &str) -> ClaimRequest {
    ask_with(task, offered_by, |request| request.mode = ClaimMode::Here)
}

/// The claim in an answer that gives one.
pub fn claim_of(answer: ClaimAnswer) -> Claim {
    match answer {
        ClaimAnswer::Own(claim) | ClaimAnswer::Other(claim) => claim,
        none => panic!("no claim in {none:?}"),
    }
}

pub fn is_own(answer: &ClaimAnswer) -> bool {
    matches!(answer, ClaimAnswer::Own(_))
}

pub fn full_here() -> ClaimAnswer {
    ClaimAnswer::Full { fits_here: true, elsewhere: None }
}

pub fn full_elsewhere(name: &str) -> ClaimAnswer {
    ClaimAnswer::Full { fits_here: false, elsewhere: Some(gpu_id(name)) }
}
