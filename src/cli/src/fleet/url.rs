//! Where a gateway is.

use std::{fmt, str::FromStr};

/// The port of HTTP where a URL names none.
const PORT: u16 = 80;

/// `http://host[:port][/prefix]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GatewayUrl {
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// What stands before every path, where the gateway is behind a proxy. Empty, or `/…` without a slash at its end.
    pub(super) prefix: String,
}

impl GatewayUrl {
    /// Reads what was given as `name`.
    ///
    /// # Errors
    /// What is wrong with it, for people, without the password that it may have.
    pub(crate) fn given(name: &str, text: &str) -> Result<Self, String> {
        text.parse::<Self>().map_err(|problem| format!("{name}: {:?} {problem}", without_password(text)))
    }

    /// `host:port`.
    pub(super) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// The text with `***` for whatever may be a user and a password.
fn without_password(text: &str) -> String {
    let Some(at) = text.rfind('@') else { return text.to_owned() };
    let begin = text[..at].find("://").map_or(0, |colon| colon + "://".len());
    format!("{}***{}", &text[..begin], &text[at..])
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}{}", self.authority(), self.prefix)
    }
}

impl FromStr for GatewayUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("is not a URL; write http://host:port")?;
        match scheme.to_ascii_lowercase().as_str() {
            "http" => {}
            "https" => return Err("asks for TLS, which the fleet does not speak yet; begin with http://".to_owned()),
            other => return Err(format!("has the scheme {other:?}; write http://host:port, the address of a gateway")),
        }
        if rest.contains(['?', '#', '@']) || rest.contains(char::is_whitespace) {
            return Err("is more than the address of a gateway; write http://host:port".to_owned());
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !authority.ends_with(']') => {
                let port = port.parse::<u16>().ok().filter(|port| *port > 0);
                (host, port.ok_or("has a port that is not a number from 1 to 65535")?)
            }
            _ => (authority, PORT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("names no host; write http://host:port".to_owned());
        }
        Ok(Self { host: host.to_owned(), port, prefix: path.trim_end_matches('/').to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        text.parse().map(|url: GatewayUrl| url.to_string())
    }

    #[test]
    fn a_gateway_is_named_by_host_port_and_perhaps_a_prefix() {
        let cases = [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://gpus/", "http://gpus:80"),
            ("HTTP://[::1]:8080/", "http://[::1]:8080"),
            ("http://[::1]", "http://[::1]:80"),
            ("http://proxy:81/fleet/one/", "http://proxy:81/fleet/one"),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_gateways_address_says_what_to_write() {
        let cases = [
            ("localhost:8080", "is not a URL"),
            ("https://h", "asks for TLS"),
            ("redis://h:6379", "has the scheme \"redis\""),
            ("http://:8080", "names no host"),
            ("http://h:port", "has a port that is not a number"),
            ("http://h:0", "has a port that is not a number"),
            ("http://u:p@h", "is more than the address"),
            ("http://h/?a=b", "is more than the address"),
        ];
        for (text, expected) in cases {
            let problem = read(text).expect_err(text);
            assert!(problem.starts_with(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn a_password_is_never_told() {
        for text in ["http://me:secret@h", "http://me:secret@h:x", "https://me:se@cret@h/", "me:secret@h", "ftp://me:secret@h/x"] {
            let problem = GatewayUrl::given("--url", text).expect_err(text);
            assert!(problem.starts_with("--url: \"") && problem.contains("***@h"), "{problem}");
            assert!(["me:", "se@cret", "secret"].iter().all(|part| !problem.contains(part)), "{problem}");
        }
        let problem = GatewayUrl::given("--url", "localhost").expect_err("no URL");
        assert!(problem.starts_with("--url: \"localhost\" is not a URL"), "{problem}");
    }
}
