use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use devices::{SimulatedGpu, SimulatedOptions};
use executors::{Batching, Run, RunBatch};
use prometheus::{Registry, TextEncoder};
use protocol::{
    BodyHash, DeliveryId, Framed, GpuId, TaskBody, TaskId,
    environment::{Clock, Job, Random, Spawn},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::{
    WorkerMetrics,
    attempt::{memory::Gathering, running::NOTICE},
};

/// How long a run takes.
const RUN: Duration = Duration::from_millis(100);
/// The memory that a run may have.
const MEMORY_MB: u64 = 100;

struct TestEnvironment;

impl Clock for TestEnvironment {
    fn now_us(&self) -> u64 {
        0
    }
}

impl Random for TestEnvironment {
    fn next_u64(&self) -> u64 {
        0
    }
}

impl Spawn for TestEnvironment {
    fn spawn(&self, _name: &'static str, job: Job) {
        tokio::spawn(job);
    }
}

/// Does to a run what its payloads say, and remembers who ran with whom.
struct Fake {
    batching: Batching,
    runs: Mutex<Vec<String>>,
    told_to_end: AtomicBool,
    /// How often it was asked whether a payload takes part.
    asked: AtomicUsize,
}

impl Fake {
    fn note(&self, payloads: &[Value]) {
        let names: Vec<&str> = payloads.iter().filter_map(|payload| payload["name"].as_str()).collect();
        self.runs.lock().unwrap().push(names.join(" "));
    }
}

fn answer(payload: &Value) -> Result<Framed, Failure> {
    match payload["fail"].as_str() {
        None => Ok(payload["name"].clone().into()),
        Some("invalid") => Err(Failure::invalid("payload.name", "as asked")),
        Some(message) => Err(Failure::transient(message)),
    }
}

#[async_trait]
impl Executor for Fake {
    fn kind(&self) -> Kind {
        Kind::new("fake").unwrap()
    }

    fn batching(&self) -> Option<Batching> {
        Some(self.batching)
    }

    fn takes_part(&self, payload: &Json) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst);
        assert!(!payload.as_str().contains("panics when asked"), "as asked");
        !payload.as_str().contains("by itself")
    }

    fn size(&self, payload: &Json) -> Result<u64, Failure> {
        let size = payload.to::<Value>().unwrap()["size"].clone();
        match size.as_str() {
            None => Ok(size.as_u64().unwrap_or(1)),
            Some("invalid") => Err(Failure::invalid("payload.size", "has none")),
            Some(_) => panic!("as asked"),
        }
    }

    async fn run(&self, _run: Run<'_>) -> Result<Framed, Failure> {
        Err(Failure::transient("nothing here runs by itself"))
    }

    async fn run_batch(&self, batch: RunBatch<'_>) -> Vec<Result<Framed, Failure>> {
        let payloads: Vec<Value> = batch.members.iter().map(|member| member.payload.to().unwrap()).collect();
        self.note(&payloads);
        let asks = |what: &str| payloads.iter().any(|payload| payload["run"] == *what);
        if payloads.iter().filter_map(|payload| payload["memory_mb"].as_u64()).sum::<u64>() > MEMORY_MB {
            return payloads.iter().map(|_| Err(Failure::out_of_memory("too much"))).collect();
        }
        if asks("deaf") {
            std::future::pending::<()>().await;
        }
        tokio::select! {
            biased;
            () = batch.cancel.cancelled() => {
                self.told_to_end.store(true, Ordering::SeqCst);
                return payloads.iter().map(|_| Err(Failure::cancelled())).collect();
            }
            () = tokio::time::sleep(RUN) => {}
        }
        assert!(!asks("panic"), "as asked");
        if asks("too short") { Vec::new() } else { payloads.iter().map(answer).collect() }
    }
}

/// A gatherer, its executor, and what it is told of its worker.
struct Bench {
    gatherer: Arc<Gatherer>,
    fake: Arc<Fake>,
    registry: Registry,
    more_may_come: Arc<AtomicBool>,
    began: Instant,
}

