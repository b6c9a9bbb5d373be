//! What Redis can and cannot promise.

use gpu_table::TableError;
use protocol::config::{Configuration, SecretUrl};
use service::{RedisServer, redis_servers};
use task_store::StoreError;

use super::Finding;
use crate::servers::Servers;

/// Looks at every Redis that the configuration names.
pub(super) async fn look(configuration: &Configuration) -> Vec<Finding> {
    if configuration.redis.url.is_none() {
        return vec![Finding::warning("Redis", "redis.url is not set: table and store are in memory, inside each process")];
    }
    match redis_servers(configuration).await {
        Ok(servers) => servers.iter().flat_map(describe).collect(),
        Err(error) => vec![Finding::bad("Redis", error.to_string())],
    }
}

/// Asks table and store the way that work goes: by a write each, of a mark that is gone after a few seconds. A server may answer, and take none. One that does not answer
/// is told of elsewhere.
pub(super) async fn try_writes(servers: &Servers) -> Vec<Finding> {
    let Ok(backends) = servers.connect().await else { return Vec::new() };
    let Configuration { redis, worker, .. } = servers.configuration();
    let store_url = redis.store_url.as_ref().or(redis.url.as_ref());
    let (table, store) = tokio::join!(backends.table.probe(&worker.pool), backends.store.probe());
    let table = table.map_err(|error| match error {
        TableError::Unavailable { reason, .. } => reason,
        other => other.to_string(),
    });
    let store = store.map_err(|error| match error {
        StoreError::Unavailable { reason, .. } => reason,
        other => other.to_string(),
    });
    let tried = [("table", redis.url.as_ref(), table), ("store", store_url, store)];
    tried.into_iter().filter_map(|(holds, url, tried)| Some(written(holds, url?, tried))).collect()
}

fn written(holds: &str, url: &SecretUrl, tried: Result<(), String>) -> Finding {
    let subject = format!("Redis {}", url.redacted());
    match tried {
        Ok(()) => Finding::good(subject, format!("the {holds} takes writes")),
        Err(reason) => {
            let reason = reason.trim_end_matches('.');
            let what = format!("it answers, and the {holds} takes no writes, so that no task begins or ends: {reason}");
            let advice = "give it memory (maxmemory) or disk if it has none left, rights if its user lacks them, or name another server if it is a replica";
            Finding::bad(subject, format!("{what}; {advice}"))
        }
    }
}

fn describe(server: &RedisServer) -> Vec<Finding> {
    let holds = match (server.has_table, server.has_store) {
        (true, true) => "table and store",
        (true, false) => "table",
        _ => "store",
    };
    let subject = format!("Redis {}", server.url);
    let mut findings = vec![Finding::good(&subject, format!("version {}, holds {holds}", server.facts.version))];
    if !is_supported(&server.facts.version) {
        findings.push(Finding::bad(&subject, "is older than 6.2: use 6.2 or newer, or Valkey"));
    }
    findings.extend(server.fault().map(|fault| Finding::bad(&subject, fault)));
    findings.extend(server.warnings().into_iter().map(|warning| Finding::warning(&subject, warning)));
    findings
}

/// From 6.2 on; a version that is not understood is not accused.
fn is_supported(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 2),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_is_supported_from_six_two() {
        let supported = ["6.2.0", "7.0.15", "8.0.1", "valkey"].map(is_supported);
        assert_eq!((supported, is_supported("6.0.16"), is_supported("5.0.3")), ([true; 4], false, false));
    }
}
