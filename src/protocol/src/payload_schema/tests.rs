use serde_json::json;

use super::*;
use crate::Segments;

fn compiled(schema: Value) -> PayloadSchema {
    PayloadSchema::compile(&schema.into()).expect("a schema")
}

fn refused(schema: &PayloadSchema, payload: Value) -> (String, String) {
    let Refusal { field, problem } = schema.check(&payload.into()).expect_err("refused");
    (field, problem)
}

fn texts() -> PayloadSchema {
    compiled(json!({
        "type": "object",
        "properties": {
            "text": {"type": "string", "minLength": 1},
            "size": {"type": ["integer", "null"], "minimum": 1, "maximum": 9},
            "how": {"enum": ["fast", "slow"]},
            "list": {"type": "array", "items": {"type": "object", "properties": {"a/b": {"type": "boolean"}, "0": {"type": "number"}}}, "maxItems": 2}
        },
        "required": ["text"],
        "additionalProperties": false
    }))
}

#[test]
fn what_fits_is_accepted() {
    for payload in [json!({"text": "a"}), json!({"text": "a", "size": null, "how": "slow", "list": [{"a/b": true, "0": 1.5}]})] {
        assert_eq!(texts().check(&payload.clone().into()), Ok(()), "{payload}");
    }
}

#[test]
fn a_refusal_names_the_field_and_what_would_be_accepted() {
    for (payload, field, problem) in [
        (json!(7), "payload", "must be an object, not 7"),
        (json!({}), "payload.text", "is missing"),
        (json!({"text": 5}), "payload.text", "must be text, not 5"),
        (json!({"text": ""}), "payload.text", "must have at least 1 characters"),
        (json!({"text": "a", "size": 10}), "payload.size", "must be at most 9, not 10"),
        (json!({"text": "a", "size": 0}), "payload.size", "must be at least 1, not 0"),
        (json!({"text": "a", "how": "never"}), "payload.how", "must be \"fast\" or \"slow\", not \"never\""),
        (json!({"text": "a", "tezt": 1}), "payload.tezt", "is unknown; known are how, list, size, text"),
        (json!({"text": "a", "list": [{}, {"a/b": 1}]}), "payload.list[1].a/b", "must be true or false, not 1"),
        (json!({"text": "a", "list": [{"0": "x"}]}), "payload.list[0].0", "must be a number, not \"x\""),
        (json!({"text": "a", "list": [{}, {}, {}]}), "payload.list", "must have at most 2 entries"),
        (json!({"text": "a", "list": "a text that is rather long"}), "payload.list", "must be a list, not text"),
    ] {
        assert_eq!(refused(&texts(), payload.clone()), (field.to_owned(), problem.to_owned()), "{payload}");
    }
    let (_, problem) = refused(&texts(), json!({"text": "a", "size": "9"}));
    assert!(problem.starts_with("must be ") && problem.contains("a whole number") && problem.ends_with(", not \"9\""), "{problem}");
}

#[test]
fn of_several_forms_the_fault_within_the_nearest_one_is_told() {
    let schema = compiled(json!({
        "oneOf": [{"type": "string"}, {"type": "object", "properties": {"url": {"type": "string"}}, "required": ["url"]}]
    }));
    assert_eq!(refused(&schema, json!({"url": 5})).0, "payload.url");
    let (field, problem) = refused(&schema, json!(5));
    assert_eq!((field.as_str(), problem.as_str()), ("payload", "must be text or an object, not 5"));
}