/// A payload on its way.
struct Pending {
    answer: JoinHandle<Answer>,
    cancel: CancellationToken,
    usage: Usage,
}

impl Bench {
    fn new(batching: Batching, wait_ms: u64) -> Self {
        let fake = Arc::new(Fake { batching, runs: Mutex::default(), told_to_end: AtomicBool::new(false), asked: AtomicUsize::new(0) });
        let registry = Registry::new();
        let metrics = WorkerMetrics::new(&registry).unwrap().of(&GpuId::new("gpu-0").unwrap());
        let more_may_come = Arc::new(AtomicBool::new(true));
        let environment = Environment {
            clock: Arc::new(TestEnvironment),
            random: Arc::new(TestEnvironment),
            spawner: Arc::new(TestEnvironment),
            traces: None,
        };
        let surroundings = Surroundings {
            device: Arc::new(SimulatedGpu::new(SimulatedOptions::default())),
            environment,
            lives: TaskTracker::new(),
            metrics: Arc::new(metrics),
            more_may_come: {
                let more_may_come = Arc::clone(&more_may_come);
                Arc::new(move |_| more_may_come.load(Ordering::SeqCst))
            },
        };
        let section = BatchSection { wait_ms: BTreeMap::from([(fake.kind(), wait_ms)]), ..BatchSection::default() };
        let executors = Executors::new().with(Arc::clone(&fake) as Arc<dyn Executor>);
        let gatherers = Gatherers::new(&executors, &section, &surroundings);
        let gatherer = Arc::clone(gatherers.of(&fake.kind()).unwrap());
        Self { gatherer, fake, registry, more_may_come, began: Instant::now() }
    }

    /// Joins at once, in the order of the calls.
    fn join(&self, priority: u8, payload: Value) -> Pending {
        self.join_as(Task { priority, ..self.task(1) }, payload)
    }

    /// A task that came with this delivery.
    fn task(&self, delivery: u64) -> Task {
        Task {
            id: TaskId::new("task").unwrap(),
            body_hash: BodyHash::of(b""),
            kind: self.fake.kind(),
            priority: 0,
            attempt: 1,
            hops: 0,
            memory_mb: None,
            start_before_ms: None,
            end_before_ms: None,
            not_before_ms: None,
            body: TaskBody::default(),
            delivery: DeliveryId(delivery),
        }
    }

    fn join_as(&self, task: Task, payload: Value) -> Pending {
        let (cancel, usage) = (CancellationToken::new(), Usage::default());
        let asked = Asked {
            task: Arc::new(task),
            payload: payload.into(),
            cancel: cancel.clone(),
            report: Report::to_nobody(),
            usage: usage.clone(),
        };
        Pending { answer: tokio::spawn(self.gatherer.join(asked).answered()), cancel, usage }
    }

    fn joins(&self, names: &[&str]) -> Vec<Pending> {
        names.iter().map(|name| self.join(0, json!({"name": name}))).collect()
    }

    /// Who ran together, in the order of the runs.
    fn runs(&self) -> Vec<String> {
        self.fake.runs.lock().unwrap().clone()
    }

    fn passed_ms(&self) -> u128 {
        self.began.elapsed().as_millis()
    }

    fn halved(&self) -> bool {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        text.contains("what=\"halved\"")
    }
}

impl Pending {
    async fn result(self) -> Json {
        self.answer.await.unwrap().unwrap().json
    }

    async fn failed(self) -> Failed {
        self.answer.await.unwrap().unwrap_err()
    }
}

async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn what_joins_at_one_moment_runs_together_and_each_gets_its_own() {
    let bench = Bench::new(Batching::up_to(8), 0);
    let joined = bench.joins(&["a", "b", "c"]);
    assert!(joined.iter().all(|pending| pending.usage.batch_size().is_none()), "none has run");
    for (pending, name) in joined.into_iter().zip(["a", "b", "c"]) {
        let usage = pending.usage.clone();
        assert_eq!((pending.result().await, usage.batch_size()), (Json::of(name), Some(3)));
    }
    assert_eq!((bench.runs(), bench.passed_ms()), (vec!["a b c".to_owned()], 100));
}

