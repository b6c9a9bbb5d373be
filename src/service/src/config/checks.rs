//! What types and ranges cannot say: the form of URLs, addresses and names, and values that must go together.

mod handlers;
mod models;

use std::collections::BTreeMap;

use protocol::{
    GpuId,
    config::{BatchSection, Configuration, SecretUrl},
};

use super::{Mistakes, Origin};
use crate::telemetry;

const AMQP_SCHEMES: &[&str] = &["amqp", "amqps"];
const COLLECTOR_SCHEMES: &[&str] = &["http"];
const REDIS_SCHEMES: &[&str] = &["redis", "redis+unix", "unix"];
/// Longest prefix of names, in bytes: a queue's name ends with a GPU's id and holds 255 bytes.
const PREFIX_MAX: usize = 64;

/// Adds every mistake of the configuration as a whole.
pub fn check(configuration: &Configuration, origins: &BTreeMap<String, Origin>, mistakes: &mut Mistakes) {
    let mut checker = Checker { origins, mistakes };
    checker.gpu(configuration);
    checker.servers(configuration);
    checker.worker(configuration);
    checker.batch(&configuration.batch);
    checker.models(&configuration.models);
    checker.handlers(&configuration.handlers);
    checker.rest(configuration);
}

struct Checker<'checking> {
    origins: &'checking BTreeMap<String, Origin>,
    mistakes: &'checking mut Mistakes,
}

impl Checker<'_> {
    fn require(&mut self, holds: bool, key: &str, problem: impl FnOnce() -> String) {
        if !holds {
            let origin = self.origins.get(key).unwrap_or(&Origin::Default).clone();
            self.mistakes.add(key, &origin, problem());
        }
    }

    fn gpu(&mut self, configuration: &Configuration) {
        let gpus = &configuration.gpu.multi_gpu;
        self.require(!gpus.strategies.is_empty(), "gpu.multi_gpu.strategies", || "is empty; name at least one strategy".to_owned());
        let enabled = gpus.strategies.is_empty() || gpus.strategies.contains(&gpus.default_strategy);
        self.require(enabled, "gpu.multi_gpu.default_strategy", || {
            "is not among gpu.multi_gpu.strategies; add it there or choose one of them".to_owned()
        });
        for (key, threshold) in [("memory_threshold", gpus.memory_threshold), ("utilization_threshold", gpus.utilization_threshold)] {
            self.require(threshold > 0.0, &format!("gpu.multi_gpu.{key}"), || {
                "is 0, so no GPU would ever take a task; raise it".to_owned()
            });
        }
    }

    fn servers(&mut self, configuration: &Configuration) {
        let (amqp, redis) = (&configuration.amqp, &configuration.redis);
        self.url("amqp.url", amqp.url.as_ref(), AMQP_SCHEMES);
        self.url("redis.url", redis.url.as_ref(), REDIS_SCHEMES);
        self.url("redis.store_url", redis.store_url.as_ref(), REDIS_SCHEMES);
        self.require(redis.store_url.is_none() || redis.url.is_some(), "redis.store_url", || {
            "is set without redis.url, so the table would be in memory; set redis.url too".to_owned()
        });
        self.prefix("amqp.prefix", &amqp.prefix, "._-");
        self.prefix("redis.prefix", &redis.prefix, "._-:");
    }

    fn worker(&mut self, configuration: &Configuration) {
        let worker = &configuration.worker;
        self.require(worker.offer_ms <= worker.lease_ms, "worker.offer_ms", || {
            format!(
                "is {}, and must not exceed worker.lease_ms ({}): an offer does not outlive the row it was made to",
                worker.offer_ms, worker.lease_ms
            )
        });
        let timeout_ms = configuration.redis.response_timeout_ms;
        let in_time = configuration.redis.url.is_none() || timeout_ms < worker.lease_ms;
        self.require(in_time, "redis.response_timeout_ms", || {
            format!("is {timeout_ms}, and must be below worker.lease_ms ({}): one slow answer would cost every claim", worker.lease_ms)
        });
        if let Some(listen) = &worker.metrics_listen {
            self.address("worker.metrics_listen", listen);
        }
    }

    fn batch(&mut self, batch: &BatchSection) {
        for (kind, wait_ms) in &batch.wait_ms {
            self.require(*wait_ms <= BatchSection::WAIT_MS_MAX, "batch.wait_ms", || {
                format!("lets {kind} wait for {wait_ms} ms; at most {} ms are accepted", BatchSection::WAIT_MS_MAX)
            });
        }
        for (kind, largest) in &batch.largest {
            self.require(*largest > 0, "batch.largest", || {
                format!("lets no payload of {kind} run; give at least 1, with which each runs by itself")
            });
        }
    }

    fn rest(&mut self, configuration: &Configuration) {
        let (store, predict) = (&configuration.store, &configuration.predict);
        self.require(store.reply_retention_ms <= store.outcome_retention_ms, "store.reply_retention_ms", || {
            format!("is {}, and must not exceed store.outcome_retention_ms ({})", store.reply_retention_ms, store.outcome_retention_ms)
        });
        let scaling = &configuration.scaling;
        self.require(scaling.workers_min <= scaling.workers_max, "scaling.workers_min", || {
            format!("is {}, and must not exceed scaling.workers_max ({})", scaling.workers_min, scaling.workers_max)
        });
        self.require(predict.max_length <= predict.max_length_max, "predict.max_length", || {
            format!("is {}, and must not exceed predict.max_length_max ({})", predict.max_length, predict.max_length_max)
        });
        self.url("traces.otlp_url", configuration.traces.otlp_url.as_ref(), COLLECTOR_SCHEMES);
        self.address("gateway.listen", &configuration.gateway.listen);
        let simulated = GpuId::new(format!("{}-{}", configuration.simulated.id_prefix, configuration.simulated.gpus));
        self.require(simulated.is_ok(), "simulated.id_prefix", || "makes no valid GPU id; use letters, digits, '-', '_' or '.'".to_owned());
        let filter = telemetry::check_level(&configuration.log.level);
        self.require(filter.is_ok(), "log.level", || filter.err().unwrap_or_default());
    }

    fn url(&mut self, key: &str, url: Option<&SecretUrl>, schemes: &[&str]) {
        let Some(url) = url else { return };
        let problem = url_problem(url, schemes);
        self.require(problem.is_none(), key, || format!("is {:?}, which {}", url.redacted(), problem.unwrap_or_default()));
    }

    fn address(&mut self, key: &str, address: &str) {
        let valid = address.rsplit_once(':').is_some_and(|(host, port)| {
            let host_is_whole = !host.is_empty() && (!host.contains(':') || (host.starts_with('[') && host.ends_with(']')));
            host_is_whole && port.parse::<u16>().is_ok()
        });
        self.require(valid, key, || format!("is {address:?}, and must be host:port, for example 127.0.0.1:8080 or [::1]:8080"));
    }

    fn prefix(&mut self, key: &str, prefix: &str, punctuation: &str) {
        let accepted = |c: char| c.is_ascii_alphanumeric() || punctuation.contains(c);
        let valid = !prefix.is_empty() && prefix.len() <= PREFIX_MAX && prefix.chars().all(accepted);
        self.require(valid, key, || format!("is {prefix:?}, and must be 1 to {PREFIX_MAX} letters, digits or any of {punctuation:?}"));
    }
}

