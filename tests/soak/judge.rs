//! Whether something grows.
//!
//! The beginning of a series is left out: caches fill, retentions run full, processes find their size. Over the rest the growth is the slope by Theil and Sen (the median of the slopes of all pairs of
//! points, which single spikes and saw teeth do not move) times the length of that part. It is allowed up to a share of the series' median there, or a fixed slack where that is more: what is
//! small may double.

use crate::history::Point;

/// Points below which nothing is said.
const POINTS_MIN: usize = 12;
/// Points of which all pairs are taken; of more, so many at even distances.
const POINTS_MAX: usize = 600;
/// The share of the run that a series must span. What lived shorter says little, and another one followed it.
const SPAN_MIN: f64 = 0.4;

/// How much a series may grow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bound {
    /// The share of its own length that is left out at its beginning.
    pub(crate) warm_up: f64,
    /// Growth, as a share of the median.
    pub(crate) share: f64,
    /// Growth in its own unit that is nothing.
    pub(crate) slack: f64,
}

/// What was found of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Finding {
    /// It is too short to say anything.
    TooShort,
    Judged(Trend),
}

/// How a series went, its beginning left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Trend {
    /// The median.
    pub(crate) level: f64,
    /// By how much it grew, from the end of the warm-up to its end; negative where it fell.
    pub(crate) growth: f64,
    pub(crate) allowed: f64,
}

impl Trend {
    pub(crate) fn grows(&self) -> bool {
        self.growth > self.allowed
    }
}

/// The bound of a series, by what is before the slash of its name; `None` for what is written down and not judged.
pub(crate) fn bound_of(name: &str) -> Option<Bound> {
    let (what, whose) = name.split_once('/')?;
    let bound = |warm_up: f64, share: f64, slack: f64| Some(Bound { warm_up, share, slack });
    match what {
        "memory_mib" | "children_memory_mib" | "redis_used_mib" => bound(0.5, 0.10, 8.0),
        "descriptors" => bound(0.25, 0.05, 6.0),
        "threads" | "children" => bound(0.25, 0.05, 3.0),
        "connections" | "channels" | "redis_clients" => bound(0.25, 0.05, 3.0),
        "broker_connections" | "broker_channels" => bound(0.25, 0.05, 6.0),
        "metric_series" => bound(0.5, 0.05, 40.0),
        // A history fills for as long as it spans, two days at most, and is bounded by its points.
        "keys" | "key_kib" if whose.starts_with("store:history") => None,
        "keys" => bound(0.5, 0.20, 200.0),
        "key_kib" => bound(0.5, 0.20, 1_024.0),
        "journal" => bound(0.5, 0.10, 500.0),
        // Bounded by its queue's own length, which is looked at in the end.
        "depth" if whose.ends_with(".dead") => None,
        "depth" => bound(0.5, 0.50, 50.0),
        "open" if whose == "tasks" => bound(0.5, 0.50, 150.0),
        "latency_p50_ms" => bound(0.5, 0.50, 100.0),
        "latency_p95_ms" => bound(0.5, 0.50, 500.0),
        "gateway" if whose.starts_with("gateway_") => bound(0.5, 0.20, 50.0),
        _ => None,
    }
}

/// Judges a series of a run that lasted so long.
pub(crate) fn judged(points: &[Point], bound: Bound, run_s: f64) -> Finding {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Finding::TooShort };
    let span = last.0 - first.0;
    let from = first.0 + span * bound.warm_up;
    let settled: Vec<Point> = points.iter().copied().filter(|(at, _)| *at >= from).collect();
    if span < run_s * SPAN_MIN || settled.len() < POINTS_MIN {
        return Finding::TooShort;
    }
    let level = median(settled.iter().map(|(_, value)| *value).collect());
    let growth = theil_sen(&thinned(&settled)) * (last.0 - from);
    Finding::Judged(Trend { level, growth, allowed: (bound.share * level.abs()).max(bound.slack) })
}

/// The median of the slopes of all pairs.
fn theil_sen(points: &[Point]) -> f64 {
    let pairs = points.iter().enumerate().flat_map(|(number, first)| points[number + 1..].iter().map(move |second| (first, second)));
    let slopes = pairs.filter(|(first, second)| second.0 > first.0).map(|(first, second)| (second.1 - first.1) / (second.0 - first.0));
    median(slopes.collect())
}

