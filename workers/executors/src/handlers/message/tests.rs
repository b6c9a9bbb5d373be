use serde_json::{Value, json};

use super::*;

fn read_again(message: &ToHandler) -> Value {
    serde_json::from_slice(&message.to_text()).unwrap()
}

#[test]
fn a_payload_goes_out_to_the_last_byte() {
    let payload = Json::parse(r#"{"a":  1.00, "a": -0, "$segment": 123456789012345678901234567890}"#).unwrap();
    let task = TaskMessage {
        run: 7,
        kind: Kind::new("embed").unwrap(),
        task_id: TaskId::new("t-1").unwrap(),
        attempt: 2,
        payload: payload.clone(),
        wants_parts: true,
        time_ms: None,
        segments: vec![3],
        tensors: Vec::new(),
        descriptors: 0,
    };
    let text = String::from_utf8(ToHandler::Task(task).to_text()).unwrap();
    assert!(text.ends_with(&format!(",\"payload\":{payload}}}")), "{text}");
    assert!(text.starts_with(r#"{"type":"task","run":7,"kind":"embed","task_id":"t-1","attempt":2,"wants_parts":true,"segments":[3],"#));
}

#[test]
fn a_batch_names_its_members_in_order() {
    let member = |number: usize| BatchMessageMember {
        task_id: TaskId::new(format!("t-{number}")).unwrap(),
        attempt: 1,
        payload: json!({"n": number}).into(),
        wants_parts: false,
        segments_from: number,
    };
    let kind = Kind::new("embed").unwrap();
    let batch = ToHandler::Batch(BatchMessage { run: 1, kind, members: vec![member(0), member(1)], segments: Vec::new() });
    let read = read_again(&batch);
    assert_eq!(read["members"][1], json!({"task_id": "t-1", "attempt": 1, "wants_parts": false, "segments_from": 1, "payload": {"n": 1}}));
    assert_eq!(read.get("segments"), None);
}

#[test]
fn short_messages_have_their_type_and_no_more_than_is_said() {
    assert_eq!(read_again(&ToHandler::Drain {}), json!({"type": "drain"}));
    assert_eq!(read_again(&ToHandler::Cancel { run: 1, member: None }), json!({"type": "cancel", "run": 1}));
    assert_eq!(read_again(&ToHandler::Ping { n: 3 }), json!({"type": "ping", "n": 3}));
}

#[test]
fn unknown_fields_and_types_are_passed_over_and_what_does_not_fit_is_said() {
    let read = FromHandler::read("error", br#"{"type":"error","run":1,"message":"no","later":[]}"#).unwrap().unwrap();
    assert_eq!(read, FromHandler::Error(Fault { run: 1, message: "no".to_owned(), ..Fault::default() }));
    assert_eq!(FromHandler::read("greeting", b"{}"), Ok(None));
    let wrong = FromHandler::read("result", br#"{"run":1}"#).unwrap_err();
    assert!(wrong.contains("`result`") && wrong.contains("missing field `result`"), "{wrong}");
}
