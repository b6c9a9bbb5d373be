//! What can go wrong on the way to a Redis.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The server cannot be reached, did not answer in time, or is not able to answer now. The call may have happened. A retry may help.
    #[error("{0}")]
    Away(String),
    /// The server is there and refuses: its password, its access list. Somebody has to change something; a retry helps as soon as that was done.
    #[error("the server refuses it; check the user, its password and what its access list allows: {0}")]
    Refused(String),
    /// A script failed on what it found, or the answer is not what it should be. No retry helps.
    #[error("{0}")]
    Garbled(String),
    /// The keys of the call lie in several hash slots of a Redis Cluster. Nothing of it happened. The same call is refused for ever.
    #[error("a Redis Cluster refuses keys in several hash slots: {0}")]
    Scattered(String),
}

impl LinkError {
    /// What a script was told by the server in the middle of its work.
    pub(crate) fn within_a_script(text: String) -> Self {
        let says = |codes: &[&str]| codes.iter().any(|code| text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == *code));
        if says(&["NOPERM"]) || is_forbidden(&text) {
            Self::Refused(text)
        } else if is_full(&text)
            || says(&["OOM", "READONLY", "MISCONF", "NOREPLICAS", "MASTERDOWN", "LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN"])
        {
            Self::Away(text)
        } else {
            Self::Garbled(text)
        }
    }

    pub(crate) fn late(limit: std::time::Duration) -> Self {
        Self::Away(format!("no answer within {} ms", limit.as_millis()))
    }

    /// What made the call ended before the answer came.
    pub(crate) fn broken_off() -> Self {
        Self::Away("the call was broken off".to_owned())
    }
}

impl From<RedisError> for LinkError {
    fn from(error: RedisError) -> Self {
        let text = error.to_string();
        match error.kind() {
            _ if is_full(&text) => Self::Away(text),
            _ if is_forbidden(&text) => Self::Refused(text),
            ErrorKind::AuthenticationFailed => Self::Refused("the login was refused".to_owned()),
            ErrorKind::Parse if is_no_redis(&text) => Self::Away(NO_REDIS.to_owned()),
            // A plain `ERR` is a script that fails on what it finds; `LOADING`, `READONLY`, `OOM` and their like pass by waiting.
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType | ErrorKind::Server(ServerErrorKind::ResponseError) => Self::Garbled(text),
            ErrorKind::Server(ServerErrorKind::NoPerm) => Self::Refused(text),
            ErrorKind::Server(ServerErrorKind::CrossSlot) => Self::Scattered(text),
            _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => {
                Self::Refused(format!("{} {}", error.code().unwrap_or_default(), error.detail().unwrap_or_default()))
            }
            _ if error.code() == Some("WRONGTYPE") => Self::Garbled(text),
            _ => Self::Away(text),
        }
    }
}

/// What is said of a server that answers in another protocol.
const NO_REDIS: &str = "what listens there is no Redis; is the port right? (a Redis listens on 6379, unless it was told otherwise)";

/// Whether the library could not make out the bytes of an answer, which is not whether their value is of the wrong type.
fn is_no_redis(text: &str) -> bool {
    text.contains("Parse error at")
}

/// Whether a script was told that its user may not run a command: Redis 7.0 says so by a plain `ERR`.
fn is_forbidden(text: &str) -> bool {
    text.contains("The user executing the script can't")
}

/// Whether the server has no place for one more client. It says so by a plain `ERR`, also in the middle of a login.
fn is_full(text: &str) -> bool {
    text.contains("max number of clients")
}

pub(crate) fn is_broken(error: &RedisError) -> bool {
    !error.is_timeout() && (error.is_io_error() || error.is_connection_dropped())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_waiting_is_told_from_what_does_not() {
        let of = |text: &str| LinkError::within_a_script(text.to_owned());
        assert!(matches!(of("OOM command not allowed when used memory > 'maxmemory'."), LinkError::Away(_)));
        assert!(matches!(of("READONLY You can't write against a read only replica."), LinkError::Away(_)));
        assert!(matches!(of("NOPERM this user has no permissions"), LinkError::Refused(_)));
        assert!(matches!(of("ERR The user executing the script can't run this command or subcommand"), LinkError::Refused(_)));
        assert!(matches!(of("ERR max number of clients reached"), LinkError::Away(_)));
        assert!(matches!(of("WRONGTYPE Operation against a key holding the wrong kind of value"), LinkError::Garbled(_)));
        assert!(matches!(of("user_script:12: attempt to index a nil value"), LinkError::Garbled(_)));
    }

    #[test]
    fn an_answer_in_another_protocol_is_told_from_an_answer_of_the_wrong_type() {
        let other = LinkError::from(redis::parse_redis_value(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap_err());
        assert_eq!(other, LinkError::Away(NO_REDIS.to_owned()));
        let wrong_type = redis::from_redis_value::<u64>(redis::Value::Okay).map_err(redis::RedisError::from).unwrap_err();
        assert!(matches!(LinkError::from(wrong_type), LinkError::Garbled(_)));
    }

    #[test]
    fn a_cluster_that_refuses_several_hash_slots_is_told_from_a_garbled_answer() {
        let of = |line: &[u8]| LinkError::from(redis::parse_redis_value(line).unwrap().extract_error().unwrap_err());
        assert!(matches!(of(b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"), LinkError::Scattered(_)));
        assert!(matches!(of(b"-ERR wrong number of arguments\r\n"), LinkError::Garbled(_)));
        assert!(matches!(of(b"-MOVED 3999 127.0.0.1:6381\r\n"), LinkError::Away(_)));
    }
}
