//! The trait between a worker and what it runs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use devices::Device;
use protocol::{
    ErrorCode, Framed, GpuRow, Json, Kind, Segments, Task, TensorRef,
    gpu::{LoadableModel, ModelState},
};
use tokio_util::sync::CancellationToken;

use crate::{
    BatchMember, Batching, Report, RunBatch, RunTensors, TakesTensors, Usage,
    models::{ListedModel, ModelCache, ModelCounts, Shelf},
};

/// What one attempt is given.
pub struct Run<'a> {
    /// The task.
    pub task: &'a Task,
    /// What to run: the task's payload, or one of its items.
    pub payload: &'a Json,
    /// The GPU it runs on.
    pub device: &'a Arc<dyn Device>,
    /// Fires when the attempt should end early (cancelled, time limit, stop). An executor that computes for long looks at it often.
    pub cancel: CancellationToken,
    /// Takes progress and parts of the output while it runs. Reporting is optional and costs nothing where it is left out.
    pub report: Report,
    /// In how many pieces to do the work, one after the other: more than 1 after the GPU had too little memory for fewer. At most what
    /// [`Executor::pieces_max`] said; an executor that cannot be cut sees only 1.
    pub pieces: u32,
    /// Takes what the attempt takes of the GPU, where the executor measures it.
    pub usage: Usage,
    /// The tensors that the payload names, on this GPU, and where its outputs stay.
    pub tensors: RunTensors,
}

impl Run<'_> {
    /// The raw bytes that the payload refers to.
    #[must_use]
    pub const fn segments(&self) -> &Segments {
        &self.task.body.segments
    }
}

/// How an attempt failed. A value, not a crash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// A word for programs: the [`ErrorCode`] that fits, or one of the executor's own.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// The path in the payload that is at fault, where one is (`payload.text`).
    pub field: Option<String>,
    /// Whether the same task may succeed when tried again.
    pub retry: bool,
    /// With `out_of_memory`: what the attempt needed, in MB (10^6 bytes), where that is known.
    pub memory_mb: Option<u64>,
    /// With `retry`: how long the next try should wait at least, in ms. More than 300,000 counts as that: no waiting queue holds a task for longer. `None`: as the worker sees fit.
    pub retry_after_ms: Option<u64>,
    /// Its process died, or had to be ended, while it ran: whatever else ran there may have done it.
    pub crashed: bool,
}

impl Failure {
    /// The payload is not what this kind takes. Trying again changes nothing.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: ErrorCode::InvalidPayload.into(), message: message.into(), field: Some(field.into()), ..Self::default() }
    }

    /// The GPU lacks the memory.
    pub fn out_of_memory(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::OutOfMemory.into(), message: message.into(), retry: true, ..Self::default() }
    }

    /// The attempt ended early because its cancellation fired. The worker knows why it fired, and what follows.
    #[must_use]
    pub fn cancelled() -> Self {
        Self { code: ErrorCode::Cancelled.into(), message: "the attempt was cancelled".to_owned(), ..Self::default() }
    }

    /// The process that it ran in died, or had to be ended: it costs no attempt, and it runs alone from then on. `why` says how, and has what the process wrote last.
    pub fn crashed(why: impl Into<String>) -> Self {
        Self { crashed: true, ..Self::transient(why) }
    }

    /// Anything else that another try may mend.
    pub fn transient(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::ExecutorFailed.into(), message: message.into(), retry: true, ..Self::default() }
    }
}

