//! How some durations were distributed, in few numbers.

use crate::Quantiles;

/// The upper end of the first bin, in ms.
const FIRST_MS: f64 = 0.1;
/// How much wider each bin is than the one before it. The middle of a bin is within 4 % of all that is in it.
const GROWTH: f64 = 1.08;
/// The last bin ends at some 100 days.
const BINS: u16 = 330;

/// A histogram with bins that grow by a factor. Only those with something in them take memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Histogram {
    /// Bin and count, by bin.
    bins: Vec<(u16, u32)>,
    count: u64,
    sum_ms: f64,
}

impl Histogram {
    pub(super) fn note(&mut self, ms: f64) {
        let ms = if ms.is_finite() { ms.max(0.0) } else { 0.0 };
        self.add(bin(ms), 1);
        self.count += 1;
        self.sum_ms += ms;
    }

    fn add(&mut self, bin: u16, count: u32) {
        match self.bins.binary_search_by_key(&bin, |(bin, _)| *bin) {
            Ok(at) => self.bins[at].1 = self.bins[at].1.saturating_add(count),
            Err(at) => self.bins.insert(at, (bin, count)),
        }
    }

    /// Adds what another one has.
    pub(super) fn merge(&mut self, other: &Self) {
        for (bin, count) in &other.bins {
            self.add(*bin, *count);
        }
        self.count += other.count;
        self.sum_ms += other.sum_ms;
    }

    pub(super) fn quantiles(&self) -> Quantiles {
        if self.count == 0 {
            return Quantiles::default();
        }
        let of = |share: f64| self.quantile(share);
        Quantiles { count: self.count, mean_ms: self.sum_ms / self.count as f64, p50_ms: of(0.5), p95_ms: of(0.95), p99_ms: of(0.99) }
    }

    fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        let found = self.bins.iter().find(|(_, count)| {
            below += u64::from(*count);
            below >= rank
        });
        found.or(self.bins.last()).map_or(0.0, |(bin, _)| middle(*bin))
    }
}

fn bin(ms: f64) -> u16 {
    if ms <= FIRST_MS {
        return 0;
    }
    let bin = ((ms / FIRST_MS).ln() / GROWTH.ln()).ceil();
    bin.min(f64::from(BINS)) as u16
}

fn middle(bin: u16) -> f64 {
    if bin == 0 { 0.0 } else { FIRST_MS * GROWTH.powf(f64::from(bin) - 0.5) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_five_percent_whatever_the_scale() {
        for scale in [0.5, 7.0, 1_000.0, 3.6e6] {
            let (mut one, mut other) = (Histogram::default(), Histogram::default());
            let values: Vec<f64> = (1..=10_000_u32).map(|number| scale * (1.0 + f64::from(number).powi(2) / 1e6)).collect();
            for (number, value) in values.iter().enumerate() {
                if number % 3 == 0 { one.note(*value) } else { other.note(*value) }
            }
            one.merge(&other);
            let quantiles = one.quantiles();
            for (said, is) in [(quantiles.p50_ms, values[4_999]), (quantiles.p95_ms, values[9_499]), (quantiles.p99_ms, values[9_899])] {
                assert!((said / is - 1.0).abs() <= 0.05, "{said} for {is}");
            }
            assert_eq!(quantiles.count, 10_000);
            assert!((quantiles.mean_ms / (values.iter().sum::<f64>() / 1e4) - 1.0).abs() < 1e-9);
        }
        assert_eq!(Histogram::default().quantiles(), Quantiles::default());
    }

    #[test]
    fn what_is_no_duration_counts_as_none() {
        let mut histogram = Histogram::default();
        for ms in [f64::NAN, f64::INFINITY, -5.0, f64::MAX] {
            histogram.note(ms);
        }
        assert!(histogram.quantiles().p99_ms.is_finite());
    }
}
