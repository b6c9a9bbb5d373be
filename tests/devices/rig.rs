//! A GPU and the hands that break it.

use std::sync::Arc;

use async_trait::async_trait;
use devices::{
    Consequence, Device, NvidiaGpu, SimulatedGpu, SimulatedKnobs, SimulatedOptions, Trouble, Use,
    nvidia::{Found, Host, NvidiaOptions},
};
use fake_nvidia::{FakeGpu, FakeMachine};

/// Bounds a hang.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(180);

/// A GPU that a case can break.
#[async_trait]
pub trait Rig: Sync {
    fn device(&self) -> &Arc<dyn Device>;
    /// Other processes use so much of its memory.
    fn others_use(&self, memory_mb: u64);
    /// Its driver gives no more samples.
    fn hang(&self);
    fn resume(&self);
    /// Its work comes out wrong.
    fn break_work(&self, broken: bool);
    /// An event that is counted, and one that takes the GPU out.
    fn two_troubles(&self);
    /// A task poisons the context.
    async fn poison(&self);
}

pub struct Simulated {
    device: Arc<dyn Device>,
    knobs: SimulatedKnobs,
}

impl Simulated {
    pub fn new() -> Self {
        let gpu = SimulatedGpu::new(SimulatedOptions::default());
        Self { knobs: gpu.knobs(), device: Arc::new(gpu) }
    }
}

#[async_trait]
impl Rig for Simulated {
    fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    fn others_use(&self, memory_mb: u64) {
        self.knobs.set_foreign_use(Use { memory_mb, compute_share: 0.5 });
    }

    fn hang(&self) {
        self.knobs.hang_samples();
    }

    fn resume(&self) {
        self.knobs.resume_samples();
    }

    fn break_work(&self, broken: bool) {
        self.knobs.fail_tasks(if broken { 1.0 } else { 0.0 }, "it computes wrongly");
    }

    fn two_troubles(&self) {
        self.knobs.trouble(Trouble { what: Consequence::Noted, reason: "Xid 63".to_owned(), xid: Some(63) });
        self.knobs.trouble(Trouble { what: Consequence::Quarantined, reason: "Xid 4711".to_owned(), xid: Some(4_711) });
    }

    async fn poison(&self) {
        self.knobs.trouble(Trouble { what: Consequence::Lost { by_a_task: true }, reason: "a fault".to_owned(), xid: None });
    }
}

pub struct Nvidia {
    device: Arc<dyn Device>,
    machine: FakeMachine,
}

/// The GPUs of this machine.
pub fn found() -> Vec<Found> {
    Host::open().unwrap().gpus().unwrap().0
}

/// The first GPU, as a worker opens it.
pub async fn first_gpu() -> NvidiaGpu {
    let opened = NvidiaGpu::open(&Host::open().unwrap(), found().remove(0), NvidiaOptions { memory_threshold: 0.9 });
    opened.unwrap().proved().await
}

/// Runs a body that waits, and not for ever.
pub fn block_on<F: Future>(body: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LONGEST, body).await.expect("the case ends") })
}

impl Nvidia {
    pub async fn open(_machine: &FakeMachine) -> Self {
        Self { device: Arc::new(first_gpu().await), machine: FakeMachine::of_environment().unwrap() }
    }

    fn change(&self, change: impl FnOnce(&mut FakeGpu)) {
        self.machine.change(|state| change(&mut state.gpus[0]));
    }
}

#[async_trait]
impl Rig for Nvidia {
    fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    fn others_use(&self, memory_mb: u64) {
        self.change(|gpu| {
            gpu.memory_used_mib = (memory_mb * 1_000_000) >> 20;
            gpu.utilization_percent = 50;
        });
    }

    fn hang(&self) {
        self.change(|gpu| gpu.nvml_hangs = true);
    }

    fn resume(&self) {
        self.change(|gpu| gpu.nvml_hangs = false);
    }

    fn break_work(&self, broken: bool) {
        self.change(|gpu| gpu.wrong_results = broken);
    }

    fn two_troubles(&self) {
        self.change(|gpu| gpu.xids.extend([63, 4_711]));
    }

    async fn poison(&self) {
        crate::work::fault(self.device.cuda().unwrap()).await;
    }
}
