//! The contract on the wire: what is committed in `schemas/` is what the types say, and schema and type accept and refuse the same documents.
//!
//! `GPUFLEET_BLESS=1` writes the generated files instead of comparing them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use executors::handlers::message::{FromHandler, TaskMessage, TaskTensor, ToHandler};
use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use protocol::{
    DeliveryId, Envelope, GpuRow, IntakeLimits, ProgressMessage, Reply, TaskBody, TaskId, TaskStatus, TensorShape,
    config::Configuration,
    envelope::{HeaderValue, Headers},
    intake::Message,
    read_body, read_task,
};
use schemars::{JsonSchema, schema_for};
use serde::de::DeserializeOwned;
use serde_json::Value;
use service::Sources;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("schemas")
}

/// What a type says to a document: nothing, or the field at fault where it can tell.
type Verdict = Result<(), Option<String>>;

/// A schema, and the program's own reading of the same document.
struct Contract {
    name: &'static str,
    schema: Value,
    read: fn(&Value) -> Verdict,
}

fn contracts() -> [Contract; 6] {
    [
        Contract { name: "task", schema: schema::<TaskBody>(), read: read_task_body },
        Contract { name: "reply", schema: schema::<Reply>(), read: read_as::<Reply> },
        Contract { name: "progress", schema: schema::<ProgressMessage>(), read: read_as::<ProgressMessage> },
        Contract { name: "task-status", schema: schema::<TaskStatus>(), read: read_as::<TaskStatus> },
        Contract { name: "gpu-state", schema: schema::<GpuRow>(), read: read_as::<GpuRow> },
        Contract { name: "configuration", schema: schema::<Configuration>(), read: read_configuration },
    ]
}

fn schema<T: JsonSchema>() -> Value {
    schema_for!(T).to_value()
}

fn read_as<T: DeserializeOwned>(document: &Value) -> Verdict {
    serde_json::from_value::<T>(document.clone()).map(drop).map_err(|_| None)
}

fn read_task_body(document: &Value) -> Verdict {
    read_body(&document.to_string().into()).map(drop).map_err(|refusal| Some(refusal.field))
}

/// As a program does at its start: JSON is YAML too.
fn read_configuration(document: &Value) -> Verdict {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gpufleet.yaml");
    fs::write(&file, document.to_string()).expect("a file");
    let sources = Sources { file: Some(file), ..Sources::default() };
    sources.load().map(drop).map_err(|errors| errors.mistakes.first().map(|mistake| mistake.key.clone()))
}

/// `{"properties": …, "headers": …, "body": …}`, as a worker reads it.
fn read_message(message: &Value) -> Verdict {
    let properties = &message["properties"];
    let text = |name: &str| properties[name].as_str().map(str::to_owned);
    let headers = message["headers"].as_object().expect("headers").iter().map(|(name, value)| (name.clone(), header(value)));
    let envelope = Envelope {
        message_id: text("message_id"),
        kind: text("type"),
        priority: properties["priority"].as_u64().map(|number| u8::try_from(number).expect("a byte")),
        reply_to: text("reply_to"),
        correlation_id: text("correlation_id"),
        expiration: text("expiration"),
        content_type: text("content_type"),
        content_encoding: text("content_encoding"),
        timestamp: properties["timestamp"].as_u64(),
        user_id: None,
        headers: Headers::read(headers),
    };
    let body = message["body"].to_string();
    let message = Message { envelope: &envelope, body: &body.clone().into(), delivery: DeliveryId(1) };
    let reading = read_task(message, IntakeLimits::default(), 1_800_000_000_000, || TaskId::new("fresh").expect("valid"));
    reading.task.map(drop).map_err(|refusal| Some(refusal.field))
}

fn header(value: &Value) -> HeaderValue {
    match value {
        Value::String(text) => HeaderValue::Text(text.clone()),
        Value::Bool(truth) => HeaderValue::Bool(*truth),
        Value::Number(number) => number.as_i64().map_or(HeaderValue::Other, HeaderValue::Integer),
        _ => HeaderValue::Other,
    }
}