#[test]
fn a_value_of_none_of_several_forms_is_told_which_there_are() {
    let numbers = json!({"anyOf": [
        {"type": "object", "properties": {"$segment": {"type": "integer"}}, "required": ["$segment"]},
        {"type": "array", "items": {"type": "number"}},
        {"$ref": "#/$defs/name"}
    ]});
    let schema = compiled(json!({
        "properties": {"data": {"$ref": "#/$defs/numbers"}, "odd": {"anyOf": [{"minimum": 5}, {"type": "null"}]}},
        "$defs": {"numbers": numbers, "name": {"anyOf": [{"enum": ["all"]}, {"type": ["null", "boolean"]}]}}
    }));
    let (field, problem) = refused(&schema, json!({"data": "x"}));
    assert_eq!(field, "payload.data");
    assert_eq!(problem, r#"must be raw bytes, as {"$segment": 0}, a list of numbers or "all" or null or true or false, not "x""#);
    assert_eq!(refused(&schema, json!({"data": ["x"]})).0, "payload.data[0]");
    assert_eq!(refused(&schema, json!({"odd": 4})).1, "has none of the forms that are allowed: it is 4");
    let tree = compiled(json!({"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}}]}));
    assert_eq!(refused(&tree, json!(5)).1, "must be null or a list, not 5");
}

#[test]
fn who_gives_text_for_raw_bytes_is_shown_how_they_are_written() {
    let reference =
        json!({"type": "object", "properties": {"$segment": {"type": "integer"}}, "required": ["$segment"], "additionalProperties": false});
    let schema = compiled(json!({"type": "object", "properties": {"data": reference}}));
    let told = refused(&schema, json!({"data": "x"}));
    assert_eq!(told, ("payload.data".to_owned(), r#"must be raw bytes, as {"$segment": 0}, not "x""#.to_owned()));
}

#[test]
fn a_schema_says_the_same_whatever_draft_it_names() {
    for draft in ["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"] {
        let schema = compiled(json!({"$schema": draft, "type": "string", "format": "email", "$defs": {}}));
        assert_eq!(schema.check(&json!("no address").into()), Ok(()), "{draft}: a format says what is meant, and refuses nothing");
        assert!(schema.check(&json!(5).into()).is_err(), "{draft}");
    }
}

#[test]
fn a_schema_refers_to_itself_and_to_nothing_else() {
    let schema = compiled(json!({"$ref": "#/$defs/name", "$defs": {"name": {"type": "string"}}}));
    assert_eq!(refused(&schema, json!(1)).0, "payload");
    let outside = json!({"$ref": "http://localhost:9/schema.json"});
    assert!(PayloadSchema::compile(&outside.into()).is_err());
    let file = json!({"$ref": "file:///etc/passwd"});
    assert!(PayloadSchema::compile(&file.into()).is_err());
}

#[test]
fn a_schema_that_has_nothing_against_any_payload_reads_none() {
    for everything in [json!(true), json!({}), json!({"title": "any value", "examples": [1]})] {
        assert!(compiled(everything.clone()).accepts_all, "{everything}");
    }
    for something in [json!(false), json!({"type": "object"}), json!({"title": "a", "not": {}})] {
        assert!(!compiled(something.clone()).accepts_all, "{something}");
    }
}

#[test]
fn what_is_no_schema_is_told() {
    for wrong in [json!({"type": "sting"}), json!(5), json!({"minimum": "1"})] {
        let told = PayloadSchema::compile(&wrong.clone().into()).expect_err("no schema");
        assert!(told.starts_with("the schema is none"), "{wrong}: {told}");
    }
}

#[test]
fn a_pattern_tries_only_so_often() {
    let schema = compiled(json!({"type": "string", "pattern": "^(?=(a+)+b)(a+)+$"}));
    let text = "a".repeat(5_000);
    assert!(schema.check(&json!(text).into()).is_err());
}

#[test]
fn each_item_of_a_batch_is_checked() {
    let items = |items: &[Value]| TaskBody { items: Some(items.iter().cloned().map(Json::from).collect()), ..TaskBody::default() };
    assert_eq!(texts().check_body(&items(&[json!({"text": "a"}), json!({"text": "b"})])), Ok(()));
    let refused = texts().check_body(&items(&[json!({"text": "a"}), json!({"text": "b", "size": "c"})])).expect_err("refused");
    assert_eq!(refused.field, "items[1].size");
}

#[test]
fn what_is_long_or_has_segments_is_left_to_the_worker() {
    let wrong = TaskBody { payload: json!({"text": 5}).into(), ..TaskBody::default() };
    assert!(texts().check_body(&wrong).is_err());
    let with_segments = TaskBody { segments: Segments::of(vec![bytes::Bytes::from_static(b"x")]), ..wrong };
    assert_eq!(texts().check_body(&with_segments), Ok(()));
    let long = json!(" ".repeat(PayloadSchema::CHECKED_BYTES_MAX));
    let body = TaskBody { payload: long.clone().into(), ..TaskBody::default() };
    assert_eq!(texts().check_body(&body), Ok(()));
    let batch = TaskBody { items: Some(vec![long.into(), json!(5).into()]), ..TaskBody::default() };
    assert_eq!(texts().check_body(&batch), Ok(()));
}

#[test]
fn an_example_fits_its_schema() {
    for (schema, expected) in [
        (
            json!({"type": "object", "properties": {"text": {"type": "string", "minLength": 6}}, "required": ["text"]}),
            json!({"text": "textte"}),
        ),
        (json!({"type": ["object", "null"], "properties": {"a": {"type": "integer"}}}), json!({})),
        (json!({"properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}), json!({"n": 3})),
        (json!({"type": "number", "exclusiveMaximum": 0}), json!(-0.5)),
        (json!({"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 2}), json!(["x", "x"])),
        (json!({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/flag"}], "$defs": {"flag": {"type": "boolean"}}}), json!(true)),
        (json!({"type": "object", "examples": [{"a": 1}]}), json!({"a": 1})),
        (json!({}), json!(null)),
    ] {
        let made = example(&schema.clone().into());
        assert_eq!(made, expected, "{schema}");
        assert_eq!(compiled(schema).check(&made), Ok(()));
    }
}

#[test]
fn a_schema_without_an_end_has_an_example_all_the_same() {
    let schema = json!({"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]});
    assert!(example(&schema.into()).as_str().len() < 200);
}
