//! Identifiers, validated where they enter so that every later use (queue names, Redis keys, metric
//! labels, file names) is safe without another check.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Slice;

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
        identifier!($(#[$doc])* $name, $what, max $max, $rule, $pattern, $accepts, read by new up to $max);
    };
    (
        $(#[$doc:meta])* $name:ident, $what:literal, max $max:literal, $rule:literal, $pattern:literal, $accepts:expr,
        read by $read:ident up to $read_max:literal
    ) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String", extend("pattern" = $pattern, "maxLength" = $read_max))]
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
                Self::$read(value)
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
    /// The identity of a task: the AMQP `message_id`, or derived where a client sets none. That of a slice is its batch's, and the items in braces (`order-17{16..32}`), so that
    /// nobody can give it to a task of his own.
    TaskId, "message_id", max 128, "1 to 128 visible ASCII characters other than braces",
    r"^[!-z|~]+(\{[0-9]{1,5}\.\.[0-9]{1,5}\})?$", |c| c.is_ascii_graphic() && c != '{' && c != '}', read by read up to 142
);

impl TaskId {
    /// The identity of a slice of this batch. A slice of a slice is one of the same batch.
    #[must_use]
    pub fn of_slice(&self, slice: Slice) -> Self {
        Self(format!("{}{{{slice}}}", self.batch()))
    }

    /// The slice that it names, if it is a slice's.
    #[must_use]
    pub fn slice(&self) -> Option<Slice> {
        self.0.strip_suffix('}')?.split_once('{')?.1.parse().ok()
    }

    /// The identity of the batch whose slice it names; its own, where it is no slice's.
    #[must_use]
    pub fn batch(&self) -> Self {
        Self(self.0.split('{').next().unwrap_or_default().to_owned())
    }

    /// Takes what the fleet has written: the identity of a task or of a slice. What comes from outside is taken by [`TaskId::new`], which refuses slices.
    ///
    /// # Errors
    /// [`InvalidId`] says the rule.
    pub fn read(value: impl Into<String>) -> Result<Self, InvalidId> {
        let value = value.into();
        let Some((batch, rest)) = value.split_once('{') else { return Self::new(value) };
        let slice = rest.strip_suffix('}').and_then(|text| text.parse().ok());
        match (Self::new(batch), slice) {
            (Ok(batch), Some(slice)) => Ok(batch.of_slice(slice)),
            // Says the rule.
            _ => Self::new(value),
        }
    }
}
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

identifier!(
    /// The name of a group: tasks that are watched, counted, cancelled and waited for together.
    GroupName, "group", max 64, "1 to 64 letters, digits, '-', '_', '.' or ':'",
    r"^[A-Za-z0-9._:-]+$", |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':')
);

identifier!(
    /// The name of a tensor: data that stays on GPUs between tasks.
    TensorName, "tensor", max 200, "the name of a tensor: 1 to 200 letters, digits, '-', '_', '.' or ':'",
    r"^[A-Za-z0-9._:-]+$", |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':')
);

impl TensorName {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 200;

    /// Under which an item of a batch keeps what the batch keeps under this name. `None`: it would be too long.
    #[must_use]
    pub fn of_item(&self, item: usize) -> Option<Self> {
        Self::new(format!("{self}.{item}")).ok()
    }
}

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
        assert!(GroupName::new("nightly:2026-11.a_b").is_ok() && GroupName::new("x".repeat(64)).is_ok());
        for bad in ["", "a/b", "a b", "{a}", "ü", &"x".repeat(65)] {
            assert!(GroupName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_identity_of_a_slice_is_read_and_never_given_from_outside() {
        let batch = TaskId::new("order-17").expect("valid");
        let slice = batch.of_slice(Slice::new(16, 32).expect("a slice"));
        assert_eq!(slice.as_str(), "order-17{16..32}");
        assert_eq!((slice.batch(), slice.slice()), (batch.clone(), Slice::new(16, 32)));
        assert_eq!((batch.batch(), batch.slice()), (batch.clone(), None));
        assert_eq!(slice.of_slice(Slice::new(16, 20).expect("a slice")).as_str(), "order-17{16..20}");
        assert_eq!(TaskId::read("order-17{16..32}"), Ok(slice.clone()));
        assert_eq!(serde_json::from_str::<TaskId>("\"order-17{16..32}\"").expect("a slice"), slice);
        assert!(TaskId::new("order-17{16..32}").is_err());
        for wrong in ["{1..2}", "a{1..2", "a{2..1}", "a{1..2}{3..4}", "a{1..2}b", "a}"] {
            assert!(TaskId::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_identifier_is_checked_when_it_is_read_from_json() {
        assert!(serde_json::from_str::<GpuId>("\"GPU-7\"").is_ok());
        assert!(serde_json::from_str::<GpuId>("\"a b\"").is_err());
    }
}
