//! `/openapi.json`: an OpenAPI 3.1 document, made from the table of routes and the types' JSON Schemas.

pub(crate) mod many;
pub(crate) mod of_groups;
pub(crate) mod of_insight;
pub(crate) mod of_kinds;
pub(crate) mod of_models;
pub(crate) mod of_tensors;
pub(crate) mod operating;
pub(crate) mod operations;

use std::sync::LazyLock;

use axum::{Json, extract::State};
use protocol::frame::FRAME;
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use self::operations::{Answer, Content, Events, Lines};
use crate::{
    Gateway,
    problem::ProblemDocument,
    routes::{ROUTES, Route},
};

static DOCUMENT: LazyLock<Value> = LazyLock::new(openapi);

/// Names a type's schema in the document.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What the document says of one route beside its method and path.
pub(crate) struct Operation {
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    /// The path's parameter: its name and its type.
    pub(crate) parameter: Option<(&'static str, SchemaOf)>,
    /// What a client may say beside the path and the body.
    pub(crate) optional: &'static [Optional],
    pub(crate) body: Option<SchemaOf>,
    pub(crate) answer: Answer,
    /// The status codes of the problems it can answer.
    pub(crate) problems: &'static [u16],
}

/// A header or a query parameter that may be left out.
pub(crate) struct Optional {
    pub(crate) name: &'static str,
    /// `header` or `query`.
    pub(crate) place: &'static str,
    pub(crate) description: &'static str,
    pub(crate) schema: SchemaOf,
}

/// The schema of a type in the document.
pub(crate) fn schema_of<T: JsonSchema>() -> Option<&'static Value> {
    DOCUMENT["components"]["schemas"].get(&*T::schema_name())
}

/// What a JSON pointer leads to in the document.
pub(crate) fn at(pointer: &str) -> Option<&'static Value> {
    DOCUMENT.pointer(pointer)
}

/// `GET /openapi.json`: the document, with the payloads of the kinds that are served now. Where the table does not answer soon, those that were served last.
pub(crate) async fn show(State(gateway): State<Gateway>) -> Json<Value> {
    let known = gateway.kinds.soon().await;
    Json(of_kinds::with_kinds(DOCUMENT.clone(), known.kinds()))
}

/// The OpenAPI 3.1 document of everything the gateway serves, but for the kinds of its fleet.
#[must_use]
pub fn openapi() -> Value {
    let mut schemas =
        SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = "/components/schemas".into()).into_generator();
    let problem = schemas.subschema_for::<ProblemDocument>();
    let mut paths = Map::new();
    for route in &ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method] = described(route, &problem, &mut schemas);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "gpufleet gateway",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Tasks for a fleet of GPUs over HTTP. Every error is a problem document (RFC 9457). The same tasks can be \
                            published over AMQP: see schemas/asyncapi.yaml.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas.take_definitions(true)}
    })
}

fn described(route: &Route, problem: &Schema, schemas: &mut SchemaGenerator) -> Value {
    let operation = &route.operation;
    let mut described = json!({"operationId": operation.id, "summary": operation.summary});
    let parameters = parameters(operation, schemas);
    if !parameters.is_empty() {
        described["parameters"] = Value::Array(parameters);
    }
    if let Some(schema) = operation.body {
        // Whoever is answered in lines asks in lines.
        let content = match &operation.answer.content {
            Content::Lines(answered) => json!({"application/x-ndjson": lines(schema, answered.asked, schemas)}),
            Content::JsonToSegments(_) => beside_segments(&schema(schemas), TASK_IN_PARTS),
            Content::JsonToBytes(_) => json!({"application/octet-stream": {"schema": schema(schemas)}}),
            _ => json!({"application/json": {"schema": schema(schemas)}}),
        };
        described["requestBody"] = json!({"required": true, "content": content});
    }
    let mut responses = Map::from_iter([(operation.answer.status.to_string(), answered(&operation.answer, schemas))]);
    for status in operation.problems {
        responses.insert(status.to_string(), refused(*status, problem));
    }
    described["responses"] = Value::Object(responses);
    described
}