/// Compares, or writes under `GPUFLEET_BLESS=1`.
fn committed(file: &str, generated: &Value) {
    let path = folder().join(file);
    let text = format!("{}\n", serde_json::to_string_pretty(generated).expect("JSON"));
    if std::env::var_os("GPUFLEET_BLESS").is_some() {
        fs::write(&path, &text).expect("a file");
    }
    let present = fs::read_to_string(&path).unwrap_or_default();
    assert!(present == text, "schemas/{file} is not what the types say: run GPUFLEET_BLESS=1 cargo test -p tests --test schemas");
}

/// The examples of one folder, by file.
fn examples(folder: &Path) -> Vec<(String, Value)> {
    let files = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths: BTreeSet<PathBuf> = files.map(|entry| entry.expect("an entry").path()).collect();
    assert!(!paths.is_empty(), "{} has no example", folder.display());
    paths.into_iter().map(|path| (path.display().to_string(), read_json(&path))).collect()
}

fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The fields that a schema finds at fault.
fn faults(validator: &Validator, document: &Value) -> Vec<String> {
    validator.iter_errors(document).flat_map(|error| fields_of(&error)).collect()
}

/// Of an optional part, what is wrong within it is told beside the part.
fn fields_of(error: &ValidationError<'_>) -> Vec<String> {
    let mut fields = vec![field_of(error)];
    if let ValidationErrorKind::AnyOf { context } = error.kind() {
        fields.extend(context.iter().flatten().flat_map(fields_of));
    }
    fields
}

fn field_of(error: &ValidationError<'_>) -> String {
    let place = error.instance_path().to_string().trim_start_matches('/').replace('/', ".");
    let within = match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            unexpected.first().cloned()
        }
        ValidationErrorKind::Required { property } => property.as_str().map(str::to_owned),
        _ => None,
    };
    match (place.as_str(), within) {
        ("", None) => "body".to_owned(),
        ("", Some(name)) => name,
        (_, Some(name)) => format!("{place}.{name}"),
        (_, None) => place,
    }
}

/// Runs the examples of one schema through both readers.
fn check_examples(name: &str, faults: impl Fn(&Value) -> Vec<String>, read: fn(&Value) -> Verdict) {
    for (file, document) in examples(&folder().join("examples/valid").join(name)) {
        assert_eq!(faults(&document), Vec::<String>::new(), "{file}: the schema refuses it");
        assert_eq!(read(&document), Ok(()), "{file}: the type refuses it");
    }
    for (file, case) in examples(&folder().join("examples/refused").join(name)) {
        let field = case["field"].as_str().unwrap_or_else(|| panic!("{file} names no field"));
        let found = faults(&case["example"]);
        assert!(found.iter().any(|fault| fault == field), "{file}: the schema finds {found:?} at fault, not {field}");
        match read(&case["example"]) {
            Ok(()) => panic!("{file}: the type accepts it"),
            Err(named) => assert!(named.as_deref().is_none_or(|named| named == field), "{file}: the type names {named:?}, not {field}"),
        }
    }
}

#[test]
fn the_committed_schemas_are_those_of_the_types() {
    for contract in contracts() {
        committed(&format!("{}.schema.json", contract.name), &contract.schema);
    }
}

/// What handlers and workers say to each other, in both directions. Readers pass over what they do not know, so that nothing is refused for a field too many.
#[derive(JsonSchema)]
#[schemars(title = "gpufleet handler messages")]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is wanted")]
enum HandlerMessage {
    FromHandler(FromHandler),
    ToHandler(ToHandler),
}

#[test]
fn the_committed_schema_of_handler_messages_is_that_of_the_types() {
    committed("handler-messages.schema.json", &schema::<HandlerMessage>());
}

#[test]
fn what_a_worker_says_to_a_handler_is_as_its_schema_says() {
    let validator = jsonschema::validator_for(&schema::<HandlerMessage>()).expect("a schema");
    let task = TaskMessage {
        run: 1,
        kind: "embed".parse().expect("valid"),
        task_id: TaskId::new("task-1").expect("valid"),
        attempt: 1,
        payload: serde_json::json!({"$segment": 0}).into(),
        wants_parts: false,
        time_ms: None,
        segments: vec![3],
        tensors: vec![TaskTensor {
            tensor: "x".parse().expect("valid"),
            version: 1,
            shape: TensorShape::of_bytes(4),
            bytes: 4,
            cuda_ipc: Some("0a".repeat(64)),
            shared: None,
        }],
        descriptors: 0,
    };
    for message in [ToHandler::Task(task), ToHandler::Cancel { run: 1, member: None }, ToHandler::Ping { n: 1 }, ToHandler::Drain {}] {
        let document: Value = serde_json::from_slice(&message.to_text()).expect("JSON");
        assert_eq!(faults(&validator, &document), Vec::<String>::new(), "{document}");
    }
    let no_run = serde_json::json!({"type": "result", "result": 1});
    assert!(!validator.is_valid(&no_run));
}

