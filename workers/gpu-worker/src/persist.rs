//! Trying again: bounded, jittered, until it works or the worker stops at once.

use std::{future::Future, time::Duration};

use protocol::Environment;
use tokio_util::sync::CancellationToken;

/// The worker stops at once: the delivery is left unacked and the broker will deliver it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abandoned;

/// Pauses that grow from 50 ms to 5 s, each shortened by up to half at random.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST_MS: u64 = 50;
    const LONGEST_MS: u64 = 5_000;

    /// The next pause.
    pub(crate) fn next(&mut self, environment: &Environment) -> Duration {
        let full = Self::FIRST_MS.saturating_mul(1 << self.failures.min(10)).min(Self::LONGEST_MS);
        self.failures += 1;
        Duration::from_millis(full).mul_f64(0.5 + environment.random.unit() / 2.0)
    }
}

/// Errors that say whether a later retry can succeed.
pub(crate) trait Transience: std::fmt::Display {
    fn is_transient(&self) -> bool;
}

impl Transience for gpu_table::TableError {
    fn is_transient(&self) -> bool {
        Self::is_transient(self)
    }
}

impl Transience for task_store::StoreError {
    fn is_transient(&self) -> bool {
        Self::is_transient(self)
    }
}

impl Transience for task_queue::PublishError {
    fn is_transient(&self) -> bool {
        Self::is_transient(self)
    }
}

/// Repeats `operation` while it fails transiently. Errors that no retry mends are returned; a stop at once ends it.
pub(crate) async fn persist<T, E, F>(
    environment: &Environment,
    now: &CancellationToken,
    mut operation: impl FnMut() -> F,
) -> Result<Result<T, E>, Abandoned>
where
    E: Transience,
    F: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::default();
    loop {
        let result = tokio::select! {
            biased;
            () = now.cancelled() => return Err(Abandoned),
            result = operation() => result,
        };
        match result {
            Err(error) if error.is_transient() => {
                let pause = backoff.next(environment);
                tracing::warn!(%error, pause_ms = pause.as_millis(), "will try again");
                pause_or_abandon(now, pause).await?;
            }
            settled => return Ok(settled),
        }
    }
}

/// Sleeps, unless the worker stops at once.
pub(crate) async fn pause_or_abandon(now: &CancellationToken, pause: Duration) -> Result<(), Abandoned> {
    tokio::select! {
        biased;
        () = now.cancelled() => Err(Abandoned),
        () = tokio::time::sleep(pause) => Ok(()),
    }
}