fn parameters(operation: &Operation, schemas: &mut SchemaGenerator) -> Vec<Value> {
    let mut described = Vec::new();
    if let Some((name, schema)) = operation.parameter {
        described.push(json!({"name": name, "in": "path", "required": true, "schema": schema(schemas)}));
    }
    for Optional { name, place, description, schema } in operation.optional {
        // A path has all of its parameters.
        let required = *place == "path";
        described.push(json!({"name": name, "in": place, "required": required, "description": description, "schema": schema(schemas)}));
    }
    described
}

fn answered(answer: &Answer, schemas: &mut SchemaGenerator) -> Value {
    let content = match answer.content {
        Content::Json(schema) | Content::JsonToSegments(schema) | Content::JsonToBytes(schema) => {
            json!({"application/json": {"schema": schema(schemas)}})
        }
        Content::JsonWithSegments(schema) => beside_segments(&schema(schemas), STATUS_IN_PARTS),
        Content::Bytes => json!({"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}),
        Content::BytesOrJson(schema) => json!({
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": schema(schemas)}
        }),
        Content::Events(events) => json!({"text/event-stream": stream(events, schemas)}),
        Content::JsonOrEvents(schema, events) => {
            json!({"application/json": {"schema": schema(schemas)}, "text/event-stream": stream(events, schemas)})
        }
        Content::Lines(Lines { schema, answered, .. }) => json!({"application/x-ndjson": lines(schema, answered, schemas)}),
        Content::PageOrJson => json!({"text/html": {"schema": {"type": "string"}}, "application/json": {"schema": {"type": "object"}}}),
        Content::PartOfPage => json!({"text/javascript": {"schema": {"type": "string"}}, "text/css": {"schema": {"type": "string"}}}),
        Content::JsonObject => json!({"application/json": {"schema": {"type": "object"}}}),
        Content::Text => json!({"text/plain": {"schema": {"type": "string"}}}),
    };
    let mut described = json!({"description": answer.description, "content": content});
    if answer.status == 202 {
        described["headers"] = json!({"Location": {"description": "Where the task's status is.", "schema": {"type": "string"}}});
    }
    described
}

/// The parts of a body that has segments, and what it is called then.
type InParts = (&'static str, &'static str);

const TASK_IN_PARTS: InParts = (
    "multipart/form-data",
    "A part task with the JSON of application/json, and the parts segment0, segment1, … with the raw bytes that its payload refers to.",
);
const STATUS_IN_PARTS: InParts = (
    "multipart/mixed",
    "A part status with the JSON of application/json, and the parts segment0, segment1, … with the raw bytes that its result refers to.",
);

/// JSON alone, or with segments beside it in one of two ways.
fn beside_segments(schema: &Schema, (parts, of_parts): InParts) -> Value {
    let binary = |description: &str| json!({"schema": {"type": "string", "format": "binary", "description": description}});
    let frame = "A frame (schemas/frame.md): the JSON of application/json, with a list segments of the lengths of what follows it.";
    let mut content = Map::from_iter([("application/json".to_owned(), json!({ "schema": schema }))]);
    content.insert(FRAME.to_owned(), binary(frame));
    content.insert(parts.to_owned(), binary(of_parts));
    Value::Object(content)
}

/// OpenAPI 3.1 has no words for the events of a stream; `x-events` names them and the schemas of their JSON data.
fn stream(events: Events, schemas: &mut SchemaGenerator) -> Value {
    let named: Map<String, Value> = events.iter().map(|(name, schema)| ((*name).to_owned(), schema(schemas).to_value())).collect();
    json!({"schema": {"type": "string"}, "x-events": named})
}

/// Nor for lines; `x-lines` has the schema of each.
fn lines(schema: SchemaOf, example: &str, schemas: &mut SchemaGenerator) -> Value {
    json!({"schema": {"type": "string"}, "x-lines": schema(schemas), "example": example})
}

fn refused(status: u16, problem: &Schema) -> Value {
    let content = json!({"application/problem+json": {"schema": problem}});
    let mut described = json!({"description": operations::problem(status), "content": content});
    if status == 429 || status == 503 {
        let seconds = json!({"type": "integer", "minimum": 1});
        described["headers"] = json!({"Retry-After": {"description": "Seconds after which a retry is worth trying.", "schema": seconds}});
    }
    described
}
