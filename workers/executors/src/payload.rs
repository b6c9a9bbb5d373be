//! Reading a payload field by field, so that a refusal names the field that is wrong.

use std::collections::BTreeMap;

use protocol::Json;
use serde::de::DeserializeOwned;

use crate::Failure;

/// The fields of an object, taken one by one; what is left at [`finish`](Fields::finish) is unknown.
#[derive(Debug)]
pub(crate) struct Fields {
    path: String,
    known: Vec<&'static str>,
    left: BTreeMap<String, Json>,
}

impl Fields {
    /// The fields of the payload. `null` is an object without fields.
    pub(crate) fn of_payload(payload: &Json) -> Result<Self, Failure> {
        if payload.is_null() {
            return Ok(Self::new("payload".to_owned(), BTreeMap::new()));
        }
        let wrong = |_| Failure::invalid("payload", format!("must be an object, not {}", payload.in_brief()));
        Ok(Self::new("payload".to_owned(), payload.fields().map_err(wrong)?))
    }

    const fn new(path: String, left: BTreeMap<String, Json>) -> Self {
        Self { path, known: Vec::new(), left }
    }

    /// The full name of a field, as a refusal gives it.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// Any value. Absent and `null` are the same.
    pub(crate) fn value(&mut self, name: &'static str) -> Option<Json> {
        self.known.push(name);
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// A value of a type, if it is one that is `wanted`.
    fn typed<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        wanted: &str,
        is_right: impl FnOnce(&T) -> bool,
    ) -> Result<Option<T>, Failure> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.to().ok().filter(is_right) {
            Some(read) => Ok(Some(read)),
            None => Err(Failure::invalid(self.path(name), format!("must be {wanted}, not {}", value.in_brief()))),
        }
    }

    /// Text.
    pub(crate) fn text(&mut self, name: &'static str) -> Result<Option<String>, Failure> {
        self.typed(name, "text", |_| true)
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, name: &'static str) -> Result<Option<bool>, Failure> {
        self.typed(name, "true or false", |_| true)
    }

    /// A whole number from `min` to `max`.
    pub(crate) fn whole(&mut self, name: &'static str, min: u64, max: u64) -> Result<Option<u64>, Failure> {
        self.typed(name, &format!("a whole number from {min} to {max}"), |number| (min..=max).contains(number))
    }

    /// A number from `min` to `max`.
    pub(crate) fn number(&mut self, name: &'static str, min: f64, max: f64) -> Result<Option<f64>, Failure> {
        self.typed(name, &format!("a number from {min} to {max}"), |number| (min..=max).contains(number))
    }

    /// An object, whose own fields are then read.
    pub(crate) fn object(&mut self, name: &'static str) -> Result<Option<Self>, Failure> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let wrong = |_| Failure::invalid(self.path(name), format!("must be an object, not {}", value.in_brief()));
        Ok(Some(Self::new(self.path(name), value.fields().map_err(wrong)?)))
    }

    /// Refuses the first field that was never asked for.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => Err(Failure::invalid(self.path(name), format!("is unknown; known are {}", self.known.join(", ")))),
        }
    }
}

/// The model that a payload names in its field `model`, if it does.
pub(crate) fn model_named(payload: &Json) -> Option<String> {
    // Most payloads have none, and need not be read for that.
    if !payload.as_str().contains("\"model\"") {
        return None;
    }
    payload.fields().ok()?.remove("model")?.to().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_payload_names_its_model_or_none() {
        for (payload, model) in [
            (json!({"model": "small", "inputs": {"model": 1}}), Some("small")),
            (json!({"inputs": {"model": "small"}}), None),
            (json!({"model": 7}), None),
            (json!("\"model\""), None),
        ] {
            assert_eq!(model_named(&payload.clone().into()).as_deref(), model, "{payload}");
        }
    }

    #[test]
    fn a_refusal_names_the_field_and_what_would_be_accepted() {
        let mut fields = Fields::of_payload(&json!({"size": "big", "share": 7, "fail": {"oops": 1}, "extra": null}).into()).unwrap();
        let refused = fields.whole("size", 1, 9).unwrap_err();
        assert_eq!(refused.field.as_deref(), Some("payload.size"));
        assert_eq!(refused.message, "must be a whole number from 1 to 9, not \"big\"");
        assert_eq!(fields.number("share", 0.0, 1.0).unwrap_err().message, "must be a number from 0 to 1, not 7");
        let nested = fields.object("fail").unwrap().unwrap();
        assert_eq!(nested.finish().unwrap_err().field.as_deref(), Some("payload.fail.oops"));
        let unknown = fields.finish().unwrap_err();
        assert_eq!(unknown.field.as_deref(), Some("payload.extra"));
        assert_eq!(unknown.message, "is unknown; known are size, share, fail");
    }

    #[test]
    fn only_an_object_or_null_is_a_payload_with_fields() {
        assert!(Fields::of_payload(&Json::null()).unwrap().finish().is_ok());
        for wrong in [json!([1]), json!("a"), json!(3)] {
            assert_eq!(Fields::of_payload(&wrong.into()).unwrap_err().field.as_deref(), Some("payload"));
        }
    }
}
