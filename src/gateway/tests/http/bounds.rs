//! What the document bounds is bounded so: just outside is refused, just inside is taken.

use reqwest::StatusCode;
use serde_json::{Number, Value, json};

use crate::fleet::{Fleet, problem};

/// Fields that the document bounds, or fields of theirs.
const PREDICT_FIELDS: [&str; 5] = ["text", "max_length", "temperature", "seed", "gpu_options"];
const TASK_FIELDS: [&str; 6] = ["kind", "priority", "task_id", "limits", "needs", "gpu_options"];

/// A value at a bound, and the next one on its other side.
struct Bound {
    /// The names of the fields that lead there.
    path: Vec<String>,
    what: &'static str,
    inside: Value,
    outside: Value,
}

/// Every bound of a schema, at any depth.
fn bounds(document: &Value, schema: &Value, path: &[String], found: &mut Vec<Bound>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        return bounds(document, document.pointer(pointer).expect("it resolves"), path, found);
    }
    for either in schema["anyOf"].as_array().into_iter().flatten() {
        bounds(document, either, path, found);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        bounds(document, field, &[path, std::slice::from_ref(name)].concat(), found);
    }
    for (what, step) in [("minimum", -1), ("maximum", 1)] {
        if let Value::Number(bound) = &schema[what] {
            let outside = beyond(bound, step);
            found.push(Bound { path: path.to_vec(), what, inside: bound.clone().into(), outside });
        }
    }
    for (what, step) in [("minLength", -1), ("maxLength", 1)] {
        if let Some(length) = schema[what].as_i64() {
            let text = |length: i64| Value::from("a".repeat(usize::try_from(length).expect("no bound below 0")));
            found.push(Bound { path: path.to_vec(), what, inside: text(length), outside: text(length + step) });
        }
    }
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
    fleet.work(|_| Ok(json!({"text": ""}))).await;
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
        for Bound { path: place, what, inside, outside } in found {
            let about = format!("{what} of {} in {path}", place.join("."));
            let response = fleet.post(path, &with(least.clone(), &place, &inside)).await;
            assert_eq!(response.status(), taken, "{about}: {inside} is inside");
            let response = fleet.post(path, &with(least.clone(), &place, &outside)).await;
            assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY, "{about}: {outside} is outside");
            assert_eq!(problem(response, StatusCode::UNPROCESSABLE_ENTITY).await["field"], place.join("."), "{about}");
        }
    }
}
