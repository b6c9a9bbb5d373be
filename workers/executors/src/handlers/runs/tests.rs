use futures::FutureExt;
use serde_json::json;

use super::*;
use crate::handlers::{
    fixture,
    line::{Line, Phase, Up},
};

struct Bench {
    line: Arc<Line>,
    live: Arc<Live>,
    waiting: mpsc::UnboundedReceiver<Outgoing>,
}

impl Bench {
    fn new() -> Self {
        let line = Line::new("h".to_owned(), 1);
        let (live, waiting) = Live::new("h".to_owned(), HandlerProtocol::Frames);
        line.set(0, Phase::Up(Up { live: Arc::clone(&live), free: 4, places: 4, is_open: true, left: u64::MAX, life: 1 }));
        Self { line, live, waiting }
    }

    async fn begin(&self, members: usize) -> Attached {
        let member = |number| Member {
            task_id: TaskId::new(format!("t-{number}")).unwrap(),
            attempt: 1,
            report: Report::to_nobody(),
            tensors: Vec::new(),
        };
        let place = self.line.place().await.unwrap().place;
        let message = |run| Outgoing::plain(&ToHandler::Ping { n: run });
        self.live.begin((0..members).map(member).collect(), place, message).unwrap()
    }

    fn result(&self, run: u64, member: Option<usize>, value: u64) {
        self.live.succeeded(Success { run, member, result: json!(value).into(), segments: Vec::new() }, Segments::none());
    }

    fn sent(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.waiting.try_recv().ok()).map(|message| String::from_utf8(message.text).unwrap()).collect()
    }
}

#[tokio::test]
async fn an_answer_goes_to_its_run_and_one_for_a_run_that_is_over_to_nobody() {
    let bench = Bench::new();
    let (first, second) = (bench.begin(1).await, bench.begin(1).await);
    bench.result(2, None, 22);
    bench.result(2, None, 23);
    bench.result(9, None, 99);
    bench.result(1, Some(0), 11);
    let cancel = CancellationToken::new();
    assert_eq!(first.answers(&cancel).await[0].as_ref().unwrap().json, json!(11));
    assert_eq!(second.answers(&cancel).await[0].as_ref().unwrap().json, json!(22));
    let strays = bench.live.lock().strays;
    assert_eq!((strays, bench.live.answered(), bench.line.taken(0)), (2, 2, 0));
}

#[tokio::test]
async fn members_are_answered_in_their_places_and_one_failure_answers_those_that_are_left() {
    let bench = Bench::new();
    let batch = bench.begin(3).await;
    bench.result(1, Some(2), 2);
    bench.result(1, Some(3), 3);
    bench.live.failed(Fault { run: 1, message: "no".to_owned(), code: Some("odd".to_owned()), retry: Some(false), ..Fault::default() });
    let answers = batch.answers(&CancellationToken::new()).await;
    assert_eq!(answers[2].as_ref().unwrap().json, json!(2));
    let failure = answers[0].as_ref().unwrap_err();
    assert_eq!((failure.code.as_str(), failure.retry, answers[1].is_err()), ("odd", false, true));
}

#[tokio::test]
async fn a_failure_for_want_of_memory_says_how_much() {
    let fault = Fault { message: "full".to_owned(), out_of_memory: true, memory_mb: Some(500), ..Fault::default() };
    let failure = failure_of(fault);
    assert_eq!((failure.code.as_str(), failure.retry, failure.memory_mb), ("out_of_memory", true, Some(500)));
    let failure = failure_of(Fault { message: "no".to_owned(), retry_after_ms: Some(9), ..Fault::default() });
    assert_eq!((failure.code.as_str(), failure.retry, failure.retry_after_ms), ("executor_failed", true, Some(9)));
}

#[tokio::test]
async fn a_task_whose_items_run_together_is_named_once() {
    let bench = Bench::new();
    let member = |id: &str| Member { task_id: TaskId::new(id).unwrap(), attempt: 2, report: Report::to_nobody(), tensors: Vec::new() };
    let place = bench.line.place().await.unwrap().place;
    let members = ["a", "a", "b", "a"].map(member).to_vec();
    let batch = bench.live.begin(members, place, |run| Outgoing::plain(&ToHandler::Ping { n: run })).unwrap();
    assert_eq!(bench.live.running(), "a#2 b#2");
    drop(batch);
}

