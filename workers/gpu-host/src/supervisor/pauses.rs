//! How long a GPU stays without its child after a crash.

use std::time::Duration;

use protocol::Environment;

use super::SupervisorOptions;

/// The pauses of one child: each twice as long as the one before, up to a bound, until a life was long enough.
#[derive(Debug)]
pub(super) struct Pauses {
    first: Duration,
    longest: Duration,
    proved_after: Duration,
    failures: u32,
}

impl Pauses {
    pub(super) fn of(options: &SupervisorOptions) -> Self {
        Self { first: options.first_pause, longest: options.longest_pause, proved_after: options.proved_after, failures: 0 }
    }

    /// The pause after a life that lasted `lived`. Up to half of it is taken off at random, so that children that crashed together do not all load their
    /// models together.
    pub(super) fn next(&mut self, lived: Duration, environment: &Environment) -> Duration {
        if lived >= self.proved_after {
            self.failures = 0;
        }
        let full = self.first.saturating_mul(1 << self.failures.min(20)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + environment.random.unit() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use protocol::environment::{Clock, Job, Random, Spawn};

    use super::*;

    /// Always the same number, and nothing else.
    struct Fixed(u64);

    impl Random for Fixed {
        fn next_u64(&self) -> u64 {
            self.0
        }
    }

    impl Clock for Fixed {
        fn now_us(&self) -> u64 {
            self.0
        }
    }

    impl Spawn for Fixed {
        fn spawn(&self, _: &'static str, _: Job) {}
    }

    fn environment(number: u64) -> Environment {
        Environment { clock: Arc::new(Fixed(number)), random: Arc::new(Fixed(number)), spawner: Arc::new(Fixed(number)), traces: None }
    }

    fn pauses(lives_s: &[u64], number: u64) -> Vec<u128> {
        let mut pauses = Pauses::of(&SupervisorOptions::default());
        let environment = environment(number);
        lives_s.iter().map(|lived| pauses.next(Duration::from_secs(*lived), &environment).as_millis()).collect()
    }

    #[test]
    fn pauses_double_to_the_longest() {
        assert_eq!(pauses(&[0; 9], 0), [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn up_to_half_is_taken_off_at_random() {
        assert_eq!(pauses(&[0, 0], u64::MAX / 2), [750, 1_500]);
        assert_eq!(pauses(&[0, 0], u64::MAX), [1_000, 2_000]);
    }

    #[test]
    fn a_long_life_begins_anew_and_a_short_one_does_not() {
        assert_eq!(pauses(&[0, 0, 0, 60, 0], 0), [500, 1_000, 2_000, 500, 1_000]);
        assert_eq!(pauses(&[0, 59, 59], 0), [500, 1_000, 2_000]);
    }

    #[test]
    fn a_thousand_crashes_do_not_overflow() {
        assert_eq!(pauses(&[0; 1_000], 0).last(), Some(&30_000));
    }
}
