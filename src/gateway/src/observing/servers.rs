//! How the servers answer whoever observes.

use std::{fmt::Display, time::Duration};

use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::{ObserveError, ServerSeen};

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// What a new time counts against those before it.
const WEIGHT: f64 = 0.2;

/// An answer within its time.
pub(super) async fn in_time<T, E: Into<ObserveError>>(
    server: &'static str,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, ObserveError> {
    match timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answered) => answered.map_err(Into::into),
        Err(_) => Err(ObserveError::NoAnswer { server, after_ms: ANSWER_TIMEOUT.as_millis() }),
    }
}

/// One server, as it answered the last questions.
#[derive(Debug)]
pub(super) struct Server {
    name: &'static str,
    /// How long it takes, smoothed, in ms; `None`: it does not answer.
    ms: Option<f64>,
    /// Whether it failed at the last question.
    is_away: bool,
}

impl Server {
    pub(super) const fn new(name: &'static str) -> Self {
        Self { name, ms: None, is_away: false }
    }

    /// It answered.
    pub(super) fn answered(&mut self, took: Duration) {
        let ms = took.as_secs_f64() * 1_000.0;
        self.ms = Some(self.ms.map_or(ms, |before| before + WEIGHT * (ms - before)));
        if std::mem::take(&mut self.is_away) {
            info!(server = self.name, "a server answers again");
        }
    }

    /// It did not. The first time is a warning, what follows is the same trouble.
    pub(super) fn failed(&mut self, error: &dyn Display) {
        self.ms = None;
        if std::mem::replace(&mut self.is_away, true) {
            debug!(server = self.name, %error, "observe the fleet");
        } else {
            warn!(server = self.name, %error, "the fleet is observed without a server");
        }
    }

    pub(super) const fn ms(&self) -> Option<f64> {
        self.ms
    }

    /// What is wrong with it, in words.
    pub(super) fn away(&self) -> Option<String> {
        self.is_away.then(|| format!("{}: it does not answer", self.name))
    }

    pub(super) const fn seen(&self) -> ServerSeen {
        ServerSeen { is_up: self.ms.is_some() && !self.is_away, ms: self.ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_smoothed_and_end_with_a_failure() {
        let mut server = Server::new("store");
        assert!(!server.seen().is_up, "nothing was asked yet");
        server.answered(Duration::from_millis(10));
        server.answered(Duration::from_millis(20));
        assert_eq!(server.ms().map(f64::round), Some(12.0));
        server.failed(&"refused");
        assert_eq!((server.ms(), server.away().as_deref()), (None, Some("store: it does not answer")));
        server.answered(Duration::from_millis(30));
        assert_eq!((server.ms().map(f64::round), server.away()), (Some(30.0), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_is_not_waited_for() {
        let hangs = std::future::pending::<Result<(), ObserveError>>();
        assert!(matches!(in_time("table", hangs).await, Err(ObserveError::NoAnswer { server: "table", .. })));
    }
}