#[tokio::test(start_paused = true)]
async fn a_bunch_gathers_while_one_runs_and_starts_when_it_ends() {
    let bench = Bench::new(Batching::up_to(8), 0);
    let mut pending = bench.joins(&["a"]);
    pass(10).await;
    pending.extend(bench.joins(&["b"]));
    pass(10).await;
    pending.extend(bench.joins(&["c"]));
    for pending in pending {
        pending.result().await;
    }
    assert_eq!((bench.runs(), bench.passed_ms()), (vec!["a".to_owned(), "b c".to_owned()], 200));
}

#[tokio::test(start_paused = true)]
async fn as_many_runs_go_on_beside_each_other_as_the_executor_says() {
    let bench = Bench::new(Batching { at_once: 2, ..Batching::up_to(8) }, 0);
    let mut pending = Vec::new();
    for name in ["a", "b", "c"] {
        pending.extend(bench.joins(&[name]));
        pass(10).await;
    }
    for pending in pending {
        pending.result().await;
    }
    assert_eq!((bench.runs(), bench.passed_ms()), (vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], 200), "b ran beside a");
}

#[tokio::test(start_paused = true)]
async fn a_run_has_those_of_the_highest_priority_and_then_those_that_came_first() {
    let bench = Bench::new(Batching::up_to(2), 0);
    let mut pending = bench.joins(&["first"]);
    pass(1).await;
    for (priority, name) in [(0, "low"), (9, "high"), (0, "later"), (9, "higher later"), (5, "middle")] {
        pending.push(bench.join(priority, json!({"name": name})));
    }
    for pending in pending {
        pending.result().await;
    }
    assert_eq!(bench.runs(), ["first", "high higher later", "middle low", "later"]);
}

#[tokio::test(start_paused = true)]
async fn the_sizes_of_a_run_come_to_no_more_than_the_bound_and_one_above_it_runs_alone() {
    let bench = Bench::new(Batching { size_max: Some(10), ..Batching::up_to(8) }, 0);
    let mut pending = bench.joins(&["first"]);
    pass(1).await;
    for (name, size) in [("a", 6), ("b", 4), ("c", 1), ("d", 25), ("e", 1), ("f", u64::MAX)] {
        pending.push(bench.join(0, json!({"name": name, "size": size})));
    }
    for pending in pending {
        pending.result().await;
    }
    assert_eq!(bench.runs(), ["first", "a b", "c", "d", "e", "f"]);
}

