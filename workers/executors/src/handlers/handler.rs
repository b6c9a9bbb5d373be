//! One handler beside one GPU: its processes, its kinds, and who is told of changes.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use protocol::{Kind, Needs, config::HandlerSection};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    HandlerPlace, keeper,
    kinds::Kinds,
    line::Line,
    message::{Hello, Setup, SetupGpu, VERSION},
    spawning::Plan,
};

/// Models of one process that the row of its GPU names at most.
const MODELS_MAX: usize = 64;

/// When the log first says that a `hello` is waited for, and how often it says so again.
const TOLD_FIRST: Duration = Duration::from_secs(5);
const TOLD_AGAIN: Duration = Duration::from_secs(30);

/// What is called at each change.
type Told = Arc<dyn Fn() + Send + Sync>;

/// A handler beside a GPU.
pub(super) struct Handler {
    pub(super) name: String,
    pub(super) section: HandlerSection,
    pub(super) place: HandlerPlace,
    pub(super) plan: Plan,
    pub(super) line: Arc<Line>,
    pub(super) kinds: Kinds,
    /// Its processes are to drain and end.
    pub(super) stop_gently: CancellationToken,
    /// Its processes are to be ended at once.
    pub(super) stop_now: CancellationToken,
    keepers: TaskTracker,
    told: Mutex<Vec<Told>>,
    /// The models that each process has.
    models: Mutex<BTreeMap<usize, Vec<String>>>,
    /// How many runs a process takes at once, as the last `hello` said.
    concurrency: AtomicU32,
    /// Whether there was a `hello`, or why the first process has ended without one.
    first: watch::Sender<Option<Result<(), String>>>,
}

impl Handler {
    /// Starts its processes.
    pub(super) fn start(section: &HandlerSection, place: HandlerPlace) -> Arc<Self> {
        let name = section.name();
        let processes = section.processes.max(1) as usize;
        let handler = Arc::new(Self {
            plan: Plan::of(section, &place),
            line: Line::new(name.clone(), processes),
            kinds: Kinds::new(name.clone(), &section.kinds),
            stop_gently: CancellationToken::new(),
            stop_now: CancellationToken::new(),
            keepers: TaskTracker::new(),
            told: Mutex::default(),
            models: Mutex::default(),
            concurrency: AtomicU32::new(section.concurrency.max(1)),
            first: watch::Sender::new(None),
            section: section.clone(),
            name,
            place,
        });
        for seat in 0..processes {
            handler.keepers.spawn(keeper::keep(Arc::clone(&handler), seat));
        }
        handler.keepers.close();
        handler
    }

    /// Waits for the first `hello`.
    ///
    /// # Errors
    /// The first process ended without one, or there was none within so long.
    pub(super) async fn first_hello(&self, patience: Duration) -> Result<(), String> {
        let mut first = self.first.subscribe();
        let mut saying = pin!(async {
            let said = tokio::time::timeout(patience, first.wait_for(Option::is_some)).await;
            said.ok().and_then(Result::ok).and_then(|first| first.clone())
        });
        let started = Instant::now();
        let mut told_next = started + TOLD_FIRST;
        let said = loop {
            tokio::select! {
                biased;
                said = &mut saying => break said,
                () = tokio::time::sleep_until(told_next) => {
                    let seconds = started.elapsed().as_secs();
                    tracing::info!(gpu_id = %self.place.gpu.gpu_id, "waits for handler {} to name its kinds ({seconds} s so far)", self.name);
                    told_next += TOLD_AGAIN;
                }
            }
        };
        said.unwrap_or_else(|| Err(format!("handler {} said no `hello` within {} ms of its start", self.name, patience.as_millis())))
    }

    /// A process has ended without a `hello`: whoever waits for the first one hears why.
    pub(super) fn failed_first(&self, why: &str) {
        self.first.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(Err(why.to_owned()));
            }
            is_first
        });
    }

    pub(super) fn said_hello(&self, hello: &Hello, concurrency: usize) {
        self.concurrency.store(u32::try_from(concurrency).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.kinds.said(hello);
        self.first.send_if_modified(|first| first.replace(Ok(())).is_none());
        self.tell();
    }

    /// The answer to a `hello`.
    pub(super) fn setup(&self) -> Setup {
        let gpu = &self.place.gpu;
        Setup {
            version: VERSION,
            gpu: SetupGpu {
                id: gpu.gpu_id.to_string(),
                name: gpu.name.clone(),
                memory_mb: gpu.memory_total_mb,
                compute_capability: gpu.compute_capability,
                simulated: self.place.is_simulated,
            },
            slots: self.place.slots,
            handler: self.name.clone(),
        }
    }

    /// How many runs go on beside each other, in all processes.
    pub(super) fn at_once(&self) -> usize {
        self.concurrency.load(Ordering::Relaxed) as usize * self.section.processes.max(1) as usize
    }

    /// Why a kind cannot run now.
    ///
    /// # Errors
    /// It cannot.
    pub(super) fn is_up(&self, kind: &Kind) -> Result<(), String> {
        self.kinds.check(kind)?;
        self.line.why_down().map_or(Ok(()), Err)
    }

    /// Takes what is to be called at each change, once, however many of its executors bring it.
    pub(super) fn on_change(&self, told: Told) {
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.iter().any(|known| Arc::ptr_eq(known, &told)) {
            all.push(told);
        }
    }

    /// Says that something has changed.
    pub(super) fn tell(&self) {
        let all = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.iter().for_each(|told| told());
    }

    /// A process has these models, and no others.
    pub(super) fn has_models(&self, seat: usize, models: Vec<String>) {
        let named = models.into_iter().filter(|model| model.chars().count() <= Needs::MODEL_CHARACTERS_MAX).take(MODELS_MAX);
        self.models.lock().unwrap_or_else(PoisonError::into_inner).insert(seat, named.collect());
    }

    /// The models that its processes have.
    pub(super) fn models(&self) -> Vec<String> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned().collect()
    }

    /// Drains its processes and waits until they are gone.
    pub(super) async fn stop(&self) {
        self.stop_gently.cancel();
        self.keepers.wait().await;
    }

    /// Ends its processes and waits until they are gone.
    pub(super) async fn give_up(&self) {
        self.stop_now.cancel();
        self.keepers.wait().await;
    }
}
