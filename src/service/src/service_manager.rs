//! What the service manager hears of a program: that it serves, that it stops and needs its time for that, that it lives.
//!
//! systemd says by `$NOTIFY_SOCKET` that it listens (`Type=notify`) and by `$WATCHDOG_USEC` how often it wants to hear (`WatchdogSec=`). Without them nothing is told, and nothing runs for it.
//! The pings come from the program's own runtime: one that hangs sends none. Nothing here waits for the manager: a message that it has no room for is lost.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::{ffi::OsStrExt, net::UnixDatagram},
    time::Duration,
};

use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// While it drains, a program asks for more time so often, and for so much each time. Its own grace time ends the drain.
const ASKS_EVERY: Duration = Duration::from_secs(5);
const ASKS_FOR: Duration = Duration::from_secs(30);

/// The service manager of this process, if it has one that listens. Clones are the same one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceManager {
    /// Where it listens: a path, or a name of Linux's own after an `@`.
    socket: Option<OsString>,
    /// How long it waits for a sign of life.
    patience: Option<Duration>,
}

impl ServiceManager {
    /// The one that the environment names.
    #[must_use]
    pub fn of_environment() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty());
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        // Where it names a process, it waits for that one.
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let patience = number("WATCHDOG_USEC").filter(|micros| is_ours && *micros > 0).map(Duration::from_micros);
        Self { socket, patience }
    }

    /// Nobody.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Tells that the program serves. `status` says what, for people.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// Tells from now on that the program lives, and once `stopping` is cancelled that it stops and needs time. Needs a tokio runtime. Costs nothing where nobody listens.
    pub fn accompany(&self, stopping: CancellationToken) {
        if self.socket.is_some() {
            tokio::spawn(self.clone().run(stopping));
        }
    }

    async fn run(self, stopping: CancellationToken) {
        // Twice in the time that the manager waits, as it asks for.
        let mut pings = self.patience.map(|patience| every((patience / 2).max(Duration::from_millis(1))));
        tokio::select! {
            biased;
            () = stopping.cancelled() => {}
            () = self.ping(&mut pings) => {}
        }
        self.tell("STOPPING=1\nSTATUS=stops: takes nothing new, what runs may end\n");
        let mut asks = every(ASKS_EVERY);
        loop {
            tokio::select! {
                _ = asks.tick() => self.tell(&format!("EXTEND_TIMEOUT_USEC={}\n", ASKS_FOR.as_micros())),
                () = self.ping(&mut pings) => {}
            }
        }
    }

    /// Says that the program lives, for ever. Dropped half-way it loses nothing.
    async fn ping(&self, pings: &mut Option<Interval>) {
        let Some(pings) = pings else { return std::future::pending().await };
        loop {
            pings.tick().await;
            self.tell("WATCHDOG=1\n");
        }
    }

    fn tell(&self, what: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = send(socket, what.as_bytes())
        {
            tracing::debug!(%error, what = what.trim_end(), "the service manager was not told");
        }
    }
}

fn send(to: &OsStr, what: &[u8]) -> io::Result<()> {
    let own = UnixDatagram::unbound()?;
    own.set_nonblocking(true)?;
    match to.as_bytes().strip_prefix(b"@") {
        Some(name) => own.send_to_addr(what, &named(name)?)?,
        None => own.send_to(what, to)?,
    };
    Ok(())
}

/// An address without a file.
#[cfg(target_os = "linux")]
fn named(name: &[u8]) -> io::Result<std::os::unix::net::SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    std::os::unix::net::SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn named(_name: &[u8]) -> io::Result<std::os::unix::net::SocketAddr> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "only Linux has addresses without a file"))
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manager in systemd's place, and what tells it.
    fn listening(patience: Option<Duration>) -> (tempfile::TempDir, tokio::net::UnixDatagram, ServiceManager) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
        (folder, socket, ServiceManager { socket: Some(path.into_os_string()), patience })
    }

    async fn hears(socket: &tokio::net::UnixDatagram) -> String {
        let mut buffer = [0; 1_024];
        let length = socket.recv(&mut buffer).await.unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[tokio::test]
    async fn it_hears_that_the_program_serves_lives_and_stops() {
        let (_folder, socket, manager) = listening(Some(Duration::from_millis(20)));
        let stopping = CancellationToken::new();
        manager.accompany(stopping.clone());
        assert_eq!(hears(&socket).await, "WATCHDOG=1\n");
        manager.ready("serves");
        while hears(&socket).await != "READY=1\nSTATUS=serves\n" {}
        stopping.cancel();
        while !hears(&socket).await.starts_with("STOPPING=1\n") {}
        while hears(&socket).await != "EXTEND_TIMEOUT_USEC=30000000\n" {}
    }

    #[tokio::test]
    async fn one_that_reads_nothing_holds_up_nobody() {
        let (_folder, _socket, manager) = listening(None);
        (0..10_000).for_each(|_| manager.ready("serves"));
        ServiceManager::none().ready("nobody hears it");
    }
}
