//! The identities that clients give. Those of slices, which only the fleet gives, are none of them.

use std::borrow::Cow;

use protocol::TaskId;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error as _};

/// The longest identity that a client may give, in characters.
const LENGTH_MAX: usize = 128;
/// What it is made of: visible ASCII characters other than braces.
const PATTERN: &str = "^[!-z|~]+$";

/// The identity of a task, as a client gives it.
#[derive(Debug)]
pub(crate) struct GivenId(pub(crate) TaskId);

impl<'de> Deserialize<'de> for GivenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        TaskId::new(String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

impl JsonSchema for GivenId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "GivenId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": LENGTH_MAX, "pattern": PATTERN})
    }
}

/// Reads the identity of a task that may be left out.
pub(crate) fn task_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TaskId>, D::Error> {
    Ok(Option::<GivenId>::deserialize(deserializer)?.map(|GivenId(task_id)| task_id))
}

/// The schema of such an identity.
pub(crate) fn task_id_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["string", "null"], "maxLength": LENGTH_MAX, "pattern": PATTERN})
}
