//! How many tasks arrive a second. What a machine can do is not known before: in the warm-up the rate follows how busy the machine is, then it stays, so that the rest of the run can be compared with itself.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use ::tests::proc::machine_s;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Where the search begins, in arrivals a second.
const FIRST: f64 = 15.0;
/// No search leaves these: a slow machine still has something to do, and a fast one does not fill the books.
const RANGE: std::ops::RangeInclusive<f64> = 4.0..=80.0;
/// The share of its time for which the machine should be busy.
const BUSY: f64 = 0.5;
/// By how much one look changes the rate at most.
const STEP: std::ops::RangeInclusive<f64> = 0.8..=1.2;
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);

/// The rate now.
pub(crate) struct Pace {
    /// The bits of a float.
    rate: AtomicU64,
    is_fixed: bool,
}

impl Pace {
    /// `asked`: the rate that somebody wants, which then stays from the beginning.
    pub(crate) fn new(asked: Option<f64>) -> Self {
        Self { rate: AtomicU64::new(asked.unwrap_or(FIRST).to_bits()), is_fixed: asked.is_some() }
    }

    /// Arrivals a second.
    pub(crate) fn per_second(&self) -> f64 {
        f64::from_bits(self.rate.load(Ordering::Relaxed))
    }

    /// Looks for the rate for so long.
    pub(crate) async fn search(&self, lasting: Duration, stop: &CancellationToken) {
        let (cores, ends) = (std::thread::available_parallelism().map_or(1, usize::from) as f64, Instant::now() + lasting);
        let (mut before, mut at) = (machine_s(), Instant::now());
        while !self.is_fixed && Instant::now() < ends && !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(BETWEEN_LOOKS) => {}
            }
            let (now, passed) = (machine_s(), at.elapsed().as_secs_f64());
            at = Instant::now();
            if let (Some(before), Some(now)) = (before, now) {
                let rate = followed(self.per_second(), (now - before) / passed / cores);
                self.rate.store(rate.to_bits(), Ordering::Relaxed);
            }
            before = now;
        }
    }
}

/// The next rate, where the machine was busy for this share of its time.
fn followed(rate: f64, busy: f64) -> f64 {
    let wanted = (BUSY / busy.max(0.01)).clamp(*STEP.start(), *STEP.end());
    (rate * wanted).clamp(*RANGE.start(), *RANGE.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_grows_on_an_idle_machine_falls_on_a_busy_one_and_keeps_its_bounds() {
        assert_eq!(followed(20.0, BUSY), 20.0);
        assert!(followed(20.0, 0.2) > 20.0 && followed(20.0, 0.9) < 20.0);
        let after_many = |busy: f64| (0..100).fold(FIRST, |rate, _| followed(rate, busy));
        assert_eq!((after_many(0.0), after_many(1.0)), (*RANGE.end(), *RANGE.start()));
    }

    #[tokio::test]
    async fn a_rate_that_was_asked_for_stays() {
        let pace = Pace::new(Some(33.0));
        pace.search(Duration::from_secs(60), &CancellationToken::new()).await;
        assert_eq!(pace.per_second(), 33.0);
    }
}
