//! How simulated work waits for its end.
//!
//! Tokio's timer counts whole milliseconds and rounds up. That is right for time limits and too coarse for work that is to take as long as it was
//! asked to, so the last of a precise wait is left to a timer of the kernel's.

mod kernel;

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Longer than tokio's timer may be late. Only this much of a wait holds a timer of the kernel's, and with it a file descriptor.
const LAST: Duration = Duration::from_millis(2);

/// How simulated work waits for its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sleeper {
    /// By tokio's timer alone: it follows a clock that a test has paused, and on a running clock it may end more than a millisecond late. The
    /// default.
    #[default]
    Coarse,
    /// By the kernel's timer in the end, which does not round. Only for a clock that runs: the kernel does not know that a test has paused
    /// tokio's. Where the kernel gives no timer (another system than Linux, no file descriptor left), it is as late as `Coarse`.
    Precise,
}

impl Sleeper {
    /// Waits until `end`, and never ends before it. Dropping it half-way ends the wait and leaves nothing behind.
    ///
    /// # Panics
    /// Outside of a tokio runtime whose clock and I/O are enabled.
    pub async fn sleep_until(self, end: Instant) {
        match self {
            Self::Coarse => sleep_until(end).await,
            Self::Precise => sleep_precisely_until(end).await,
        }
    }
}

async fn sleep_precisely_until(end: Instant) {
    if left_until(end) > LAST {
        sleep_until(end - LAST).await;
    }
    let left = left_until(end);
    if left.is_zero() {
        return;
    }
    if let Err(error) = kernel::sleep(left).await {
        tracing::debug!(%error, "the kernel gives no timer: tokio's ends this wait");
        sleep_until(end).await;
    }
}

fn left_until(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests;
