//! A table of either back end whose time the test moves, and short ways to say what workers do.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gpu_table::{Beat, GpuTable, Heartbeat, Leases, MemoryTable, RedisTable, Telling};
use protocol::{
    Choice, ClaimAnswer, ClaimMode, ClaimRequest, GpuDescription, GpuId, GpuRow, GpuSample, Health, Holding, Incarnation, Offer, PoolName,
    TaskId, claim::Settings, environment::Clock, gpu::Hardware, task::ComputeCapability,
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
    Redis { prefix: String, table: Arc<RedisTable> },
}

/// A table, the power over its time and its life, and what the simulated workers hold.
pub struct World {
    pub table: Arc<dyn GpuTable>,
    back_end: BackEnd,
    /// What each worker told last, by its incarnation.
    holdings: Mutex<BTreeMap<Incarnation, Holding>>,
}

/// A slot that a claim was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    pub gpu: String,
    pub choice: Choice,
    /// None: it is the asking GPU's own.
    pub offer: Option<Offer>,
}

impl World {
    pub fn memory() -> Self {
        let clock = Arc::new(MovedClock(AtomicU64::new(1_700_000_000_000_000)));
        let table = Arc::new(MemoryTable::new(clock.clone(), LEASES));
        Self { table: table.clone(), back_end: BackEnd::Memory { clock, table }, holdings: Mutex::default() }
    }

    pub async fn redis() -> Self {
        let prefix = PrivateRedis::fresh_prefix();
        let url = PrivateRedis::shared().await.url();
        let table = Arc::new(RedisTable::connect(&url, &prefix, LEASES, Duration::from_secs(60)).expect("a valid URL"));
        Self { table: table.clone(), back_end: BackEnd::Redis { prefix, table }, holdings: Mutex::default() }
    }

    /// Lets time pass.
    pub fn pass(&self, seconds: u64) {
        match &self.back_end {
            BackEnd::Memory { clock, .. } => _ = clock.0.fetch_add(seconds * 1_000_000, Ordering::SeqCst),
            BackEnd::Redis { table, .. } => table.move_time(Duration::from_secs(seconds)),
        }
    }

    /// Makes the table forget everything but the time, which goes on.
    pub async fn forget(&self) {
        match &self.back_end {
            BackEnd::Memory { table, .. } => table.clear(),
            BackEnd::Redis { prefix, .. } => PrivateRedis::shared().await.delete(&format!("{prefix}:*")).await,
        }
    }

    /// Bounds how many names of tensors a pool has.
    pub fn bound_tensor_names(&self, names_max: usize) {
        match &self.back_end {
            BackEnd::Memory { table, .. } => table.bound_tensor_names(names_max),
            BackEnd::Redis { table, .. } => table.bound_tensor_names(names_max),
        }
    }

    /// What this worker tells next when it holds `more` slots more (or less, below 0) than it told last.
    pub fn holding(&self, worker: &Incarnation, more: i64) -> Holding {
        let mut holdings = self.holdings.lock().expect("no test panics while it holds this");
        let holding = holdings.entry(worker.clone()).or_default();
        holding.slots = u32::try_from(i64::from(holding.slots) + more).expect("a worker holds no less than nothing");
        holding.number += 1;
        *holding
    }

    /// A heartbeat with this row and the slots that its worker holds.
    pub fn heartbeat(&self, row: GpuRow) -> Heartbeat {
        let holding = self.holding(&row.incarnation, 0);
        Heartbeat { holding, ..heartbeat(row) }
    }

    pub async fn beat(&self, heartbeat: &Heartbeat) -> Beat {
        self.table.heartbeat(heartbeat).await.expect("a heartbeat")
    }

    pub async fn join(&self, row: GpuRow) {
        self.beat(&self.heartbeat(row)).await;
    }

    /// GPUs `a`, `b`, … with two slots each.
    pub async fn with_gpus(self, names: &[&str]) -> Self {
        for name in names {
            self.join(row(name)).await;
        }
        self
    }

    /// Sends a claim as it is.
    pub async fn send(&self, request: &ClaimRequest) -> ClaimAnswer {
        self.table.claim(request).await.expect("an answer")
    }

