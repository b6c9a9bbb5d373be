//! What the service manager hears of a program: that it serves, that it stops and needs its time for that, that it lives.
//!
//! systemd says by `$NOTIFY_SOCKET` that it listens (`Type=notify`) and by `$WATCHDOG_USEC` how often it wants to hear (`WatchdogSec=`). Without them nothing is told, and nothing runs for it.
//! The pings come from the program's own runtime: one that hangs sends none.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// While it drains, a program asks for more time so often, and for so much each time. Its own grace time ends the drain.
const ASKS_EVERY: Duration = Duration::from_secs(5);
const ASKS_FOR: Duration = Duration::from_secs(30);

/// The service manager of this process, if it has one that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceManager {
    listens: bool,
}

impl ServiceManager {
    /// The one that the environment names.
    #[must_use]
    pub fn of_environment() -> Self {
        Self { listens: std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty()) }
    }

    /// Nobody.
    #[must_use]
    pub const fn none() -> Self {
        Self { listens: false }
    }

    /// Tells that the program serves. `status` says what, for people.
    pub fn ready(self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Tells from now on that the program lives, and once `stopping` is cancelled that it stops and needs time. Needs a tokio runtime. Costs nothing where nobody listens.
    pub fn accompany(self, stopping: CancellationToken) {
        if self.listens {
            tokio::spawn(self.run(stopping));
        }
    }

    async fn run(self, stopping: CancellationToken) {
        // Twice in the time that the manager allows, as it asks for.
        let mut pings = sd_notify::watchdog_enabled().map(|within| every((within / 2).max(Duration::from_millis(1))));
        tokio::select! {
            biased;
            () = stopping.cancelled() => {}
            () = self.ping(&mut pings) => {}
        }
        self.tell(&[NotifyState::Stopping, NotifyState::Status("stops: takes nothing new, what runs may end")]);
        let mut asks = every(ASKS_EVERY);
        loop {
            tokio::select! {
                _ = asks.tick() => self.tell(&[NotifyState::ExtendTimeoutUsec(micros(ASKS_FOR))]),
                () = self.ping(&mut pings) => {}
            }
        }
    }

    /// Says that the program lives, for ever. Dropped half-way it loses nothing.
    async fn ping(self, pings: &mut Option<Interval>) {
        let Some(pings) = pings else { return std::future::pending().await };
        loop {
            pings.tick().await;
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    fn tell(self, what: &[NotifyState<'_>]) {
        if self.listens
            && let Err(error) = sd_notify::notify(what)
        {
            tracing::debug!(%error, "the service manager was not told");
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
