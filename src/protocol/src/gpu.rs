//! What the table knows of one GPU.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{DataState, GpuId, Incarnation, Kind, PoolName, TaskId, task::ComputeCapability};

/// What a GPU is: does not change while its worker lives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuDescription {
    /// Its UUID.
    pub gpu_id: GpuId,
    /// The product's name.
    pub name: String,
    /// Total memory, in MB (10^6 bytes).
    pub memory_total_mb: u64,
    /// CUDA compute capability.
    pub compute_capability: ComputeCapability,
    /// Where it sits in its host. Empty for a simulated GPU.
    #[serde(default, skip_serializing_if = "Hardware::is_unknown")]
    pub hardware: Hardware,
}

/// Where a GPU sits in its host, as the driver and the kernel say. What they do not say is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hardware {
    /// Its PCI Express link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcie: Option<Pcie>,
    /// The NUMA node that it is closest to, as the kernel says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u32>,
    /// The GPU that it is a MIG instance of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mig_of: Option<GpuId>,
    /// The ways to the other GPUs of its host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<GpuLink>,
}

impl Hardware {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// A GPU's PCI Express link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pcie {
    /// Its address, as `domain:bus:device.function`.
    pub bus_id: String,
    /// The highest generation that GPU and slot have in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// Lanes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
}

/// The way from one GPU to another of the same host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuLink {
    /// The other one.
    pub gpu_id: GpuId,
    /// What data passes on the way.
    pub path: LinkPath,
    /// Active NVLinks between the two.
    #[serde(default)]
    pub nvlinks: u32,
    /// Whether each can read and write the other's memory.
    pub peer_access: bool,
}

/// What data passes between two GPUs, from near to far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LinkPath {
    /// NVLink.
    Nvlink,
    /// Both on one board.
    SameBoard,
    /// One PCI Express switch.
    PcieSwitch,
    /// Several PCI Express switches.
    PcieSwitches,
    /// The host bridge.
    HostBridge,
    /// The interconnect within a NUMA node.
    NumaNode,
    /// The interconnect between NUMA nodes.
    System,
}

/// What keeps a GPU's clock below its maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Throttle {
    /// A clock that an operator set.
    ApplicationClocks,
    /// The power limit.
    PowerCap,
    /// Hardware slowdown: too hot, or the power supply asked for it.
    HardwareSlowdown,
    /// Another GPU of its sync boost group.
    SyncBoost,
    /// Temperature, by software.
    ThermalSoftware,
    /// Temperature, by hardware: the clock is halved or worse.
    ThermalHardware,
    /// The power supply, by hardware: the clock is halved or worse.
    PowerBrake,
    /// Display clocks.
    DisplayClocks,
}

impl Throttle {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ApplicationClocks => "application_clocks",
            Self::PowerCap => "power_cap",
            Self::HardwareSlowdown => "hardware_slowdown",
            Self::SyncBoost => "sync_boost",
            Self::ThermalSoftware => "thermal_software",
            Self::ThermalHardware => "thermal_hardware",
            Self::PowerBrake => "power_brake",
            Self::DisplayClocks => "display_clocks",
        }
    }
}

/// What a GPU does right now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuSample {
    /// Memory in use, in MB (10^6 bytes).
    pub memory_used_mb: u64,
    /// Share of the last sample period in which a kernel ran, 0 to 100 %.
    pub utilization_percent: f64,
    /// Core temperature, in °C.
    pub temperature_celsius: f64,
    /// Power draw, in W.
    pub power_watts: f64,
    /// SM clock, in MHz.
    pub sm_clock_mhz: f64,
    /// What keeps the clock below its maximum, sorted; an idle GPU's low clock has no reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttled_by: Vec<Throttle>,
    /// Memory errors that ECC could not correct, since the driver was loaded. Absent: ECC is off, or unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc_errors: Option<u64>,
    /// Age of these numbers when they were read, in ms.
    pub age_ms: u64,
}

/// Whether a GPU may take tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Takes tasks.
    #[default]
    Healthy,
    /// Takes tasks, and is watched.
    Suspect,
    /// Takes none.
    Quarantined,
    /// Takes none but the probe that may re-admit it.
    Probation,
}

impl Health {
    /// Whether claims may choose this GPU.
    #[must_use]
    pub const fn takes_tasks(self) -> bool {
        matches!(self, Self::Healthy | Self::Suspect)
    }

    /// The name on the wire and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Quarantined => "quarantined",
            Self::Probation => "probation",
        }
    }
}

