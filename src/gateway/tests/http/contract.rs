//! What is served is what is documented.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::{Map, Value};

use crate::fleet::{Fleet, Setup, json, problem};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Paths and their documented methods.
fn documented(document: &Value) -> Vec<(String, BTreeSet<String>)> {
    let paths: &Map<String, Value> = document["paths"].as_object().expect("paths");
    paths.iter().map(|(path, operations)| (path.clone(), operations.as_object().expect("operations").keys().cloned().collect())).collect()
}

#[tokio::test]
async fn every_documented_method_is_served_and_no_other() {
    let fleet = Fleet::start().await;
    let document = json(fleet.get("/openapi.json").await).await;
    let bare = Setup { kinds: &[], ..Setup::default() }.start().await;
    assert_eq!(json(bare.get("/openapi.json").await).await, gateway::openapi(), "nothing is served");
    let documented = documented(&document);
    assert_eq!(documented.len(), 47);
    for (path, methods) in documented {
        let url = format!(
            "{}{}",
            fleet.url,
            path.replace("{task_id}", "t")
                .replace("{gpu_id}", "g")
                .replace("{group}", "g")
                .replace("{number}", "0")
                .replace("{kind}", "k")
                .replace("{name}", "x")
        );
        for method in METHODS {
            let verb = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
            let response = fleet.http.request(verb, &url).send().await.expect("an answer");
            let status = response.status();
            if methods.contains(method) {
                assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
                let declared = &document["paths"][path.as_str()][method]["responses"];
                assert!(declared[status.as_str()].is_object(), "{method} {path} answered {status}, which is not documented");
            } else {
                let allow = response.headers().get("allow").map(|value| value.to_str().expect("text").to_lowercase()).unwrap_or_default();
                assert!(methods.iter().all(|method| allow.contains(method.as_str())), "{path} allows {allow:?}");
                problem(response, StatusCode::METHOD_NOT_ALLOWED).await;
            }
        }
    }
    problem(fleet.get("/api/v1").await, StatusCode::NOT_FOUND).await;
}

#[test]
fn every_reference_in_the_document_resolves() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = gateway::openapi();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

/// The schema of a parameter of a GET.
fn parameter<'a>(document: &'a Value, path: &str, name: &str) -> &'a Value {
    let parameters = document["paths"][path]["get"]["parameters"].as_array().expect("parameters");
    let found = parameters.iter().find(|parameter| parameter["name"] == name);
    &found.unwrap_or_else(|| panic!("{path} has no {name}"))["schema"]
}

#[test]
fn the_document_says_what_parameters_may_be() {
    let document = gateway::openapi();
    let given = "^[!-z|~]+$";
    for (path, name) in
        [("/api/v1/tasks/{task_id}", "task_id"), ("/api/v1/tasks/{task_id}/results", "task_id"), ("/api/v1/groups/{group}/tasks", "after")]
    {
        assert_eq!(parameter(&document, path, name)["pattern"], given, "a client gives no id of a slice: {path}, {name}");
    }
    assert_eq!(document["components"]["schemas"]["WaitRequest"]["properties"]["task_ids"]["items"]["pattern"], given);
    let states = parameter(&document, "/api/v1/groups/{group}/tasks", "state")["enum"].as_array().expect("states");
    assert!(states.contains(&"waiting".into()) && !states.contains(&"delayed".into()), "{states:?}");
    for (path, name, least, most) in [
        ("/api/v1/tasks/{task_id}/results", "from", 0, 10_000),
        ("/api/v1/tasks/{task_id}/results", "limit", 1, 10_000),
        ("/api/v1/groups", "limit", 1, 100),
        ("/api/v1/groups/{group}/tasks", "limit", 1, 1_000),
        ("/api/v1/dead", "limit", 0, 1_000),
        ("/api/v1/tensors", "limit", 1, 1_000),
        ("/api/v1/tasks", "limit", 1, 1_000),
        ("/api/v1/actions", "limit", 1, 1_000),
    ] {
        let schema = parameter(&document, path, name);
        assert_eq!((&schema["minimum"], &schema["maximum"]), (&least.into(), &most.into()), "{path}, {name}");
    }
}
