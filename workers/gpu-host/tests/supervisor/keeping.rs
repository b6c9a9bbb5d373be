//! Which children are started again, and when.

use std::time::Duration;

use gpu_host::{ChildPlan, LogSink, Stop, SupervisorError, SupervisorOptions, supervise};
use serde_json::Value;

use crate::harness::{Supervised, environment, gpu, is_gone, quick, until};

fn fields<'a>(ends: &'a [Value], name: &str) -> Vec<&'a Value> {
    ends.iter().map(|end| &end[name]).collect()
}

#[tokio::test]
async fn a_child_that_crashes_is_started_again_after_ever_longer_pauses() {
    let mut supervised = Supervised::start(quick(), &["exit 7"]);
    until("it has crashed five times", || supervised.ends().len() >= 5).await;
    let ends = supervised.ends();
    assert_eq!(fields(&ends[..5], "pause_ms"), [10, 20, 40, 40, 40]);
    assert_eq!(fields(&ends[..5], "exit"), ["7"; 5]);
    assert_eq!(fields(&ends[..5], "gpu_id"), ["GPU-0"; 5]);
    assert!(ends.iter().all(|end| end["lived_ms"].is_u64()), "{ends:?}");
    supervised.stop.gently.cancel();
    supervised.ended().await.expect("a stopped supervisor has done its work");
}

#[tokio::test]
async fn a_life_that_was_long_enough_makes_the_pauses_begin_anew() {
    let options = SupervisorOptions { proved_after: Duration::ZERO, ..quick() };
    let supervised = Supervised::start(options, &["exit 1"]);
    until("it has crashed three times", || supervised.ends().len() >= 3).await;
    assert_eq!(fields(&supervised.ends()[..3], "pause_ms"), [10; 3]);
}

#[tokio::test]
async fn a_signal_counts_as_a_crash_and_is_named() {
    let mut supervised = Supervised::start(quick(), &["[ -e again ] && exit 0; : >again; kill -SEGV $$"]);
    supervised.ended().await.expect("it left the second time");
    assert_eq!(fields(&supervised.ends(), "exit"), ["SIGSEGV", "0"]);
}

#[tokio::test]
async fn a_child_that_left_is_not_started_again_and_the_others_go_on() {
    let leaves = "echo one >>left; exit 0";
    let crashes = "echo one >>crashed; [ \"$(wc -l <crashed)\" -ge 4 ] && exit 0; exit 1";
    let mut supervised = Supervised::start(quick(), &[leaves, crashes]);
    supervised.ended().await.expect("both left");
    assert_eq!((supervised.lines_in("left"), supervised.lines_in("crashed")), (1, 4));
}

#[tokio::test]
async fn a_misconfigured_child_is_named_in_the_end_and_the_others_go_on() {
    let misconfigured = "echo one >>misconfigured; exit 2";
    let crashes = "echo one >>crashed; [ \"$(wc -l <crashed)\" -ge 4 ] && exit 0; exit 1";
    let mut supervised = Supervised::start(quick(), &[crashes, misconfigured]);
    let error = supervised.ended().await.expect_err("one is misconfigured");
    assert!(error.is_refused());
    assert!(error.to_string().contains("workers of GPU-1: they ended with exit code 2"), "{error}");
    assert_eq!((supervised.lines_in("misconfigured"), supervised.lines_in("crashed")), (1, 4));
}

#[tokio::test]
async fn children_that_are_all_misconfigured_end_the_supervisor_at_once() {
    let mut supervised = Supervised::start(SupervisorOptions::default(), &["exit 2", "exit 2"]);
    let error = supervised.ended().await.expect_err("all are misconfigured");
    assert!(matches!(error, SupervisorError::Misconfigured { gpu_ids } if gpu_ids == [gpu(0), gpu(1)]));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named_and_not_tried_again() {
    let plan = ChildPlan { gpu_id: gpu(0), program: "/nowhere/gpufleet".into(), arguments: Vec::new(), variables: Vec::new() };
    let sink = LogSink::new(std::io::sink());
    let error = supervise(vec![plan], Stop::default(), quick(), sink, environment()).await.expect_err("no program").to_string();
    assert!(error.starts_with("start the worker of GPU GPU-0 with /nowhere/gpufleet: No such file"), "{error}");
}

#[tokio::test]
async fn no_gpu_needs_no_supervisor() {
    supervise(Vec::new(), Stop::default(), quick(), LogSink::stderr(), environment()).await.expect("nothing to do");
}

#[tokio::test]
async fn what_a_child_started_dies_with_it() {
    let mut supervised = Supervised::start(quick(), &["sleep 60 & echo $! >grandchild; exit 0"]);
    supervised.ended().await.expect("it left");
    let grandchild = supervised.pid_in("grandchild").await;
    until("the grandchild is gone", || is_gone(grandchild)).await;
}

#[tokio::test]
async fn a_child_knows_that_it_is_supervised_and_its_input_stays_open_and_empty() {
    let script =
        "[ \"$GPUFLEET_SUPERVISED\" = 1 ] && [ \"$FOLDER\" ] && echo $$ >known; read -r line; echo \"input: $line\" >input; exit 0";
    let mut supervised = Supervised::start(quick(), &[script]);
    let pid = supervised.pid_in("known").await;
    assert!(!is_gone(pid) && !supervised.file("input").exists());
    supervised.stop.gently.cancel();
    supervised.ended().await.expect("stopped");
    assert!(!supervised.file("input").exists(), "the signal ended it, not its input");
}
