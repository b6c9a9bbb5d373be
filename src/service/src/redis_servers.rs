//! What the configured Redis servers say of themselves: for the log at start and for `gpufleet doctor`.

use std::time::Duration;

use protocol::config::Configuration;
use task_store::{ServerFacts, StoreError};

/// A Redis server that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisServer {
    /// Its URL, without its password.
    pub url: String,
    /// Whether the table is there.
    pub has_table: bool,
    /// Whether the store is there.
    pub has_store: bool,
    /// How it is set up.
    pub facts: ServerFacts,
}

/// Asks every Redis server that the configuration names, each once; none if it names none.
///
/// # Errors
/// Of the first one that does not answer.
pub async fn redis_servers(configuration: &Configuration) -> Result<Vec<RedisServer>, StoreError> {
    let redis = &configuration.redis;
    let timeout = Duration::from_millis(redis.response_timeout_ms);
    let store_url = redis.store_url.as_ref().or(redis.url.as_ref());
    let urls = [redis.url.as_ref(), store_url.filter(|url| redis.url.as_ref() != Some(*url))];
    let mut servers = Vec::new();
    for url in urls.into_iter().flatten() {
        servers.push(RedisServer {
            url: url.redacted(),
            has_table: redis.url.as_ref() == Some(url),
            has_store: store_url == Some(url),
            facts: ServerFacts::ask(url, timeout).await?,
        });
    }
    Ok(servers)
}

impl RedisServer {
    /// Where its set-up can lose data, and what to do about it; one sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let Self { url, facts, .. } = self;
        let mut warnings = Vec::new();
        if facts.evicts() {
            let policy = &facts.maxmemory_policy;
            warnings.push(format!("{url} drops records when its memory is full (maxmemory-policy {policy}); set it to noeviction"));
        }
        if self.has_store && !facts.append_only {
            warnings.push(format!(
                "{url} has the store and no append-only file: a restart forgets outcomes, and tasks that were unacked then may run again; set appendonly yes"
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(has_store: bool, maxmemory_policy: &str, append_only: bool) -> RedisServer {
        let facts = ServerFacts { maxmemory_policy: maxmemory_policy.to_owned(), append_only, ..ServerFacts::default() };
        RedisServer { url: "redis://h".to_owned(), has_table: true, has_store, facts }
    }

    #[test]
    fn a_server_that_can_lose_data_is_warned_about() {
        let cases = [
            (server(true, "noeviction", true), &[][..]),
            (server(true, "allkeys-lru", true), &["set it to noeviction"]),
            (server(true, "volatile-ttl", false), &["set it to noeviction", "set appendonly yes"]),
            (server(false, "noeviction", false), &[]),
        ];
        for (server, expected) in cases {
            let warnings = server.warnings();
            assert_eq!(warnings.len(), expected.len(), "{server:?}: {warnings:?}");
            assert!(warnings.iter().zip(expected).all(|(warning, end)| warning.ends_with(end)), "{server:?}: {warnings:?}");
        }
    }

    #[tokio::test]
    async fn without_redis_there_is_nothing_to_ask() {
        assert_eq!(redis_servers(&Configuration::default()).await, Ok(Vec::new()));
    }
}
