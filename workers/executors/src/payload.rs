//! Reading a payload field by field, so that a refusal names the field that is wrong.

use serde_json::{Map, Value};

use crate::Failure;

/// The fields of an object, taken one by one; what is left at [`finish`](Fields::finish) is unknown.
#[derive(Debug)]
pub(crate) struct Fields {
    path: String,
    known: Vec<&'static str>,
    left: Map<String, Value>,
}

impl Fields {
    /// The fields of the payload. `null` is an object without fields.
    pub(crate) fn of_payload(payload: &Value) -> Result<Self, Failure> {
        match payload {
            Value::Null => Ok(Self::new("payload".to_owned(), Map::new())),
            Value::Object(fields) => Ok(Self::new("payload".to_owned(), fields.clone())),
            other => Err(Failure::invalid("payload", format!("must be an object, not {}", described(other)))),
        }
    }

    const fn new(path: String, left: Map<String, Value>) -> Self {
        Self { path, known: Vec::new(), left }
    }

    /// The full name of a field, as a refusal gives it.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// Any value. Absent and `null` are the same.
    pub(crate) fn value(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// Text.
    pub(crate) fn text(&mut self, name: &'static str) -> Result<Option<String>, Failure> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, "text", &other)),
        }
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, name: &'static str) -> Result<Option<bool>, Failure> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.wrong(name, "true or false", &other)),
        }
    }

    /// A whole number from `min` to `max`.
    pub(crate) fn whole(&mut self, name: &'static str, min: u64, max: u64) -> Result<Option<u64>, Failure> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.as_u64().filter(|number| (min..=max).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, &format!("a whole number from {min} to {max}"), &value)),
        }
    }

    /// A number from `min` to `max`.
    pub(crate) fn number(&mut self, name: &'static str, min: f64, max: f64) -> Result<Option<f64>, Failure> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.as_f64().filter(|number| (min..=max).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, &format!("a number from {min} to {max}"), &value)),
        }
    }

    /// An object, whose own fields are then read.
    pub(crate) fn object(&mut self, name: &'static str) -> Result<Option<Self>, Failure> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self::new(self.path(name), fields))),
            Some(other) => Err(self.wrong(name, "an object", &other)),
        }
    }

    /// Refuses the first field that was never asked for.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => Err(Failure::invalid(self.path(name), format!("is unknown; known are {}", self.known.join(", ")))),
        }
    }

    fn wrong(&self, name: &str, wanted: &str, found: &Value) -> Failure {
        Failure::invalid(self.path(name), format!("must be {wanted}, not {}", described(found)))
    }
}

/// A value as a refusal shows it: short, and never the producer's whole text.
fn described(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().count() <= 20 => format!("{text:?}"),
        Value::String(_) => "text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_names_the_field_and_what_would_be_accepted() {
        let mut fields = Fields::of_payload(&json!({"size": "big", "share": 7, "fail": {"oops": 1}, "extra": null})).unwrap();
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
        assert!(Fields::of_payload(&Value::Null).unwrap().finish().is_ok());
        for wrong in [json!([1]), json!("a"), json!(3)] {
            assert_eq!(Fields::of_payload(&wrong).unwrap_err().field.as_deref(), Some("payload"));
        }
    }
}