/// Runs one kind.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// The kind that it runs.
    fn kind(&self) -> Kind;

    /// Runs one attempt. Long computations belong on threads of their own, never on the async runtime: a blocked runtime stops heartbeats.
    ///
    /// # Errors
    /// [`Failure`] says whether trying again can help.
    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure>;

    /// Into how many pieces the work on this payload can be cut, so that each needs less memory. Default: 1, it cannot.
    fn pieces_max(&self, _payload: &Json) -> u32 {
        1
    }

    /// Whether it takes several payloads at once, and how many. Default: `None`, each runs by itself.
    fn batching(&self) -> Option<Batching> {
        None
    }

    /// How many payloads may be computed together, for people: it may do that on its own, with runs that are there at once. Default: as [`batching`](Self::batching) says.
    fn together_max(&self) -> Option<usize> {
        self.batching().map(|batching| batching.largest)
    }

    /// Whether this payload may run together with others, where [`Executor::batching`] says that any may. Asked often, so it should be quick. Default: it may.
    fn takes_part(&self, _payload: &Json) -> bool {
        true
    }

    /// How it takes tensors that a payload names (`{"tensor": "x"}`), and keeps its outputs. Tasks that name or keep some run by themselves, not together with others. Default: it takes none; such an object is an
    /// object like any other.
    fn takes_tensors(&self) -> TakesTensors {
        TakesTensors::No
    }

    /// The tensors that a payload names, of a kind that takes some. Default: every `{"tensor": "x"}` in it.
    fn tensors_named(&self, payload: &Json) -> Vec<TensorRef> {
        TensorRef::all_in(payload)
    }

    /// How large a payload is, in whatever bounds a run: tokens, pixels, bytes. Default: 1.
    ///
    /// # Errors
    /// [`Failure`] fails this payload, and no other.
    fn size(&self, _payload: &Json) -> Result<u64, Failure> {
        Ok(1)
    }

    /// Runs payloads together, at most as many as [`Executor::batching`] said. Gives an answer for each, in their order: one may fail while others succeed. Where all lack the
    /// memory, it is called again with fewer. Default: one after the other.
    async fn run_batch(&self, batch: RunBatch<'_>) -> Vec<Result<Framed, Failure>> {
        let RunBatch { device, members, .. } = batch;
        let mut answers = Vec::with_capacity(members.len());
        for BatchMember { task, payload, cancel, report, usage } in members {
            answers.push(self.run(Run { task, payload, device, cancel, report, pieces: 1, usage, tensors: RunTensors::none() }).await);
        }
        answers
    }

    /// How many bytes the result of this payload has at least, where the payload tells that before it runs. Default: 0, nobody knows. A batch whose results cannot fit into one reply is
    /// refused before any work.
    fn result_bytes_min(&self, _payload: &Json) -> usize {
        0
    }

    /// Frees memory of the GPU that is only kept to save time later. Whether it freed any. Default: it keeps none.
    async fn evict(&self, _device: &dyn Device) -> bool {
        false
    }

    /// What the kind does, in a sentence for people. Default: nothing is said.
    fn about(&self) -> String {
        String::new()
    }

    /// The JSON Schema of its payload. Default: none is known.
    fn schema(&self) -> Option<Json> {
        None
    }

    /// Whether [`about`](Self::about), [`schema`](Self::schema) and [`batching`](Self::batching) say what the kind does; until then it is not described to anybody. Default: they do from the start.
    fn is_described(&self) -> bool {
        true
    }

    /// Whether it can run tasks now. The row of its GPU leaves out a kind that cannot, and says why. Asked with every heartbeat, so it should be quick. Default: it can.
    ///
    /// # Errors
    /// Why it cannot now, for operators.
    fn is_up(&self) -> Result<(), String> {
        Ok(())
    }

    /// Takes what is to be called when [`is_up`](Self::is_up) or [`models`](Self::models) say something new, so that the row says it at once and not with the next heartbeat. Called once, before
    /// the first run. Default: they never change.
    fn on_change(&self, _told: Arc<dyn Fn() + Send + Sync>) {}

    /// How long a run may take to end once its cancellation has fired. Until then it keeps its slot; after that it is dropped. Default: 5 s.
    fn notice(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// Whether a failure that another try may mend speaks against the GPU, so that enough of them in a row take it out. Default: it does. One whose work is a program of the user's says no: an
    /// exception there, or a program that is down, says nothing of the GPU.
    fn failures_blame_gpu(&self) -> bool {
        true
    }

    /// Ends what it has started: processes, threads. Called once, after the last run. Default: it has started nothing.
    async fn stop(&self) {}

    /// Ends what it has started at once, whatever runs there: the worker was told to end at once. [`stop`](Self::stop) is called after it all the same. Default: it has started nothing.
    async fn stop_at_once(&self) {}

    /// The models that it has in memory now.
    fn models(&self) -> Vec<String> {
        Vec::new()
    }

    /// The model that this payload is about: its task goes where that one is loaded, if it has no other wish. Asked once for each delivery, so it should be quick. Default: none.
    fn model_of(&self, _payload: &Json) -> Option<String> {
        None
    }

    /// The models that it could load, for operators' requests. Default: none.
    fn shelf(&self) -> Option<Arc<dyn Shelf>> {
        None
    }
}

/// The executors that a worker offers, by kind.
#[derive(Clone, Default)]
pub struct Executors {
    offered: BTreeMap<Kind, Arc<dyn Executor>>,
    /// The kinds that the configuration asks for and that cannot run in this process, and why.
    not_offered: BTreeMap<Kind, String>,
}

impl Executors {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one; a later one of the same kind replaces an earlier one.
    #[must_use]
    pub fn with(mut self, executor: Arc<dyn Executor>) -> Self {
        self.not_offered.remove(&executor.kind());
        self.offered.insert(executor.kind(), executor);
        self
    }

    /// Says why a kind that the configuration asks for cannot run here: it is down until another process runs it. A kind that an executor runs is not.
    #[must_use]
    pub fn with_down(mut self, kind: Kind, why: String) -> Self {
        if !self.offered.contains_key(&kind) {
            self.not_offered.insert(kind, why);
        }
        self
    }

    /// The executor of a kind.
    #[must_use]
    pub fn get(&self, kind: &Kind) -> Option<Arc<dyn Executor>> {
        self.offered.get(kind).cloned()
    }

