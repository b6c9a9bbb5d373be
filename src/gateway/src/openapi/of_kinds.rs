//! What the document says of the kinds: their routes, and, as it is served, the payload of each kind that the fleet serves now.

use protocol::{Kind, KindView};
use serde_json::{Value, json};

use super::{
    Operation,
    operations::{Content, of, ok},
};
use crate::kinds::KindList;

pub(crate) const LIST: Operation = Operation {
    id: "kinds",
    summary: "The kinds of the pool: what each does, the JSON Schema of its payload, the GPUs that serve it, and what a run takes. Some seconds old at most.",
    parameter: None,
    optional: &[],
    body: None,
    answer: ok("The kinds, by name.", Content::Json(of::<KindList>)),
    problems: &[500, 503],
};

pub(crate) const ONE: Operation = Operation {
    id: "kind",
    summary: "One kind of the pool.",
    parameter: Some(("kind", of::<Kind>)),
    optional: &[],
    body: None,
    answer: ok("The kind.", Content::Json(of::<KindView>)),
    problems: &[404, 500, 503],
};

/// The component that a task is in the document as it is served.
const TASK: &str = "TaskOfServedKind";
/// Where the document says what a task is.
const PLACES: [&str; 2] = [
    "/paths/~1api~1v1~1tasks/post/requestBody/content/application~1json/schema",
    "/paths/~1api~1v1~1tasks:bulk/post/requestBody/content/application~1x-ndjson/x-lines",
];

/// The document with the kinds that are served now: the schema of each one's payload is a component, and a task is one of a served kind, or of any other.
pub(super) fn with_kinds(mut document: Value, kinds: &[KindView]) -> Value {
    let served: Vec<&KindView> = kinds.iter().filter(|view| !view.gpus.is_empty()).collect();
    if served.is_empty() {
        return document;
    }
    let names: Vec<&str> = served.iter().map(|view| view.kind.as_str()).collect();
    let other = json!({"title": "any other kind", "required": ["kind"], "properties": {"kind": {"not": {"enum": names}}}});
    let mut forms: Vec<Value> = served.iter().map(|view| form(view)).collect();
    forms.push(other);
    let components = &mut document["components"]["schemas"];
    for view in served {
        if let Some(schema) = payload(view) {
            components[component(&view.kind)] = schema;
        }
    }
    components[TASK] = json!({
        "description": "A task to submit. Kinds that nobody serves now are taken too, and wait for a GPU.",
        "allOf": [{"$ref": "#/components/schemas/TaskRequest"}, {"oneOf": forms}]
    });
    for place in PLACES {
        if let Some(task) = document.pointer_mut(place) {
            *task = json!({"$ref": format!("#/components/schemas/{TASK}")});
        }
    }
    document
}

fn component(kind: &Kind) -> String {
    format!("payload.{kind}")
}

/// A task of this kind. `x-gpus` are the GPUs that serve it now, and `x-run-ms` is what a run took lately.
fn form(view: &KindView) -> Value {
    let kind = &view.kind;
    let mut form = json!({"title": format!("kind {kind}"), "required": ["kind"], "properties": {"kind": {"const": kind}}});
    if !view.about.is_empty() {
        form["description"] = view.about.clone().into();
    }
    form["x-gpus"] = json!(view.gpus);
    if let Some(run_ms) = view.run_ms {
        form["x-run-ms"] = json!(run_ms);
    }
    if payload(view).is_some() {
        let payload = json!({"$ref": format!("#/components/schemas/{}", component(kind))});
        form["properties"]["items"] = json!({"items": payload});
        form["properties"]["payload"] = payload;
    }
    form
}

/// The schema of a kind's payload, as a component of the document. Its references to parts of itself lead there; one with an `$id` is a document of its own, and stays as it is.
fn payload(view: &KindView) -> Option<Value> {
    let mut schema: Value = view.schema.as_ref()?.to().ok()?;
    if schema.get("$id").is_none() {
        lead_to(&format!("/components/schemas/{}", component(&view.kind)), &mut schema);
    }
    Some(schema)
}

