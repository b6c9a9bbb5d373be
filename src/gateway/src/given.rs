//! The identities that clients give.

use protocol::TaskId;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error as _};

/// The longest identity that a client may give, in characters.
const GIVEN_ID_LENGTH_MAX: usize = 128;

/// Reads the identity that a client gives a task. That of a slice, which only the fleet gives, is none.
pub(crate) fn given_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TaskId>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| TaskId::new(text).map_err(D::Error::custom)).transpose()
}

/// The schema of such an identity.
pub(crate) fn given_id_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["string", "null"], "maxLength": GIVEN_ID_LENGTH_MAX, "pattern": "^[!-z|~]+$"})
}
