//! What a simulated fleet did, as seen from outside, and what it may not do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use executors::{Executor, Failure, Run};
use protocol::{DeliveryId, GpuId, Incarnation, Kind, TaskId, Token};
use serde_json::{Value, json};
use task_store::{BeginRequest, RecordRequest};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::chaos::Chaos;

/// The kind that simulated workers run.
pub const KIND: &str = "work";
/// The code of an item that fails for good.
pub const BAD: &str = "bad";

/// What has happened.
pub struct World {
    started: Instant,
    slots: u32,
    nobody_dies: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: BTreeMap<GpuId, u32>,
    runs: u64,
    starts: Vec<(TaskId, u8)>,
    /// Before this time of the world none of these may start.
    not_before: BTreeMap<TaskId, Duration>,
    highest_begun: BTreeMap<TaskId, (Token, (Incarnation, DeliveryId))>,
    recorded: BTreeMap<TaskId, RecordRequest>,
    replies: BTreeMap<TaskId, Vec<Bytes>>,
    in_hand: Vec<String>,
    journal: Vec<String>,
    violations: Vec<String>,
}

impl World {
    /// With this many slots a GPU; `nobody_dies`: no process ends, hangs or is cut off.
    pub fn new(slots: u32, nobody_dies: bool) -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), slots, nobody_dies, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line of the journal.
    pub fn note(&self, line: impl std::fmt::Display) {
        let line = format!("{:>8} ms  {line}", self.started.elapsed().as_millis());
        self.lock().journal.push(line);
    }

    /// A promise was broken.
    pub fn violated(&self, what: impl std::fmt::Display) {
        let what = what.to_string();
        self.note(format!("VIOLATED: {what}"));
        self.lock().violations.push(what);
    }

    /// The token under which a task began last.
    pub fn began_last(&self, task_id: &TaskId) -> Option<Token> {
        self.lock().highest_begun.get(task_id).map(|begun| begun.0)
    }

    pub fn began(&self, request: &BeginRequest, token: Token) {
        let task_id = &request.task_id;
        let holder = (request.incarnation.clone(), request.delivery);
        self.note(format!("{task_id} begins under {}", token.0));
        if self.lock().recorded.contains_key(task_id) {
            self.violated(format!("{task_id} begins although its outcome was recorded"));
        }
        if task_id.slice().is_some() && self.lock().recorded.contains_key(&task_id.batch()) {
            self.violated(format!("{task_id} begins although its batch has ended"));
        }
        let last = self.lock().highest_begun.get(task_id).cloned();
        if last.as_ref().is_some_and(|(last, of)| token <= *last && *of != holder) {
            self.violated(format!("{task_id} begins under a token that was given out before"));
        }
        if last.is_none_or(|(last, _)| token > last) {
            self.lock().highest_begun.insert(task_id.clone(), (token, holder));
        }
    }

    /// A worker says that another one is gone, in the middle of a task.
    pub fn convicted(&self, task_id: &TaskId) {
        self.note(format!("the holder of {task_id} counts as crashed"));
        if self.nobody_dies {
            self.violated(format!("{task_id}: a worker that lives counts as crashed"));
        }
    }

    pub fn recorded(&self, request: &RecordRequest) {
        self.note(format!("{} is recorded as {}", request.task_id, request.outcome.name()));
        let late = self.began_last(&request.task_id).filter(|highest| request.token.is_some_and(|token| token < *highest));
        if let Some(highest) = late {
            self.violated(format!("{}: the outcome of a late holder was taken, though {} had begun", request.task_id, highest.0));
        }
        let before = self.lock().recorded.insert(request.task_id.clone(), request.clone());
        if before.is_some_and(|before| before.reply != request.reply) {
            self.violated(format!("{}: two outcomes were recorded", request.task_id));
        }
    }

    /// The store was emptied: what was recorded is not any more.
    pub fn forget_outcomes(&self) {
        let mut state = self.lock();
        state.recorded.clear();
        state.highest_begun.clear();
    }

    /// A worker has a delivery in its hand, whatever the broker thinks, until this is dropped.
    pub fn takes_in_hand(self: &Arc<Self>, id: String) -> InHand {
        self.lock().in_hand.push(id.clone());
        InHand { world: Arc::clone(self), id }
    }

    /// What workers have in their hands.
    pub fn in_hand(&self) -> Vec<String> {
        self.lock().in_hand.clone()
    }

    pub fn replied(&self, task_id: &TaskId, body: Bytes) {
        self.note(format!("{task_id} is answered"));
        self.lock().replies.entry(task_id.clone()).or_default().push(body);
    }

    /// The replies to a task.
    pub fn replies(&self, task_id: &TaskId) -> Vec<Bytes> {
        self.lock().replies.get(task_id).cloned().unwrap_or_default()
    }

    /// A task is published that must not start before `delay` has passed; what was published of it before counts on.
    pub fn delays(&self, task_id: &TaskId, delay: Duration) {
        let not_before = self.started.elapsed() + delay;
        let mut state = self.lock();
        let earliest = state.not_before.entry(task_id.clone()).or_insert(not_before);
        *earliest = not_before.min(*earliest);
    }

    /// The tasks in the order in which they started, with their priorities.
    pub fn starts(&self) -> Vec<(TaskId, u8)> {
        self.lock().starts.clone()
    }

    pub fn runs(&self) -> u64 {
        self.lock().runs
    }

    pub fn journal(&self) -> Vec<String> {
        self.lock().journal.clone()
    }

    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// A run starts. What it gets tells it from every other run.
    fn starts_on(self: &Arc<Self>, task_id: &TaskId, priority: u8, gpu_id: &GpuId) -> Running {
        let (number, now_running) = {
            let mut state = self.lock();
            state.runs += 1;
            state.starts.push((task_id.clone(), priority));
            let now_running = *state.running.entry(gpu_id.clone()).and_modify(|count| *count += 1).or_insert(1);
            (state.runs, now_running)
        };
        self.note(format!("{task_id} runs on {gpu_id}, run {number}"));
        let not_before = self.lock().not_before.get(task_id).copied();
        // Clocks are read in whole milliseconds.
        if not_before.is_some_and(|not_before| self.started.elapsed() + Duration::from_millis(2) < not_before) {
            self.violated(format!("{task_id} starts before its time"));
        }
        if now_running > self.slots {
            self.violated(format!("{gpu_id} runs {now_running} tasks on {} slots", self.slots));
        }
        Running { world: Arc::clone(self), gpu_id: gpu_id.clone(), number }
    }
}

