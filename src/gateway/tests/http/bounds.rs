//! What the document bounds is bounded so: just outside is refused, just inside is taken.

use reqwest::StatusCode;
use serde_json::{Number, Value, json};

use crate::fleet::{Fleet, problem};

/// Fields that the document bounds, or fields of theirs.
const PREDICT_FIELDS: [&str; 5] = ["text", "max_length", "temperature", "seed", "gpu_options"];
const TASK_FIELDS: [&str; 7] = ["kind", "priority", "task_id", "items", "limits", "needs", "gpu_options"];

/// A value at a bound, and the next one on its other side.
struct Bound {
    /// The names of the fields that lead there.
    path: Vec<String>,
    /// Where the value is a list: its entry that is at fault, if not the list itself is.
    entry: Option<usize>,
    what: &'static str,
    inside: Value,
    outside: Value,
}

impl Bound {
    fn of(path: &[String], what: &'static str, (inside, outside): (Value, Value)) -> Self {
        Self { path: path.to_vec(), entry: None, what, inside, outside }
    }

    /// The field as a problem names it.
    fn field(&self) -> String {
        let entry = self.entry.map(|index| format!("[{index}]")).unwrap_or_default();
        self.path.join(".") + &entry
    }
}

/// Every bound of a schema, at any depth.
fn bounds(document: &Value, schema: &Value, path: &[String], found: &mut Vec<Bound>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        return bounds(document, document.pointer(pointer).expect("it resolves"), path, found);
    }
    for either in ["anyOf", "oneOf"].iter().filter_map(|name| schema[name].as_array()).flatten() {
        bounds(document, either, path, found);
    }
    // What has several forms is no value that one field alone takes to its bound; see below.
    for (name, field) in schema["properties"].as_object().into_iter().flatten().filter(|(name, _)| *name != "keep_as") {
        bounds(document, field, &[path, std::slice::from_ref(name)].concat(), found);
    }
    for (what, step) in [("minimum", -1), ("maximum", 1)] {
        if let Value::Number(bound) = &schema[what] {
            let outside = beyond(bound, step);
            found.push(Bound::of(path, what, (bound.clone().into(), outside)));
        }
    }
    for (what, step) in [("minLength", -1), ("maxLength", 1)] {
        if let Some(length) = schema[what].as_i64() {
            let text = |length: i64| Value::from("a".repeat(usize::try_from(length).expect("no bound below 0")));
            found.push(Bound::of(path, what, (text(length), text(length + step))));
        }
    }
    for (what, step) in [("minItems", -1), ("maxItems", 1)] {
        if let Some(length) = schema[what].as_i64() {
            let list = |length: i64| Value::from(vec![entry(schema); usize::try_from(length).expect("no bound below 0")]);
            found.push(Bound::of(path, what, (list(length), list(length + step))));
        }
    }
    if schema["items"].is_object() {
        let mut of_entries = Vec::new();
        bounds(document, &schema["items"], path, &mut of_entries);
        let second = |value: Value| Value::from(vec![entry(schema), value]);
        found.extend(of_entries.into_iter().map(|bound| Bound {
            entry: Some(1),
            inside: second(bound.inside),
            outside: second(bound.outside),
            ..bound
        }));
    }
}

/// An entry that a list of this schema takes.
fn entry(schema: &Value) -> Value {
    if schema["items"]["type"] == "string" { json!("a") } else { json!(1) }
}

fn beyond(bound: &Number, step: i64) -> Value {
    match bound.as_i64() {
        Some(whole) => json!(whole + step),
        None => json!(bound.as_f64().expect("a number") + step as f64 / 8.0),
    }
}

/// The least request that is taken, with a value put where the path leads.
fn with(mut request: Value, path: &[String], value: &Value) -> Value {
    let field = path.iter().fold(&mut request, |object, name| &mut object[name.as_str()]);
    *field = value.clone();
    request
}

#[tokio::test]
async fn every_bound_in_the_document_is_the_one_that_is_checked() {
    let fleet = Fleet::start().await;
    fleet.work_on_either(json!({"text": ""})).await;
    let document = gateway::openapi();
    let routes = [
        ("/api/v1/predict", json!({"text": "a"}), StatusCode::OK, &PREDICT_FIELDS[..]),
        ("/api/v1/tasks", json!({"kind": "echo"}), StatusCode::ACCEPTED, &TASK_FIELDS[..]),
    ];
    for (path, least, taken, expected) in routes {
        let schema = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
        let mut found = Vec::new();
        bounds(&document, schema, &[], &mut found);
        for name in expected {
            assert!(found.iter().any(|bound| bound.path[0] == *name), "{path}: {name} has no bound in the document");
        }
        for bound in found {
            let (about, Bound { path: place, inside, outside, .. }) = (format!("{} of {} in {path}", bound.what, bound.field()), &bound);
            let response = fleet.post(path, &with(least.clone(), place, inside)).await;
            assert_eq!(response.status(), taken, "{about}: what is at the bound is inside");
            let response = fleet.post(path, &with(least.clone(), place, outside)).await;
            assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY, "{about}: what is beyond is outside");
            assert_eq!(problem(response, StatusCode::UNPROCESSABLE_ENTITY).await["field"], bound.field(), "{about}");
        }
    }
}

#[tokio::test]
async fn the_names_under_which_outputs_are_kept_are_bounded_in_each_form() {
    let fleet = Fleet::start().await;
    let longest = "a".repeat(200);
    let names = |count: usize| (0..count).map(|number| format!("x{number}")).collect::<Vec<_>>();
    let with = |more: Value| {
        let mut keep_as = json!({"names": ["x"]});
        keep_as.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        keep_as
    };
    for keep_as in [
        json!(longest),
        json!(["x", longest]),
        json!(names(64)),
        with(json!({"ttl_ms": 1})),
        with(json!({"ttl_ms": 2_592_000_000_u64, "if_exists": "fail"})),
    ] {
        let response = fleet.post("/api/v1/tasks", &json!({"kind": "echo", "keep_as": keep_as})).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED, "{keep_as}");
    }
    for (keep_as, field) in [
        (json!(longest.clone() + "a"), "keep_as"),
        (json!(["x", longest.clone() + "a"]), "keep_as[1]"),
        (json!([]), "keep_as"),
        (json!(["x", "x"]), "keep_as"),
        (json!(names(65)), "keep_as"),
        (with(json!({"ttl_ms": 0})), "keep_as"),
        (with(json!({"ttl_ms": 2_592_000_001_u64})), "keep_as"),
        (with(json!({"if_exists": "stay"})), "keep_as.if_exists"),
    ] {
        let response = fleet.post("/api/v1/tasks", &json!({"kind": "echo", "keep_as": keep_as})).await;
        assert_eq!(problem(response, StatusCode::UNPROCESSABLE_ENTITY).await["field"], field, "{keep_as}");
    }
}
