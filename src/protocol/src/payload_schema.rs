//! The JSON Schema of a kind's payloads, compiled, and what it says of a payload that does not fit.
//!
//! A schema comes from a handler or an executor, and is trusted no further than that: it refers to nothing outside itself (nothing is fetched), and its patterns may try only so often. A payload
//! comes from anybody.

mod example;
mod forms;
mod words;

use std::fmt;

use jsonschema::{Draft, PatternOptions, ValidationError, Validator, error::ValidationErrorKind};
use serde_json::Value;

pub use self::example::example;
use crate::{Json, Refusal, TaskBody};

/// How often a pattern may go back over a text before it counts as not fitting.
const BACKTRACK_MAX: usize = 100_000;
/// What a compiled pattern may take, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Of how many faults of a payload the first one is chosen: who sent it mends one after the other.
const FAULTS_MAX: usize = 16;

/// Words of a schema that allow everything.
const ANNOTATIONS: [&str; 8] = ["$schema", "$id", "$comment", "title", "description", "default", "example", "examples"];

/// A compiled schema. Cheap to ask, from any thread.
pub struct PayloadSchema {
    schema: Value,
    validator: Validator,
    /// It has nothing against any payload, so that none need be read for it.
    accepts_all: bool,
}

impl PayloadSchema {
    /// Most bytes of a payload, or of all items of a batch together, that [`PayloadSchema::check_body`] looks into. Larger ones are left to the worker.
    pub const CHECKED_BYTES_MAX: usize = 1 << 20;

    /// Compiles a schema as one of draft 2020-12, whatever its `$schema` says: everybody who checks payloads reads it the same way.
    ///
    /// # Errors
    /// It is no schema, or refers to something outside itself; for operators.
    pub fn compile(schema: &Json) -> Result<Self, String> {
        let schema: Value = schema.to().map_err(|error| format!("the schema cannot be read: {error}"))?;
        let patterns = PatternOptions::fancy_regex().backtrack_limit(BACKTRACK_MAX).size_limit(PATTERN_BYTES_MAX);
        let options = jsonschema::options().with_draft(Draft::Draft202012).offline().with_pattern_options(patterns);
        match options.build(&schema) {
            Ok(validator) => Ok(Self { accepts_all: accepts_all(&schema), schema, validator }),
            Err(error) => Err(format!("the schema is none, at {:?}: {error}", error.instance_path().as_str())),
        }
    }

    /// Checks one payload. The field of a refusal begins with `payload`: `payload.a.b[0]`.
    ///
    /// # Errors
    /// A [`Refusal`] that names the field at fault, and says what would be accepted.
    pub fn check(&self, payload: &Json) -> Result<(), Refusal> {
        self.check_at("payload", payload)
    }

    /// As [`PayloadSchema::check`], with another beginning of the field: `items[3]`.
    ///
    /// # Errors
    /// As those of [`PayloadSchema::check`].
    pub fn check_at(&self, path: &str, payload: &Json) -> Result<(), Refusal> {
        if self.accepts_all {
            return Ok(());
        }
        // A number that no reader of ours can hold: whoever runs the task decides.
        let Ok(value) = payload.to::<Value>() else { return Ok(()) };
        if self.validator.is_valid(&value) {
            return Ok(());
        }
        let faults: Vec<ValidationError<'_>> = self.validator.iter_errors(&value).take(FAULTS_MAX).collect();
        match faults.first() {
            Some(first) => Err(self.refusal(path, &value, first)),
            None => Ok(()),
        }
    }

    /// Checks the payload of a task, or each of its items (`items[3].text`). What is long is not checked, nor a body with segments: in the place of a value it may have a reference.
    ///
    /// # Errors
    /// As those of [`PayloadSchema::check`], of the first item that does not fit.
    pub fn check_body(&self, body: &TaskBody) -> Result<(), Refusal> {
        if !body.segments.is_empty() {
            return Ok(());
        }
        let Some(items) = &body.items else {
            return if body.payload.as_bytes().len() <= Self::CHECKED_BYTES_MAX { self.check(&body.payload) } else { Ok(()) };
        };
        if items.iter().map(|item| item.as_bytes().len()).sum::<usize>() > Self::CHECKED_BYTES_MAX {
            return Ok(());
        }
        items.iter().enumerate().try_for_each(|(index, item)| self.check_at(&format!("items[{index}]"), item))
    }

    fn refusal(&self, path: &str, value: &Value, fault: &ValidationError<'_>) -> Refusal {
        let fault = deepest(fault);
        let pointer = fault.instance_path().as_str();
        let mut field = field(path, value, pointer);
        match fault.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                if let Some(name) = unexpected.first() {
                    field = format!("{field}.{name}");
                }
            }
            ValidationErrorKind::Required { property: Value::String(name) } => field = format!("{field}.{name}"),
            _ => {}
        }
        Refusal::new(shortened(field), words::problem(fault, value.pointer(pointer), &self.schema))
    }
}

impl fmt::Debug for PayloadSchema {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PayloadSchema").finish_non_exhaustive()
    }
}

/// Whether a schema says nothing that a payload could break.
fn accepts_all(schema: &Value) -> bool {
    match schema {
        Value::Object(words) => words.keys().all(|word| ANNOTATIONS.contains(&word.as_str())),
        other => *other == Value::Bool(true),
    }
}

/// Of a value that fits none of several forms, the fault that lies deepest within one of them says most. Where all lie at the value itself, it is told that none fits.
fn deepest<'a, 'f>(fault: &'f ValidationError<'a>) -> &'f ValidationError<'a>
where
    'static: 'a,
{
    let (ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context }) = fault.kind() else { return fault };
    let depth = |fault: &ValidationError<'_>| fault.instance_path().as_str().matches('/').count();
    let within = context.iter().flatten().map(deepest).max_by_key(|fault| depth(fault));
    match within {
        Some(within) if depth(within) > depth(fault) => within,
        _ => fault,
    }
}

/// The path of what a JSON pointer leads to, as refusals write it.
fn field(path: &str, value: &Value, pointer: &str) -> String {
    let (mut field, mut at) = (path.to_owned(), Some(value));
    for step in pointer.split('/').skip(1) {
        let name = step.replace("~1", "/").replace("~0", "~");
        match at {
            Some(Value::Array(list)) => {
                field.push_str(&format!("[{name}]"));
                at = name.parse().ok().and_then(|index: usize| list.get(index));
            }
            Some(Value::Object(fields)) => {
                field.push_str(&format!(".{name}"));
                at = fields.get(&name);
            }
            _ => break,
        }
    }
    field
}

/// Names of fields are the producer's.
fn shortened(field: String) -> String {
    const CHARACTERS_MAX: usize = 200;
    match field.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &field[..end]),
        None => field,
    }
}

#[cfg(test)]
mod tests;
