//! What is wrong with a value, as a refusal says it.

use jsonschema::{
    JsonType, ValidationError,
    error::{TypeKind, ValidationErrorKind},
};
use serde_json::Value;

use super::forms;

/// Most choices, and most names of fields, that are listed.
const LISTED_MAX: usize = 20;

/// What is wrong, and what would be accepted: words that follow the field.
pub(super) fn problem(fault: &ValidationError<'_>, found: Option<&Value>, schema: &Value) -> String {
    use ValidationErrorKind as Kind;
    let not = || found.map_or_else(|| "that".to_owned(), brief);
    let must = |what: String| format!("must be {what}, not {}", not());
    match fault.kind() {
        Kind::Required { .. } => "is missing".to_owned(),
        Kind::AdditionalProperties { .. } | Kind::UnevaluatedProperties { .. } => match known(fault, schema) {
            Some(known) => format!("is unknown; known are {known}"),
            None => "is unknown".to_owned(),
        },
        Kind::Type { kind } => must(forms::bytes_wanted(fault, schema).unwrap_or_else(|| kinds(kind))),
        Kind::Enum { options } => must(choices(options)),
        Kind::Constant { expected_value } => must(brief(expected_value)),
        Kind::Minimum { limit } => must(format!("at least {limit}")),
        Kind::Maximum { limit } => must(format!("at most {limit}")),
        Kind::ExclusiveMinimum { limit } => must(format!("above {limit}")),
        Kind::ExclusiveMaximum { limit } => must(format!("below {limit}")),
        Kind::MinLength { limit } => format!("must have at least {limit} characters"),
        Kind::MaxLength { limit } => format!("must have at most {limit} characters"),
        Kind::MinItems { limit } => format!("must have at least {limit} entries"),
        Kind::MaxItems { limit } => format!("must have at most {limit} entries"),
        Kind::AdditionalItems { limit } => format!("must have at most {limit} entries"),
        Kind::MinProperties { limit } => format!("must have at least {limit} fields"),
        Kind::MaxProperties { limit } => format!("must have at most {limit} fields"),
        Kind::Pattern { pattern } => format!("must be text like {pattern}, which {} is not", not()),
        Kind::Format { format } => must(format!("a {format}")),
        Kind::UniqueItems => "has an entry twice".to_owned(),
        Kind::FalseSchema => "is not allowed here".to_owned(),
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => match forms::wanted(fault, schema) {
            Some(forms) => must(forms),
            None => format!("has none of the forms that are allowed: it is {}", not()),
        },
        Kind::OneOfMultipleValid { .. } => "has more than one of the forms of which one is allowed".to_owned(),
        _ => format!("does not fit the schema ({})", fault.kind().keyword()),
    }
}

fn kinds(kind: &TypeKind) -> String {
    let words: Vec<&str> = match kind {
        TypeKind::Single(kind) => vec![word(*kind)],
        TypeKind::Multiple(kinds) => kinds.iter().map(word).collect(),
    };
    words.join(" or ")
}

const fn word(kind: JsonType) -> &'static str {
    match kind {
        JsonType::Array => "a list",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Null => "null",
        JsonType::Number => "a number",
        JsonType::Object => "an object",
        JsonType::String => "text",
    }
}

pub(super) fn choices(options: &Value) -> String {
    let Some(options) = options.as_array() else { return brief(options) };
    let mut words: Vec<String> = options.iter().take(LISTED_MAX).map(brief).collect();
    if options.len() > LISTED_MAX {
        words.push("…".to_owned());
    }
    words.join(" or ")
}

/// The fields that the schema knows where this one stands. A part that is found by a reference may not be where the path says; then nothing is said.
fn known(fault: &ValidationError<'_>, schema: &Value) -> Option<String> {
    let (parent, _) = fault.schema_path().as_str().rsplit_once('/')?;
    let fields = schema.pointer(parent)?.get("properties")?.as_object()?;
    let names: Vec<&str> = fields.keys().take(LISTED_MAX).map(String::as_str).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// A value, short.
pub(super) fn brief(value: &Value) -> String {
    const CHARACTERS_MAX: usize = 20;
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) if text.chars().count() > CHARACTERS_MAX => "text".to_owned(),
        other => other.to_string(),
    }
}
