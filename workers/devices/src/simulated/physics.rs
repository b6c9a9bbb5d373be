//! Heat, power and clock as closed formulas over elapsed time: pure, so that a paused clock gives the same numbers every time.

use std::time::Duration;

use protocol::gpu::Throttle;

use super::Thermals;

/// Temperature and power, which have inertia.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Physics {
    pub(super) temperature_celsius: f64,
    pub(super) power_watts: f64,
}

impl Physics {
    /// At rest.
    pub(super) fn cold(thermals: &Thermals) -> Self {
        Self { temperature_celsius: thermals.idle_celsius, power_watts: thermals.idle_watts }
    }

    /// After `elapsed` under a constant `load` (0 to 1), with `extra_celsius` from outside (a failed fan, a hot neighbour).
    pub(super) fn after(self, elapsed: Duration, load: f64, extra_celsius: f64, thermals: &Thermals) -> Self {
        let power_target = between(thermals.idle_watts, thermals.full_watts, load);
        let temperature_target = between(thermals.idle_celsius, thermals.full_celsius, load) + extra_celsius;
        Self {
            power_watts: relaxed(self.power_watts, power_target, elapsed, thermals.power_relaxation),
            temperature_celsius: relaxed(self.temperature_celsius, temperature_target, elapsed, thermals.temperature_relaxation),
        }
    }

    /// What holds the clock down.
    pub(super) fn throttled_by(self, thermals: &Thermals) -> Vec<Throttle> {
        if self.temperature_celsius > thermals.throttle_celsius { vec![Throttle::ThermalSoftware] } else { Vec::new() }
    }

    /// The SM clock: idle without load, boost with any, less when hot.
    pub(super) fn sm_clock_mhz(self, load: f64, thermals: &Thermals) -> f64 {
        if load <= 0.0 {
            return thermals.idle_mhz;
        }
        let too_hot = (self.temperature_celsius - thermals.throttle_celsius).max(0.0);
        (thermals.boost_mhz - too_hot * thermals.throttle_mhz_per_celsius).max(thermals.idle_mhz)
    }
}

fn between(low: f64, high: f64, share: f64) -> f64 {
    low + (high - low) * share
}

fn relaxed(from: f64, target: f64, elapsed: Duration, relaxation: Duration) -> f64 {
    let left = (-elapsed.as_secs_f64() / relaxation.as_secs_f64().max(1e-9)).exp();
    target + (from - target) * left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_steps_end_where_one_big_step_does() {
        let thermals = Thermals::default();
        let once = Physics::cold(&thermals).after(Duration::from_secs(10), 0.7, 3.0, &thermals);
        let mut stepwise = Physics::cold(&thermals);
        for _ in 0..1_000 {
            stepwise = stepwise.after(Duration::from_millis(10), 0.7, 3.0, &thermals);
        }
        assert!((once.temperature_celsius - stepwise.temperature_celsius).abs() < 1e-6);
        assert!((once.power_watts - stepwise.power_watts).abs() < 1e-6);
    }

    #[test]
    fn the_clock_falls_when_it_is_hot_and_rests_without_load() {
        let thermals = Thermals::default();
        let at = |temperature_celsius| Physics { temperature_celsius, power_watts: 700.0 };
        assert_eq!(at(50.0).sm_clock_mhz(0.0, &thermals), 345.0);
        assert_eq!(at(80.0).sm_clock_mhz(0.1, &thermals), 1_980.0);
        assert_eq!(at(84.0).sm_clock_mhz(1.0, &thermals), 1_820.0);
        assert_eq!(at(500.0).sm_clock_mhz(1.0, &thermals), 345.0);
    }
}
