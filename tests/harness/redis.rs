//! A private Redis for tests: on a free port of the loopback interface, in a temporary folder, ended with the test process whatever happens to it.

use std::{path::PathBuf, time::Duration};

use protocol::config::SecretUrl;
use tokio::sync::OnceCell;

use crate::{ports::ReservedPort, watchdog::Watchdog};

/// How long a server may take to answer after it was started.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Whether a server writes its data to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// It forgets everything when it stops.
    Nothing,
    /// An append-only file, synced at every write: it forgets nothing, even when killed.
    AppendOnly,
    /// It forgets everything, and is a Redis Cluster of one node, which has all hash slots: it refuses a call whose keys do not share one.
    ClusterOfOne,
}

/// A Redis server of this test process.
#[derive(Debug)]
pub struct PrivateRedis {
    port: ReservedPort,
    /// For the nodes of a cluster among themselves.
    bus_port: ReservedPort,
    folder: PathBuf,
    persistence: Persistence,
    /// None while it is stopped.
    server: Option<Watchdog>,
}

impl PrivateRedis {
    /// The server that all tests of this process share. Never stop it; keep apart by a prefix of your own ([`PrivateRedis::fresh_prefix`]).
    ///
    /// # Panics
    /// See [`PrivateRedis::start`].
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<PrivateRedis> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::start(Persistence::Nothing)).await
    }

    /// Starts a server of one's own and waits until it answers.
    ///
    /// # Panics
    /// If `redis-server` is not installed, or does not answer within 20 s.
    pub async fn start(persistence: Persistence) -> Self {
        let folder = tempfile::Builder::new().prefix("gpufleet-redis-").tempdir().expect("a temporary folder").keep();
        let mut redis = Self { port: ReservedPort::take(), bus_port: ReservedPort::take(), folder, persistence, server: None };
        redis.restart().await;
        redis
    }

    /// A key prefix that nobody else in this process has.
    #[must_use]
    pub fn fresh_prefix() -> String {
        format!("test-{}", uuid::Uuid::new_v4().simple())
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> SecretUrl {
        SecretUrl::new(format!("redis://127.0.0.1:{}/0", self.port.number()))
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Watchdog::server_pid)
    }

    /// A connection for the test itself.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        self.try_connection().await.expect("the private Redis answers")
    }

    /// Deletes every key that matches `pattern`, all at once: between two commands others would write keys that belong to the deleted ones.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn delete(&self, pattern: &str) {
        const DELETE: &str = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end";
        let deleting = redis::cmd("EVAL").arg(DELETE).arg(0).arg(pattern).to_owned();
        deleting.exec_async(&mut self.connection().await).await.expect("the private Redis answers");
    }

    /// Stops it in good order; what it keeps on disk is complete.
    pub fn stop(&mut self) {
        self.end("TERM");
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        self.end("KILL");
    }

    /// Starts it again on the same port, with what is on its disk.
    ///
    /// # Panics
    /// If it runs already, or does not answer within 20 s.
    pub async fn restart(&mut self) {
        assert!(self.server.is_none(), "the server runs already: stop or kill it first");
        require_installed();
        let (port, bus_port) = (self.port.number().to_string(), self.bus_port.number().to_string());
        let append_only = if self.persistence == Persistence::AppendOnly { "yes" } else { "no" };
        let command = ["redis-server", "--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", append_only];
        let mut command = [&command[..], &["--appendfsync", "always"]].concat();
        if self.persistence == Persistence::ClusterOfOne {
            command.extend(["--cluster-enabled", "yes", "--cluster-port", &bus_port]);
        }
        self.server = Some(Watchdog::start(&self.folder, &command));
        let answered = tokio::time::timeout(START_LIMIT, async {
            while !self.answers().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(answered.await.is_ok(), "redis-server did not start on port {port}; it says:\n{}", self.log());
        if self.persistence == Persistence::ClusterOfOne {
            self.become_cluster().await;
        }
    }

    /// Takes all hash slots, and waits until the cluster of one serves them.
    async fn become_cluster(&self) {
        let mut connection = self.connection().await;
        let all = redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16_383).to_owned();
        all.exec_async(&mut connection).await.expect("a fresh node takes all slots");
        let serves = tokio::time::timeout(START_LIMIT, async {
            loop {
                let about: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut connection).await.expect("an answer");
                if about.contains("cluster_state:ok") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(serves.await.is_ok(), "the cluster of one does not serve; it says:\n{}", self.log());
    }

    /// Freezes it: connections stay open, nothing is answered.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pause(&self) {
        self.server.as_ref().expect("a running server").signal("STOP");
    }

    /// Lets it go on after [`PrivateRedis::pause`].
    ///
    /// # Panics
    /// If it does not run.
    pub fn resume(&self) {
        self.server.as_ref().expect("a running server").signal("CONT");
    }

    /// What it printed.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }

    fn end(&mut self, signal: &str) {
        self.server.take().expect("a running server").end(signal);
    }

    async fn try_connection(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        let mut connection = redis::Client::open(self.url().reveal())?.get_multiplexed_async_connection().await?;
        // A server that still loads its data refuses this.
        redis::cmd("PING").exec_async(&mut connection).await?;
        Ok(connection)
    }

    /// Whether it is our server that answers, and not one that took the port first.
    async fn answers(&self) -> bool {
        let Ok(mut connection) = self.try_connection().await else { return false };
        let about: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await.unwrap_or_default();
        self.pid().is_some_and(|pid| about.lines().any(|line| line == format!("process_id:{pid}")))
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        drop(self.server.take());
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn require_installed() {
    let found = std::process::Command::new("redis-server").arg("--version").stdout(std::process::Stdio::null()).status();
    assert!(
        found.is_ok_and(|status| status.success()),
        "redis-server is not installed; these tests need it (Debian: apt install redis-server)"
    );
}
