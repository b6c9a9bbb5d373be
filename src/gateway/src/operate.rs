//! Who may operate the fleet over HTTP. The gateway asks nobody who they are; where it listens decides.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Uri, header, request::Parts},
};
use protocol::config::Operate;

use crate::{Gateway, Problem, problem::ProblemKind, server::ClientAddress};

/// A request that may operate the fleet: change its settings, drain its GPUs, load and pin models, handle its dead letters, list and cancel its tasks. Refused: any other (403).
#[derive(Debug)]
pub(crate) struct Operator {
    /// The address that it came from, as far as it is known.
    pub(crate) who: String,
}

impl FromRequestParts<Gateway> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Problem> {
        gateway.may_operate(&parts.headers).map_err(|why| Problem::new(ProblemKind::NotOperated, why))?;
        let who = parts.extensions.get::<ClientAddress>().map_or_else(|| "unknown".to_owned(), ToString::to_string);
        Ok(Self { who })
    }
}

impl Gateway {
    /// Why a request with these headers may not operate the fleet, if it may not.
    fn may_operate(&self, headers: &HeaderMap) -> Result<(), String> {
        let operate = self.options.operate;
        let refused = |why: String| Err(format!("{why} (gateway.operate is {})", operate.name()));
        match operate {
            Operate::Always => Ok(()),
            Operate::Never => refused(
                "this gateway serves no settings, no drains, no wishes for models, no lists of tasks and no dead letters; use the fleet's servers, by --amqp-url and --redis-url, or set gateway.operate to loopback or always"
                    .to_owned(),
            ),
            Operate::Loopback => match (self.listens_on.get(), origin_elsewhere(headers)) {
                (Some(address), None) if address.ip().to_canonical().is_loopback() => Ok(()),
                (Some(address), Some(origin)) if address.ip().to_canonical().is_loopback() => {
                    refused(format!("Origin: a page of {origin:?} may not operate the fleet, only one of this host may"))
                }
                (address, _) => {
                    let address = address.map_or_else(|| "an address that is not known".to_owned(), ToString::to_string);
                    refused(format!(
                        "settings, drains and dead letters are served only where the gateway listens on a loopback address, and this one listens on {address}; set \
                         gateway.listen to one, such as 127.0.0.1:8080, or set gateway.operate to always where all who reach the port may operate the fleet"
                    ))
                }
            },
        }
    }
}

/// The origin of the page that sends a request, if that page is not of this host. A browser says it with every request that changes something, and it would send the
/// requests of any page to a loopback address.
fn origin_elsewhere(headers: &HeaderMap) -> Option<String> {
    const CHARACTERS_MAX: usize = 64;
    let origin = headers.get(header::ORIGIN)?;
    let host = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok()).and_then(|uri| uri.host().map(str::to_owned));
    if host.as_deref().is_some_and(is_of_this_host) {
        return None;
    }
    Some(String::from_utf8_lossy(origin.as_bytes()).chars().take(CHARACTERS_MAX).collect())
}

fn is_of_this_host(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_elsewhere_is_told_from_one_of_this_host() {
        let of = |origin: &'static str| origin_elsewhere(&HeaderMap::from_iter([(header::ORIGIN, origin.parse().expect("a value"))]));
        for own in ["http://localhost:8080", "http://LOCALHOST", "http://127.0.0.1:8080", "http://127.9.9.9", "http://[::1]:8080"] {
            assert_eq!(of(own), None, "{own}");
        }
        for other in ["http://gpu.example:8080", "https://localhost.example", "null", "http://10.0.0.1", "http://[::2]", "?"] {
            assert_eq!(of(other).as_deref(), Some(other));
        }
        assert_eq!(origin_elsewhere(&HeaderMap::new()), None);
    }
}