#[test]
fn the_committed_openapi_document_is_what_the_gateway_serves() {
    committed("openapi.json", &gateway::openapi());
}

#[test]
fn schema_and_type_accept_and_refuse_the_same_documents() {
    for contract in contracts() {
        let validator = jsonschema::validator_for(&contract.schema).expect("a schema");
        check_examples(contract.name, |document| faults(&validator, document), contract.read);
    }
}

#[test]
fn messages_are_accepted_and_refused_as_asyncapi_says() {
    let asyncapi = asyncapi();
    let schemas = &asyncapi["components"]["schemas"];
    let validator = |schema: &Value| jsonschema::validator_for(schema).expect("a schema");
    let (properties, headers, body) =
        (validator(&schemas["TaskProperties"]), validator(&schemas["TaskHeaders"]), validator(&schema::<TaskBody>()));
    let found = |message: &Value| {
        let of_headers = faults(&headers, &message["headers"]).into_iter().map(|field| format!("headers.{field}"));
        let mut found = faults(&properties, &message["properties"]);
        found.extend(of_headers);
        found.extend(faults(&body, &message["body"]));
        found
    };
    check_examples("message", found, read_message);
}

fn asyncapi() -> Value {
    let text = fs::read_to_string(folder().join("asyncapi.yaml")).expect("a file");
    serde_yaml_ng::from_str(&text).expect("YAML")
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_of_the_asyncapi_document_resolves() {
    let document = asyncapi();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 10, "{found:?}");
    for reference in found {
        let (file, pointer) = reference.split_once('#').unwrap_or((&reference, ""));
        let target = if file.is_empty() { document.clone() } else { read_json(&folder().join(file)) };
        assert!(target.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

#[test]
fn every_header_of_the_protocol_is_documented_and_no_other() {
    let text = || Some(String::new());
    let every = Headers {
        traceparent: text(),
        tracestate: text(),
        links: protocol::traces::SpanLinks::read("b7ad6b7169203331,00f067aa0ba902b7"),
        attempt: Some(1),
        hops: Some(1),
        strategy: text(),
        memory_mb: Some(1),
        start_before_ms: Some(1),
        end_before_ms: Some(1),
        not_before_ms: Some(1),
        delay_ms: Some(1),
        unserved_since_ms: Some(1),
        user: text(),
        pool: text(),
        copy: true,
        slice: "0..4".parse().ok(),
        batch_hash: Some(protocol::BodyHash::of(b"{}")),
        returned: true,
        progress: true,
        group: "nightly".parse().ok(),
        outcome: text(),
        token: Some(1),
        published_before: Some(1),
        reason: text(),
        history: text(),
        reply_to: text(),
        first_try_ms: Some(1),
        due_ms: Some(1),
        unreadable: text(),
        properties: Some(Vec::new()),
        published_ms: None,
        traceparent_dropped: false,
        invalid: Vec::new(),
    };
    let names: BTreeSet<String> = every.pairs().into_iter().map(|(name, _)| name.to_owned()).collect();
    let document = asyncapi();
    let documented = |schema: &str| -> BTreeSet<String> {
        let properties = document["components"]["schemas"][schema]["properties"].as_object().expect("properties");
        properties.keys().cloned().collect()
    };
    let together = &documented("WorkerHeaders") | &documented("ReplyHeaders");
    assert_eq!(together, names);
    assert!(documented("TaskHeaders").is_subset(&names));
}

#[test]
fn an_example_that_schema_and_type_judge_differently_is_found() {
    let check = || check_examples("task", |_| Vec::new(), read_task_body);
    assert!(std::panic::catch_unwind(check).is_err());
}
