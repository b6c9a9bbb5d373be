//! What `gpufleet up` says first: where it listens, and what to try. On standard output, apart from the log.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::json;

use crate::{arguments::Common, kinds, output, servers::Servers, simulated::Brought};

/// Most of the handlers' kinds that are named; `gpufleet kinds` has all.
const BROUGHT_MAX: usize = 3;

/// Greets. Who starts a fleet need not read what it prints: a greeting that cannot be printed is only noted.
pub(crate) fn show(common: &Common, listens_on: SocketAddr, servers: &Servers, brought: &[Brought]) {
    let url = format!("http://{}", reachable(listens_on));
    let printed = if common.json {
        output::json(&json!({ "url": url }))
    } else {
        output::line(&text((listens_on, &url), &servers.describe(), brought))
    };
    if let Err(unprinted) = printed {
        output::note(&unprinted.to_string());
    }
}

fn text((listens_on, url): (SocketAddr, &str), fleet: &str, brought: &[Brought]) -> String {
    let mut lines = vec![format!("gpufleet listens on http://{listens_on} ({fleet})"), "Try, in another terminal:".to_owned()];
    let to_try = |Brought { kind, payload }: &Brought| format!("  {}", kinds::submit_line(kind, payload, Some(&url)));
    lines.extend(brought.iter().take(BROUGHT_MAX).map(to_try));
    lines.extend([
        format!("  gpufleet kinds --url {url}"),
        format!("  gpufleet submit simulate --payload '{{\"duration_ms\": 500}}' --count 100 --wait --url {url}"),
        format!("  gpufleet gpus --watch --url {url}"),
        format!("  curl -s {url}/api/v1/tasks -H 'content-type: application/json' -d '{{\"kind\": \"echo\", \"payload\": 1}}'"),
        format!("export GPUFLEET_URL={url} stands for --url. Ctrl-C stops it."),
    ]);
    lines.join("\n")
}

/// The address to ask at: what listens everywhere is reached by the loopback interface too.
fn reachable(listens_on: SocketAddr) -> SocketAddr {
    let ip = match listens_on.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listens_on.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_asked_at_the_loopback_interface() {
        for (listens_on, asked) in [("0.0.0.0:8080", "127.0.0.1:8080"), ("[::]:8080", "[::1]:8080"), ("10.1.2.3:80", "10.1.2.3:80")] {
            assert_eq!(reachable(listens_on.parse().expect("an address")).to_string(), asked);
        }
    }

    #[test]
    fn the_kinds_that_handlers_brought_are_to_be_tried_first() {
        let brought = |kind: &str| Brought { kind: kind.parse().expect("a kind"), payload: serde_json::json!({"text": "it's"}).into() };
        let (listens_on, url) = ("127.0.0.1:80".parse().expect("an address"), "http://127.0.0.1:80");
        let shown = text((listens_on, url), "embedded", &["shout", "a", "b", "c"].map(brought));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[2], r#"  gpufleet submit shout --payload '{"text":"it'\''s"}' --wait --url http://127.0.0.1:80"#);
        assert_eq!(lines[5], "  gpufleet kinds --url http://127.0.0.1:80", "three of the four are named");
    }
}
