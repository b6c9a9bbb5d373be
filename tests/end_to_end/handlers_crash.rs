//! Processes that die while tasks run in them and their worker lives on, as a handler's does: each task that ran there is a suspect and runs alone from then on, so that only the one
//! that did it is convicted; none of them loses an attempt, and nothing is lost if the worker goes too.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use executors::{Batching, Executor, Executors, Failure, Run, RunBatch};
use producer::{NewTask, Pending};
use protocol::{Framed, GpuId, Health, ItemResult, Json, Kind, Outcome, Reply, TaskBody, TaskState};
use serde_json::{Value, json};
use task_queue::Queue;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, replies, result, task},
    until::until,
};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

crate::on_both!(
    of_eight_tasks_in_one_process_only_the_culprit_is_quarantined,
    a_crash_is_no_failure_of_its_gpu,
    a_task_that_crashed_once_began_in_time_whatever_its_queue_deadline,
    of_payloads_that_ran_together_only_the_culprit_is_quarantined_and_each_runs_alone,
    a_slice_whose_item_crashes_its_process_is_given_up_and_the_others_are_not,
);

/// What a process wrote before it died.
const WORDS: &str = "exit code 139; its last lines: Segmentation fault";

/// A process beside each GPU. What runs in it when it dies crashes, and the next one is there at once.
#[derive(Default)]
struct Processes(Mutex<BTreeMap<GpuId, Process>>);

#[derive(Default)]
struct Process {
    died: CancellationToken,
    runs: usize,
    crashes: u32,
}

/// A run, while it lives.
struct InProcess<'a> {
    processes: &'a Processes,
    gpu_id: GpuId,
    died: CancellationToken,
}

impl Drop for InProcess<'_> {
    fn drop(&mut self) {
        self.processes.of(&self.gpu_id, |process| process.runs -= 1);
    }
}

impl Processes {
    fn of<T>(&self, gpu_id: &GpuId, what: impl FnOnce(&mut Process) -> T) -> T {
        what(self.0.lock().unwrap().entry(gpu_id.clone()).or_default())
    }

    fn enter(&self, gpu_id: &GpuId) -> InProcess<'_> {
        let died = self.of(gpu_id, |process| {
            process.runs += 1;
            process.died.clone()
        });
        InProcess { processes: self, gpu_id: gpu_id.clone(), died }
    }

    fn die(&self, gpu_id: &GpuId) {
        self.of(gpu_id, |process| {
            process.crashes += 1;
            std::mem::take(&mut process.died).cancel();
        });
    }

    fn runs(&self, gpu_id: &GpuId) -> usize {
        self.of(gpu_id, |process| process.runs)
    }

    fn crashes(&self) -> u32 {
        self.0.lock().unwrap().values().map(|process| process.crashes).sum()
    }
}

/// Gives its payload back after a while; a payload that ends with `poison` ends its process, the first time once so many run there.
struct InProcesses {
    kind: &'static str,
    processes: Arc<Processes>,
    /// How many run there before the first crash.
    crowd: usize,
    /// How many others ran beside each run that began after the first crash.
    beside: Mutex<Vec<usize>>,
    /// How many members each run batch had that began after the first crash.
    together: Mutex<Vec<usize>>,
    crashed: Arc<Notify>,
    /// `None`: a payload runs by itself.
    batching: Option<Batching>,
}

impl InProcesses {
    fn new(kind: &'static str, crowd: usize) -> Self {
        let (beside, together) = (Mutex::default(), Mutex::default());
        Self { kind, processes: Arc::default(), crowd, beside, together, crashed: Arc::default(), batching: None }
    }

