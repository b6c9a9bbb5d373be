//! Why a connection could not be opened, in words that say what to change.

use lapin::{
    ErrorKind,
    uri::{AMQPScheme, AMQPUri},
};

use crate::QueueError;

/// How the broker begins to refuse a login.
const LOGIN_REFUSED: &str = "ACCESS_REFUSED";
/// How the broker begins to refuse a virtual host.
const VHOST_REFUSED: &str = "NOT_ALLOWED";

/// What a failed connection means. `url` has no password.
pub(super) fn not_connected(error: &lapin::Error, uri: &AMQPUri, url: &str) -> QueueError {
    let not_admitted = |reason: String| QueueError::NotAdmitted { url: url.to_owned(), reason };
    match error.kind() {
        ErrorKind::ProtocolError(refusal) => not_admitted(refused(&refusal.get_message().to_string(), uri)),
        ErrorKind::ParsingError(_) => not_admitted(
            "what listens there answers, but not in AMQP; is this the broker's port for AMQP (5672, or 5671 with amqps://)?".to_owned(),
        ),
        ErrorKind::InvalidProtocolVersion(_) => {
            not_admitted("the broker speaks another version of AMQP; this program speaks 0-9-1, as RabbitMQ does".to_owned())
        }
        ErrorKind::IOError(problem) if uri.scheme == AMQPScheme::AMQPS && is_no_tls(&problem.to_string()) => not_admitted(
            "what listens there answers, but not in TLS; is this the broker's port for TLS (5671)? Without TLS write amqp://".to_owned(),
        ),
        _ => QueueError::Unreachable { url: url.to_owned(), reason: error.to_string() },
    }
}

/// Whether the TLS library could not make out the first bytes of the answer. A certificate that is not trusted is another matter.
fn is_no_tls(problem: &str) -> bool {
    problem.contains("corrupt message")
}

/// The broker's own words behind plain ones.
fn refused(text: &str, uri: &AMQPUri) -> String {
    let vhost = &uri.vhost;
    if text.starts_with(LOGIN_REFUSED) {
        return format!("the broker refuses the login; check user and password ({text})");
    }
    if text.starts_with(VHOST_REFUSED) && text.ends_with("not found") {
        return format!(
            "the broker has no virtual host {vhost:?}; the default one is written /%2f, or left out together with its slash ({text})"
        );
    }
    if text.starts_with(VHOST_REFUSED) {
        return format!("the broker does not let this user use the virtual host {vhost:?} ({text})");
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn told(uri: &str, text: &str) -> String {
        refused(text, &uri.parse().expect("a URL"))
    }

    #[test]
    fn a_refusal_says_what_to_change_and_what_the_broker_said() {
        let login = told("amqp://u:p@h", "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.");
        assert!(login.starts_with("the broker refuses the login; check user and password (ACCESS_REFUSED"), "{login}");
        let vhost = told("amqp://h/there", "NOT_ALLOWED - vhost there not found");
        assert!(vhost.starts_with("the broker has no virtual host \"there\"; the default one is written /%2f"), "{vhost}");
        let forbidden = told("amqp://h/there", "NOT_ALLOWED - access to vhost 'there' refused for user 'u'");
        assert!(forbidden.starts_with("the broker does not let this user use the virtual host \"there\""), "{forbidden}");
        assert_eq!(
            told("amqp://h", "CONNECTION_FORCED - broker forced connection closure"),
            "CONNECTION_FORCED - broker forced connection closure"
        );
    }

    #[test]
    fn only_an_answer_that_is_no_tls_is_blamed_on_the_port() {
        let failed = |uri: &str, problem: &str| {
            let error = lapin::Error::from(ErrorKind::IOError(Arc::new(std::io::Error::other(problem.to_owned()))));
            not_connected(&error, &uri.parse().expect("a URL"), "amqps://h")
        };
        let no_tls = failed("amqps://h", "received corrupt message of type InvalidContentType");
        assert!(matches!(&no_tls, QueueError::NotAdmitted { reason, .. } if reason.contains("(5671)")), "{no_tls}");
        let untrusted = failed("amqps://h", "invalid peer certificate: UnknownIssuer");
        assert!(matches!(&untrusted, QueueError::Unreachable { reason, .. } if reason.contains("UnknownIssuer")), "{untrusted}");
        assert!(failed("amqp://h", "Connection refused").is_transient());
    }
}
