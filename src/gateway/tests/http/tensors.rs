//! `/api/v1/tensors`: raw bytes to and from the data ports of GPUs.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll},
};

use bytes::Bytes;
use gateway::GatewayOptions;
use hyper::body::{Body, Frame};
use protocol::TensorName;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use task_queue::BodyBudget;

use crate::{
    data_ports::{DataGpu, KEY},
    fleet::{Fleet, Setup, json as read, problem, retry_after_s},
};

const TENSORS: &str = "/api/v1/tensors";
/// What travels in one piece, at most.
const PIECE: usize = 1 << 20;

/// A gateway before GPUs with data ports: `gpu-0` with the least memory in use, `gpu-1`, ….
async fn fleet(gpus: usize, setup: Setup) -> (Fleet, Vec<DataGpu>) {
    let setup = Setup { kinds: &[], ..setup };
    let mut started = Vec::new();
    for (number, used_mb) in (0..gpus).zip((1_000..).step_by(1_000)) {
        started.push(DataGpu::start(&setup.table, &format!("gpu-{number}"), used_mb).await);
    }
    (setup.start().await, started)
}

impl Fleet {
    fn tensor(&self, method: Method, name_and_query: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{TENSORS}/{name_and_query}", self.url))
    }

    async fn put_tensor(&self, name_and_query: &str, bytes: impl Into<reqwest::Body>) -> Response {
        self.tensor(Method::PUT, name_and_query).body(bytes).send().await.expect("an answer")
    }
}

fn headers<const N: usize>(response: &Response, names: [&str; N]) -> [String; N] {
    names.map(|name| response.headers().get(name).map_or_else(String::new, |value| value.to_str().expect("text").to_owned()))
}

/// Bytes no two pieces of which are alike.
fn pattern(bytes: usize) -> Bytes {
    (0..bytes).map(|at| u8::try_from((at / PIECE + at) % 251).expect("below 251")).collect::<Vec<u8>>().into()
}

#[tokio::test]
async fn a_tensor_is_put_listed_read_and_freed() {
    let (fleet, gpus) = fleet(2, Setup::default()).await;
    let numbers: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|number| number.to_le_bytes()).collect();
    let put = fleet.tensor(Method::PUT, "x").header("x-gpufleet-dtype", "f32").header("x-gpufleet-shape", "2,3");
    let put = put.header("x-gpufleet-ttl-ms", "5000").body(numbers.clone()).send().await.expect("an answer");
    assert_eq!(put.status(), StatusCode::CREATED);
    assert_eq!(headers(&put, ["location", "etag"]), ["/api/v1/tensors/x", "\"1\""]);
    let kept = json!({"tensor": "x", "version": 1, "gpu_id": "gpu-0", "dtype": "f32", "shape": [2, 3], "bytes": 24});
    assert_eq!(read(put).await, kept, "on the GPU with the most free memory");
    assert_eq!(gpus[0].held.bytes("x").as_deref(), Some(&numbers[..]));

    let listed = read(fleet.get(TENSORS).await).await;
    let view = &listed["tensors"][0];
    assert_eq!(
        (&view["name"], &view["ttl_ms"], &view["copies"]),
        (&json!("x"), &json!(5_000), &json!([{"gpu_id": "gpu-0", "place": "gpu"}]))
    );
    let alone = fleet.tensor(Method::GET, "x").header("accept", "application/json").send().await.expect("an answer");
    assert_eq!(read(alone).await["owner"], view["owner"]);

    let got = fleet.tensor(Method::GET, "x").send().await.expect("an answer");
    let described =
        ["content-type", "content-length", "x-gpufleet-dtype", "x-gpufleet-shape", "x-gpufleet-version", "etag", "accept-ranges"];
    let expected = ["application/octet-stream", "24", "f32", "2,3", "1", "\"1\"", "bytes"];
    assert_eq!((got.status(), headers(&got, described)), (StatusCode::OK, expected.map(str::to_owned)));
    assert_eq!(got.bytes().await.expect("a body"), numbers);
    let head = fleet.tensor(Method::HEAD, "x").send().await.expect("an answer");
    assert_eq!((head.status(), headers(&head, described)), (StatusCode::OK, expected.map(str::to_owned)));

    let freed = fleet.tensor(Method::DELETE, "x").send().await.expect("an answer");
    assert_eq!(read(freed).await, json!({"tensor": "x", "gpus": ["gpu-0"]}));
    assert_eq!((gpus[0].held.bytes("x"), read(fleet.get(TENSORS).await).await), (None, json!({"tensors": [], "next": null})));
    for method in [Method::GET, Method::DELETE] {
        let missing = problem(fleet.tensor(method, "x").send().await.expect("an answer"), StatusCode::NOT_FOUND).await;
        assert_eq!((&missing["type"], &missing["code"]), (&json!("urn:gpufleet:problem:tensor-missing"), &json!("tensor_missing")));
    }
}

