//! Stopping: the first signal asks, the second insists.

use tokio_util::sync::CancellationToken;

/// When to stop. Clones share their tokens.
///
/// ```text
/// running ──SIGTERM, SIGINT or ask()──▶ graceful ──a second signal or insist()──▶ at once
/// ```
#[derive(Debug, Clone, Default)]
pub struct Stop {
    graceful: CancellationToken,
    at_once: CancellationToken,
}

impl Stop {
    /// A handle that only [`Stop::ask`] and [`Stop::insist`] trigger: for tests and for programs inside programs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle that SIGTERM and SIGINT (Ctrl-C) trigger, from now until the process ends. Needs a tokio runtime.
    ///
    /// # Errors
    /// If the system refuses the signal handlers.
    pub fn on_signals() -> std::io::Result<Self> {
        let stop = Self::new();
        let mut signals = Signals::new()?;
        let triggered = stop.clone();
        tokio::spawn(async move {
            let name = signals.next().await;
            tracing::info!(signal = name, "stopping: running tasks may end; a second signal stops at once");
            triggered.ask();
            let name = signals.next().await;
            tracing::warn!(signal = name, "stopping at once");
            triggered.insist();
        });
        Ok(stop)
    }

    /// Fires at the first signal: take no new work, let what runs end within the grace time.
    #[must_use]
    pub fn graceful(&self) -> &CancellationToken {
        &self.graceful
    }

    /// Fires at the second signal: hand back what runs, and end.
    #[must_use]
    pub fn at_once(&self) -> &CancellationToken {
        &self.at_once
    }

    /// Does what the first signal does.
    pub fn ask(&self) {
        self.graceful.cancel();
    }

    /// Does what the second signal does, and the first.
    pub fn insist(&self) {
        self.graceful.cancel();
        self.at_once.cancel();
    }
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        // Without a handler there is nothing to wait for: the system ends the process by itself.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_is_graceful_and_insisting_is_both() {
        let stop = Stop::new();
        assert!(!stop.graceful().is_cancelled());
        stop.clone().ask();
        assert!(stop.graceful().is_cancelled() && !stop.at_once().is_cancelled());
        stop.insist();
        assert!(stop.at_once().is_cancelled());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_first_signal_asks_and_the_second_insists() {
        let stop = Stop::on_signals().expect("handlers");
        let send = |name: &str| {
            let process = std::process::id().to_string();
            assert!(std::process::Command::new("kill").args(["-s", name, &process]).status().expect("kill runs").success());
        };
        send("TERM");
        stop.graceful().cancelled().await;
        assert!(!stop.at_once().is_cancelled());
        send("INT");
        stop.at_once().cancelled().await;
    }
}
