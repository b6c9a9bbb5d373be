//! Fleets for tests, sketched: what would be observed of them.

use protocol::{
    GpuDescription, GpuId, GpuRow, GpuSample, Health, Incarnation, Kind, PoolName,
    claim::Settings,
    config::ScalingSection,
    gpu::{GpuView, Hardware, WorkerPhase},
    task::ComputeCapability,
};

use crate::{Activity, KindNumbers, Observed, Quantiles};

/// The window of every sketch, in ms.
pub(crate) const WINDOW_MS: u64 = 60_000;

/// What is observed of a fleet.
pub(crate) struct Sketch {
    pub(crate) now_ms: u64,
    pub(crate) activity: Activity,
    pub(crate) gpus: Vec<GpuView>,
    pub(crate) settings: Settings,
    pub(crate) scaling: ScalingSection,
    pub(crate) ready: Option<u64>,
    pub(crate) broker_ms: Option<f64>,
    pub(crate) store_ms: Option<f64>,
    pub(crate) table_ms: Option<f64>,
    pub(crate) broker_blocked: bool,
}

pub(crate) fn kind(name: &str) -> Kind {
    Kind::new(name).unwrap()
}

pub(crate) fn gpu_id(number: usize) -> GpuId {
    GpuId::new(format!("gpu-{number}")).unwrap()
}

impl Sketch {
    /// An idle fleet of so many healthy GPUs of 80 GB that serve the kinds `a`, `b` and `c`.
    pub(crate) fn of(gpus: usize, slots: u32) -> Self {
        Self {
            now_ms: 1_767_225_600_000,
            activity: Activity { at_ms: 1_767_225_600_000, window_ms: WINDOW_MS, ..Activity::default() },
            gpus: (0..gpus).map(|number| view(number, slots)).collect(),
            settings: Settings::default(),
            scaling: ScalingSection::default(),
            ready: Some(0),
            broker_ms: Some(2.0),
            store_ms: Some(1.0),
            table_ms: Some(1.0),
            broker_blocked: false,
        }
    }

    pub(crate) fn observed(&self) -> Observed<'_> {
        Observed {
            now_ms: self.now_ms,
            activity: &self.activity,
            gpus: &self.gpus,
            settings: &self.settings,
            scaling: &self.scaling,
            ready: self.ready,
            broker_ms: self.broker_ms,
            store_ms: self.store_ms,
            table_ms: self.table_ms,
            broker_blocked: self.broker_blocked,
        }
    }

    /// Every slot is held.
    pub(crate) fn full(mut self) -> Self {
        for view in &mut self.gpus {
            view.held = view.row.slots;
        }
        self
    }

    /// In the window so many tasks of a kind came, began and ended well, each after `run_ms`; their priority is 4.
    pub(crate) fn flow(mut self, of: &str, tasks: u64, run_ms: f64) -> Self {
        let run = Quantiles { count: tasks, mean_ms: run_ms, p50_ms: run_ms, p95_ms: run_ms, p99_ms: run_ms };
        let numbers = self.numbers(of);
        numbers.began += tasks;
        numbers.ended += tasks;
        numbers.run = run;
        numbers.slot_ms += tasks as f64 * run_ms;
        numbers.learnt_run_ms = run_ms;
        let activity = &mut self.activity;
        activity.arrived += tasks;
        activity.began += tasks;
        activity.succeeded += tasks;
        activity.priorities[4].arrived += tasks;
        activity.priorities[4].began += tasks;
        self
    }

    /// Tasks of a kind wait, the oldest for `oldest_ms`.
    pub(crate) fn wait(&mut self, of: &str, priority: usize, tasks: u64, oldest_ms: u64) {
        self.numbers(of).waiting += tasks;
        let numbers = &mut self.activity.priorities[priority];
        *numbers.waiting.entry(kind(of)).or_insert(0) += tasks;
        numbers.oldest_ms = numbers.oldest_ms.max(oldest_ms);
        self.activity.states.waiting += tasks;
    }

    /// The same, of a whole sketch.
    pub(crate) fn waiting(mut self, of: &str, tasks: u64, oldest_ms: u64) -> Self {
        self.wait(of, 4, tasks, oldest_ms);
        self
    }

    pub(crate) fn numbers(&mut self, of: &str) -> &mut KindNumbers {
        self.activity.kinds.entry(kind(of)).or_default()
    }

    /// An operator drains a GPU, and it is empty.
    pub(crate) fn drain(&mut self, number: usize) {
        let view = &mut self.gpus[number];
        (view.draining, view.eligible, view.held, view.phase) = (true, false, 0, WorkerPhase::Drained);
        self.settings.draining.push(view.row.gpu.gpu_id.clone());
    }

    pub(crate) fn quarantine(&mut self, number: usize) {
        let view = &mut self.gpus[number];
        (view.row.health, view.eligible, view.held) = (Health::Quarantined, false, 0);
    }
}

pub(crate) fn view(number: usize, slots: u32) -> GpuView {
    let row = GpuRow {
        gpu: GpuDescription {
            gpu_id: gpu_id(number),
            name: "a GPU".to_owned(),
            memory_total_mb: 80_000,
            compute_capability: ComputeCapability { major: 9, minor: 0 },
            hardware: Hardware::default(),
        },
        sample: GpuSample::default(),
        pool: PoolName::default(),
        incarnation: Incarnation::new(format!("gpu-{number}.1")).unwrap(),
        host: "host".to_owned(),
        slots,
        health: Health::Healthy,
        health_reason: String::new(),
        consuming: true,
        stopping: false,
        kinds: ["a", "b", "c"].map(kind).to_vec(),
        models: Vec::new(),
        foreign_utilization_percent: 0.0,
        waiting: 0,
        running: Vec::new(),
        item_ms: Default::default(),
        kinds_down: Default::default(),
        run_ms: Default::default(),
        model_state: Default::default(),
        data: Default::default(),
        servers: Default::default(),
        emptied: false,
    };
    GpuView { row, held: 0, draining: false, eligible: true, expires_in_ms: 10_000, phase: WorkerPhase::Serving }
}
