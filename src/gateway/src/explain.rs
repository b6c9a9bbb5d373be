//! Why a request cannot be read, in words for its caller.
//!
//! The JSON library says which field is at fault; its words are those of a Rust program. What would be accepted is said here out of the very schema that `/openapi.json`
//! shows, so that the two are the same.

use axum::body::Bytes;
use protocol::{Json as JsonText, Refusal, reading::Unfit};
use schemars::JsonSchema;
use serde_json::Value;

use crate::openapi;

/// What is wrong with a request for a `T`: the field by the caller's own name, its value, what is allowed.
pub(crate) fn refusal<T: JsonSchema>(unfit: Unfit, text: &Bytes) -> Refusal {
    let Unfit { field, problem, is_syntax } = unfit;
    let (said, place) = apart(&problem);
    if is_syntax {
        let problem = if said.contains("recursion limit") {
            format!("must not be nested deeper than {} levels", JsonText::DEPTH_MAX)
        } else {
            format!("must be one JSON object in UTF-8, and is none from {} on: {said}", place.unwrap_or("its beginning"))
        };
        return Refusal::new(field, problem);
    }
    let problem = if said.starts_with("missing field") {
        format!("is missing; it must be {}", allowed::<T>(&field).unwrap_or_else(|| "there".to_owned()))
    } else if said.starts_with("duplicate field") {
        "is there twice; leave one of the two out".to_owned()
    } else if said.starts_with("unknown field") {
        format!("is unknown; known are {}", known_beside::<T>(&field))
    } else if said.starts_with("invalid ") || said.starts_with("unknown variant") {
        match allowed::<T>(&field) {
            Some(allowed) => {
                format!("must be {allowed}, not {}", value_at(text, &field).map_or("that".to_owned(), |value| value.in_brief()))
            }
            None => said.to_owned(),
        }
    } else {
        // The words of a type of ours, which may begin with another name of the field than the caller's.
        said.find("must be ").map_or(said, |at| &said[at..]).to_owned()
    };
    Refusal::new(field, problem)
}

/// What a field of `T` may be, as words that follow "must be": `a whole number from 0 to 9`. `body` is the whole; `None` where the schema says nothing.
pub(crate) fn allowed<T: JsonSchema>(field: &str) -> Option<String> {
    in_words(schema_at(openapi::schema_of::<T>()?, field)?)
}

/// The words of the JSON library, and the place in the text that follows them.
fn apart(problem: &str) -> (&str, Option<&str>) {
    match problem.rsplit_once(" at line ") {
        Some((said, place)) => (said, Some(&problem[problem.len() - place.len() - "line ".len()..])),
        None => (problem, None),
    }
}

/// The schema of the field with this path.
fn schema_at(root: &'static Value, path: &str) -> Option<&'static Value> {
    if path == "body" {
        return resolved(root);
    }
    steps(path).try_fold(resolved(root)?, |schema, step| match step {
        Step::Field(name) => resolved(either(schema).find_map(|one| one.get("properties")?.get(name))?),
        Step::Element(_) => resolved(either(schema).find_map(|one| one.get("items"))?),
    })
}

/// A step from a value to one within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step<'a> {
    /// To an object's field.
    Field(&'a str),
    /// To an element of a list, counted from 0.
    Element(usize),
}

/// The steps of a path: `text[17].a` is a field, an element and a field.
fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    path.split('.').flat_map(|part| {
        let mut pieces = part.split('[');
        let field = pieces.next().map(Step::Field);
        field.into_iter().chain(pieces.filter_map(|piece| piece.strip_suffix(']')?.parse().ok().map(Step::Element)))
    })
}