fn thinned(points: &[Point]) -> Vec<Point> {
    let step = points.len().div_ceil(POINTS_MAX).max(1);
    points.iter().copied().step_by(step).collect()
}

/// The median; 0 of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        _ if values.is_empty() => 0.0,
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const RUN_S: f64 = 14_400.0;
    const MEMORY: Bound = Bound { warm_up: 0.5, share: 0.10, slack: 8.0 };

    /// A sample every ten seconds, each given by its moment and a number from -1 to 1.
    fn series(value: impl Fn(f64, f64) -> f64) -> Vec<Point> {
        let mut random = ChaCha8Rng::seed_from_u64(23);
        let moments = (0..1_440).map(|number| f64::from(number) * 10.0);
        moments.map(|at| (at, value(at, random.random_range(-1.0..1.0)))).collect()
    }

    fn trend(points: &[Point], bound: Bound) -> Trend {
        match judged(points, bound, RUN_S) {
            Finding::Judged(trend) => trend,
            Finding::TooShort => panic!("{} points are too few", points.len()),
        }
    }

    #[test]
    fn a_leak_is_found_under_noise_and_its_size_is_told() {
        let leak = trend(&series(|at, noise| 60.0 + at / 600.0 + noise * 5.0), MEMORY);
        assert!(leak.grows(), "{leak:?}");
        assert!((leak.growth - 12.0).abs() < 1.0, "a tenth of a MiB a minute over two hours: {leak:?}");
    }

    #[test]
    fn a_leak_in_steps_is_found() {
        let steps = trend(&series(|at, _| 20.0 + (at / 900.0).floor() * 2.0), Bound { warm_up: 0.25, share: 0.05, slack: 6.0 });
        assert!(steps.grows(), "two descriptors a quarter of an hour: {steps:?}");
    }

    #[test]
    fn noise_a_warm_up_saw_teeth_and_spikes_are_no_growth() {
        let flat: [(&str, Vec<Point>); 4] = [
            ("noise", series(|_, noise| 60.0 + noise * 20.0)),
            ("warm-up", series(|at, noise| 100.0 - 60.0 * (-at / 1_000.0).exp() + noise)),
            ("saw teeth", series(|at, _| 60.0 + (at % 700.0) / 20.0)),
            ("spikes", series(|_, noise| if noise > 0.95 { 2_000.0 } else { 60.0 })),
        ];
        for (what, points) in flat {
            let trend = trend(&points, MEMORY);
            assert!(!trend.grows(), "{what}: {trend:?}");
        }
    }

    #[test]
    fn what_falls_does_not_grow_and_what_is_always_nothing_may_become_a_little() {
        assert!(!trend(&series(|at, _| 500.0 - at / 100.0), MEMORY).grows());
        assert!(!trend(&series(|_, noise| if noise > 0.0 { 2.0 } else { 0.0 }), MEMORY).grows());
    }

    #[test]
    fn a_short_life_and_a_short_run_are_not_judged() {
        let points = series(|at, _| at);
        assert_eq!(judged(&points[..300], MEMORY, RUN_S), Finding::TooShort, "a process that lived for a fifth of the run");
        assert_eq!(judged(&points[..18], MEMORY, 180.0), Finding::TooShort, "too few samples");
        assert_eq!(judged(&[], MEMORY, RUN_S), Finding::TooShort);
    }

    #[test]
    fn what_is_bounded_elsewhere_and_what_is_only_shown_has_no_bound() {
        for name in
            ["key_kib/store:history:48h", "depth/soak.dead", "busy/machine", "per_second/replies", "latency_p99_ms/priority-3", "name"]
        {
            assert_eq!(bound_of(name), None, "{name}");
        }
        for name in ["memory_mib/worker-0.1", "descriptors/gateway.3", "keys/task", "depth/soak.tasks.default", "latency_p95_ms/priority-0"]
        {
            assert!(bound_of(name).is_some(), "{name}");
        }
    }
}
