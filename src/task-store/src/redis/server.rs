//! What a Redis server says of itself, for a warning at start and for `gpufleet doctor`.

use std::time::Duration;

use protocol::config::SecretUrl;

use redis_link::Link;

use super::calls::Calls;
use crate::StoreError;

/// A server that answers now.
pub(super) async fn reach(url: &SecretUrl, timeout: Duration) -> Result<Calls, StoreError> {
    let link = Link::open(url, timeout).map_err(|reason| StoreError::BadUrl { url: url.redacted(), reason })?;
    let calls = Calls::new(link);
    calls.query::<String>("connect", &redis::cmd("PING")).await?;
    Ok(calls)
}

/// How a Redis server is set up, as far as the fleet depends on it. An empty text means that the server does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// For example `7.0.15`.
    pub version: String,
    /// What it does when its memory is full; the fleet needs `noeviction`.
    pub maxmemory_policy: String,
    /// Its bound on memory, in bytes; 0 is none.
    pub maxmemory_bytes: u64,
    /// Whether it writes an append-only file, without which a restart empties it to its last snapshot.
    pub append_only: bool,
}

impl ServerFacts {
    /// Asks a server, for one command's time and over a connection of its own.
    ///
    /// # Errors
    /// [`StoreError::BadUrl`] or [`StoreError::Unavailable`].
    pub async fn ask(url: &SecretUrl, timeout: Duration) -> Result<Self, StoreError> {
        let text: String = reach(url, timeout).await?.query("ask the server for its set-up", &redis::cmd("INFO")).await?;
        Ok(Self::read(&text))
    }

    /// Whether it would drop records when its memory is full, instead of refusing writes.
    #[must_use]
    pub fn evicts(&self) -> bool {
        !self.maxmemory_policy.is_empty() && self.maxmemory_policy != "noeviction"
    }

    fn read(text: &str) -> Self {
        let value = |name: &str| text.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':')).unwrap_or_default();
        Self {
            version: value("redis_version").to_owned(),
            maxmemory_policy: value("maxmemory_policy").to_owned(),
            maxmemory_bytes: value("maxmemory").parse().unwrap_or(0),
            append_only: value("aof_enabled") == "1",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_the_servers_own_text() {
        let text = "# Server\r\nredis_version:7.0.15\r\n# Memory\r\nmaxmemory:1048576\r\nmaxmemory_policy:allkeys-lru\r\naof_enabled:1\r\n";
        let facts = ServerFacts::read(text);
        assert_eq!((facts.version.as_str(), facts.maxmemory_bytes, facts.append_only), ("7.0.15", 1_048_576, true));
        assert!(facts.evicts());
    }

    #[test]
    fn a_server_that_hides_its_policy_is_not_accused() {
        assert!(!ServerFacts::read("redis_version:7.2.0\r\n").evicts());
    }
}
