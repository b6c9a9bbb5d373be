//! When a refused client should come back.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

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
