//! Waiting for a condition instead of sleeping.

use std::time::Duration;

/// Longest wait. Generous: it bounds a hang, it does not measure speed.
const LONGEST: Duration = Duration::from_secs(120);
const BETWEEN: Duration = Duration::from_millis(10);

/// Waits until `condition` holds. On a paused clock the waiting costs no time.
///
/// # Panics
/// After two minutes of tokio's clock, saying `what` was waited for.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(BETWEEN).await;
        }
    };
    assert!(tokio::time::timeout(LONGEST, holds).await.is_ok(), "waited {LONGEST:?} in vain until {what}");
}
