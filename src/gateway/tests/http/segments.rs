//! Raw bytes beside JSON: in frames, in forms, and one by one.

use bytes::Bytes;
use gateway::GatewayOptions;
use protocol::{Outcome, Reply, Segments, TaskBody, TaskId, TaskStatus, frame, read_body};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use task_queue::{BodyBudget, Delivery, TaskQueue};

use crate::fleet::{Fleet, Setup, json as read, pool, problem, reply};

const TASKS: &str = "/api/v1/tasks";
const FORM: &str = "multipart/form-data; boundary=x";

fn segments() -> Segments {
    Segments::of(vec![Bytes::from_static(b"\0\xff\r\n--y\r\n"), Bytes::new(), Bytes::from_static(&[0; 12])])
}

fn request(task_id: &str) -> Value {
    let payload = json!({"numbers": {"$segment": 2, "dtype": "f32", "shape": [3, 1]}, "bytes": [{"$segment": 0}, {"$segment": 1}]});
    json!({"kind": "echo", "task_id": task_id, "payload": payload})
}

async fn post(fleet: &Fleet, content_type: &str, body: impl Into<reqwest::Body>) -> Response {
    let request = fleet.http.post(format!("{}{TASKS}", fleet.url)).header("content-type", content_type).body(body);
    request.send().await.expect("an answer")
}

fn framed(request: &Value, segments: &Segments) -> Bytes {
    frame::of(request.to_string().into_bytes(), segments).expect("a short one")
}

fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, content) in parts {
        body.extend_from_slice(format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\r\n").as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--x--\r\n");
    body
}

async fn published(fleet: &Fleet) -> (Delivery, TaskBody) {
    let delivery = fleet.queue.take(&pool()).await.expect("a broker").expect("a task");
    let body = read_body(&delivery.body).expect("a task");
    (delivery, body)
}

/// Answers every task with its payload and its segments.
async fn echoing(fleet: &Fleet) {
    let echo = |task_id: TaskId, body: TaskBody| Reply { result: body.payload, segments: body.segments, ..reply(task_id, Ok(Value::Null)) };
    fleet.work_with(echo).await;
}

async fn ended(fleet: &Fleet, task_id: &str) -> Value {
    loop {
        let status = read(fleet.get(&format!("{TASKS}/{task_id}")).await).await;
        if status["reply"].is_object() {
            return status;
        }
        tokio::task::yield_now().await;
    }
}

async fn asked_for(fleet: &Fleet, task_id: &str, accept: &str) -> (String, Bytes) {
    let asked = fleet.http.get(format!("{}{TASKS}/{task_id}", fleet.url)).header("accept", accept).send().await.expect("an answer");
    let content_type = asked.headers()["content-type"].to_str().expect("text").to_owned();
    (content_type, asked.bytes().await.expect("a body"))
}

#[tokio::test]
async fn a_frame_and_a_form_are_the_same_task() {
    let fleet = Fleet::start().await;
    let (request, segments) = (request("t"), segments());
    assert_eq!(post(&fleet, frame::FRAME, framed(&request, &segments)).await.status(), StatusCode::ACCEPTED);
    let (first, body) = published(&fleet).await;
    assert_eq!((first.envelope.content_type.as_deref(), &body.segments), (Some(frame::FRAME), &segments));
    assert_eq!(body.payload, request["payload"]);

    let text = request.to_string();
    let numbered: Vec<&[u8]> = segments.iter().map(|segment| &segment[..]).collect();
    let parts = [("segment2", numbered[2]), ("task", text.as_bytes()), ("0", numbered[0]), ("segment1", numbered[1])];
    assert_eq!(post(&fleet, FORM, form(&parts)).await.status(), StatusCode::ACCEPTED, "the same id, and the same body");
    let (second, _) = published(&fleet).await;
    assert_eq!(second.body, first.body);
}