    /// Waits until as many run as are to crash together.
    async fn crowd_is_there(&self, gpu_id: &GpuId, is_late: bool) {
        let all = async {
            while self.processes.runs(gpu_id) < self.crowd {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if is_late {
                tokio::time::sleep(LATE).await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("the others run too");
    }

    async fn one(&self, gpu_id: &GpuId, payload: &Json) -> Result<Framed, Failure> {
        let mine = self.processes.enter(gpu_id);
        if self.processes.crashes() > 0 {
            self.beside.lock().unwrap().push(self.processes.runs(gpu_id) - 1);
        }
        let asked: Value = payload.to().unwrap();
        if is_poison(&asked) {
            if self.processes.crashes() == 0 {
                self.crowd_is_there(gpu_id, is_late(&asked)).await;
            }
            self.processes.die(gpu_id);
            self.crashed.notify_one();
            return Err(Failure::crashed(WORDS));
        }
        // Before the first crash all of them run together, until it comes.
        let takes = if self.crowd > 1 && self.processes.crashes() == 0 { PATIENCE } else { Duration::from_millis(30) };
        tokio::select! {
            biased;
            () = mine.died.cancelled() => Err(Failure::crashed(WORDS)),
            () = tokio::time::sleep(takes) => Ok(payload.clone().into()),
        }
    }
}

/// How long a late poison lets the others wait.
const LATE: Duration = Duration::from_secs(3);

fn is_late(payload: &Value) -> bool {
    payload.as_str().is_some_and(|text| text.starts_with("late"))
}

fn is_poison(payload: &Value) -> bool {
    payload.as_str().is_some_and(|text| text.ends_with("poison"))
}

#[async_trait]
impl Executor for InProcesses {
    fn kind(&self) -> Kind {
        Kind::new(self.kind).unwrap()
    }

    fn batching(&self) -> Option<Batching> {
        self.batching
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        self.one(&run.device.description().gpu_id, run.payload).await
    }

    async fn run_batch(&self, batch: RunBatch<'_>) -> Vec<Result<Framed, Failure>> {
        let (gpu_id, members) = (&batch.device.description().gpu_id, batch.members.len());
        if self.processes.crashes() > 0 {
            self.together.lock().unwrap().push(members);
        }
        if batch.members.iter().any(|member| member.payload.to::<Value>().is_ok_and(|payload| is_poison(&payload))) {
            self.processes.die(gpu_id);
            return (0..members).map(|_| Err(Failure::crashed(WORDS))).collect();
        }
        tokio::time::sleep(Duration::from_millis(if self.processes.crashes() == 0 { 2_000 } else { 20 })).await;
        batch.members.iter().map(|member| Ok(member.payload.clone().into())).collect()
    }
}

fn plan_with(gpus: usize, slots: u32, executor: &Arc<InProcesses>) -> FleetPlan {
    let executors = Executors::new().with(Arc::<InProcesses>::clone(executor)).with(executors::simulate());
    Fleet::of(gpus).slots(slots).executors(executors)
}

/// Tasks that have one attempt each.
fn once_each(kind: &str, payloads: &[&str]) -> Vec<NewTask> {
    let once = |payload: &&str| {
        let mut task = task(kind, json!(payload));
        task.body.limits.max_attempts = Some(1);
        task
    };
    payloads.iter().map(once).collect()
}

fn submit(fleet: &Fleet, tasks: Vec<NewTask>) -> JoinHandle<Vec<Reply>> {
    let (producer, count) = (fleet.producer.clone(), tasks.len());
    tokio::spawn(async move { replies(&producer, tasks, count).await })
}

/// Of these, those that are no poison gave their payload in their only attempt, and the others were given up in theirs.
fn only_the_poison_was_given_up(replies: &[Reply], payloads: &[&str]) {
    for (reply, payload) in replies.iter().zip(payloads) {
        if payload.ends_with("poison") {
            let error = reply.error.as_ref().unwrap_or_else(|| panic!("{reply:?}"));
            assert_eq!((reply.outcome, error.code.as_str()), (Outcome::Failed, "quarantined"));
            assert_eq!(error.message.matches("attempt 1 on gpu-0").count(), 3, "{}", error.message);
            assert_eq!(error.message.matches("alone").count(), 2, "{}", error.message);
            assert!(error.message.ends_with(&format!("the last time: {WORDS}")), "{}", error.message);
        } else {
            assert_eq!((result(reply), reply.attempt), (json!(payload), 1), "a crash costs no attempt");
        }
    }
}

async fn of_eight_tasks_in_one_process_only_the_culprit_is_quarantined(on: fn(FleetPlan) -> FleetPlan) {
    let work = Arc::new(InProcesses::new("work", 8));
    let fleet = on(plan_with(1, 8, &work)).start().await;
    let payloads = ["a", "b", "c", "poison", "d", "e", "f", "g"];
    let replies = submit(&fleet, once_each("work", &payloads)).await.unwrap();
    only_the_poison_was_given_up(&replies, &payloads);
    for reply in &replies {
        let crashes = fleet.producer.status(&reply.task_id).await.unwrap().unwrap().crashes;
        assert_eq!(crashes, if reply.outcome == Outcome::Succeeded { 1 } else { 3 }, "whoever ran there was a suspect");
    }
    assert_eq!(work.processes.crashes(), 3);
    assert_eq!(*work.beside.lock().unwrap(), [0; 9], "seven, and the culprit twice: each alone");
    let dead = fleet.ports.queue.take(&Queue::Dead).await.unwrap().unwrap();
    let history = dead.envelope.headers.history.clone().unwrap();
    assert!(history.lines().count() == 3 && history.ends_with(WORDS), "{history}");
    assert!(fleet.ports.queue.take(&Queue::Dead).await.unwrap().is_none());
    dead.receipt.ack().await.unwrap();
    assert_eq!(fleet.counted("gpufleet_quarantined_total", ""), 1.0);
    assert_eq!(fleet.counted("gpufleet_crashes_total", ""), 10.0);
    fleet.idle().await;
}

async fn a_crash_is_no_failure_of_its_gpu(on: fn(FleetPlan) -> FleetPlan) {
    let work = Arc::new(InProcesses::new("work", 1));
    let plan = plan_with(3, 1, &work).configured(|configuration| configuration.worker.failures_to_quarantine = 1);
    let fleet = on(plan).start().await;
    let payloads = ["1 poison", "2 poison", "3 poison", "a", "b", "c"];
    let replies = submit(&fleet, once_each("work", &payloads)).await.unwrap();
    let quarantined = |reply: &Reply| reply.error.as_ref().is_some_and(|error| error.code == "quarantined");
    assert_eq!(replies.iter().map(quarantined).collect::<Vec<_>>(), [true, true, true, false, false, false], "{replies:?}");
    assert_eq!(fleet.counted("gpufleet_gpu_quarantines_total", ""), 0.0);
    assert!(fleet.rows().await.iter().all(|view| view.row.health == Health::Healthy));
    fleet.idle().await;
}

async fn a_task_that_crashed_once_began_in_time_whatever_its_queue_deadline(on: fn(FleetPlan) -> FleetPlan) {
    let work = Arc::new(InProcesses::new("work", 3));
    let fleet = on(plan_with(1, 3, &work)).start().await;
    let payloads = ["late poison", "a", "b"];
    let mut tasks = once_each("work", &payloads);
    for task in &mut tasks {
        task.expiration = Some(LATE - Duration::from_millis(500));
    }
    let replies = submit(&fleet, tasks).await.unwrap();
    only_the_poison_was_given_up(&replies, &payloads);
}

async fn of_payloads_that_ran_together_only_the_culprit_is_quarantined_and_each_runs_alone(on: fn(FleetPlan) -> FleetPlan) {
    let work = Arc::new(InProcesses { batching: Some(Batching::up_to(8)), ..InProcesses::new("together", 1) });
    let fleet = on(plan_with(1, 8, &work)).start().await;
    // While the first one runs the others gather.
    let first = fleet.producer.pending(task("together", json!("first")), PATIENCE).await.unwrap();
    until("the first run is under way", async || fleet.counted("gpufleet_batch_wait_seconds_count", "together") == 1.0).await;
    let payloads = ["a", "b", "poison", "c", "d", "e"];
    let replies = submit(&fleet, once_each("together", &payloads)).await.unwrap();
    result(&first.await.unwrap());
    only_the_poison_was_given_up(&replies, &payloads);
    let together = work.together.lock().unwrap().clone();
    assert_eq!(together, [1; 7], "five innocents, and the culprit twice");
    assert!(replies.iter().all(|reply| reply.outcome != Outcome::Succeeded || reply.timings.batch_size == Some(1)), "{replies:?}");
    assert_eq!(fleet.counted("gpufleet_retries_total", ""), 0.0, "no member failed beside another");
    fleet.idle().await;
}

async fn a_slice_whose_item_crashes_its_process_is_given_up_and_the_others_are_not(on: fn(FleetPlan) -> FleetPlan) {
    let work = Arc::new(InProcesses::new("work", 1));
    let plan = plan_with(1, 2, &work).configured(|configuration| configuration.worker.crashes_max = 1);
    let fleet = on(plan).start().await;
    let items = (0..8).map(|n| Json::from(if n == 6 { json!("poison") } else { json!(n) })).collect();
    let batch = NewTask::new(Kind::new("work").unwrap(), TaskBody { items: Some(items), ..TaskBody::default() });
    let reply = fleet.producer.submit_and_wait(batch, PATIENCE).await.unwrap();
    assert_eq!((reply.outcome, reply.items.unwrap().failed), (Outcome::Succeeded, Some(4)), "{reply:?}");
    let results: Vec<ItemResult> = reply.results.to().unwrap();
    for (n, item) in results.into_iter().enumerate() {
        match item.error {
            Some(error) => {
                assert!(n >= 4 && error.code == "quarantined", "{n}: {error:?}");
                assert!(error.message.contains(WORDS), "{}", error.message);
            }
            None => assert!(n < 4 && item.result == json!(n), "{n}"),
        }
    }
    assert_eq!(fleet.counted("gpufleet_retries_total", ""), 0.0, "an item's crash is a crash of its slice, and no failure");
    let dead = fleet.ports.queue.take(&Queue::Dead).await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&dead.body).unwrap()["items"].as_array().unwrap().len(), 4);
    dead.receipt.ack().await.unwrap();
    fleet.idle().await;
}

/// How a worker leaves.
#[derive(Debug, Clone, Copy)]
enum Leaves {
    Killed,
    Drained,
}

/// At each of the steps after a crash its worker leaves, and another one takes over.
#[tokio::test(start_paused = true)]
async fn nothing_is_lost_where_the_worker_leaves_just_after_a_crash() {
    for leaves in [Leaves::Killed, Leaves::Drained] {
        for steps in (0..60).step_by(3) {
            leave_after(leaves, steps).await;
        }
    }
}

async fn leave_after(leaves: Leaves, steps: u32) {
    let work = Arc::new(InProcesses::new("work", 4));
    let plan = plan_with(1, 4, &work).configured(|configuration| configuration.worker.lease_ms = 600);
    let mut fleet = plan.start().await;
    let payloads = ["a", "poison", "b", "c"];
    let flow = submit(&fleet, once_each("work", &payloads));
    work.crashed.notified().await;
    for _ in 0..steps {
        tokio::task::yield_now().await;
    }
    let gpu_id = fleet.gpus().remove(0);
    match leaves {
        Leaves::Killed => fleet.kill(&gpu_id).await,
        Leaves::Drained => fleet.drain(&gpu_id).await,
    }
    fleet.add_gpu().await;
    let replies = flow.await.unwrap();
    for (reply, payload) in replies.iter().zip(payloads) {
        let quarantined = reply.error.as_ref().is_some_and(|error| error.code == "quarantined");
        assert_eq!(quarantined, payload == "poison", "{leaves:?} after {steps} steps: {reply:?}");
        if !quarantined {
            assert_eq!((result(reply), reply.attempt), (json!(payload), 1), "{leaves:?} after {steps} steps");
        }
    }
    fleet.idle().await;
}

/// What is called when a kind goes down or comes up.
type Told = Arc<dyn Fn() + Send + Sync>;

/// A kind that goes down and comes up, as a handler's does while its process is started anew.
struct UpAndDown {
    state: Mutex<Result<(), String>>,
    told: Mutex<Vec<Told>>,
    runs: AtomicU32,
}

impl UpAndDown {
    fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(Ok(())), told: Mutex::default(), runs: AtomicU32::new(0) })
    }

    fn becomes(&self, state: Result<(), String>) {
        *self.state.lock().unwrap() = state;
        self.told.lock().unwrap().iter().for_each(|told| told());
    }
}

