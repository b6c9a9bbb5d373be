//! Identifiers, validated where they enter so that every later use (queue names, Redis keys, metric
//! labels, file names) is safe without another check.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An identifier that breaks its rule. Says which identifier, the rule and the value (cut to 64 characters).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}, not {value:?}")]
pub struct InvalidId {
    /// The identifier's name, as users know it.
    pub what: &'static str,
    /// What would have been accepted.
    pub rule: &'static str,
    /// What was given, shortened.
    pub value: String,
}

impl InvalidId {
    fn new(what: &'static str, rule: &'static str, value: &str) -> Self {
        Self { what, rule, value: value.chars().take(64).collect() }
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal, max $max:literal, $rule:literal, $pattern:literal, $accepts:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String", extend("pattern" = $pattern, "maxLength" = $max))]
        pub struct $name(String);

        impl $name {
            /// Takes the identifier if it keeps its rule.
            ///
            /// # Errors
            /// [`InvalidId`] says the rule.
            pub fn new(value: impl Into<String>) -> Result<Self, InvalidId> {
                let value = value.into();
                let accepts: fn(char) -> bool = $accepts;
                if value.is_empty() || value.len() > $max || !value.chars().all(accepts) {
                    return Err(InvalidId::new($what, $rule, &value));
                }
                Ok(Self(value))
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

identifier!(
    /// The identity of a task: the AMQP `message_id`, or derived where a client sets none.
    TaskId, "message_id", max 128, "1 to 128 visible ASCII characters other than braces",
    r"^[!-z|~]+$", |c| c.is_ascii_graphic() && c != '{' && c != '}'
);
identifier!(
    /// The identity of a GPU: its UUID (or a chosen name for a simulated one).
    GpuId, "gpu_id", max 64, "1 to 64 letters, digits, '-', '_' or '.'",
    r"^[A-Za-z0-9._-]+$", |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
);
identifier!(
    /// The name of a pool: the GPUs that serve one task queue.
    PoolName, "pool", max 64, "1 to 64 letters, digits, '-', '_' or '.'",
    r"^[A-Za-z0-9._-]+$", |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
);
identifier!(
    /// The name of what to run: the AMQP property `type`.
    Kind, "type", max 64, "a kind: 1 to 64 lower-case letters, digits, '-', '_' or '.'",
    r"^[a-z0-9._-]+$", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.')
);
identifier!(
    /// The random id that a worker takes at each start, so that it never inherits its predecessor's claims.
    Incarnation, "incarnation", max 64, "1 to 64 letters, digits, '-', '_' or '.'",
    r"^[A-Za-z0-9._-]+$", |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
);

impl Default for PoolName {
    /// `default`.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// One delivery of one message to one worker: a number that the worker counts up. The same task delivered
/// twice has two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct DeliveryId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_keep_their_rule_and_errors_say_it() {
        for good in ["a", "order-17/part:3", "550e8400-e29b-41d4-a716-446655440000"] {
            assert!(TaskId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "two words", "brace{d}", "tab\t", "ümlaut", &"x".repeat(129)] {
            let error = TaskId::new(bad).expect_err(bad).to_string();
            assert!(error.starts_with("message_id must be 1 to 128 visible"), "{error}");
        }
        assert!(GpuId::new("GPU-1/2").is_err());
        assert!(Kind::new("Predict").is_err());
    }

    #[test]
    fn an_identifier_is_checked_when_it_is_read_from_json() {
        assert!(serde_json::from_str::<GpuId>("\"GPU-7\"").is_ok());
        assert!(serde_json::from_str::<GpuId>("\"a b\"").is_err());
    }
}