#[tokio::test]
async fn a_task_without_segments_is_json_however_it_came() {
    let fleet = Fleet::start().await;
    let request = json!({"kind": "echo", "payload": 1});
    let none = Segments::none();
    for (content_type, body) in
        [(frame::FRAME, framed(&request, &none).to_vec()), (FORM, form(&[("task", request.to_string().as_bytes())]))]
    {
        assert_eq!(post(&fleet, content_type, body).await.status(), StatusCode::ACCEPTED, "{content_type}");
        let (delivery, _) = published(&fleet).await;
        assert_eq!((delivery.envelope.content_type.as_deref(), &delivery.body[..]), (Some(frame::JSON), &br#"{"payload":1}"#[..]));
    }
}

#[tokio::test]
async fn the_status_goes_as_json_as_a_frame_or_in_parts_and_each_segment_by_itself() {
    let fleet = Fleet::start().await;
    echoing(&fleet).await;
    post(&fleet, frame::FRAME, framed(&request("t"), &segments())).await;
    let status = ended(&fleet, "t").await;
    assert_eq!(status["reply"]["result"], request("t")["payload"]);

    let (content_type, body) = asked_for(&fleet, "t", "application/x-gpufleet-frame, application/json").await;
    assert_eq!(content_type, frame::FRAME);
    let framed = TaskStatus::read(&body).expect("a status");
    let reply = framed.reply.expect("a reply");
    assert_eq!((reply.outcome, &reply.segments), (Outcome::Succeeded, &segments()));

    let (content_type, body) = asked_for(&fleet, "t", "multipart/mixed").await;
    let boundary = content_type.strip_prefix("multipart/mixed; boundary=").expect("a boundary");
    let parts: Vec<Vec<u8>> = split(&body, format!("--{boundary}").as_bytes());
    assert_eq!(parts.len(), 6, "nothing, the status, three segments, the end");
    let contents: Vec<&[u8]> = parts[1..5].iter().map(|part| content(part)).collect();
    assert_eq!(serde_json::from_slice::<Value>(contents[0]).expect("JSON"), status);
    assert_eq!(contents[1..], segments().iter().map(|segment| &segment[..]).collect::<Vec<_>>());

    for (number, segment) in segments().iter().enumerate() {
        let answer = fleet.get(&format!("{TASKS}/t/segments/{number}")).await;
        let headers = answer.headers().clone();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(headers["content-type"], "application/octet-stream");
        let described = ["x-gpufleet-dtype", "x-gpufleet-shape"].map(|name| headers.get(name).map(|value| value.to_str().expect("text")));
        assert_eq!(described, if number == 2 { [Some("f32"), Some("3,1")] } else { [None, None] });
        assert_eq!(answer.bytes().await.expect("a body"), segment);
    }
    for number in ["3", "-1", "first"] {
        let document = problem(fleet.get(&format!("{TASKS}/t/segments/{number}")).await, StatusCode::NOT_FOUND).await;
        assert_eq!(document["field"], "number");
    }
}

/// What stands between these.
fn split(text: &[u8], at: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut rest = text;
    while let Some(first) = rest.first() {
        if rest.starts_with(at) {
            parts.push(Vec::new());
            rest = &rest[at.len()..];
        } else {
            parts.last_mut().expect("one at least").push(*first);
            rest = &rest[1..];
        }
    }
    parts
}

/// What follows the head of a part, without the line end behind it.
fn content(part: &[u8]) -> &[u8] {
    let head = part.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    part[head + 4..].strip_suffix(b"\r\n").expect("a line end")
}

#[tokio::test]
async fn a_result_without_segments_is_json_whatever_is_accepted() {
    let fleet = Fleet::start().await;
    fleet.work(|_| Ok(json!(7))).await;
    fleet.post(TASKS, &json!({"kind": "echo", "task_id": "t"})).await;
    ended(&fleet, "t").await;
    for accept in [frame::FRAME, "multipart/mixed"] {
        assert_eq!(asked_for(&fleet, "t", accept).await.0, "application/json");
    }
    problem(fleet.get(&format!("{TASKS}/t/segments/0")).await, StatusCode::NOT_FOUND).await;
    problem(fleet.get(&format!("{TASKS}/unknown/segments/0")).await, StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_its_field() {
    let fleet = Fleet::start().await;
    fleet.queue.declare(&pool()).await.expect("declare");
    let (bad, wrong) = (StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY);
    let whole = framed(&json!({"kind": "echo"}), &segments());
    let task: &[u8] = br#"{"kind":"echo"}"#;
    let with_items = framed(&json!({"kind": "echo", "items": [1]}), &segments());
    let cases = [
        (frame::FRAME, task.to_vec(), bad, "body"),
        (frame::FRAME, whole[..9].to_vec(), bad, "body"),
        (frame::FRAME, whole[..whole.len() - 1].to_vec(), wrong, "segments"),
        (frame::FRAME, with_items.to_vec(), wrong, "segments"),
        (frame::FRAME, framed(&json!({"kind": "echo", "colour": 1}), &segments()).to_vec(), wrong, "colour"),
        ("application/json", br#"{"kind":"echo","segments":[]}"#.to_vec(), wrong, "segments"),
        ("multipart/form-data", form(&[("task", task)]), bad, "Content-Type"),
        (FORM, b"--x".to_vec(), bad, "body"),
        (FORM, form(&[("segment0", b"1")]), wrong, "task"),
        (FORM, form(&[("task", task), ("task", task)]), wrong, "task"),
        (FORM, form(&[("task", task), ("segment1", b"1")]), wrong, "segment0"),
        (FORM, form(&[("task", task), ("0", b"1"), ("segment0", b"1")]), wrong, "segment1"),
        (FORM, form(&[("task", task), ("picture", b"1")]), wrong, "picture"),
        (FORM, form(&[("task", br#"{"kind":"echo","items":[1]}"#), ("0", b"1")]), wrong, "segments"),
        (FORM, form(&[("task", br#"{"kind":"echo","segments":[1]}"#), ("0", b"1")]), wrong, "segments"),
    ];
    for (content_type, body, status, field) in cases {
        let about = format!("{content_type}: {}", String::from_utf8_lossy(&body));
        let document = problem(post(&fleet, content_type, body).await, status).await;
        assert_eq!(document["field"], field, "{about}: {document}");
    }
    assert_eq!(fleet.queue.depth(&pool()).await.expect("a broker").expect("a queue").ready, 0, "nothing of it was submitted");
}

#[tokio::test]
async fn raw_bytes_are_within_the_bounds_of_a_body_and_of_the_memory() {
    let bodies = BodyBudget::new(1);
    let options = GatewayOptions { body_bytes_max: 900_000, ..GatewayOptions::default() };
    let fleet = Setup { options, bodies: bodies.clone(), ..Setup::default() }.start().await;
    let of = |bytes: usize| Segments::of(vec![vec![0_u8; bytes].into()]);
    problem(post(&fleet, frame::FRAME, framed(&json!({"kind": "echo"}), &of(900_001))).await, StatusCode::PAYLOAD_TOO_LARGE).await;
    let held = bodies.try_take(800_000).expect("nothing is in hand");
    let (task, large): (&[u8], Vec<u8>) = (br#"{"kind":"echo"}"#, vec![0; 500_000]);
    problem(post(&fleet, FORM, form(&[("task", task), ("0", &large)])).await, StatusCode::SERVICE_UNAVAILABLE).await;
    drop(held);
    assert_eq!(post(&fleet, FORM, form(&[("task", task), ("0", &large)])).await.status(), StatusCode::ACCEPTED);
    assert_eq!(bodies.in_use_bytes(), 0);
}