/// See [`World::takes_in_hand`].
pub struct InHand {
    world: Arc<World>,
    id: String,
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut state = self.world.lock();
        if let Some(place) = state.in_hand.iter().position(|id| *id == self.id) {
            state.in_hand.swap_remove(place);
        }
    }
}

struct Running {
    world: Arc<World>,
    gpu_id: GpuId,
    number: u64,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(count) = self.world.lock().running.get_mut(&self.gpu_id) {
            *count -= 1;
        }
    }
}

/// What simulated workers run: `{"ms": 40, "fails": 1, "poison": false}`; an item also says which it is, and whether it is bad.
pub struct Work {
    pub world: Arc<World>,
    pub chaos: Arc<Chaos>,
    /// Of a handler beside the worker, in which all of it runs: poison ends that one, and the worker lives. `None`: poison ends the worker.
    pub handler: Option<Mutex<CancellationToken>>,
}

impl Work {
    /// The process that runs things now.
    fn process(&self) -> Option<CancellationToken> {
        Some(self.handler.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Poison ends its process, and with it all that runs there. The next one is there at once.
    async fn dies(&self) -> Failure {
        let Some(handler) = &self.handler else { return self.chaos.die(("run", "within")).await };
        let died = std::mem::take(&mut *handler.lock().unwrap_or_else(PoisonError::into_inner));
        self.world.note("a handler's process dies");
        died.cancel();
        Failure::crashed("poison")
    }
}

#[async_trait]
impl Executor for Work {
    fn kind(&self) -> Kind {
        Kind::new(KIND).expect("a literal that keeps the rule")
    }

    async fn run(&self, run: Run<'_>) -> Result<protocol::Framed, Failure> {
        let payload: &Value = &run.payload.to().expect("JSON");
        let running = self.world.starts_on(&run.task.id, run.task.priority, &run.device.description().gpu_id);
        let number = |field: &str| payload[field].as_u64().unwrap_or(0);
        if payload["poison"] == json!(true) {
            // Time passes with each crash: where a mistake lets them go on, the life still ends.
            tokio::time::sleep(Duration::from_millis(number("ms").max(5))).await;
            return Err(self.dies().await);
        }
        let process = self.process().unwrap_or_default();
        tokio::select! {
            biased;
            () = run.cancel.cancelled() => return Err(Failure::cancelled()),
            () = process.cancelled() => return Err(Failure::crashed("its process died")),
            () = tokio::time::sleep(Duration::from_millis(number("ms"))) => {}
        }
        if u64::from(run.task.attempt) <= number("fails") {
            return Err(Failure::transient("as the payload asks"));
        }
        if payload["bad"] == json!(true) {
            return Err(Failure { code: BAD.to_owned(), retry: false, ..Failure::transient("as the payload asks") });
        }
        Ok(json!({"run": running.number, "item": payload["item"]}).into())
    }
}