#[tokio::test(start_paused = true)]
async fn the_first_waits_for_others_as_long_as_it_may_and_no_longer() {
    let bench = Bench::new(Batching::up_to(8), 50);
    let mut pending = bench.joins(&["a"]);
    pass(20).await;
    pending.extend(bench.joins(&["b"]));
    for pending in pending {
        pending.result().await;
    }
    assert_eq!((bench.runs(), bench.passed_ms()), (vec!["a b".to_owned()], 150));
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_a_full_run_nor_where_no_other_can_come_nor_after_a_run() {
    let full = Bench::new(Batching::up_to(2), 50);
    for pending in full.joins(&["a", "b"]) {
        pending.result().await;
    }
    assert_eq!((full.runs(), full.passed_ms()), (vec!["a b".to_owned()], 100));

    let last = Bench::new(Batching::up_to(8), 50);
    last.more_may_come.store(false, Ordering::SeqCst);
    last.joins(&["a"]).remove(0).result().await;
    assert_eq!(last.passed_ms(), 100);

    let busy = Bench::new(Batching::up_to(8), 50);
    let first = busy.joins(&["a"]).remove(0);
    pass(140).await;
    let second = busy.joins(&["b"]).remove(0);
    first.result().await;
    second.result().await;
    assert_eq!((busy.runs(), busy.passed_ms()), (vec!["a".to_owned(), "b".to_owned()], 250), "b had waited 10 ms when a's run ended");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_goes_on_after_its_run_waits_for_nobody_and_another_one_waits() {
    let bench = Bench::new(Batching::up_to(8), 50);
    bench.join_as(bench.task(1), json!({"name": "a"})).result().await;
    assert_eq!(bench.passed_ms(), 150);
    // The end of its run is no occasion any more.
    pass(10).await;
    bench.join_as(bench.task(1), json!({"name": "b"})).result().await;
    assert_eq!(bench.passed_ms(), 260);
    pass(10).await;
    bench.join_as(bench.task(2), json!({"name": "c"})).result().await;
    assert_eq!((bench.runs(), bench.passed_ms()), (["a", "b", "c"].map(str::to_owned).to_vec(), 420));
}

#[tokio::test(start_paused = true)]
async fn who_is_cancelled_while_it_waits_is_gone_at_once_and_the_others_run() {
    let bench = Bench::new(Batching::up_to(8), 0);
    let first = bench.joins(&["first"]).remove(0);
    pass(10).await;
    let mut waiting = bench.joins(&["a", "b", "c"]);
    pass(10).await;
    let cancelled = waiting.remove(1);
    cancelled.cancel.cancel();
    assert_eq!(cancelled.failed().await.failure, Failure::cancelled());
    assert_eq!(bench.passed_ms(), 20);
    first.result().await;
    for pending in waiting {
        pending.result().await;
    }
    assert_eq!(bench.runs(), ["first", "a c"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_cancelled_while_it_runs_harms_no_other() {
    let bench = Bench::new(Batching::up_to(8), 0);
    let mut running = bench.joins(&["a", "b"]);
    pass(10).await;
    let cancelled = running.remove(0);
    cancelled.cancel.cancel();
    assert_eq!(cancelled.failed().await.failure, Failure::cancelled());
    assert_eq!((running.remove(0).result().await, bench.passed_ms()), (Json::of("b"), 100));
    assert!(!bench.fake.told_to_end.load(Ordering::SeqCst), "somebody waited for the run");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_all_have_left_is_told_to_end_and_the_next_one_starts() {
    let bench = Bench::new(Batching::up_to(8), 0);
    let running = bench.joins(&["a", "b"]);
    pass(10).await;
    let next = bench.joins(&["c"]).remove(0);
    for left in &running {
        left.cancel.cancel();
    }
    assert_eq!(next.result().await, Json::of("c"));
    assert!(bench.fake.told_to_end.load(Ordering::SeqCst));
    assert_eq!((bench.runs(), bench.passed_ms()), (vec!["a b".to_owned(), "c".to_owned()], 110));
}

#[tokio::test(start_paused = true)]
async fn an_executor_that_does_not_end_when_told_to_is_dropped() {
    let bench = Bench::new(Batching::up_to(8), 0);
    let deaf = bench.join(0, json!({"name": "a", "run": "deaf"}));
    pass(10).await;
    let next = bench.joins(&["b"]).remove(0);
    // Dropped, as an attempt is that the worker has no more time for.
    deaf.answer.abort();
    assert_eq!(next.result().await, Json::of("b"));
    assert_eq!(bench.passed_ms(), (Duration::from_millis(10) + NOTICE + RUN).as_millis());
}

#[tokio::test(start_paused = true)]
async fn a_size_that_cannot_be_told_fails_its_payload_alone() {
    let bench = Bench::new(Batching::up_to(8), 0);
    let panics = bench.join(0, json!({"name": "a", "size": "panic"}));
    let invalid = bench.join(0, json!({"name": "b", "size": "invalid"}));
    let fine = bench.joins(&["c"]).remove(0);
    assert!(panics.failed().await.failure.retry);
    assert_eq!(invalid.failed().await.failure.field.as_deref(), Some("payload.size"));
    assert_eq!((fine.result().await, bench.runs()), (Json::of("c"), vec!["c".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_the_executor_runs_by_itself_or_panics_at_is_not_gathered() {
    let bench = Bench::new(Batching::up_to(8), 0);
    assert!(bench.gatherer.takes(&Json::of("any")));
    assert!(!bench.gatherer.takes(&Json::of("by itself")) && !bench.gatherer.takes(&Json::of("panics when asked")));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_asks_once_about_its_payload_and_about_no_item_before_its_turn() {
    let bench = Bench::new(Batching::up_to(8), 0);
    let gathers = |body: TaskBody| {
        let asked = bench.fake.asked.load(Ordering::SeqCst);
        let gathers = Gathering::of(Some(&bench.gatherer), &Task { body, ..bench.task(1) }).is_some();
        (gathers, bench.fake.asked.load(Ordering::SeqCst) - asked)
    };
    let of_payload = |text: &str| TaskBody { payload: Json::of(text), ..TaskBody::default() };
    assert_eq!(["any", "by itself", "panics when asked"].map(|text| gathers(of_payload(text))), [(true, 1), (false, 1), (false, 1)]);
    assert_eq!(gathers(TaskBody { items: Some(vec![Json::of("by itself"); 3]), ..TaskBody::default() }), (true, 0));
}

#[tokio::test(start_paused = true)]
async fn one_members_failure_is_its_own() {
    let bench = Bench::new(Batching::up_to(8), 0);
    let flaky = bench.join(0, json!({"name": "a", "fail": "flaky"}));
    let invalid = bench.join(0, json!({"name": "b", "fail": "invalid"}));
    let fine = bench.joins(&["c"]).remove(0);
    assert_eq!(flaky.failed().await, Failed { failure: Failure::transient("flaky"), beside: false });
    assert!(!invalid.failed().await.failure.retry);
    assert_eq!(fine.result().await, Json::of("c"));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_fails_as_a_whole_fails_its_members_and_counts_once() {
    for what in ["panic", "too short"] {
        let bench = Bench::new(Batching::up_to(8), 0);
        let mut members = vec![bench.join(0, json!({"name": "a", "run": what}))];
        members.extend(bench.joins(&["b", "c"]));
        let mut beside = Vec::new();
        for member in members {
            let failed = member.failed().await;
            let expected = if what == "panic" { "the executor panicked: as asked" } else { "the executor gave 0 answers for 3 payloads" };
            assert!(failed.failure.retry && failed.failure.message == expected, "{failed:?}");
            beside.push(failed.beside);
        }
        assert_eq!(beside, [false, true, true]);
        assert_eq!(bench.joins(&["d"]).remove(0).result().await, Json::of("d"), "the next run goes on");
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_together_is_halved_until_it_fits() {
    let bench = Bench::new(Batching::up_to(8), 0);
    let members: Vec<Pending> =
        ["a", "b", "c", "d", "e"].iter().map(|name| bench.join(0, json!({"name": name, "memory_mb": 40}))).collect();
    let mut sizes = Vec::new();
    for member in members {
        let usage = member.usage.clone();
        member.result().await;
        sizes.push(usage.batch_size());
    }
    assert_eq!(bench.runs(), ["a b c d e", "a b c", "a b", "c", "d e"]);
    assert_eq!(sizes, [2, 2, 1, 2, 2].map(Some));
    assert!(bench.halved());
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_does_not_fit_alone_is_told_so_and_nothing_is_halved() {
    let bench = Bench::new(Batching::up_to(8), 0);
    let failed = bench.join(0, json!({"name": "a", "memory_mb": 400})).failed().await;
    assert_eq!(failed, Failed { failure: Failure::out_of_memory("too much"), beside: false });
    assert_eq!(bench.runs(), ["a"]);
    assert!(!bench.halved());
}