#[tokio::test]
async fn tensors_stay_until_the_process_has_ended_the_run_or_itself() {
    let bench = Bench::new();
    let tensor = fixture::tensor(&crate::fixture::gpu(), "x", &[1]).await;
    let without = Arc::strong_count(&tensor);
    let mut begun = Vec::new();
    for number in 1..=3 {
        let (task_id, report) = (TaskId::new(format!("t-{number}")).unwrap(), Report::to_nobody());
        let member = Member { task_id, attempt: 1, report, tensors: vec![Arc::clone(&tensor)] };
        let place = bench.line.place().await.unwrap().place;
        begun.push(bench.live.begin(vec![member], place, |run| Outgoing::plain(&ToHandler::Ping { n: run })).unwrap());
    }
    drop(begun.pop());
    assert_eq!(Arc::strong_count(&tensor) - without, 3, "also where nobody waits any more");
    bench.result(1, None, 1);
    assert_eq!(Arc::strong_count(&tensor) - without, 2);
    bench.live.close("it ended with exit code 3");
    assert_eq!(Arc::strong_count(&tensor), without);
}

#[tokio::test]
async fn what_a_handler_says_of_a_failure_has_bounds() {
    let long = || "é".repeat(100_000);
    let failure = failure_of(Fault { message: long(), code: Some(long()), field: Some(long()), ..Fault::default() });
    let characters = |text: &str| text.chars().count();
    assert_eq!((characters(&failure.code), failure.field.as_deref().map(characters)), (60, Some(200)));
    assert!(failure.message.len() <= 8 << 10, "{}", failure.message.len());
    let short = failure_of(Fault { message: "no".to_owned(), code: Some("busy".to_owned()), ..Fault::default() });
    assert_eq!((short.code.as_str(), short.message.as_str()), ("busy", "no"));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_nobody_waits_for_keeps_its_place_and_is_interrupted_and_then_named() {
    let mut bench = Bench::new();
    let patience = Duration::from_secs(5);
    drop(bench.begin(1).await);
    assert_eq!(bench.sent().last().unwrap(), r#"{"type":"cancel","run":1}"#);
    assert_eq!(bench.line.taken(0), 1);
    let asked = Instant::now();
    assert_eq!(bench.live.due(asked, patience), Due { next: Some(asked + patience), kill: None });
    assert_eq!(bench.live.due(asked + patience, patience), Due { next: Some(asked + 2 * patience), kill: None });
    assert_eq!(bench.sent(), [r#"{"type":"interrupt","run":1}"#]);
    assert_eq!(bench.live.due(asked + 2 * patience, patience).kill.as_deref(), Some("t-0#1"));
    bench.result(1, None, 1);
    assert_eq!((bench.line.taken(0), bench.live.due(asked, patience)), (0, Due::default()));
}

#[tokio::test(start_paused = true)]
async fn no_place_is_given_in_a_process_where_a_cancelled_run_lingers_until_that_run_has_ended() {
    let bench = Bench::new();
    drop(bench.begin(1).await);
    let beside = bench.begin(1).await;
    tokio::time::advance(LINGERS).await;
    let mut waits = Box::pin(bench.line.place());
    assert!((&mut waits).now_or_never().is_none(), "the process is about to be ended, and what runs there would crash with it");
    bench.result(1, None, 1);
    assert!(waits.now_or_never().is_some(), "the run has ended, and who waited is served");
    bench.result(2, None, 2);
    assert!(beside.answers(&CancellationToken::new()).await[0].is_ok());
}

#[tokio::test]
async fn nothing_begins_in_a_process_that_is_shut_and_what_runs_there_is_still_answered() {
    let bench = Bench::new();
    let before = bench.begin(1).await;
    bench.live.shut();
    let place = bench.line.place().await.unwrap().place;
    assert!(bench.live.begin(Vec::new(), place, |_| unreachable!("nothing is sent")).is_none());
    bench.result(1, None, 7);
    assert_eq!(before.answers(&CancellationToken::new()).await[0].as_ref().unwrap().json, json!(7));
}

#[tokio::test]
async fn what_ran_in_a_process_that_is_gone_crashed_unless_it_was_cancelled() {
    let bench = Bench::new();
    let (other, cancelled) = (bench.begin(2).await, bench.begin(1).await);
    bench.result(1, Some(1), 5);
    bench.live.cancel(2, None);
    bench.live.close("it ended with exit code 3");
    let cancel = CancellationToken::new();
    let answers = other.answers(&cancel).await;
    let crashed = answers[0].as_ref().unwrap_err();
    assert!(crashed.crashed && crashed.message.contains("exit code 3") && answers[1].is_ok());
    assert_eq!(cancelled.answers(&cancel).await, [Err(Failure::cancelled())]);
    let place = bench.line.place().await.unwrap().place;
    assert!(bench.live.begin(Vec::new(), place, |_| unreachable!("nothing is sent")).is_none());
    assert_eq!(bench.line.taken(0), 0);
}

#[test]
fn a_line_of_a_handler_names_the_task_where_there_is_one_alone() {
    let found = ["order-17#2", "a#b#1", "a#1 b#1", ""].map(only_task);
    assert_eq!(found, [Some("order-17"), Some("a#b"), None, None]);
}