#[tokio::test]
async fn a_range_is_given_alone() {
    let (fleet, _gpus) = fleet(1, Setup::default()).await;
    let bytes = pattern(3 * PIECE);
    assert_eq!(fleet.put_tensor("x", bytes.clone()).await.status(), StatusCode::CREATED);
    let last = bytes.len() - 1;
    for (range, from, to) in [
        ("bytes=0-0".to_owned(), 0, 0),
        ("bytes=3-12".to_owned(), 3, 12),
        (format!("bytes={}-{}", PIECE - 5, 2 * PIECE + 5), PIECE - 5, 2 * PIECE + 5),
        ("bytes=-7".to_owned(), last - 6, last),
        (format!("bytes={last}-"), last, last),
    ] {
        let part = fleet.tensor(Method::GET, "x").header("range", &range).send().await.expect("an answer");
        assert_eq!(
            (part.status(), headers(&part, ["content-range"])),
            (StatusCode::PARTIAL_CONTENT, [format!("bytes {from}-{to}/{}", last + 1)])
        );
        assert_eq!(part.bytes().await.expect("a body"), bytes[from..=to], "{range}");
    }
    let past = fleet.tensor(Method::GET, "x").header("range", format!("bytes={}-", last + 1)).send().await.expect("an answer");
    assert_eq!(headers(&past, ["content-range"]), [format!("bytes */{}", last + 1)]);
    problem(past, StatusCode::RANGE_NOT_SATISFIABLE).await;
    for (etag, status) in [("\"1\"", StatusCode::PARTIAL_CONTENT), ("\"7\"", StatusCode::OK)] {
        let part = fleet.tensor(Method::GET, "x").header("range", "bytes=0-1").header("if-range", etag).send().await.expect("an answer");
        assert_eq!(part.status(), status, "{etag}");
    }
}

