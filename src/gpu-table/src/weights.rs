//! What it costs to bring a task's data to each GPU, in the whole numbers that claims compare.

use std::collections::BTreeMap;

use protocol::{DataCosts, GpuId};

/// The same as [`DataCosts`], in whole microseconds. Of no data: nothing, wherever the task runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Weights {
    pub elsewhere_us: u64,
    /// Less than elsewhere each, at most [`DataCosts::GPUS_MAX`].
    pub at_us: BTreeMap<GpuId, u64>,
}

impl Weights {
    /// The largest weight: about 12 days. The sum of some is exact in a double, as a script has them.
    const US_MAX: u64 = 1_000_000_000_000;

    pub(crate) fn of(data: Option<&DataCosts>) -> Self {
        let Some(data) = data else { return Self::default() };
        let elsewhere_us = microseconds(data.elsewhere_ms);
        let all = data.at_ms.iter().map(|(gpu_id, ms)| (gpu_id.clone(), microseconds(*ms)));
        Self { elsewhere_us, at_us: all.filter(|(_, us)| *us < elsewhere_us).take(DataCosts::GPUS_MAX).collect() }
    }

    pub(crate) fn to(&self, gpu_id: &GpuId) -> u64 {
        self.at_us.get(gpu_id).copied().unwrap_or(self.elsewhere_us)
    }
}

/// A time that is no number is a long one. By the same steps as in `choose.lua`.
pub(crate) fn microseconds(ms: f64) -> u64 {
    if ms.is_nan() { Weights::US_MAX } else { ((ms * 1_000.0 + 0.5).floor() as u64).min(Weights::US_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu_id(name: &str) -> GpuId {
        GpuId::new(name).expect("a good id")
    }

    #[test]
    fn a_gpu_that_has_nothing_that_counts_weighs_as_any_other() {
        let at_ms = [("a", 0.0), ("b", 1.2345), ("c", 10.0), ("d", f64::NAN), ("e", -3.0)].map(|(name, ms)| (gpu_id(name), ms));
        let weights = Weights::of(Some(&DataCosts { elsewhere_ms: 10.0, at_ms: at_ms.into() }));
        let at_us = ["a", "b", "c", "d", "e", "f"].map(|name| weights.to(&gpu_id(name)));
        assert_eq!(at_us, [0, 1_235, 10_000, 10_000, 0, 10_000]);
        assert_eq!(weights.at_us.len(), 3);
        assert_eq!(Weights::of(None).to(&gpu_id("a")), 0);
    }

    #[test]
    fn what_is_no_number_or_without_end_is_the_largest_weight() {
        for ms in [f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(microseconds(ms), Weights::US_MAX);
        }
    }
}
