//! What a handler that does its work gives.

use bytes::Bytes;
use executors::{RunBatch, TakesTensors};
use protocol::{Segments, config::HandlerProtocol};
use serde_json::{Value, json};
use tests::{executing::member_of, until::until};
use tokio_util::sync::CancellationToken;

use super::bench::{start, task, try_start};

#[tokio::test(flavor = "multi_thread")]
async fn raw_bytes_go_there_and_back() {
    let bench = start("well", |_| {}).await;
    let segments = Segments::of(vec![Bytes::from(vec![7; 1 << 20]), Bytes::new(), Bytes::from_static(b"small")]);
    let payload = json!({"a": {"$segment": 0, "dtype": "u8", "shape": [1024, 1024]}, "b": [{"$segment": 2}]});
    let answer = bench.run_kind("do", payload.clone(), segments.clone()).await.unwrap();
    assert!(answer.json == payload && answer.segments == segments, "{}", answer.json);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_kind_takes_tensors_is_as_its_handler_says() {
    for (mode, takes) in [("well", TakesTensors::AsSegments), ("takes_tensors", TakesTensors::OnGpu)] {
        assert_eq!(start(mode, |_| {}).await.kind("do").takes_tensors(), takes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_prints_breaks_nothing() {
    let bench = start("well", |_| {}).await;
    assert_eq!(bench.run(json!({"do": "print"})).await.unwrap().json, json!({"do": "print"}));
    assert_eq!(bench.run(json!({"do": "flood"})).await.unwrap().json, json!({"do": "flood"}), "a megabyte without a line break");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_and_progress_reach_whoever_listens() {
    let bench = start("well", |_| {}).await;
    let begun = bench.begin(json!({"do": "parts"})).await;
    assert!(begun.running.await.unwrap().is_ok());
    let reported = begun.reports.progress.borrow().clone();
    assert_eq!((reported.fraction.get(), reported.message.as_deref()), (0.75, Some("nearly")));
    let parts: Vec<Value> = begun.reports.partials.take().iter().map(|part| part.value.to().unwrap()).collect();
    assert_eq!(parts, [json!(0), json!(1), json!(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_says_all_that_the_handler_said() {
    let bench = start("well", |_| {}).await;
    let with = json!({"message": "too hot", "code": "hot", "retry": false, "retry_after_ms": 9, "field": "payload.x", "memory_mb": 5});
    let failure = bench.run(json!({"do": "fail", "with": with})).await.unwrap_err();
    assert_eq!((failure.message.as_str(), failure.code.as_str(), failure.retry, failure.crashed), ("too hot", "hot", false, false));
    assert_eq!((failure.retry_after_ms, failure.field.as_deref(), failure.memory_mb), (Some(9), Some("payload.x"), Some(5)));
    let failure = bench.run(json!({"do": "fail", "with": {"message": "full", "out_of_memory": true, "memory_mb": 70}})).await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.retry, failure.memory_mb), ("out_of_memory", true, Some(70)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_payload_names_its_field_and_never_reaches_the_handler() {
    let bench = start("well", |_| {}).await;
    let failure = bench.run_kind("texts", json!({"texts": ["a", 1], "do": "exit"}), Segments::none()).await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.field.as_deref()), ("invalid_payload", Some("payload.texts[1]")));
    let good = json!({"texts": ["a"]});
    assert_eq!(bench.run_kind("texts", good.clone(), Segments::none()).await.unwrap().json, good);
    assert!(bench.kind("texts").schema().is_some() && bench.kind("do").about() == "Does as it is told.");
    assert_eq!(bench.kind("do").models(), ["small"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_batch_are_answered_in_their_places_and_a_bad_one_fails_alone() {
    let bench = start("well", |_| {}).await;
    let executor = bench.kind("pairs");
    let batching = executor.batching().unwrap();
    assert_eq!((batching.largest, batching.wait.map(|wait| wait.as_millis())), (2, Some(7)));
    let tasks: Vec<_> =
        [json!("a"), json!("bad"), json!("c")].into_iter().map(|payload| task("pairs", payload, Segments::none())).collect();
    let members = tasks.iter().map(member_of);
    let batch = RunBatch { device: &bench.device, members: members.collect(), cancel: CancellationToken::new() };
    let answers = executor.run_batch(batch).await;
    assert_eq!(answers[0].as_ref().unwrap().json, json!(["a", 2]));
    let bad = answers[1].as_ref().unwrap_err();
    assert_eq!((bad.message.as_str(), bad.retry), ("bad member", false));
    assert_eq!(answers[2].as_ref().unwrap().json, json!(["c", 1]), "more than it takes at once are cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_has_no_variable_of_its_worker_but_for_a_few() {
    let bench = start("well", |_| {}).await;
    let found: Value = bench.run(json!({"do": "environment"})).await.unwrap().json.to().unwrap();
    assert_eq!(
        (&found["GPUFLEET_GPU_ID"], &found["CUDA_VISIBLE_DEVICES"], &found["PYTHONUNBUFFERED"]),
        (&json!("sim-0"), &json!(""), &json!("1"))
    );
    assert!(found["PATH"].is_string() && found["OMP_NUM_THREADS"].is_string());
    assert_eq!(found["CARGO_MANIFEST_DIR"], json!(null), "the tests have it");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_beyond_the_places_wait_and_a_run_that_was_cancelled_gives_its_place_back() {
    let bench = start("well", |_| {}).await;
    let begun = bench.begin(json!({"do": "wait"})).await;
    let mut second = Box::pin(bench.run(json!({"do": "echo"})));
    assert!(futures::poll!(&mut second).is_pending());
    begun.cancel.cancel();
    assert_eq!(begun.running.await.unwrap().unwrap_err().code, "cancelled");
    assert!(second.await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_script_is_a_handler_too() {
    const SCRIPT: &str = r#"
        echo "this is no message"
        while read -r line; do
            run=$(printf '%s' "$line" | sed -E 's/.*"run": ?([0-9]+).*/\1/')
            case "$line" in
            *'"type":"task"'*'"die"'*) echo "out of paper" >&2; exit 5 ;;
            *'"type":"task"'*) printf '{"type": "result", "run": %s, "result": "hello"}\n' "$run" ;;
            esac
        done"#;
    let bench = try_start("", |section| {
        section.protocol = HandlerProtocol::Lines;
        section.kinds = vec!["do".parse().unwrap()];
        section.command = ["sh", "-c", SCRIPT].map(str::to_owned).to_vec();
    })
    .await
    .unwrap();
    assert_eq!(bench.run(json!({"any": 1})).await.unwrap().json, json!("hello"));
    let raw = bench.run_kind("do", json!({"$segment": 0}), Segments::of(vec![Bytes::from_static(b"x")])).await.unwrap_err();
    assert_eq!((raw.code.as_str(), bench.kind("do").takes_tensors()), ("invalid_payload", TakesTensors::No));
    let died = bench.run(json!("die")).await.unwrap_err();
    assert!(died.crashed && died.message.contains("exit code 5; standard error: out of paper"), "{died:?}");
    until("it runs again", async || bench.run(json!(2)).await.is_ok()).await;
    bench.kind("do").stop().await;
}
