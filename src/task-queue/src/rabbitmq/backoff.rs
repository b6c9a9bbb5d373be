//! How long to wait before the next try.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// What lasted this long was a success: the next failure is a new one.
const LASTING: Duration = Duration::from_secs(10);

/// Doubling waits from 50 ms to 2 s, each cut by a random share of up to a half, so that a fleet does not return as one.
#[derive(Debug)]
pub(super) struct Backoff {
    wait: Duration,
    began: Instant,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { wait: FIRST, began: Instant::now() }
    }

    /// What is tried begins to work now.
    pub(super) fn began(&mut self) {
        self.began = Instant::now();
    }

    /// What was tried has failed or ended: the wait before the next try.
    pub(super) fn next(&mut self) -> Duration {
        if self.began.elapsed() >= LASTING {
            self.wait = FIRST;
            self.began = Instant::now();
        }
        let wait = self.wait;
        self.wait = (wait * 2).min(LONGEST);
        // A hasher with fresh keys is the randomness at hand.
        let share = (RandomState::new().hash_one(()) % 512) as f64 / 1024.0;
        wait.mul_f64(1.0 - share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_to_a_bound_and_begin_anew_after_a_lasting_success() {
        let mut backoff = Backoff::new();
        let waits: Vec<Duration> = (0..10).map(|_| backoff.next()).collect();
        assert!(waits[0] <= FIRST && waits[0] >= FIRST / 2);
        assert!(waits[9] <= LONGEST && waits[9] >= LONGEST / 2);
        backoff.began();
        tokio::time::advance(LASTING).await;
        assert!(backoff.next() <= FIRST);
    }
}
