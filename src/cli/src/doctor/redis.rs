//! What Redis can and cannot promise.

use protocol::config::Configuration;
use service::{RedisServer, redis_servers};

use super::Finding;

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

fn describe(server: &RedisServer) -> Vec<Finding> {
    let holds = match (server.has_table, server.has_store) {
        (true, true) => "table and store",
        (true, false) => "table",
        _ => "store",
    };
    let mut findings = vec![Finding::good(format!("Redis {}", server.url), format!("version {}, holds {holds}", server.facts.version))];
    if !is_supported(&server.facts.version) {
        findings.push(Finding::bad(format!("Redis {}", server.url), "is older than 6.2: use 6.2 or newer, or Valkey"));
    }
    findings.extend(server.warnings().into_iter().map(|warning| Finding::warning(format!("Redis {}", server.url), warning)));
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