fn lead_to(base: &str, schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(|one| lead_to(base, one)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    // What is here is no schema.
                    ("const" | "default" | "enum" | "example" | "examples", _) => {}
                    // What is here are schemas by name.
                    ("properties" | "patternProperties" | "dependentSchemas" | "$defs" | "definitions", Value::Object(named)) => {
                        named.values_mut().for_each(|one| lead_to(base, one));
                    }
                    ("$ref", Value::String(reference)) if *reference == "#" || reference.starts_with("#/") => reference.insert_str(1, base),
                    (_, other) => lead_to(base, other),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use protocol::{GpuId, Json, RunTime};

    use super::*;
    use crate::openapi;

    fn view(kind: &str, schema: Option<Value>, gpus: &[&str]) -> KindView {
        KindView {
            kind: Kind::new(kind).expect("a kind"),
            about: "what it does".to_owned(),
            schema: schema.map(Json::from),
            gpus: gpus.iter().map(|id| GpuId::new(*id).expect("an id")).collect(),
            gpus_down: [].into(),
            run_ms: Some(RunTime { smallest: 0.5, median: 1.5 }),
            batch_largest: None,
            differs: false,
        }
    }

    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(list) => list.iter().for_each(|one| references(one, found)),
            _ => {}
        }
    }

    #[test]
    fn every_served_kind_is_in_the_document_and_its_references_resolve() {
        let tree = json!({"type": "object", "properties": {"next": {"$ref": "#"}, "default": {"$ref": "#/$defs/name"}}, "$defs": {"name": {"type": "string"}}});
        let kinds = [view("tree", Some(tree), &["a"]), view("plain", None, &["a"]), view("gone", Some(json!({})), &[])];
        let document = with_kinds(openapi::openapi(), &kinds);
        let schemas = &document["components"]["schemas"];
        assert_eq!(schemas["payload.tree"]["properties"]["next"]["$ref"], "#/components/schemas/payload.tree");
        assert_eq!(schemas["payload.tree"]["properties"]["default"]["$ref"], "#/components/schemas/payload.tree/$defs/name");
        assert!(schemas.get("payload.plain").is_none() && schemas.get("payload.gone").is_none());
        let forms = schemas[TASK]["allOf"][1]["oneOf"].as_array().expect("forms");
        let of: Vec<&Value> = forms.iter().map(|form| &form["properties"]["kind"]["const"]).collect();
        assert_eq!(of, [&json!("tree"), &json!("plain"), &Value::Null]);
        assert_eq!(forms[2]["properties"]["kind"]["not"]["enum"], json!(["tree", "plain"]));
        assert_eq!(forms[0]["properties"]["payload"]["$ref"], "#/components/schemas/payload.tree");
        assert_eq!((&forms[1]["x-gpus"], &forms[1]["x-run-ms"]), (&json!(["a"]), &json!({"smallest": 0.5, "median": 1.5})));
        for place in PLACES {
            let task = document.pointer(place).unwrap_or_else(|| panic!("{place}"));
            assert_eq!(task["$ref"], format!("#/components/schemas/{TASK}"), "{place}");
        }
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("a reference within the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn where_nothing_is_served_the_document_is_as_it_is_committed() {
        assert_eq!(with_kinds(openapi::openapi(), &[view("gone", Some(json!({})), &[])]), openapi::openapi());
    }

    #[test]
    fn a_schema_that_is_a_document_of_its_own_and_values_that_look_like_references_stay() {
        let own = json!({"$id": "urn:own", "properties": {"next": {"$ref": "#"}}});
        assert_eq!(payload(&view("own", Some(own.clone()), &["a"])), Some(own));
        let value = json!({"const": {"$ref": "#/a"}, "properties": {"$ref": {"type": "string"}}, "items": {"$ref": "https://elsewhere/a"}});
        assert_eq!(payload(&view("value", Some(value.clone()), &["a"])), Some(value));
    }
}
