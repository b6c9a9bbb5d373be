//! The series of the models that GPUs keep.

use std::sync::{Arc, Mutex, PoisonError};

use executors::ModelCounts;
use prometheus::{CounterVec, GaugeVec};

use super::Registrar;

/// What happened to models, of all GPUs of this process.
#[derive(Clone)]
pub(super) struct ModelSeries {
    uses: CounterVec,
    loads: CounterVec,
    load_seconds: CounterVec,
    evictions: CounterVec,
    bytes: GaugeVec,
}

/// The same of one GPU: a cache counts by itself, and what it counted since the last look is added here.
pub(crate) struct ModelMetrics {
    series: ModelSeries,
    gpu_id: String,
    seen: Arc<Mutex<ModelCounts>>,
}

impl ModelSeries {
    pub(super) fn new(to: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            uses: to.counters(
                "gpufleet_model_uses_total",
                "Uses of models by runs: found (it was loaded), waited (it was loaded for that).",
                &["gpu_id", "how"],
            )?,
            loads: to.counters("gpufleet_model_loads_total", "Loads of models that ended: loaded, failed.", &["gpu_id", "outcome"])?,
            load_seconds: to.counters(
                "gpufleet_model_load_seconds_total",
                "How long the loads that succeeded took together, in s.",
                &["gpu_id"],
            )?,
            evictions: to.counters("gpufleet_model_evictions_total", "Models that were evicted to make room.", &["gpu_id"])?,
            bytes: to.gauges("gpufleet_model_bytes", "Memory that models take now, also those that are being loaded, in bytes.")?,
        })
    }

    pub(super) fn of(&self, gpu_id: &str) -> ModelMetrics {
        ModelMetrics { series: self.clone(), gpu_id: gpu_id.to_owned(), seen: Arc::default() }
    }
}

impl ModelMetrics {
    /// Adds what the GPU's cache counted since the last call.
    pub(crate) fn counted(&self, counts: &ModelCounts) {
        let seen = std::mem::replace(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner), *counts);
        let (series, gpu_id) = (&self.series, self.gpu_id.as_str());
        let add = |counter: &CounterVec, labels: &[&str], now: u64, before: u64| {
            // Nothing is shown of a GPU that keeps no models.
            if now > before {
                counter.with_label_values(labels).inc_by((now - before) as f64);
            }
        };
        add(&series.uses, &[gpu_id, "found"], counts.hits, seen.hits);
        add(&series.uses, &[gpu_id, "waited"], counts.misses, seen.misses);
        add(&series.loads, &[gpu_id, "loaded"], counts.loads, seen.loads);
        add(&series.loads, &[gpu_id, "failed"], counts.load_failures, seen.load_failures);
        add(&series.evictions, &[gpu_id], counts.evictions, seen.evictions);
        if counts.load_seconds > seen.load_seconds {
            series.load_seconds.with_label_values(&[gpu_id]).inc_by(counts.load_seconds - seen.load_seconds);
        }
        if counts.loads > 0 {
            series.bytes.with_label_values(&[gpu_id]).set(counts.memory_mb as f64 * 1e6);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    #[test]
    fn what_was_counted_is_added_once() {
        let registry = Registry::new();
        let metrics = ModelSeries::new(&Registrar(&registry)).unwrap().of("gpu-0");
        let counts = ModelCounts { hits: 3, loads: 1, load_seconds: 1.5, memory_mb: 2, ..ModelCounts::default() };
        metrics.counted(&counts);
        metrics.counted(&counts);
        metrics.counted(&ModelCounts { hits: 4, memory_mb: 0, ..counts });
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "gpufleet_model_uses_total{gpu_id=\"gpu-0\",how=\"found\"} 4",
            "gpufleet_model_loads_total{gpu_id=\"gpu-0\",outcome=\"loaded\"} 1",
            "gpufleet_model_load_seconds_total{gpu_id=\"gpu-0\"} 1.5",
            "gpufleet_model_bytes{gpu_id=\"gpu-0\"} 0",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
        }
        assert!(!text.contains("how=\"waited\"") && !text.contains("evictions_total{"), "{text}");
    }
}
