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
    /// Why its set-up cannot hold what is promised, and what to do about it: once its memory is full it drops records that are needed.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if !self.facts.evicts() || self.drops_only_what_expires() {
            return None;
        }
        let lost = if self.has_store {
            "what tasks have begun and how they ended, so that they may run again"
        } else {
            "GPUs, settings and drains, so that placement stops"
        };
        let policy = &self.facts.maxmemory_policy;
        Some(format!(
            "drops records once its memory is full, needed ones too (maxmemory-policy {policy}): {lost}. Set maxmemory-policy to noeviction, by CONFIG SET and in the \
             server's configuration"
        ))
    }

    /// Where its set-up can lose data that nothing promised rests on, or loses it only by a restart, and what to do about it; one sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let Self { facts, .. } = self;
        let mut warnings = Vec::new();
        if facts.evicts() && self.drops_only_what_expires() {
            let policy = &facts.maxmemory_policy;
            warnings.push(format!(
                "drops what expires when its memory is full (maxmemory-policy {policy}), which in a table is little; set maxmemory-policy to noeviction"
            ));
        }
        if self.has_store && !facts.append_only {
            let lost = "has the store and no append-only file: a restart forgets outcomes, and tasks that were unacked then may run again";
            warnings.push(format!("{lost}; set appendonly yes"));
        }
        warnings
    }

    /// Whether it drops nothing but what expires, and that is notes alone. Every record of the store expires, those of tasks that run too; of the table, what it noted of
    /// tasks that nobody serves.
    fn drops_only_what_expires(&self) -> bool {
        !self.has_store && self.facts.maxmemory_policy.starts_with("volatile-")
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
            (server(true, "volatile-ttl", false), &["set appendonly yes"]),
            (server(false, "noeviction", false), &[]),
            (server(false, "volatile-ttl", false), &["to noeviction"]),
        ];
        for (server, expected) in cases {
            let warnings = server.warnings();
            assert_eq!(warnings.len(), expected.len(), "{server:?}: {warnings:?}");
            assert!(warnings.iter().zip(expected).all(|(warning, end)| warning.ends_with(end)), "{server:?}: {warnings:?}");
        }
    }

    #[test]
    fn a_server_that_drops_records_that_are_needed_is_at_fault() {
        for (has_store, policy, lost) in [
            (true, "allkeys-lru", "may run again"),
            (true, "allkeys-random", "may run again"),
            // All records of the store expire.
            (true, "volatile-ttl", "may run again"),
            (false, "allkeys-lfu", "drains"),
        ] {
            let fault = server(has_store, policy, true).fault().expect(policy);
            assert!(fault.contains(policy) && fault.contains(lost) && fault.contains("noeviction"), "{fault}");
        }
        for (has_store, policy) in [(true, "noeviction"), (true, ""), (false, "noeviction"), (false, "volatile-lru")] {
            assert_eq!(server(has_store, policy, true).fault(), None, "{policy:?}");
        }
    }

    #[tokio::test]
    async fn without_redis_there_is_nothing_to_ask() {
        assert_eq!(redis_servers(&Configuration::default()).await, Ok(Vec::new()));
    }
}
