//! What a request says of its payload, or of many in its place.

use protocol::{Json as JsonText, OnError, Refusal, TaskBody, TaskId};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IntoDeserializer, value::Error as Unread},
};

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

/// Reads a field so that `null` is told from a field that is absent.
pub(crate) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<JsonText>, D::Error> {
    JsonText::deserialize(deserializer).map(Some)
}

/// Reads what becomes of a batch. By its text: the JSON library takes a number in an enumeration's place for a text that is no JSON.
pub(crate) fn given_on_error<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OnError>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    let named = |text: String| {
        let text = <&str as IntoDeserializer<'_, Unread>>::into_deserializer(text.as_str());
        OnError::deserialize(text).map_err(D::Error::custom)
    };
    text.map(named).transpose()
}

/// The body of a task with this payload, or with these items in its place.
pub(crate) fn body_of(payload: Option<JsonText>, items: Option<Vec<JsonText>>, on_error: Option<OnError>) -> Result<TaskBody, Refusal> {
    match (&items, payload.is_some(), on_error) {
        (Some(_), true, _) => Err(Refusal::new("items", "stands in place of payload; leave one of the two out")),
        (None, _, Some(_)) => Err(Refusal::new("on_error", "says what becomes of items, and there are none; leave it out, or give items")),
        _ => Ok(TaskBody { payload: payload.unwrap_or_default(), items, on_error: on_error.unwrap_or_default(), ..TaskBody::default() }),
    }
}
