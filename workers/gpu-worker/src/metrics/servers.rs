//! Where a worker stands, and how it finds its servers.

use prometheus::{GaugeVec, Opts};
use protocol::gpu::{ServerTimes, WorkerPhase};

use super::{GpuMetrics, Registrar};

/// Every phase has a series, of which one is 1.
const PHASES: [WorkerPhase; 3] = [WorkerPhase::Serving, WorkerPhase::Draining, WorkerPhase::Drained];

/// As of the last heartbeat.
#[derive(Clone)]
pub(super) struct WorkerSeries {
    slots_used: GaugeVec,
    slots_free: GaugeVec,
    phase: GaugeVec,
    broker_confirm_seconds: GaugeVec,
    store_call_seconds: GaugeVec,
    table_call_seconds: GaugeVec,
}

impl WorkerSeries {
    pub(super) fn new(to: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        let phase = Opts::new(
            "gpufleet_worker_phase",
            "Whether a GPU's worker is in this phase: 1, or 0. serving; draining (takes no more tasks and has some); drained (takes none and has none: can be stopped at no cost).",
        );
        Ok(Self {
            slots_used: to.gauges("gpufleet_slots_used", "Slots of the GPU that tasks hold.")?,
            slots_free: to.gauges("gpufleet_slots_free", "Slots of the GPU that no task holds.")?,
            phase: to.add(GaugeVec::new(phase, &["gpu_id", "phase"])?)?,
            broker_confirm_seconds: to
                .gauges("gpufleet_broker_confirm_seconds", "From a publish of the worker to its confirm lately, smoothed, in s.")?,
            store_call_seconds: to.gauges("gpufleet_store_call_seconds", "A call of the store by the worker lately, smoothed, in s.")?,
            table_call_seconds: to.gauges("gpufleet_table_call_seconds", "A call of the table by the worker lately, smoothed, in s.")?,
        })
    }
}

impl GpuMetrics {
    /// How many slots there are, and how many are held. While a task runs alone it holds all of them, and the row offers one.
    pub(crate) fn slots(&self, slots: u32, held: u32) {
        let gpu = &[self.gpu_id.as_str()];
        self.worker.slots_used.with_label_values(gpu).set(f64::from(held));
        self.worker.slots_free.with_label_values(gpu).set(f64::from(slots.saturating_sub(held)));
    }

    /// Where the worker is between taking tasks and its end.
    pub(crate) fn phase_is(&self, phase: WorkerPhase) {
        for each in PHASES {
            let labels = &[self.gpu_id.as_str(), each.name()];
            self.worker.phase.with_label_values(labels).set(f64::from(u8::from(each == phase)));
        }
    }

    /// How long the servers took lately; what is not known has no series.
    pub(crate) fn servers_took(&self, times: &ServerTimes) {
        let (worker, gpu) = (&self.worker, &[self.gpu_id.as_str()]);
        let known = [
            (&worker.broker_confirm_seconds, times.broker_ms),
            (&worker.store_call_seconds, times.store_ms),
            (&worker.table_call_seconds, times.table_ms),
        ];
        for (gauge, ms) in known {
            if let Some(ms) = ms {
                gauge.with_label_values(gpu).set(ms / 1e3);
            }
        }
    }
}
