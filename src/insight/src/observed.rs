//! What judgements are made of.

use std::collections::BTreeMap;

use protocol::{GpuId, Kind, claim::Settings, config::ScalingSection, gpu::GpuView, insight::StateCounts};

/// How some durations were distributed, in ms. All zero where there was none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quantiles {
    /// How many there were.
    pub count: u64,
    /// Their mean.
    pub mean_ms: f64,
    /// The median.
    pub p50_ms: f64,
    /// The 95th percentile.
    pub p95_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
}

/// What the index says of the last while.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Activity {
    /// Its end, in Unix ms.
    pub at_ms: u64,
    /// How long it was, in ms.
    pub window_ms: u64,
    /// Tasks that arrived: submitted, or first heard of.
    pub arrived: u64,
    /// Attempts that began.
    pub began: u64,
    /// Tasks that ended well.
    pub succeeded: u64,
    /// Badly.
    pub failed: u64,
    /// By a cancel.
    pub cancelled: u64,
    /// By a deadline.
    pub expired: u64,
    /// Attempts that failed and were followed by another.
    pub retried: u64,
    /// Attempts whose worker or process died.
    pub crashed: u64,
    /// All tasks of the index by state, now.
    pub states: StateCounts,
    /// By kind: those of which attempts began or ended in the window, or tasks run now, and those that most tasks wait of.
    pub kinds: BTreeMap<Kind, KindNumbers>,
    /// By priority, 0 to 9.
    pub priorities: [PriorityNumbers; 10],
    /// By GPU: those with something in the window.
    pub gpus: BTreeMap<GpuId, GpuNumbers>,
    /// Waiting tasks whose last step said that no GPU of the fleet could ever run them.
    pub unserved: u64,
    /// The same by kind, of those kinds.
    pub unserved_kinds: BTreeMap<Kind, u64>,
    /// Waiting tasks of these kinds that say what memory they need: how many, by kind and by that memory in MB; bounded.
    pub waiting_memory: BTreeMap<(Kind, u64), u64>,
    /// Waiting tasks that name the only GPU that they may run on: how many, by that GPU; bounded.
    pub waiting_for_gpu: BTreeMap<GpuId, u64>,
}

/// What one kind did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct KindNumbers {
    /// Tasks that wait now.
    pub waiting: u64,
    /// Tasks that run now.
    pub running: u64,
    /// Attempts that began.
    pub began: u64,
    /// Tasks that ended.
    pub ended: u64,
    /// Of them failed.
    pub failed: u64,
    /// Attempts that were followed by another.
    pub retried: u64,
    /// Attempts whose worker or process died.
    pub crashed: u64,
    /// Wait from publish to begin, of the attempts that began in the window.
    pub wait: Quantiles,
    /// Run times of the attempts that ended in the window.
    pub run: Quantiles,
    /// Slot time of these attempts, in ms.
    pub slot_ms: f64,
    /// The part of it in which models were loaded, in ms.
    pub load_ms: f64,
    /// The part of it in which tensors were brought, in ms.
    pub transfer_ms: f64,
    /// The learnt run time of an attempt, in ms: smoothed over all that is known, not only the window. 0: none ended yet.
    pub learnt_run_ms: f64,
    /// The same smoothed over about an hour, so that it says for a while how it was before something changed. 0: none ended yet.
    pub usual_run_ms: f64,
}

/// What one priority did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PriorityNumbers {
    /// Tasks that wait now, by kind: of the kinds that most wait of.
    pub waiting: BTreeMap<Kind, u64>,
    /// Tasks that wait now of all other kinds, and of kinds that nobody told.
    pub waiting_others: u64,
    /// Age of the oldest of them, in ms.
    pub oldest_ms: u64,
    /// Tasks that arrived.
    pub arrived: u64,
    /// Attempts that began.
    pub began: u64,
    /// The longest wait of those, in ms.
    pub longest_wait_ms: f64,
}

impl PriorityNumbers {
    /// How many tasks wait now.
    #[must_use]
    pub fn waiting_tasks(&self) -> u64 {
        self.waiting.values().sum::<u64>() + self.waiting_others
    }
}

/// What one GPU did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GpuNumbers {
    /// Attempts that began.
    pub began: u64,
    /// Attempts that ended.
    pub ended: u64,
    /// Attempts that failed or crashed.
    pub failed: u64,
    /// Slot time, in ms.
    pub slot_ms: f64,
    /// The part of it in which models were loaded, in ms.
    pub load_ms: f64,
    /// The part of it in which tensors were brought, in ms.
    pub transfer_ms: f64,
}

/// Everything that a judgement of the fleet may rest on.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    /// Now, in Unix ms.
    pub now_ms: u64,
    /// The last minutes.
    pub activity: &'a Activity,
    /// The living GPUs of the pool.
    pub gpus: &'a [GpuView],
    /// The fleet's settings.
    pub settings: &'a Settings,
    /// The objective of the wait, and the bounds of scaling.
    pub scaling: &'a ScalingSection,
    /// Messages ready in the pool's queue; `None`: the broker does not say.
    pub ready: Option<u64>,
    /// How long servers take to answer whoever observes, in ms; `None`: they do not answer.
    pub broker_ms: Option<f64>,
    /// The same, of the store.
    pub store_ms: Option<f64>,
    /// The same, of the table.
    pub table_ms: Option<f64>,
    /// Whether the broker blocks publishers.
    pub broker_blocked: bool,
}
