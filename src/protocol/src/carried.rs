//! What a task carries: one payload, or many in its place. Read in the same way from a message and from a request.

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IntoDeserializer, value::Error as Unread},
};

use crate::{GpuOptions, Json, OnError, Refusal, TaskBody};

/// Reads a field so that `null` is told from a field that is absent (`deserialize_with`).
///
/// # Errors
/// Those of `T`.
pub fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Reads what becomes of a batch (`deserialize_with`). By its text: the JSON library takes a number in an enumeration's place for a text that is no JSON.
///
/// # Errors
/// It is neither `null` nor the name of a choice.
pub fn given_on_error<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OnError>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    let named = |text: String| {
        let text = <&str as IntoDeserializer<'_, Unread>>::into_deserializer(text.as_str());
        OnError::deserialize(text).map_err(D::Error::custom)
    };
    text.map(named).transpose()
}

/// The body of a task with this payload, or with these items in its place; what else it says is left at its defaults. A payload that is `null` is one too.
///
/// # Errors
/// A [`Refusal`]: both are there, or `on_error` without items.
pub fn body_of(payload: Option<Json>, items: Option<Vec<Json>>, on_error: Option<OnError>) -> Result<TaskBody, Refusal> {
    match (&items, payload.is_some(), on_error) {
        (Some(_), true, _) => Err(Refusal::new("items", "stands in place of payload; leave one of the two out")),
        (None, _, Some(_)) => Err(Refusal::new("on_error", "says what becomes of items, and there are none; leave it out, or give items")),
        _ => Ok(TaskBody { payload: payload.unwrap_or_default(), items, on_error: on_error.unwrap_or_default(), ..TaskBody::default() }),
    }
}

/// What to warn of where a task that is no batch asks to be split, which does nothing.
#[must_use]
pub fn split_in_vain(body: &TaskBody, options: &GpuOptions) -> Option<&'static str> {
    let is_in_vain = body.items.is_none() && options.batch_split == Some(true);
    is_in_vain.then_some("gpu_options.batch_split: only a batch is split, and this task has one payload; give items in its place")
}