/// One GPU's row: what its worker writes with every heartbeat. A field that a reader does not know is passed over, so that workers of a newer version can join a fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "gpufleet GPU state")]
pub struct GpuRow {
    /// What the GPU is.
    pub gpu: GpuDescription,
    /// What it does right now.
    pub sample: GpuSample,
    /// The pool that it serves.
    pub pool: PoolName,
    /// The start of its worker that wrote this row.
    pub incarnation: Incarnation,
    /// The host its worker runs on.
    pub host: String,
    /// How many tasks it may hold at once, at least 1.
    pub slots: u32,
    /// Whether it may take tasks.
    pub health: Health,
    /// Why its health is not `healthy`; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub health_reason: String,
    /// Whether its worker's consumers are live. A worker that reaches Redis but not the broker gets no tasks.
    pub consuming: bool,
    /// Whether its worker is stopping (an operator's drain flag is kept apart, in the settings).
    #[serde(default)]
    pub stopping: bool,
    /// The kinds that its worker can run, sorted.
    pub kinds: Vec<Kind>,
    /// The models in its memory, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Utilisation that this worker's own tasks do not explain, 0 to 100 %: what was last measured while it ran none. This, not the
    /// sample, is held against `utilization_threshold`: a GPU that is busy with our tasks must not become ineligible by running them.
    #[serde(default)]
    pub foreign_utilization_percent: f64,
    /// Deliveries that wait in its worker's hand for a slot.
    #[serde(default)]
    pub waiting: u32,
    /// The tasks that have begun here and are not settled yet, sorted; at most [`GpuRow::RUNNING_MAX`] of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub running: Vec<TaskId>,
    /// What an item of a batch took here lately, in ms, for each kind of which batches ran; at most [`GpuRow::ITEM_TIMES_MAX`] kinds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub item_ms: BTreeMap<Kind, f64>,
    /// The kinds that its worker has and cannot run now, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kinds_down: BTreeMap<Kind, String>,
    /// What a run took here lately, in ms, by kind; at most [`GpuRow::ITEM_TIMES_MAX`] kinds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub run_ms: BTreeMap<Kind, f64>,
    /// What is known of its models, but for their names.
    #[serde(flatten)]
    pub model_state: ModelState,
    /// What is known of its tensors.
    #[serde(flatten)]
    pub data: DataState,
    /// How its worker finds the servers.
    #[serde(default, skip_serializing_if = "ServerTimes::is_unknown")]
    pub servers: ServerTimes,
    /// Whether its worker has heard that it is to take no more tasks, by an operator's drain or because it stops, and had none when it wrote this row. A row that was written before it
    /// heard of that, or by a worker of an older version, does not say so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub emptied: bool,
}

impl GpuRow {
    /// How many running tasks a row names. Where it names so many there may be more.
    pub const RUNNING_MAX: usize = 256;
    /// Of how many kinds a row says what an item takes.
    pub const ITEM_TIMES_MAX: usize = 64;
    /// Of how many models a row says what a load takes, and what they take.
    pub const MODELS_MAX: usize = 64;

    /// The memory in use that a task cannot have, in MB: what is kept for later makes way for it.
    #[must_use]
    pub const fn memory_in_the_way_mb(&self) -> u64 {
        self.sample.memory_used_mb.saturating_sub(self.model_state.evictable_mb)
    }
}

/// How long servers lately took to answer a worker. What is not known is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ServerTimes {
    /// From a publish to its confirm, smoothed, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_ms: Option<f64>,
    /// A call of the store, smoothed, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_ms: Option<f64>,
    /// A call of the table, most of which are claims, smoothed, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table_ms: Option<f64>,
    /// Whether the broker blocks this worker's publishes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub broker_blocked: bool,
}

impl ServerTimes {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// Where a worker is between taking tasks and its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerPhase {
    /// It takes tasks, or would if nothing were in the way.
    #[default]
    Serving,
    /// It takes no more, by an operator's drain or because it stops, and still has some.
    Draining,
    /// It takes none and has none: it can be stopped, and its machine taken away, without any cost.
    Drained,
}

impl WorkerPhase {
    /// The name on the wire and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Drained => "drained",
        }
    }
}

/// What a row says of the models of its GPU.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ModelState {
    /// What a cold load of a model took here lately, in ms, by model; at most [`GpuRow::MODELS_MAX`] models.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub load_ms: BTreeMap<String, f64>,
    /// The memory that would be free if every model were evicted that nobody uses, in MB (10^6 bytes). Tasks may count on it.
    #[serde(skip_serializing_if = "is_zero")]
    pub evictable_mb: u64,
    /// The models in its memory, for people; at most [`GpuRow::MODELS_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub model_details: Vec<ModelDetails>,
    /// The models that could be loaded here and are not, by source and name; at most [`GpuRow::MODELS_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loadable_models: Vec<LoadableModel>,
    /// The models in its memory that a kind keeps for itself, so that nobody can load or unload them, with that kind; at most [`GpuRow::MODELS_MAX`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub models_of_kinds: BTreeMap<String, Kind>,
    /// Why models could not be loaded, by model.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub model_errors: BTreeMap<String, String>,
    /// The number of the last of the operators' wishes for models that is done here; all before it are done too.
    #[serde(skip_serializing_if = "is_zero")]
    pub model_wishes_done: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A model that a GPU could load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoadableModel {
    /// Its name.
    pub name: String,
    /// Where it comes from: the first kind that it serves.
    pub source: String,
    /// Which version would be loaded; empty where it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

/// A model in the memory of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelDetails {
    /// Its name.
    pub name: String,
    /// Where it comes from: the first kind that it serves.
    pub source: String,
    /// What it takes, in MB (10^6 bytes).
    pub memory_mb: u64,
    /// Whether it is never evicted.
    pub pinned: bool,
    /// Whether a task uses it now.
    pub in_use: bool,
    /// How long ago a task last began or ended to use it, in ms.
    pub last_used_ms_ago: u64,
}