/// The schemas one of which a value must fit, which are not `null`.
fn either(schema: &'static Value) -> impl Iterator<Item = &'static Value> {
    let several = ["oneOf", "anyOf"].iter().find_map(|name| schema.get(name)).and_then(Value::as_array);
    let values = several.into_iter().flatten().filter(|one| one["type"] != "null").filter_map(resolved);
    values.chain(several.is_none().then_some(schema))
}

/// The schema itself, where one refers to it, or allows `null` beside it.
fn resolved(schema: &'static Value) -> Option<&'static Value> {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return resolved(openapi::at(reference.strip_prefix('#')?)?);
    }
    let Some(several) = schema.get("anyOf").and_then(Value::as_array) else { return Some(schema) };
    let mut values = several.iter().filter(|one| one["type"] != "null");
    match (values.next(), values.next()) {
        (Some(only), None) => resolved(only),
        _ => Some(schema),
    }
}

fn in_words(schema: &'static Value) -> Option<String> {
    if let Some(constant) = schema.get("const") {
        return Some(constant.to_string());
    }
    if schema.get("oneOf").is_some() || schema.get("anyOf").is_some() {
        let words: Option<Vec<String>> = either(schema).map(in_words).collect();
        let between = if either(schema).all(|one| one.get("const").is_some()) { " or " } else { ", or " };
        return words.map(|words| words.join(between));
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null")?,
        kind => kind.as_str()?,
    };
    let bound = |name: &str| schema.get(name).filter(|bound| bound.is_number()).map(plain);
    Some(match kind {
        "integer" => within("a whole number", bound("minimum"), bound("maximum"), ""),
        "number" => within("a number", bound("minimum"), bound("maximum"), ""),
        "string" => within("text", bound("minLength"), bound("maxLength"), " characters"),
        "boolean" => "true or false".to_owned(),
        "object" => "an object".to_owned(),
        "array" => match (bound("minItems"), bound("maxItems")) {
            (Some(least), Some(most)) => format!("a list of {least} to {most} entries"),
            _ => "a list".to_owned(),
        },
        _ => return None,
    })
}

fn within(what: &str, least: Option<String>, most: Option<String>, unit: &str) -> String {
    match (least, most) {
        (Some(least), Some(most)) => format!("{what} from {least} to {most}{unit}"),
        (Some(least), None) if unit.is_empty() => format!("{what} of at least {least}"),
        (Some(least), None) => format!("{what} of {least} or more{unit}"),
        (None, Some(most)) => format!("{what} of at most {most}{unit}"),
        (None, None) => what.to_owned(),
    }
}

/// A number without a fraction that says nothing: `2`, not `2.0`.
fn plain(number: &Value) -> String {
    match (number.as_u64(), number.as_f64()) {
        (None, Some(float)) => float.to_string(),
        _ => number.to_string(),
    }
}

/// The fields that there are where this one stands.
fn known_beside<T: JsonSchema>(field: &str) -> String {
    let parent = field.rsplit_once('.').map_or("body", |(parent, _)| parent);
    let schema = openapi::schema_of::<T>().and_then(|root| schema_at(root, parent));
    let known = schema.and_then(|schema| either(schema).find_map(|one| one.get("properties")?.as_object()));
    known.map(|fields| fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

/// What the caller wrote there. Nothing is built of the rest of the text, which may be large.
fn value_at(text: &Bytes, path: &str) -> Option<JsonText> {
    let whole = JsonText::parse(text.clone()).ok()?;
    if path == "body" {
        return Some(whole);
    }
    steps(path).try_fold(whole, |value, step| match step {
        Step::Field(name) => value.fields().ok()?.remove(name),
        Step::Element(index) => value.elements().ok()?.into_iter().nth(index),
    })
}

#[cfg(test)]
mod tests {
    use protocol::read_object;

    use super::*;
    use crate::{predict::PredictRequest, tasks::TaskRequest};

    fn task(text: &str) -> String {
        let unfit = read_object::<TaskRequest>(text.as_bytes()).expect_err(text);
        refusal::<TaskRequest>(unfit, &Bytes::copy_from_slice(text.as_bytes())).to_string()
    }

    #[test]
    fn a_refusal_says_the_field_the_value_and_what_is_allowed() {
        for (text, words) in [
            (r#"{"kind":"a","priority":-1}"#, "priority: must be a whole number from 0 to 9, not -1"),
            (r#"{"kind":"a","priority":1.5}"#, "priority: must be a whole number from 0 to 9, not 1.5"),
            (r#"{"kind":"a","priority":"9"}"#, "priority: must be a whole number from 0 to 9, not \"9\""),
            (r#"{"kind":7}"#, "kind: must be text of at most 64 characters, not 7"),
            (r#"{"kind":"Echo"}"#, "kind: must be a kind: 1 to 64 lower-case letters, digits, '-', '_' or '.', not \"Echo\""),
            (r#"{"kind":"a","task_id":"a b"}"#, "task_id: must be 1 to 128 visible ASCII characters other than braces, not \"a b\""),
            (r#"{"kind":"a","progress":1}"#, "progress: must be true or false, not 1"),
            (r#"{"kind":"a","limits":[]}"#, "limits: must be an object, not a list"),
            (r#"{"kind":"a","limits":{"max_attempts":-3}}"#, "limits.max_attempts: must be a whole number from 1 to 100, not -3"),
            (r#"{"kind":"a","kind":"b"}"#, "kind: is there twice; leave one of the two out"),
            (
                r#"{"kind":"a","task_id":"b{0..4}"}"#,
                "task_id: must be 1 to 128 visible ASCII characters other than braces, not \"b{0..4}\"",
            ),
            (r#"{"kind":"a","items":7}"#, "items: must be a list of 1 to 10000 entries, not 7"),
            (r#"{"kind":"a","items":[1],"on_error":"stop"}"#, "on_error: must be \"report\" or \"fail\", not \"stop\""),
            (r#"{"kind":"a","items":[1],"on_error":1}"#, "on_error: must be \"report\" or \"fail\", not 1"),
            (r#"{"kind":"a","keep_as":7}"#, "keep_as: must be text of at most 200 characters, or a list, or an object, not 7"),
            (
                r#"{"kind":"a","keep_as":["x","a b"]}"#,
                "keep_as[1]: must be the name of a tensor: 1 to 200 letters, digits, '-', '_', '.' or ':', not \"a b\"",
            ),
            (r#"{"kind":"a","keep_as":{"names":["x"],"ttl":1}}"#, "keep_as.ttl: is unknown; known are if_exists, names, ttl_ms"),
            (
                r#"{"kind":"a","keep_as":{"names":["x"],"ttl_ms":"1h"}}"#,
                "keep_as.ttl_ms: must be a whole number from 1 to 2592000000, not \"1h\"",
            ),
            (r#"{"kind":"a","on_missing":"hope"}"#, "on_missing: must be \"fail\" or \"wait\", not \"hope\""),
            ("{}", "kind: is missing; it must be text of at most 64 characters"),
            ("[1]", "body: must be an object, not a list"),
            (
                r#"{"kind":"a","limits":{"hurry":1}}"#,
                "limits.hurry: is unknown; known are attempt_timeout_ms, max_attempts, queue_deadline_ms, total_deadline_ms",
            ),
        ] {
            assert_eq!(task(text), words, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place() {
        let words = task(r#"{"kind":"a","#);
        assert!(words.starts_with("body: must be one JSON object in UTF-8, and is none from line 1 column "), "{words}");
    }

    #[test]
    fn a_path_leads_through_lists() {
        let of = |path| steps(path).collect::<Vec<_>>();
        assert_eq!(of("text[17].a"), [Step::Field("text"), Step::Element(17), Step::Field("a")]);
        assert_eq!(of("a[1][2]"), [Step::Field("a"), Step::Element(1), Step::Element(2)]);
        let text = Bytes::from_static(br#"{"text":["a",5]}"#);
        assert_eq!(value_at(&text, "text[1]").expect("it is there").as_str(), "5");
        assert_eq!(value_at(&text, "text[2]"), None);
    }

    #[test]
    fn bounds_are_said_as_the_document_has_them() {
        let texts = "text of 1 or more characters, or a list of 1 to 10000 entries";
        assert_eq!(allowed::<PredictRequest>("text").as_deref(), Some(texts));
        assert_eq!(allowed::<PredictRequest>("text[3]").as_deref(), Some("text of 1 or more characters"));
        assert_eq!(allowed::<PredictRequest>("temperature").as_deref(), Some("a number from 0 to 2"));
        assert_eq!(allowed::<PredictRequest>("nothing"), None);
        assert_eq!(allowed::<TaskRequest>("payload"), None, "it may be anything");
    }
}