fn url_problem(url: &SecretUrl, schemes: &[&str]) -> Option<String> {
    let listed = || schemes.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join(", ");
    let Some((scheme, rest)) = url.reveal().split_once("://") else {
        return Some(format!("is not a URL; begin with {}", listed()));
    };
    if scheme == "rediss" && schemes.contains(&"redis") {
        return Some(
            "asks for TLS: the fleet does not speak it to Redis yet; begin with redis:// (through a tunnel, where the network is not private), redis+unix:// or unix://"
                .to_owned(),
        );
    }
    if scheme == "https" && schemes.contains(&"http") {
        return Some("asks for TLS: spans are not sent over it yet; begin with http://, for example to a collector on this host, which may speak TLS further on".to_owned());
    }
    if !schemes.contains(&scheme) {
        return Some(format!("has the scheme {scheme:?}; begin with {}", listed()));
    }
    if scheme.ends_with("unix") {
        return (!rest.starts_with('/')).then(|| "names no socket; write the path after the scheme".to_owned());
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host_and_port = authority.rsplit('@').next().unwrap_or_default();
    let (host, port) = match host_and_port.rsplit_once(':') {
        Some((host, port)) if !host_and_port.ends_with(']') => (host, Some(port)),
        _ => (host_and_port, None),
    };
    if host.is_empty() {
        return Some("names no host".to_owned());
    }
    let port_is_valid = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if !port_is_valid {
        return Some("has a port that is not a number from 1 to 65535".to_owned());
    }
    let names_no_vhost = schemes == AMQP_SCHEMES && is_bare_slash(&rest[authority.len()..]);
    names_no_vhost.then(|| "names a virtual host without a name; write /%2f for the default one, or leave the slash out".to_owned())
}

/// Whether what follows host and port is a slash and nothing behind it. Parameters do not count.
fn is_bare_slash(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|vhost| vhost.is_empty() || vhost.starts_with(['?', '#']))
}