    /// Sends a claim with what the asking worker holds, which grows by a slot if the answer gives it one.
    pub async fn claim(&self, request: &ClaimRequest) -> ClaimAnswer {
        let mut request = request.clone();
        request.holding = self.holding(&request.incarnation, 0);
        request.holding.slots += u32::from(request.has_slot);
        let answer = self.send(&request).await;
        if is_own(&answer) {
            let mut holdings = self.holdings.lock().expect("no test panics while it holds this");
            holdings.entry(request.incarnation).or_default().slots += 1;
        }
        answer
    }

    /// Claims, and says what was given.
    pub async fn place(&self, request: &ClaimRequest) -> Placed {
        match self.claim(request).await {
            ClaimAnswer::Own(choice) => Placed { gpu: request.asker.to_string(), choice, offer: None },
            ClaimAnswer::Other(offer) => Placed { gpu: offer.gpu_id.to_string(), choice: offer.choice.clone(), offer: Some(offer) },
            none => panic!("no slot in {none:?}"),
        }
    }

    /// Claims, and says which GPU got it.
    pub async fn placed(&self, request: &ClaimRequest) -> String {
        self.place(request).await.gpu
    }

    /// Frees a slot that was given: it is told, or the offer withdrawn.
    pub async fn give_back(&self, placed: &Placed) {
        match &placed.offer {
            Some(offer) => self.withdraw(offer).await,
            None => self.tell(&placed.gpu, -1, &[]).await,
        }
    }

    /// Claims for another GPU, which is offered.
    pub async fn offer(&self, request: &ClaimRequest) -> Offer {
        self.place(request).await.offer.expect("a slot of another GPU")
    }

    pub async fn withdraw(&self, offer: &Offer) {
        self.table.withdraw(offer).await.expect("an answer");
    }

    /// This GPU's worker holds `more` slots more, has taken the deliveries of these tasks, and tells it.
    pub async fn tell(&self, name: &str, more: i64, taken: &[&str]) {
        let holding = self.holding(&incarnation(name), more);
        self.send_telling(&telling(name, holding, taken)).await;
    }

    /// Sends a telling as it is.
    pub async fn send_telling(&self, telling: &Telling) {
        self.table.tell(telling).await.expect("an answer");
    }

    /// Fills slots of a GPU: its worker tells that it holds so many more.
    pub async fn occupy(&self, name: &str, slots: u32) {
        self.tell(name, i64::from(slots), &[]).await;
    }

    /// The slots of this GPU that are held or offered.
    pub async fn held(&self, name: &str) -> u32 {
        let rows = self.table.rows(&pool()).await.expect("rows");
        rows.iter().find(|view| view.row.gpu.gpu_id == gpu_id(name)).expect("a row").held
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
    }
}

/// A row with something changed.
pub fn row_with(name: &str, change: impl FnOnce(&mut GpuRow)) -> GpuRow {
    let mut row = row(name);
    change(&mut row);
    row
}

/// A heartbeat with this row, of a worker that holds nothing and has told nothing.
pub fn heartbeat(row: GpuRow) -> Heartbeat {
    Heartbeat { row, holding: Holding::default(), taken: Vec::new(), settings: Settings::default() }
}

pub fn telling(name: &str, holding: Holding, taken: &[&str]) -> Telling {
    let taken = taken.iter().map(|task| task_id(task)).collect();
    Telling { pool: pool(), gpu_id: gpu_id(name), incarnation: incarnation(name), holding, taken }
}

/// A task of kind `echo`, for which the worker of this GPU has taken its only slot.
pub fn ask(task: &str, asker: &str) -> ClaimRequest {
    ClaimRequest {
        pool: pool(),
        task_id: task_id(task),
        kind: "echo".parse().expect("a kind"),
        needs: protocol::Needs::default(),
        specific_gpu_id: None,
        strategy: None,
        asker: gpu_id(asker),
        incarnation: incarnation(asker),
        holding: Holding { slots: 1, number: 1 },
        has_slot: true,
        mode: ClaimMode::Choose,
        data: None,
    }
}

/// A request with something changed.
pub fn ask_with(task: &str, asker: &str, change: impl FnOnce(&mut ClaimRequest)) -> ClaimRequest {
    let mut request = ask(task, asker);
    change(&mut request);
    request
}

/// As by a worker that waits for a slot of its own.
pub fn ask_without_slot(task: &str, asker: &str) -> ClaimRequest {
    ask_with(task, asker, |request| request.has_slot = false)
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
