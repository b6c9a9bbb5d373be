//! A payload that is made from a schema, for people to begin with.

use serde_json::{Map, Value, json};

use crate::Json;

/// How deep an example goes. A schema may refer to itself.
const DEPTH_MAX: usize = 8;
/// Most entries that a list has because the schema wants so many.
const ENTRIES_MAX: u64 = 4;

/// A payload as small as the schema allows: its own `examples` or `default` where it has any, else the required fields, each as small as it may be. It may miss what a schema can say in more ways than
/// are looked at here (patterns, conditions); it is something to begin with. `null` where the schema cannot be read.
#[must_use]
pub fn example(schema: &Json) -> Json {
    let Ok(root) = schema.to::<Value>() else { return Json::null() };
    Json::of(&of(&root, &root, DEPTH_MAX))
}

fn of(schema: &Value, root: &Value, depth: usize) -> Value {
    if depth == 0 {
        return Value::Null;
    }
    if let Some(given) = given(schema) {
        return given;
    }
    let pointer = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    if let Some(target) = pointer.and_then(|pointer| root.pointer(pointer)) {
        return of(target, root, depth - 1);
    }
    for several in ["oneOf", "anyOf", "allOf"] {
        let first = schema[several].as_array().and_then(|forms| forms.iter().find(|form| form["type"] != "null"));
        if let Some(first) = first
            && schema.get("properties").is_none()
        {
            return of(first, root, depth - 1);
        }
    }
    of_type(schema, root, depth)
}

/// What the schema itself names.
fn given(schema: &Value) -> Option<Value> {
    let first = |name: &str| schema[name].as_array().and_then(|list| list.first()).cloned();
    let named = |name: &str| schema.get(name).cloned();
    first("examples").or_else(|| named("example")).or_else(|| named("const")).or_else(|| named("default")).or_else(|| first("enum"))
}

fn of_type(schema: &Value, root: &Value, depth: usize) -> Value {
    match type_of(schema) {
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let field = |name: &str| (name.to_owned(), of(&schema["properties"][name], root, depth - 1));
            Value::Object(required.map(field).collect::<Map<_, _>>())
        }
        Some("array") => {
            let least = schema["minItems"].as_u64().unwrap_or(1).min(ENTRIES_MAX);
            let prefix = schema["prefixItems"].as_array().map(Vec::as_slice).unwrap_or_default();
            let entry = |place: u64| {
                let of_place = usize::try_from(place).ok().and_then(|place| prefix.get(place));
                of(of_place.unwrap_or(&schema["items"]), root, depth - 1)
            };
            (0..least.max(prefix.len() as u64)).map(entry).collect()
        }
        Some("string") => {
            let least = usize::try_from(schema["minLength"].as_u64().unwrap_or(0)).unwrap_or(0);
            let text = "text";
            Value::String(text.chars().cycle().take(least.clamp(text.len(), 1_000)).collect())
        }
        Some(kind @ ("integer" | "number")) => least_number(schema, kind),
        Some("boolean") => json!(true),
        _ => Value::Null,
    }
}

fn type_of(schema: &Value) -> Option<&str> {
    match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        Value::String(kind) => Some(kind),
        _ if schema.get("properties").is_some() => Some("object"),
        _ if schema.get("items").is_some() => Some("array"),
        _ => None,
    }
}

/// The number that is nearest to 1 within the bounds.
fn least_number(schema: &Value, kind: &str) -> Value {
    let bound = |name: &str| schema[name].as_f64();
    let step = if kind == "integer" { 1.0 } else { 0.5 };
    let least = bound("minimum").or_else(|| bound("exclusiveMinimum").map(|least| least + step)).unwrap_or(f64::MIN);
    let most = bound("maximum").or_else(|| bound("exclusiveMaximum").map(|most| most - step)).unwrap_or(f64::MAX);
    let number = 1.0_f64.min(most).max(least);
    if number.fract() == 0.0 && number.abs() < 9e15 { json!(number as i64) } else { json!(number) }
}
