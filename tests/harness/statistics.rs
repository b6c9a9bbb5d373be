//! Medians, spreads and percentiles of what was measured.

use std::{fmt, time::Duration};

use serde::Serialize;

/// The middle of some values, and how far they reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of these values; all NaN if there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let sorted = sorted(values);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        Self { median: f64::midpoint(at(last / 2), at(last.div_ceil(2))), min: at(0), max: at(last) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, min, max } = *self;
        let digits = if median >= 100.0 { 0 } else { 2 };
        write!(formatter, "{median:.digits$} [{min:.digits$}..{max:.digits$}]")
    }
}

/// Times in ms: the percentiles by nearest rank.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of them took no longer.
    pub p50: f64,
    /// 95 of 100 took no longer.
    pub p95: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
}

impl Percentiles {
    /// The median of each.
    #[must_use]
    pub fn medians(samples: impl Iterator<Item = Self>) -> Self {
        let samples: Vec<Self> = samples.collect();
        let middle = |value: fn(&Self) -> f64| Spread::of(samples.iter().map(value)).median;
        Self { p50: middle(|sample| sample.p50), p95: middle(|sample| sample.p95), p99: middle(|sample| sample.p99) }
    }

    /// Of these times; all NaN if there are none.
    #[must_use]
    pub fn of_times(times: impl IntoIterator<Item = Duration>) -> Self {
        Self::of(times.into_iter().map(|time| time.as_secs_f64() * 1e3))
    }

    /// Of these times; all NaN if there are none.
    #[must_use]
    pub fn of(times: impl IntoIterator<Item = f64>) -> Self {
        let sorted = sorted(times);
        Self { p50: nearest_rank(&sorted, 50), p95: nearest_rank(&sorted, 95), p99: nearest_rank(&sorted, 99) }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:.2} / {:.2} / {:.2}", self.p50, self.p95, self.p99)
    }
}

/// The mean; NaN if there are none.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn nearest_rank(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}
