//! A payload made from a schema: as little as it asks for.

use protocol::Json;
use serde_json::{Map, Value, json};

/// How deep values within values are made.
const DEPTH_MAX: usize = 8;
/// The longest text or list that is made because a schema asks for one.
const LENGTH_MAX: u64 = 1_000;

/// The payload; `null` where there is no schema.
pub(super) fn payload(schema: Option<&Json>) -> Json {
    let schema = schema.and_then(|schema| schema.to::<Value>().ok()).unwrap_or_default();
    value(&schema, &schema, 0).into()
}

fn value(schema: &Value, whole: &Value, depth: usize) -> Value {
    if depth > DEPTH_MAX {
        return Value::Null;
    }
    let said = [schema.get("const"), schema.get("default"), schema.pointer("/examples/0"), schema.pointer("/enum/0")];
    if let Some(said) = said.into_iter().flatten().next() {
        return said.clone();
    }
    let within = [schema.pointer("/anyOf/0"), schema.pointer("/oneOf/0"), schema.pointer("/allOf/0"), referred(schema, whole)];
    if let Some(within) = within.into_iter().flatten().next() {
        return value(within, whole, depth + 1);
    }
    let number = |name: &str| schema.get(name).and_then(Value::as_u64).unwrap_or(0).min(LENGTH_MAX);
    match type_of(schema) {
        Some("object") => object(schema, whole, depth),
        Some("array") => {
            let of_place = |place: u64| schema.pointer(&format!("/prefixItems/{place}")).or_else(|| schema.get("items"));
            let elements = 0..number("minItems");
            elements.map(|place| of_place(place).map_or(Value::Null, |item| value(item, whole, depth + 1))).collect()
        }
        Some("string") => "x".repeat(usize::try_from(number("minLength")).unwrap_or(0)).into(),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| json!(0)),
        Some("boolean") => false.into(),
        _ => Value::Null,
    }
}

/// Of several types the first; objects and lists are known by what they have.
fn type_of(schema: &Value) -> Option<&str> {
    let types = schema.get("type");
    let named = types.and_then(Value::as_str).or_else(|| types?.get(0)?.as_str());
    named.or_else(|| schema.get("properties").or_else(|| schema.get("required")).map(|_| "object"))
}

fn referred<'a>(schema: &'a Value, whole: &'a Value) -> Option<&'a Value> {
    whole.pointer(schema.get("$ref")?.as_str()?.strip_prefix('#')?)
}

fn object(schema: &Value, whole: &Value, depth: usize) -> Value {
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let field = |name: &str| {
        let of_field = schema.get("properties").and_then(|properties| properties.get(name));
        (name.to_owned(), of_field.map_or(Value::Null, |field| value(field, whole, depth + 1)))
    };
    Value::Object(required.map(field).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_what_its_schema_asks_for() {
        let schema = json!({
            "type": "object", "required": ["text", "top", "mode", "deep", "any"],
            "properties": {
                "text": {"type": "string", "minLength": 2}, "top": {"type": ["integer", "null"], "minimum": 3}, "mode": {"enum": ["a", "b"]},
                "deep": {"$ref": "#/$defs/deep"}, "any": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}, "left_out": {"type": "string"},
            },
            "$defs": {"deep": {"type": "array", "minItems": 2, "items": {"required": ["n"], "properties": {"n": {"default": 1.5}}}}},
        });
        let made = payload(Some(&schema.clone().into()));
        let expected = json!({"text": "xx", "top": 3, "mode": "a", "deep": [{"n": 1.5}, {"n": 1.5}], "any": false});
        assert_eq!(made, expected);
        assert!(jsonschema::draft202012::new(&schema).unwrap().is_valid(&expected));
        assert_eq!(payload(None), json!(null));
    }

    #[test]
    fn a_schema_that_is_within_itself_ends() {
        let schema = json!({"$ref": "#"});
        assert_eq!(payload(Some(&schema.into())), json!(null));
    }
}