#[async_trait]
impl Executor for UpAndDown {
    fn kind(&self) -> Kind {
        Kind::new("embed").unwrap()
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        assert!(self.is_up().is_ok(), "nothing runs while it is down");
        let runs = self.runs.fetch_add(1, Ordering::Relaxed);
        if runs == 0 && *run.payload == json!("dies once") {
            self.becomes(Err("it died".to_owned()));
            return Err(Failure::crashed(WORDS));
        }
        Ok(run.payload.clone().into())
    }

    fn is_up(&self) -> Result<(), String> {
        self.state.lock().unwrap().clone()
    }

    fn on_change(&self, told: Told) {
        self.told.lock().unwrap().push(told);
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_down_everywhere_is_waited_for_however_long_and_its_reason_is_told() {
    let embed = UpAndDown::new();
    let executors = Executors::new().with(Arc::<UpAndDown>::clone(&embed)).with(executors::echo());
    let plan = Fleet::of(2).executors(executors).configured(|configuration| configuration.worker.unserved_wait_ms = 1_000);
    let fleet = plan.start().await;
    result(&fleet.producer.submit_and_wait(task("embed", json!("before")), PATIENCE).await.unwrap());
    embed.becomes(Err("handler mine: setup failed: no such model".to_owned()));
    let waiting = fleet.producer.pending(task("embed", json!("in the end")), Duration::from_secs(3_600)).await.unwrap();
    let down = "the kind embed is down on 2 GPUs that could run it: handler mine: setup failed: no such model (gpu-0)";
    until("its status says why it waits", async || {
        let status = fleet.producer.status(waiting.task_id()).await.unwrap();
        status.is_some_and(|status| status.waiting_for.as_deref() == Some(down))
    })
    .await;
    let rows = fleet.rows().await;
    assert!(rows.iter().all(|view| view.row.kinds.len() == 1 && view.row.kinds_down.len() == 1), "{rows:?}");
    until("it was looked at for long", async || fleet.counted("gpufleet_forwarded_total", "unplaceable") >= 10.0).await;
    assert_eq!(fleet.counted("gpufleet_unserved_rounds_total", ""), 0.0, "it is not unserved");
    embed.becomes(Ok(()));
    assert_eq!(result(&waiting.await.unwrap()), json!("in the end"));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_comes_while_the_row_still_names_a_kind_that_has_just_gone_down_is_not_run_here() {
    let embed = UpAndDown::new();
    let executors = Executors::new().with(Arc::<UpAndDown>::clone(&embed));
    let fleet = Fleet::of(1).executors(executors).start().await;
    // Nobody is told: the row still has the kind.
    *embed.state.lock().unwrap() = Err("it has just died".to_owned());
    let waiting = fleet.producer.pending(task("embed", json!(1)), PATIENCE).await.unwrap();
    until("the row says so", async || fleet.rows().await.iter().all(|view| view.row.kinds.is_empty())).await;
    embed.becomes(Ok(()));
    let reply = waiting.await.unwrap();
    assert_eq!((result(&reply), reply.attempt), (json!(1), 1));
}

/// A fleet of one GPU whose kind has gone down with the process of a task that runs there, and the task.
async fn after_a_crash(embed: &Arc<UpAndDown>) -> (Fleet, Pending) {
    let executors = Executors::new().with(Arc::<UpAndDown>::clone(embed));
    let fleet = Fleet::of(1).executors(executors).start().await;
    let pending = fleet.producer.pending(task("embed", json!("dies once")), PATIENCE).await.unwrap();
    until("the store knows of the crash", async || {
        let status = fleet.producer.status(pending.task_id()).await.unwrap();
        status.is_some_and(|status| status.crashes == 1 && status.state == TaskState::Waiting)
    })
    .await;
    (fleet, pending)
}

#[tokio::test(start_paused = true)]
async fn a_task_that_crashed_waits_until_its_kind_is_up_again() {
    let embed = UpAndDown::new();
    let (fleet, pending) = after_a_crash(&embed).await;
    assert_eq!(embed.runs.load(Ordering::Relaxed), 1);
    embed.becomes(Ok(()));
    let reply = pending.await.unwrap();
    assert_eq!((result(&reply), reply.attempt, embed.runs.load(Ordering::Relaxed)), (json!("dies once"), 1, 2));
    assert_eq!(fleet.counted("gpufleet_forwarded_total", ""), 0.0, "it stayed in hand");
    fleet.idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_cancelled_after_its_crash_does_not_run_again() {
    let embed = UpAndDown::new();
    let (fleet, pending) = after_a_crash(&embed).await;
    fleet.producer.cancel(pending.task_id()).await.unwrap();
    embed.becomes(Ok(()));
    assert_eq!(pending.await.unwrap().outcome, Outcome::Cancelled);
    assert_eq!(embed.runs.load(Ordering::Relaxed), 1);
    fleet.idle().await;
}