    /// Each kind with its executor, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&Kind, &Arc<dyn Executor>)> {
        self.offered.iter()
    }

    /// The kinds that have an executor, sorted.
    #[must_use]
    pub fn kinds(&self) -> Vec<Kind> {
        self.offered.keys().cloned().collect()
    }

    /// Whether tasks of the kind cannot run now, and may later. A kind that is not there is not down.
    #[must_use]
    pub fn is_down(&self, kind: &Kind) -> bool {
        self.offered.get(kind).map_or_else(|| self.not_offered.contains_key(kind), |executor| executor.is_up().is_err())
    }

    /// The kinds that can run tasks now, sorted, and of the others why they cannot.
    #[must_use]
    pub fn up_and_down(&self) -> (Vec<Kind>, BTreeMap<Kind, String>) {
        let (mut up, mut down) = (Vec::new(), self.not_offered.clone());
        for (kind, executor) in &self.offered {
            match executor.is_up() {
                Ok(()) => up.push(kind.clone()),
                Err(why) => drop(down.insert(kind.clone(), why)),
            }
        }
        (up, down)
    }

    /// Takes what is to be called when what [`up_and_down`](Self::up_and_down) or [`models`](Self::models) say has changed.
    pub fn on_change(&self, told: &Arc<dyn Fn() + Send + Sync>) {
        self.offered.values().for_each(|executor| executor.on_change(Arc::clone(told)));
    }

    /// Ends what the executors have started.
    pub async fn stop(&self) {
        futures::future::join_all(self.offered.values().map(|executor| executor.stop())).await;
    }

    /// Ends what the executors have started, at once.
    pub async fn stop_at_once(&self) {
        futures::future::join_all(self.offered.values().map(|executor| executor.stop_at_once())).await;
    }

    /// Frees memory of the GPU that executors keep to save time. Whether any was freed.
    pub async fn evict(&self, device: &dyn Device) -> bool {
        let mut freed = false;
        for executor in self.offered.values() {
            freed |= executor.evict(device).await;
        }
        freed
    }

    /// The shelves of the kinds, one for each source.
    #[must_use]
    pub fn shelves(&self) -> Vec<Arc<dyn Shelf>> {
        let mut shelves: Vec<Arc<dyn Shelf>> = self.offered.values().filter_map(|executor| executor.shelf()).collect();
        shelves.sort_by_key(|shelf| shelf.source());
        shelves.dedup_by_key(|shelf| shelf.source());
        shelves
    }

    /// The caches of models: one for the GPU, as a rule.
    fn caches(&self) -> Vec<Arc<ModelCache>> {
        let mut caches: Vec<Arc<ModelCache>> = Vec::new();
        for shelf in self.offered.values().filter_map(|executor| executor.shelf()) {
            if !caches.iter().any(|cache| Arc::ptr_eq(cache, shelf.cache())) {
                caches.push(Arc::clone(shelf.cache()));
            }
        }
        caches
    }

    /// The memory that models keep which nobody uses and which may be evicted, in MB.
    #[must_use]
    pub fn evictable_mb(&self) -> u64 {
        self.caches().iter().map(|cache| cache.evictable_mb()).sum()
    }

    /// What a cold load of the model took here lately. `None`: nobody knows.
    #[must_use]
    pub fn load_time(&self, model: &str) -> Option<Duration> {
        let learnt = self.caches().into_iter().find_map(|cache| cache.load_ms().remove(model));
        learnt.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok())
    }

    /// What the row of the GPU says of models; nothing of operators' wishes.
    #[must_use]
    pub fn model_state(&self) -> ModelState {
        let mut state = ModelState::default();
        for cache in self.caches() {
            state.load_ms.extend(cache.load_ms());
            state.evictable_mb += cache.evictable_mb();
            state.model_details.extend(cache.details());
            state.model_errors.extend(cache.errors());
        }
        state.loadable_models = self.loadable_models();
        state.models_of_kinds = self.models_of_kinds();
        state
    }

    /// The models that shelves have and that are not in memory.
    fn loadable_models(&self) -> Vec<LoadableModel> {
        let not_loaded = self.shelves().into_iter().flat_map(|shelf| {
            let (source, loaded) = (shelf.source(), shelf.cache().models_of(shelf.source()));
            let listed = shelf.list().into_iter().filter(move |listed| !loaded.contains(&listed.name));
            listed.map(move |ListedModel { name, version }| LoadableModel { name, source: source.to_owned(), version })
        });
        not_loaded.take(GpuRow::MODELS_MAX).collect()
    }

    /// The models in memory that kinds keep for themselves, with the kind.
    #[must_use]
    pub fn models_of_kinds(&self) -> BTreeMap<String, Kind> {
        let alone = self.offered.iter().filter(|(_, executor)| executor.shelf().is_none());
        let each = alone.flat_map(|(kind, executor)| executor.models().into_iter().map(move |model| (model, kind.clone())));
        each.take(GpuRow::MODELS_MAX).collect()
    }

    /// What happened in the caches of models, together.
    #[must_use]
    pub fn model_counts(&self) -> ModelCounts {
        let counts = self.caches();
        counts.iter().map(|cache| cache.counts()).fold(ModelCounts::default(), ModelCounts::with)
    }

    /// The models in memory, sorted.
    #[must_use]
    pub fn models(&self) -> Vec<String> {
        let mut models: Vec<String> = self.offered.values().flat_map(|executor| executor.models()).collect();
        models.sort();
        models.dedup();
        models
    }
}
