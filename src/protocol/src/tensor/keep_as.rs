//! How a task says that its result stays on the GPU.

use std::fmt;

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        Error, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

use crate::{Refusal, TensorName};

/// Under which names a task leaves its outputs on the GPU: one name for its only output, or a list with one for each, in the order in which the kind gives them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(into = "Written")]
#[schemars(with = "Written")]
pub struct KeepAs {
    /// The names, in order.
    pub names: Vec<TensorName>,
    /// How long each is kept after its last use, in ms. `None`: as the worker is configured (`data.ttl_ms`).
    pub ttl_ms: Option<u64>,
    /// What becomes of a tensor that has the name already.
    pub if_exists: IfExists,
}

impl KeepAs {
    /// Under one name.
    #[must_use]
    pub fn one(name: TensorName) -> Self {
        Self { names: vec![name], ttl_ms: None, if_exists: IfExists::default() }
    }

    /// Most outputs of one task that are kept.
    pub const NAMES_MAX: usize = 64;
    /// Longest time after its last use for which a tensor may be kept, in ms: 30 days.
    pub const TTL_MS_MAX: u64 = 30 * 24 * 3_600_000;

    /// Checks it for a task with so many items; 0: it is no batch.
    ///
    /// # Errors
    /// A [`Refusal`] of the field `keep_as`.
    pub fn check(&self, items: usize) -> Result<(), Refusal> {
        let refused = |problem: String| Err(Refusal::new("keep_as", problem));
        if self.names.is_empty() || self.names.len() > Self::NAMES_MAX {
            return refused(format!("must be 1 to {} names, not {}", Self::NAMES_MAX, self.names.len()));
        }
        if let Some(name) = self.names.iter().enumerate().find_map(|(at, name)| self.names[..at].contains(name).then_some(name)) {
            return refused(format!("has the name {name} twice; each output needs one of its own"));
        }
        if let Some(ttl_ms) = self.ttl_ms.filter(|ttl_ms| !(1..=Self::TTL_MS_MAX).contains(ttl_ms)) {
            return refused(format!("must have a ttl_ms of 1 to {}, not {ttl_ms}", Self::TTL_MS_MAX));
        }
        let last = items.saturating_sub(1);
        match self.names.iter().find(|name| items > 0 && name.of_item(last).is_none()) {
            Some(name) => refused(format!(
                "has the name {name}, which with a dot and the number of an item is longer than {} characters",
                TensorName::BYTES_MAX
            )),
            None => Ok(()),
        }
    }
}

/// What becomes of a tensor whose name is written again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IfExists {
    /// It is replaced as a whole, by a newer version. Who reads the old one meanwhile reads it to its end.
    #[default]
    Replace,
    /// It stays, and the one who writes is refused (`tensor_exists`). Another attempt of the task that wrote it may replace it.
    Fail,
}

/// What becomes of a task that names a tensor which no GPU has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnMissing {
    /// It fails (`tensor_missing`).
    #[default]
    Fail,
    /// It waits until the tensor is there, for as long as a task of a kind that nobody serves is waited for (`worker.unserved_wait_ms`), and then fails.
    Wait,
}

impl OnMissing {
    /// Whether it is the default.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The forms that JSON has for it. It is read by [`Forms`]: an untagged enum would only say that none of them fits.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(title = "KeepAs")]
enum Written {
    /// One name.
    Name(TensorName),
    /// A name for each output.
    Names(Vec<TensorName>),
    /// With more to say.
    With(With),
}

/// Names, and what holds for them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// A name for each output.
    #[schemars(length(min = 1, max = KeepAs::NAMES_MAX))]
    names: Vec<TensorName>,
    /// How long each is kept after its last use, in ms. Default: `data.ttl_ms` of the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = KeepAs::TTL_MS_MAX))]
    ttl_ms: Option<u64>,
    /// What becomes of a tensor that has the name already. Default: `replace`.
    #[serde(default)]
    if_exists: IfExists,
}

/// Reads the form that is there, so that what is wrong with it is told with its place.
struct Forms;

impl<'de> Visitor<'de> for Forms {
    type Value = KeepAs;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a tensor, a list of names, or an object with names")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<KeepAs, E> {
        TensorName::new(name).map(KeepAs::one).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<KeepAs, A::Error> {
        let names = Vec::deserialize(SeqAccessDeserializer::new(names))?;
        Ok(KeepAs { names, ttl_ms: None, if_exists: IfExists::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, with: A) -> Result<KeepAs, A::Error> {
        let With { names, ttl_ms, if_exists } = With::deserialize(MapAccessDeserializer::new(with))?;
        Ok(KeepAs { names, ttl_ms, if_exists })
    }
}

impl<'de> Deserialize<'de> for KeepAs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Forms)
    }
}

impl From<KeepAs> for Written {
    fn from(keep_as: KeepAs) -> Self {
        let KeepAs { mut names, ttl_ms, if_exists } = keep_as;
        match (ttl_ms, if_exists, names.len()) {
            (None, IfExists::Replace, 1) => Self::Name(names.remove(0)),
            (None, IfExists::Replace, _) => Self::Names(names),
            _ => Self::With(With { names, ttl_ms, if_exists }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn it_is_a_name_or_names_or_more() {
        let read = |value: Value| serde_json::from_value::<KeepAs>(value).unwrap();
        let name = |name: &str| TensorName::new(name).unwrap();
        assert_eq!(read(json!("y")), KeepAs::one(name("y")));
        assert_eq!(read(json!(["y", "z"])).names, [name("y"), name("z")]);
        let with = read(json!({"names": ["y"], "ttl_ms": 5, "if_exists": "fail"}));
        assert_eq!((with.ttl_ms, with.if_exists), (Some(5), IfExists::Fail));
        for value in [json!("y"), json!(["y", "z"]), json!({"names": ["y"], "ttl_ms": 5, "if_exists": "replace"})] {
            assert_eq!(serde_json::to_value(read(value.clone())).unwrap(), value);
        }
    }

    #[test]
    fn what_is_wrong_with_it_is_told_with_its_place() {
        let long = "a".repeat(TensorName::BYTES_MAX + 1);
        for (value, field) in [
            (json!(7), "keep_as"),
            (json!(long), "keep_as"),
            (json!(["y", long]), "keep_as[1]"),
            (json!({"names": ["no name"]}), "keep_as.names[0]"),
            (json!({"names": ["y"], "ttl_ms": -1}), "keep_as.ttl_ms"),
            (json!({"names": ["y"], "if_exists": "stay"}), "keep_as.if_exists"),
            (json!({"ttl_ms": 5}), "keep_as.names"),
            (json!({"names": ["y"], "ttl": 5}), "keep_as.ttl"),
        ] {
            let text = json!({"payload": 1, "keep_as": value}).to_string();
            let refusal = crate::read_body(&text.clone().into_bytes().into()).expect_err(&text);
            assert_eq!(refusal.field, field, "{text}: {refusal}");
        }
    }
}