/// A row as operators see it: with what the table adds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuView {
    /// The row.
    #[serde(flatten)]
    pub row: GpuRow,
    /// Slots that are held, and those that are offered to tasks on their way there.
    pub held: u32,
    /// Whether an operator drains it.
    pub draining: bool,
    /// Whether a claim may choose it now (a free slot aside).
    pub eligible: bool,
    /// When the row expires unless a heartbeat renews it, in ms from now.
    pub expires_in_ms: u64,
    /// Where its worker is between taking tasks and its end.
    #[serde(default)]
    pub phase: WorkerPhase,
}

impl GpuView {
    /// Where its worker is between taking tasks and its end, as row and table say.
    #[must_use]
    pub const fn phase_of(row: &GpuRow, held: u32, draining: bool) -> WorkerPhase {
        if !(draining || row.stopping) {
            WorkerPhase::Serving
        } else if held > 0 || row.waiting > 0 || !row.running.is_empty() || !row.emptied {
            WorkerPhase::Draining
        } else {
            WorkerPhase::Drained
        }
    }

    /// Whether its worker can be stopped without any cost.
    #[must_use]
    pub const fn is_safe_to_delete(&self) -> bool {
        matches!(self.phase, WorkerPhase::Drained)
    }

    /// The view for people: who can read the table may use the key of the GPU's data port, and who is only shown what it says may not.
    #[must_use]
    pub fn without_keys(mut self) -> Self {
        if let Some(port) = &mut self.row.data.data_port {
            port.key = "***".to_owned();
        }
        self
    }
}

/// What was wrong with a GPU when its worker's process had to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastTrouble {
    /// For operators.
    pub reason: String,
    /// The Xid that told it, if one did. Nobody may have read the metrics of the process that ended.
    pub xid: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row as version 0.1.0 wrote it before workers told of servers and of their end.
    const OLDER_ROW: &str = r#"{"gpu":{"gpu_id":"gpu-0","name":"a GPU","memory_total_mb":80000,"compute_capability":"9.0"},
        "sample":{"memory_used_mb":7,"utilization_percent":0.5,"temperature_celsius":40.0,"power_watts":90.0,"sm_clock_mhz":1200.0,"age_ms":20},
        "pool":"default","incarnation":"0123456789abcdef","host":"a","slots":8,"health":"healthy","consuming":true,"stopping":false,"kinds":["echo","simulate"],
        "foreign_utilization_percent":0.0,"waiting":1,"running":["order-17"],"run_ms":{"echo":0.5}}"#;

    fn idle_row() -> GpuRow {
        GpuRow { waiting: 0, running: Vec::new(), emptied: true, ..serde_json::from_str(OLDER_ROW).expect("a row") }
    }

    #[test]
    fn a_row_of_an_older_version_is_read_and_never_drained() {
        let row: GpuRow = serde_json::from_str(OLDER_ROW).expect("a row");
        assert_eq!((row.waiting, row.servers, row.emptied), (1, ServerTimes::default(), false));
        let idle = GpuRow { waiting: 0, running: Vec::new(), ..row };
        assert_eq!(GpuView::phase_of(&idle, 0, true), WorkerPhase::Draining, "nobody knows whether its worker has heard of the drain");
        assert_eq!(GpuView::phase_of(&idle, 0, false), WorkerPhase::Serving);
    }

    #[test]
    fn a_gpu_is_drained_once_its_worker_takes_none_and_has_none() {
        let stopping = GpuRow { stopping: true, ..idle_row() };
        assert_eq!([GpuView::phase_of(&idle_row(), 0, true), GpuView::phase_of(&stopping, 0, false)], [WorkerPhase::Drained; 2]);
        assert_eq!(GpuView::phase_of(&idle_row(), 0, false), WorkerPhase::Serving, "an operator has taken the drain back");
        let task = || vec![TaskId::new("order-17").expect("valid")];
        let draining = [
            GpuView::phase_of(&idle_row(), 1, true),
            GpuView::phase_of(&GpuRow { waiting: 1, ..idle_row() }, 0, true),
            GpuView::phase_of(&GpuRow { running: task(), ..idle_row() }, 0, true),
            GpuView::phase_of(&GpuRow { emptied: false, ..idle_row() }, 0, true),
        ];
        assert_eq!(draining, [WorkerPhase::Draining; 4]);
    }
}
