//! The forms that a schema allows for a value, in the words of a refusal.

use jsonschema::ValidationError;
use serde_json::Value;

use super::words::{brief, choices};

/// How deep forms within forms are followed. A schema may refer to itself.
const DEPTH_MAX: usize = 4;
/// Most forms that are named.
const NAMED_MAX: usize = 8;

/// The forms of which a value has none: `text, a list of numbers or null`. `None`: one of them cannot be named.
pub(super) fn wanted(fault: &ValidationError<'_>, schema: &Value) -> Option<String> {
    let forms = schema.pointer(fault.schema_path().as_str())?;
    several(forms, schema, DEPTH_MAX)
}

/// The bytes that a value should be which is no object at all. `None`: it should be another one.
pub(super) fn bytes_wanted(fault: &ValidationError<'_>, schema: &Value) -> Option<String> {
    let (parent, _) = fault.schema_path().as_str().rsplit_once('/')?;
    bytes(schema.pointer(parent)?).map(str::to_owned)
}

fn several(forms: &Value, root: &Value, depth: usize) -> Option<String> {
    let forms = forms.as_array().filter(|forms| (1..=NAMED_MAX).contains(&forms.len()))?;
    let mut named = Vec::new();
    for form in forms {
        let form = one(form, root, depth.checked_sub(1)?)?;
        if !named.contains(&form) {
            named.push(form);
        }
    }
    let last = named.pop()?;
    Some(if named.is_empty() { last } else { format!("{} or {last}", named.join(", ")) })
}

fn one(form: &Value, root: &Value, depth: usize) -> Option<String> {
    let pointer = form["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    if let Some(target) = pointer.and_then(|pointer| root.pointer(pointer)) {
        return one(target, root, depth.checked_sub(1)?);
    }
    if let Some(bytes) = bytes(form) {
        return Some(bytes.to_owned());
    }
    if let Some(forms) = form.get("anyOf").or_else(|| form.get("oneOf")) {
        return several(forms, root, depth);
    }
    if let Some(options) = form.get("enum") {
        return Some(choices(options));
    }
    if let Some(constant) = form.get("const") {
        return Some(brief(constant));
    }
    match &form["type"] {
        Value::String(name) if name == "array" => Some(list(form, root)),
        Value::String(name) => Some(word(name)?.0.to_owned()),
        Value::Array(names) => {
            let words: Option<Vec<&str>> = names.iter().map(|name| Some(word(name.as_str()?)?.0)).collect();
            words.map(|words| words.join(" or "))
        }
        _ => None,
    }
}

/// A list, with what it is of where that is one plain type.
fn list(form: &Value, root: &Value) -> String {
    let items = &form["items"];
    let pointer = items["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    let items = pointer.and_then(|pointer| root.pointer(pointer)).unwrap_or(items);
    match items["type"].as_str().and_then(word) {
        Some((_, plural)) => format!("a list of {plural}"),
        None => "a list".to_owned(),
    }
}

/// What to say of an object that stands for a segment or a tensor.
fn bytes(form: &Value) -> Option<&'static str> {
    let wants = |name: &str| form["required"].as_array().is_some_and(|names| names.iter().any(|required| required == name));
    if wants("tensor") {
        return Some(r#"a tensor, as {"tensor": "x"}"#);
    }
    match (wants("$segment"), wants("dtype")) {
        (true, true) => Some(r#"an array of raw bytes, as {"$segment": 0, "dtype": "f32", "shape": [2]}"#),
        (true, false) => Some(r#"raw bytes, as {"$segment": 0}"#),
        (false, _) => None,
    }
}

/// A type, for one value and for several.
fn word(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match name {
        "array" => ("a list", "lists"),
        "boolean" => ("true or false", "truths"),
        "integer" => ("a whole number", "whole numbers"),
        "null" => ("null", "nulls"),
        "number" => ("a number", "numbers"),
        "object" => ("an object", "objects"),
        "string" => ("text", "texts"),
        _ => return None,
    })
}