#[tokio::test]
async fn a_named_gpu_gets_it_and_a_name_may_be_written_again_or_not() {
    let (fleet, gpus) = fleet(2, Setup::default()).await;
    let put = read(fleet.put_tensor("x?gpu=gpu-1", "first").await).await;
    assert_eq!((&put["gpu_id"], &put["dtype"], &put["shape"]), (&json!("gpu-1"), &json!("u8"), &json!([5])));
    let nowhere = problem(fleet.put_tensor("x?gpu=gpu-7", "first").await, StatusCode::NOT_FOUND).await;
    assert_eq!(nowhere["field"], "gpu");

    let again =
        fleet.tensor(Method::PUT, "x?gpu=gpu-1").header("x-gpufleet-if-exists", "fail").body("other").send().await.expect("an answer");
    let taken = problem(again, StatusCode::CONFLICT).await;
    assert_eq!((&taken["type"], &taken["code"]), (&json!("urn:gpufleet:problem:tensor-exists"), &json!("tensor_exists")));
    assert_eq!(gpus[1].held.bytes("x").as_deref(), Some(&b"first"[..]));
    assert_eq!(read(fleet.put_tensor("x?gpu=gpu-1", "second").await).await["version"], 2);
    assert_eq!(fleet.tensor(Method::GET, "x").send().await.expect("an answer").bytes().await.expect("a body"), "second");
    let older = fleet.tensor(Method::GET, "x?version=1").send().await.expect("an answer");
    assert_eq!(problem(older, StatusCode::NOT_FOUND).await["code"], "tensor_missing");
    assert_eq!(fleet.tensor(Method::GET, "x?version=2").send().await.expect("an answer").status(), StatusCode::OK);

    gpus[0].held.full.store(true, Ordering::Relaxed);
    let full = problem(fleet.put_tensor("y", "bytes").await, StatusCode::INSUFFICIENT_STORAGE).await;
    assert_eq!((&full["type"], &full["code"]), (&json!("urn:gpufleet:problem:tensors-full"), &json!("tensors_full")));
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_before_a_byte_travels() {
    let (fleet, gpus) = fleet(1, Setup::default()).await;
    for (name, header, value, field) in [
        ("x", "x-gpufleet-dtype", "float32", "x-gpufleet-dtype"),
        ("x", "x-gpufleet-dtype", "f64", "x-gpufleet-dtype"),
        ("x", "x-gpufleet-shape", "2;3", "x-gpufleet-shape"),
        ("x", "x-gpufleet-shape", "5", "x-gpufleet-shape"),
        ("x", "x-gpufleet-shape", "18446744073709551615,2", "x-gpufleet-shape"),
        ("x", "x-gpufleet-ttl-ms", "0", "x-gpufleet-ttl-ms"),
        ("x", "x-gpufleet-if-exists", "stay", "x-gpufleet-if-exists"),
        ("x?gpu=a%20b", "x-none", "", "gpu"),
        ("x?gpus=1", "x-none", "", "gpu"),
    ] {
        let response = fleet.tensor(Method::PUT, name).header(header, value).body("four").send().await.expect("an answer");
        assert_eq!(problem(response, StatusCode::BAD_REQUEST).await["field"], field, "{name} {header}: {value}");
    }
    let coded = fleet.tensor(Method::PUT, "x").header("content-encoding", "gzip").body("four").send().await.expect("an answer");
    problem(coded, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
    for (method, path) in [(Method::GET, "no%20name"), (Method::PUT, "%FF"), (Method::DELETE, "a%2Fb")] {
        let response = fleet.tensor(method, path).body("").send().await.expect("an answer");
        assert_eq!(problem(response, StatusCode::NOT_FOUND).await["field"], "name", "{path}");
    }
    for (path, field) in [("?after=a%20b", "after"), ("?limit=0", "limit"), ("?limit=1001", "limit"), ("?page=2", "query")] {
        assert_eq!(problem(fleet.get(&format!("{TENSORS}{path}")).await, StatusCode::BAD_REQUEST).await["field"], field, "{path}");
    }
    assert_eq!(problem(fleet.get(&format!("{TENSORS}/x?version=one")).await, StatusCode::BAD_REQUEST).await["field"], "version");
    let large =
        fleet.tensor(Method::PUT, "x").header("x-gpufleet-shape", "80000000001").body(unannounced("four")).send().await.expect("an answer");
    assert_eq!(problem(large, StatusCode::PAYLOAD_TOO_LARGE).await["code"], "tensors_full");
    assert_eq!(gpus[0].held.bytes("x"), None);
}

/// A body whose length is not announced.
struct Unannounced(Option<Bytes>);

impl Body for Unannounced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn unannounced(text: &'static str) -> reqwest::Body {
    reqwest::Body::wrap(Unannounced(Some(Bytes::from_static(text.as_bytes()))))
}

#[tokio::test]
async fn the_tensors_come_in_pages() {
    let (fleet, gpus) = fleet(2, Setup::default()).await;
    for name in ["c", "a", "d", "b"] {
        assert_eq!(fleet.put_tensor(name, "bytes").await.status(), StatusCode::CREATED);
    }
    gpus[1].held.copies(&gpus[0].held, "b").await;
    let names = |page: &Value| -> Vec<String> {
        let tensors = page["tensors"].as_array().expect("tensors");
        tensors.iter().map(|view| view["name"].as_str().expect("a name").to_owned()).collect()
    };
    let first = read(fleet.get(&format!("{TENSORS}?limit=3")).await).await;
    assert_eq!((names(&first), &first["next"]), (["a", "b", "c"].map(str::to_owned).to_vec(), &json!("c")));
    assert_eq!(first["tensors"][1]["copies"].as_array().map(Vec::len), Some(2));
    let rest = read(fleet.get(&format!("{TENSORS}?limit=3&after=c")).await).await;
    assert_eq!((names(&rest), &rest["next"]), (vec!["d".to_owned()], &Value::Null));
    let freed = read(fleet.tensor(Method::DELETE, "b").send().await.expect("an answer")).await;
    assert_eq!(freed["gpus"], json!(["gpu-0", "gpu-1"]));
}

#[tokio::test]
async fn a_reading_goes_on_with_another_copy_and_is_cut_off_where_there_is_none() {
    let (fleet, gpus) = fleet(2, Setup::default()).await;
    let bytes = pattern(4 * PIECE);
    assert_eq!(fleet.put_tensor("x", bytes.clone()).await.status(), StatusCode::CREATED);
    gpus[1].held.copies(&gpus[0].held, "x").await;
    gpus[0].held.breaks_at.store(2 * PIECE as u64, Ordering::Relaxed);
    let whole = fleet.tensor(Method::GET, "x").send().await.expect("an answer");
    assert_eq!(whole.bytes().await.expect("all of it"), bytes);

    gpus[1].held.breaks_at.store(3 * PIECE as u64, Ordering::Relaxed);
    let cut = fleet.tensor(Method::GET, "x").send().await.expect("an answer");
    assert_eq!((cut.status(), headers(&cut, ["content-length"])), (StatusCode::OK, [(4 * PIECE).to_string()]));
    assert!(cut.bytes().await.is_err(), "it must not look whole");

    for gpu in &gpus {
        gpu.held.breaks_at.store(0, Ordering::Relaxed);
    }
    let failed = problem(fleet.tensor(Method::GET, "x").send().await.expect("an answer"), StatusCode::BAD_GATEWAY).await;
    assert_eq!((&failed["type"], &failed["code"]), (&json!("urn:gpufleet:problem:transfer-failed"), &json!("transfer_failed")));
}

#[tokio::test]
async fn a_body_that_ends_too_early_leaves_nothing() {
    let (fleet, gpus) = fleet(1, Setup::default()).await;
    let short = fleet.tensor(Method::PUT, "x").header("x-gpufleet-shape", "5").body(unannounced("four")).send().await.expect("an answer");
    assert_eq!(problem(short, StatusCode::BAD_REQUEST).await["field"], "x-gpufleet-shape");
    let long = fleet.tensor(Method::PUT, "x").header("x-gpufleet-shape", "3").body(unannounced("four")).send().await.expect("an answer");
    assert_eq!(problem(long, StatusCode::BAD_REQUEST).await["field"], "x-gpufleet-shape");
    let unknown = fleet.tensor(Method::PUT, "x").body(unannounced("four")).send().await.expect("an answer");
    assert_eq!(problem(unknown, StatusCode::BAD_REQUEST).await["field"], "x-gpufleet-shape");
    assert_eq!(gpus[0].held.bytes("x"), None);
    let right = fleet.tensor(Method::PUT, "x").header("x-gpufleet-shape", "2,2").body(unannounced("four")).send().await.expect("an answer");
    assert_eq!((right.status(), gpus[0].held.bytes("x").as_deref()), (StatusCode::CREATED, Some(&b"four"[..])));
}

#[tokio::test]
async fn without_a_data_port_in_reach_a_client_is_told_to_come_back() {
    let (fleet, gpus) = fleet(1, Setup::default()).await;
    assert_eq!(fleet.put_tensor("x", "bytes").await.status(), StatusCode::CREATED);
    drop(gpus);
    // Its row lives on for a while, and its port is closed.
    for method in [Method::PUT, Method::GET, Method::DELETE] {
        let response = loop {
            let response = fleet.tensor(method.clone(), "x").body("bytes").send().await.expect("an answer");
            if response.status() == StatusCode::SERVICE_UNAVAILABLE {
                break response;
            }
            tokio::task::yield_now().await;
        };
        assert!(retry_after_s(&response) >= 1);
        let away = problem(response, StatusCode::SERVICE_UNAVAILABLE).await;
        assert_eq!(away["type"], "urn:gpufleet:problem:no-gpu", "{method}");
        assert!(!away.to_string().contains("127.0.0.1"), "where servers are stays in the log: {away}");
    }
    let bare = Setup::default().start().await;
    problem(bare.put_tensor("x", "bytes").await, StatusCode::SERVICE_UNAVAILABLE).await;
}

#[tokio::test]
async fn what_passes_through_has_a_few_pieces_in_hand_and_no_more() {
    let bodies = BodyBudget::new(5);
    let options = GatewayOptions { body_bytes_max: 1_000_000, ..GatewayOptions::default() };
    let (fleet, _gpus) = fleet(1, Setup { bodies: bodies.clone(), options, ..Setup::default() }).await;
    let bytes = pattern(20 * PIECE);
    assert_eq!(fleet.put_tensor("x", bytes.clone()).await.status(), StatusCode::CREATED, "larger than the budget and than a task's body");
    assert_eq!(fleet.tensor(Method::GET, "x").send().await.expect("an answer").bytes().await.expect("a body"), bytes);

    while bodies.in_use_bytes() > 0 {
        tokio::task::yield_now().await;
    }
    let reading = fleet.tensor(Method::GET, "x").send().await.expect("an answer");
    assert!(bodies.in_use_bytes() >= 4 * PIECE, "its pieces are counted");
    let other = fleet.put_tensor("y", pattern(2 * PIECE)).await;
    assert!(retry_after_s(&other) >= 1);
    assert_eq!(problem(other, StatusCode::SERVICE_UNAVAILABLE).await["type"], "urn:gpufleet:problem:overloaded");
    drop(reading);
}

#[tokio::test]
async fn the_keys_of_data_ports_are_shown_to_nobody() {
    let (fleet, _gpus) = fleet(1, Setup::default()).await;
    for path in ["/api/v1/gpus", "/api/v1/gpus/gpu-0", TENSORS] {
        let shown = fleet.get(path).await.text().await.expect("text");
        assert!(!shown.contains(KEY), "{path}: {shown}");
    }
    assert_eq!(read(fleet.get("/api/v1/gpus/gpu-0").await).await["data_port"]["key"], "***");
    assert!(TensorName::new(KEY).is_ok(), "it would be shown as it is");
}
