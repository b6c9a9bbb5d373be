//! What is held against handlers that crash, hang, leak and do not listen.

use std::{path::Path, process::Stdio};

use executors::Failure;
use serde_json::json;
use tests::{
    program::{self, is_running},
    until::until,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use super::bench::{gone, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_exits_crashes_what_ran_in_it_and_says_its_last_words() {
    let bench = start("well", |section| section.concurrency = 2).await;
    let other = bench.begin(json!({"do": "wait"})).await;
    let failure = bench.run(json!({"do": "exit"})).await.unwrap_err();
    assert!(failure.crashed && failure.retry, "{failure:?}");
    assert!(
        failure.message.starts_with("handler told ended with exit code 3; standard error: ") && failure.message.ends_with("about to die"),
        "{failure:?}"
    );
    assert!(other.running.await.unwrap().unwrap_err().crashed, "what ran beside it is a suspect too");
    assert!(bench.run(json!({"do": "echo"})).await.is_ok(), "it was started anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segfault_and_a_broken_protocol_crash_the_run_and_no_more() {
    let bench = start("well", |_| {}).await;
    let failure = bench.run(json!({"do": "segfault"})).await.unwrap_err();
    assert!(failure.crashed && failure.message.contains("signal 11 (SIGSEGV)"), "{failure:?}");
    assert!(bench.run(json!({"do": "echo"})).await.is_ok());
    let failure = bench.run(json!({"do": "garbage"})).await.unwrap_err();
    assert!(failure.crashed && failure.message.contains("broke the protocol: it sent no frame, but \"Traceback"), "{failure:?}");
    assert!(bench.run(json!({"do": "echo"})).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_is_asked_interrupted_and_killed_and_the_next_run_works() {
    let bench = start("well", |section| section.stop_timeout_ms = 100).await;
    let pid = bench.pid().await;
    let begun = bench.begin(json!({"do": "loop"})).await;
    begun.cancel.cancel();
    assert_eq!(begun.running.await.unwrap(), Err(Failure::cancelled()));
    gone(pid).await;
    assert_ne!(bench.pid().await, pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_dropped_keeps_its_place_until_it_has_really_ended() {
    let bench = start("well", |section| section.stop_timeout_ms = 200).await;
    let pid = bench.pid().await;
    let begun = bench.begin(json!({"do": "loop"})).await;
    begun.running.abort();
    // It begins only in a new process: the old one had one place, which the loop kept to its end.
    assert_ne!(bench.pid().await, pid);
    assert!(!is_running(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_of_an_old_run_reaches_no_new_one() {
    let bench = start("well", |_| {}).await;
    let begun = bench.begin(json!({"do": "late"})).await;
    begun.cancel.cancel();
    assert_eq!(begun.running.await.unwrap().unwrap_err().code, "cancelled");
    let payload = json!({"do": "after_late"});
    assert_eq!(bench.run(payload.clone()).await.unwrap().json, payload, "its own answer, and not that of the old run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_answers_no_ping_is_ended() {
    let bench = start("well", |section| section.hang_timeout_ms = 1_000).await;
    let failure = bench.run(json!({"do": "stop"})).await.unwrap_err();
    assert!(failure.crashed && failure.message.contains("answered no ping for 1000 ms, and was killed"), "{failure:?}");
    assert!(bench.run(json!({"do": "echo"})).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_started_ends_with_it() {
    let bench = start("well", |_| {}).await;
    let grandchild: u32 = bench.run(json!({"do": "grandchild"})).await.unwrap().json.to().unwrap();
    assert!(is_running(grandchild));
    assert!(bench.run(json!({"do": "exit"})).await.unwrap_err().crashed);
    gone(grandchild).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_ends_with_its_worker() {
    let bench = start("well", |_| {}).await;
    let pid = bench.pid().await;
    drop(bench);
    gone(pid).await;
    // And where nothing of the worker can say so any more, by the kernel: a shell is the worker that is killed.
    let script = r#""$0" handler exec --parent $$ -- sleep 600 & echo $!; wait"#;
    let mut worker = Command::new("sh");
    worker.args(["-c", script]).arg(program::binary()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut worker = worker.spawn().unwrap();
    let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
    let pid: u32 = lines.next_line().await.unwrap().unwrap().parse().unwrap();
    until("it sleeps", async || command_of(pid).starts_with("sleep")).await;
    worker.kill().await.unwrap();
    gone(pid).await;
    // One that is gone before the handler could be bound to it.
    let orphan = program::gpufleet(Path::new("/"), ["handler", "exec", "--parent", "1", "--", "sleep", "600"], &[]).await;
    assert_eq!(orphan.code, Some(126), "{}", orphan.errors);
}

fn command_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_takes_more_memory_than_its_bound_is_ended() {
    let bench = start("well", |section| section.memory_mb = Some(200)).await;
    let failure = bench.run(json!({"do": "grow", "bytes": 300_000_000})).await.unwrap_err();
    assert!(failure.crashed && failure.message.contains("its bound is 200 MB"), "{failure:?}");
    assert!(bench.run(json!({"do": "echo"})).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_started_anew_after_so_many_tasks_between_them() {
    let bench = start("well", |section| section.restart_after_tasks = Some(2)).await;
    let pids = [bench.pid().await, bench.pid().await, bench.pid().await, bench.pid().await, bench.pid().await];
    assert!(pids[0] == pids[1] && pids[1] != pids[2] && pids[2] == pids[3] && pids[3] != pids[4], "{pids:?}");
    assert_eq!(std::fs::read_to_string(bench.folder.path().join("drained")).unwrap(), "xx", "each was drained");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_says_it_is_not_healthy_is_started_anew_between_tasks() {
    let bench = start("well", |section| section.hang_timeout_ms = 3_000).await;
    let pid = bench.pid().await;
    assert!(bench.run(json!({"do": "sick"})).await.is_ok());
    until("it is started anew", async || bench.pid().await != pid).await;
    assert!(!is_running(pid) && bench.folder.path().join("drained").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_handler_sleeps_until_the_next_task_and_its_kinds_stay_up() {
    let bench = start("well", |section| section.idle_timeout_ms = Some(1_000)).await;
    let pid = bench.pid().await;
    until("it has ended", async || {
        assert_eq!(bench.kind("do").is_up(), Ok(()));
        !is_running(pid)
    })
    .await;
    assert_ne!(bench.pid().await, pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_worker_is_told_to_end_at_once_is_killed_whatever_runs_there() {
    let bench = start("well", |_| {}).await;
    let pid = bench.pid().await;
    let begun = bench.begin(json!({"do": "loop"})).await;
    bench.kind("do").stop_at_once().await;
    assert!(begun.running.await.unwrap().is_err() && !is_running(pid));
    assert!(bench.kind("do").is_up().is_err(), "it is not started again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_keeps_its_slot_until_a_process_that_does_not_listen_is_gone() {
    let bench = start("well", |section| section.stop_timeout_ms = 200).await;
    let begun = bench.begin(json!({"do": "loop"})).await;
    begun.cancel.cancel();
    let ended = tokio::time::timeout(bench.kind("do").notice(), begun.running).await;
    assert_eq!(ended.expect("the worker waits for so long").unwrap(), Err(Failure::cancelled()));
}
