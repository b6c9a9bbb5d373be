//! What data planes count.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, core::Collector, exponential_buckets};
use protocol::{GpuId, TensorPlace, TransferWay};

use crate::StoreCounts;

/// Where data planes count: one for all of a process.
pub struct DataMetrics {
    bytes: IntCounterVec,
    seconds: HistogramVec,
    failures: IntCounterVec,
    tensors: IntGaugeVec,
    tensor_bytes: IntGaugeVec,
    evictions: IntCounterVec,
}

/// What a GPU has in one place.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    /// Tensors.
    pub(crate) tensors: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

impl DataMetrics {
    /// Registers `gpufleet_transfer_bytes_total{way}`, `gpufleet_transfer_seconds{way}`, `gpufleet_transfer_failures_total{way,reason}`, `gpufleet_tensors{gpu_id,place}`, `gpufleet_tensor_bytes{gpu_id,place}`,
    /// `gpufleet_tensor_evictions_total{gpu_id,to}`.
    ///
    /// # Errors
    /// Those of the registry: a name is taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let bytes = Opts::new("gpufleet_transfer_bytes_total", "Bytes of tensors that were brought from another GPU, by way.");
        let seconds = HistogramOpts::new("gpufleet_transfer_seconds", "Time in which a tensor was brought from another GPU, by way.")
            .buckets(exponential_buckets(0.000_25, 4.0, 10)?);
        let failures =
            Opts::new("gpufleet_transfer_failures_total", "Tries to bring a tensor from another GPU that failed, by way and reason.");
        let tensors = Opts::new("gpufleet_tensors", "Tensors that a GPU keeps, by where they lie: gpu, host.");
        let tensor_bytes = Opts::new("gpufleet_tensor_bytes", "Bytes of the tensors that a GPU keeps, by where they lie: gpu, host.");
        let evictions = Opts::new(
            "gpufleet_tensor_evictions_total",
            "Tensors that a GPU kept no longer, by where they went: host, away (no room), expired.",
        );
        Ok(Self {
            bytes: add(registry, IntCounterVec::new(bytes, &["way"])?)?,
            seconds: add(registry, HistogramVec::new(seconds, &["way"])?)?,
            failures: add(registry, IntCounterVec::new(failures, &["way", "reason"])?)?,
            tensors: add(registry, IntGaugeVec::new(tensors, &["gpu_id", "place"])?)?,
            tensor_bytes: add(registry, IntGaugeVec::new(tensor_bytes, &["gpu_id", "place"])?)?,
            evictions: add(registry, IntCounterVec::new(evictions, &["gpu_id", "to"])?)?,
        })
    }

    pub(crate) fn carried(&self, way: TransferWay, bytes: u64, took: Duration) {
        self.bytes.with_label_values(&[way.name()]).inc_by(bytes);
        self.seconds.with_label_values(&[way.name()]).observe(took.as_secs_f64());
    }

    pub(crate) fn failed(&self, way: TransferWay, reason: &'static str) {
        self.failures.with_label_values(&[way.name(), reason]).inc();
    }

    pub(crate) fn holds(&self, gpu_id: &GpuId, place: TensorPlace, held: Held) {
        let labels = [gpu_id.as_str(), place.name()];
        self.tensors.with_label_values(&labels).set(i64::try_from(held.tensors).unwrap_or(i64::MAX));
        self.tensor_bytes.with_label_values(&labels).set(i64::try_from(held.bytes).unwrap_or(i64::MAX));
    }

    /// Adds what happened between two looks at a store's counts.
    pub(crate) fn evicted(&self, gpu_id: &GpuId, before: StoreCounts, now: StoreCounts) {
        let grown = [("host", now.to_host, before.to_host), ("away", now.away, before.away), ("expired", now.expired, before.expired)];
        for (to, now, before) in grown {
            self.evictions.with_label_values(&[gpu_id.as_str(), to]).inc_by(now.saturating_sub(before));
        }
    }

    /// Forgets what a GPU has: its plane is gone.
    pub(crate) fn forget(&self, gpu_id: &GpuId) {
        for place in [TensorPlace::Gpu, TensorPlace::Host] {
            let labels = [gpu_id.as_str(), place.name()];
            // It is not there where the plane ended before its first look.
            let _ = self.tensors.remove_label_values(&labels);
            let _ = self.tensor_bytes.remove_label_values(&labels);
        }
    }
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
