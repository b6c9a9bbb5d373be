//! How children are made to end.

use std::{
    io::{self, Write},
    time::Duration,
};

use gpu_host::{LogSink, SupervisorOptions};

use crate::harness::{Kept, Supervised, is_gone, quick, until};

/// Counts the signals, and ends with the second one.
const TWICE: &str =
    "trap 'n=$((n+1)); echo TERM >>signals; [ $n -ge 2 ] && exit 0' TERM; echo $$ >pid; while :; do sleep 60 & wait $!; done";

#[tokio::test]
async fn a_gentle_stop_passes_one_sigterm_to_every_child_and_to_none_of_theirs() {
    let script = |name: &str| {
        let theirs =
            format!("sh -c 'trap \"echo TERM >>theirs\" TERM; echo $$ >{name}.inner; while :; do sleep 60 & wait $!; done' & wait");
        format!("trap 'echo TERM >>{name}; exit 0' TERM; {theirs}")
    };
    let mut supervised = Supervised::start(quick(), &[&script("first"), &script("second")]);
    for inner in ["first.inner", "second.inner"] {
        supervised.pid_in(inner).await;
    }
    supervised.stop.gently.cancel();
    supervised.ended().await.expect("stopped");
    assert_eq!((supervised.lines_in("first"), supervised.lines_in("second"), supervised.lines_in("theirs")), (1, 1, 0));
}

#[tokio::test]
async fn stopping_at_once_passes_a_second_sigterm() {
    let mut supervised = Supervised::start(quick(), &[TWICE]);
    let pid = supervised.pid_in("pid").await;
    supervised.stop.gently.cancel();
    until("the first signal is there", || supervised.lines_in("signals") == 1).await;
    assert!(!is_gone(pid));
    supervised.stop.now.cancel();
    supervised.ended().await.expect("stopped");
    assert_eq!(supervised.lines_in("signals"), 2);
}

#[tokio::test]
async fn a_child_that_saw_two_signals_as_one_is_told_again() {
    let mut supervised = Supervised::start(quick(), &[TWICE]);
    supervised.pid_in("pid").await;
    supervised.stop.gently.cancel();
    supervised.stop.now.cancel();
    supervised.ended().await.expect("stopped");
    assert_eq!(supervised.lines_in("signals"), 2);
    assert_eq!(supervised.ends()[0]["exit"], "0", "it was not killed");
}

#[tokio::test]
async fn a_child_that_ignores_the_signal_is_killed_after_the_grace_with_all_that_it_started() {
    let options = SupervisorOptions { stop_grace: Duration::from_millis(100), ..quick() };
    let mut supervised =
        Supervised::start(options, &["trap '' TERM; sleep 60 & echo $! >grandchild; echo $$ >pid; while :; do wait; done"]);
    let (pid, grandchild) = (supervised.pid_in("pid").await, supervised.pid_in("grandchild").await);
    supervised.stop.gently.cancel();
    supervised.ended().await.expect("stopped");
    let end = supervised.ends().remove(0);
    assert_eq!(end["exit"], "SIGKILL");
    assert!(supervised.events().iter().any(|event| event["message"] == "worker killed: it did not end in time"));
    until("both are gone", || is_gone(pid) && is_gone(grandchild)).await;
}

#[tokio::test]
async fn a_child_in_its_pause_is_not_started_again() {
    let options = SupervisorOptions { first_pause: Duration::from_secs(3_600), longest_pause: Duration::from_secs(3_600), ..quick() };
    let mut supervised = Supervised::start(options, &["echo one >>started; exit 1"]);
    until("it has crashed", || supervised.ends().len() == 1).await;
    supervised.stop.gently.cancel();
    supervised.ended().await.expect("stopped");
    assert_eq!(supervised.lines_in("started"), 1);
}

#[tokio::test]
async fn a_child_that_crashes_while_the_supervisor_stops_is_not_started_again() {
    let mut supervised =
        Supervised::start(quick(), &["echo $$ >pid; echo one >>started; trap 'exit 1' TERM; while :; do sleep 60 & wait $!; done"]);
    supervised.pid_in("pid").await;
    until("it is started", || supervised.lines_in("started") == 1).await;
    supervised.stop.now.cancel();
    supervised.ended().await.expect("stopped");
    assert_eq!(supervised.lines_in("started"), 1);
}

#[tokio::test]
async fn a_supervisor_that_is_dropped_takes_its_children_along() {
    let mut supervised = Supervised::start(quick(), &["sleep 60 & echo $! >grandchild; echo $$ >pid; wait"]);
    let (pid, grandchild) = (supervised.pid_in("pid").await, supervised.pid_in("grandchild").await);
    supervised.abort().await;
    until("both are gone", || is_gone(pid) && is_gone(grandchild)).await;
}

/// Takes nothing, until the other end is dropped.
struct Stuck(std::sync::mpsc::Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_stuck_log_holds_up_neither_exits_nor_signals() {
    let (_freed, stuck) = std::sync::mpsc::channel();
    let chatty = "echo $$ >chatty; while :; do echo chat; done";
    let crashes = "echo one >>crashed; echo crash; exit 1";
    let mut supervised = Supervised::with_sink(quick(), &[chatty, crashes], LogSink::new(Stuck(stuck)), Kept::default());
    let chatty = supervised.pid_in("chatty").await;
    until("the other one was started again", || supervised.lines_in("crashed") >= 2).await;
    supervised.stop.gently.cancel();
    supervised.ended().await.expect("stopped");
    assert!(is_gone(chatty));
}
