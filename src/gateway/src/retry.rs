//! When a refused client should come back.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// The bounds of an advice that rests on an expected wait, in s.
const EXPECTED_S: [f64; 2] = [1.0, 60.0];

/// An expected wait as advice, in whole seconds.
pub(crate) fn seconds_within_bounds(wait_ms: f64) -> u64 {
    let [shortest, longest] = EXPECTED_S;
    let seconds = (wait_ms / 1_000.0).ceil();
    // What is no number is advised like what is short.
    if seconds > shortest { seconds.min(longest) as u64 } else { shortest as u64 }
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How long refusals have gone on without an acceptance between. What has lasted for a while lasts about as long again: that is the estimate,
/// and it needs no knowledge of how fast the fleet works.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// Milliseconds from [`START`] to the first refusal after the last acceptance, plus 1; 0 where there was none.
    first: AtomicU64,
}

impl Refusals {
    const SHORTEST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(30);

    /// Notes a refusal; after how many seconds to come back.
    pub(crate) fn refused(&self) -> u64 {
        let now = millis_since_start() + 1;
        let first = self.first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|first| first, |_| now);
        let lasted = Duration::from_millis(now.saturating_sub(first));
        lasted.clamp(Self::SHORTEST, Self::LONGEST).as_millis().div_ceil(1_000).try_into().unwrap_or(Self::LONGEST.as_secs())
    }

    /// Whether the last one was refused.
    pub(crate) fn are_under_way(&self) -> bool {
        self.first.load(Ordering::Relaxed) != 0
    }

    /// Notes an acceptance.
    pub(crate) fn accepted(&self) {
        // Read first: the line stays shared between cores while all goes well.
        if self.first.load(Ordering::Relaxed) != 0 {
            self.first.store(0, Ordering::Relaxed);
        }
    }
}

fn millis_since_start() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expected_wait_is_advised_in_whole_seconds_within_bounds() {
        let advised = [0.0, 999.0, 1_001.0, 12_300.0, 3_600_000.0, f64::INFINITY, f64::NAN].map(seconds_within_bounds);
        assert_eq!(advised, [1, 1, 2, 13, 60, 60, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_advice_grows_with_the_trouble_within_bounds_and_ends_with_it() {
        let refusals = Refusals::default();
        assert_eq!(refusals.refused(), 1);
        tokio::time::advance(Duration::from_millis(6_500)).await;
        assert_eq!(refusals.refused(), 7);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(refusals.refused(), 30);
        refusals.accepted();
        assert_eq!(refusals.refused(), 1);
    }
}
