//! How handlers start, fail to, and end.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use protocol::Kind;
use serde_json::json;
use tests::until::until;

use super::bench::{gone, start, try_start};

async fn refused(mode: &str) -> String {
    match try_start(mode, |section| section.start_timeout_ms = 20_000).await {
        Ok(_) => panic!("{mode}: it started"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_cannot_be_started_says_why() {
    let said = refused("dies").await;
    assert_eq!(said, "start the handler told: handler told ended with exit code 1; standard error: no such model");
    let said = refused("version_2").await;
    assert!(said.contains("it speaks version 2 of the protocol, and this worker version 1"), "{said}");
    let said = refused("garbage").await;
    assert!(said.contains("broke the protocol: it sent no frame, but \"hello, I am a handler"), "{said}");
    let silent = try_start("silent", |section| section.start_timeout_ms = 500).await.err().unwrap().to_string();
    assert!(silent.contains("said no `hello` within 500 ms of its start"), "{silent}");
    let missing = try_start("", |section| section.command = vec!["/nowhere/handler".to_owned()]).await.err().unwrap().to_string();
    assert!(missing.starts_with("start the handler told: handler told ended with exit code 127; standard error: "), "{missing}");
    assert!(missing.contains("the program /nowhere/handler cannot be started: No such file"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_up_that_fails_is_shown_and_tried_again() {
    let bench = try_start("setup_fails_twice", |section| section.kinds = vec![Kind::new("do").unwrap()]).await.unwrap();
    let executor = bench.kind("do");
    let changes = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&changes);
    executor.on_change(Arc::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    }));
    until("its failure is shown", async || {
        executor.is_up().is_err_and(|why| why.contains("handler told could not be set up: no model there") && why.contains("pause of 1 s"))
    })
    .await;
    assert_eq!(bench.run(json!(1)).await.unwrap().json, json!(1), "a task waits through a short pause");
    assert_eq!(executor.is_up(), Ok(()));
    assert!(changes.load(Ordering::Relaxed) >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_a_new_process_does_not_name_is_down_and_the_others_are_up() {
    let bench = start("fewer_kinds", |_| {}).await;
    assert!(bench.run(json!({"do": "exit"})).await.unwrap_err().crashed);
    bench.up("texts").await;
    assert_eq!(bench.kind("do").is_up().unwrap_err(), "handler told names no kind \"do\" in its hello");
    let failure = bench.run(json!(1)).await.unwrap_err();
    assert!(failure.retry && !failure.crashed, "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_none_fails_its_kind_alone() {
    let bench = start("broken_schema", |_| {}).await;
    assert!(bench.kind("broken").is_up().unwrap_err().contains("a schema for the kind \"broken\" that cannot be used"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_drained_when_it_is_stopped() {
    let bench = start("well", |section| section.processes = 2).await;
    let pid = bench.pid().await;
    // Both of its processes are up once both run something.
    for begun in [bench.begin(json!({"do": "wait"})).await, bench.begin(json!({"do": "wait"})).await] {
        begun.cancel.cancel();
        assert!(begun.running.await.unwrap().is_err());
    }
    bench.kind("do").stop().await;
    gone(pid).await;
    assert_eq!(std::fs::read_to_string(bench.folder.path().join("drained")).unwrap(), "xx", "both of its processes");
    assert!(bench.run(json!(1)).await.is_err() && bench.kind("do").is_up().is_err());
}
