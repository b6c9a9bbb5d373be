//! Follows the fleet for people: reads the journal into an index of tasks, asks the table and the broker, and makes out of it what holds the fleet back, how many workers it should have and why a task waits.
//!
//! Nothing is decided by it. What it lacks while a server is away it says so, and what it last heard stays. Gateways and commands on servers share it.

mod audit;
mod error;
mod following;
mod servers;
mod state;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gpu_table::GpuTable;
use protocol::{
    Environment, HistoryPoint, HistorySpan, OperatorAction, PoolName, TaskId,
    claim::Settings,
    config::{JournalSection, ScalingSection},
    gpu::GpuView,
    insight::{Overview, Scaling, TaskFilter, TaskLog, TaskPage, Verdict, Why},
};
use task_queue::TaskQueue;
use task_store::TaskStore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

pub use self::error::ObserveError;
pub(crate) use self::state::{Judgement, ServerSeen};
use self::{servers::in_time, state::State};

/// What is younger than this is shown as it is.
const FRESH: Duration = Duration::from_secs(1);
/// Longest wait of somebody who looks for what is fresh; then what there is is shown.
const FRESH_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two rounds of the duty while somebody looks, and otherwise. History has a point every five seconds.
const PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// For so long after a look somebody still looks.
const LOOKED_AT_FOR: Duration = Duration::from_secs(60);

/// What is observed, and by whose clock.
#[derive(Clone)]
pub struct ObservedPorts {
    /// Its depths and its link.
    pub queue: Arc<dyn TaskQueue>,
    /// Its rows and settings.
    pub table: Arc<dyn GpuTable>,
    /// Its journal, and the records of tasks.
    pub store: Arc<dyn TaskStore>,
    /// The clock.
    pub environment: Environment,
}

/// Follows one pool. Cheap to clone; clones share what they know.
///
/// What it shows is about a second old while [`Observatory::run`] runs and somebody looks; whoever looks otherwise makes it look first.
#[derive(Clone)]
pub struct Observatory(Arc<Shared>);

struct Shared {
    ports: ObservedPorts,
    pool: PoolName,
    initial_settings: Settings,
    journal: JournalSection,
    scaling: ScalingSection,
    state: Mutex<State>,
    /// Held by whoever asks the servers: the others wait for the same answers.
    refreshing: tokio::sync::Mutex<()>,
}

impl Observatory {
    /// One that knows nothing yet. Does no I/O.
    #[must_use]
    pub fn new(ports: ObservedPorts, pool: PoolName, initial_settings: Settings, journal: JournalSection, scaling: ScalingSection) -> Self {
        let state = Mutex::new(State::new(&journal, initial_settings.clone()));
        Self(Arc::new(Shared { ports, pool, initial_settings, journal, scaling, state, refreshing: tokio::sync::Mutex::default() }))
    }

    /// Reads all steps that are new, rows, settings and depths now, and judges anew. At its first call it reads the whole journal.
    ///
    /// # Errors
    /// The store or the table does not answer. What the others said counts all the same. Cancel safe: what was read stays read.
    pub async fn refresh(&self) -> Result<(), ObserveError> {
        let _alone = self.0.refreshing.lock().await;
        self.refresh_alone().await
    }

    async fn refresh_alone(&self) -> Result<(), ObserveError> {
        let (steps, table, ()) = tokio::join!(self.ask_store(), self.ask_table(), self.ask_broker());
        self.state().judge(&self.0.pool, &self.0.scaling, self.now_ms());
        steps.and(table)
    }

    /// The duty: keeps what is known about a second old while somebody looks, and about five seconds otherwise, writes the points of the histories, and asks the store about tasks of which
    /// nothing was heard for long. Ends with `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&self) {
        loop {
            // What fails is in the log, and shown.
            let _shown = self.refresh().await;
            self.note_history().await;
            self.check_silent_tasks().await;
            let [looked_at, alone] = PAUSE;
            let pause = if self.state().is_looked_at(LOOKED_AT_FOR) { looked_at } else { alone };
            sleep(pause).await;
        }
    }

    /// The fleet at a glance. Where servers are away it says so, and has what they last said.
    ///
    /// # Errors
    /// Nothing was heard of any server in time.
    pub async fn overview(&self) -> Result<Overview, ObserveError> {
        Ok(self.judgement().await?.overview.clone())
    }

    /// What holds the fleet back.
    ///
    /// # Errors
    /// As of [`Observatory::overview`].
    pub async fn verdict(&self) -> Result<Verdict, ObserveError> {
        Ok(self.judgement().await?.overview.verdict.clone())
    }

    /// How many workers there should be.
    ///
    /// # Errors
    /// The table does not answer: whoever scales by this must not go by what is old.
    pub async fn scaling(&self) -> Result<Scaling, ObserveError> {
        let judgement = self.judgement().await?;
        if judgement.table.is_up { Ok(judgement.overview.scaling.clone()) } else { Err(ObserveError::Away { server: "table" }) }
    }

    /// The tasks that pass a filter, those that were heard of last first, as they were known at the last refresh.
    #[must_use]
    pub fn list(&self, filter: &TaskFilter, after: Option<&str>, limit: usize) -> TaskPage {
        self.state().index.list(filter, after, limit, self.now_ms())
    }

    /// The steps of a task, as they were known at the last refresh; `None`: none are.
    #[must_use]
    pub fn log(&self, task_id: &TaskId) -> Option<TaskLog> {
        self.state().index.log(task_id)
    }

    /// Why a task waits, and until when, or what became of it; `None`: nobody knows of it.
    ///
    /// # Errors
    /// The store does not answer, and the journal says nothing of the task.
    pub async fn why(&self, task_id: &TaskId) -> Result<Option<Why>, ObserveError> {
        self.look().await;
        let (status, failed) = match in_time("store", self.0.ports.store.status(task_id)).await {
            Ok(status) => (status, None),
            Err(error) => (None, Some(error)),
        };
        let why = self.state().why(&self.0.scaling, self.now_ms(), task_id, status.as_ref());
        match (why, failed) {
            (None, Some(error)) => Err(error),
            (why, _) => Ok(why),
        }
    }

    /// The points of a history, the oldest first.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn history(&self, span: HistorySpan) -> Result<Vec<HistoryPoint>, ObserveError> {
        let from_ms = self.now_ms().saturating_sub(span.step_ms() * span.points());
        in_time("store", self.0.ports.store.journal().points(span, from_ms)).await
    }

    /// What operators did, the latest first.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn actions(&self, max: usize) -> Result<Vec<OperatorAction>, ObserveError> {
        in_time("store", self.0.ports.store.journal().actions(max)).await
    }

    /// Notes what an operator did.
    ///
    /// # Errors
    /// The store does not answer; it may be noted.
    pub async fn note_action(&self, action: OperatorAction) -> Result<(), ObserveError> {
        in_time("store", self.0.ports.store.journal().note_action(&action)).await
    }

    /// Whether steps of tasks are kept at all. Where they are not, lists, logs, histories and most of a verdict stay empty.
    #[must_use]
    pub fn keeps_steps(&self) -> bool {
        self.0.ports.store.journal().keeps_steps()
    }

    /// Somebody looks: what is older than a second is looked up first, for a bounded time.
    pub async fn look(&self) {
        self.state().looked = Some(Instant::now());
        // What fails, or takes too long, is shown as it was.
        let _shown = timeout(FRESH_TIMEOUT, self.refresh_if_old()).await;
    }

    async fn refresh_if_old(&self) -> Result<(), ObserveError> {
        if self.state().is_fresh(FRESH) {
            return Ok(());
        }
        let _alone = self.0.refreshing.lock().await;
        // Somebody else may have looked meanwhile.
        if self.state().is_fresh(FRESH) { Ok(()) } else { self.refresh_alone().await }
    }

    async fn judgement(&self) -> Result<Arc<Judgement>, ObserveError> {
        self.look().await;
        self.last().ok_or(ObserveError::NotYet)
    }

    /// What was last made out; `None`: nothing was yet. Asks nobody.
    pub(crate) fn last(&self) -> Option<Arc<Judgement>> {
        self.state().judgement.clone()
    }

    /// The living GPUs, as the table last had them, without the keys of their data ports.
    pub(crate) fn gpus(&self) -> Vec<GpuView> {
        self.state().seen.gpus.iter().cloned().map(GpuView::without_keys).collect()
    }

    /// How many steps this process could not tell.
    pub(crate) fn steps_lost(&self) -> u64 {
        self.0.ports.store.journal().steps_lost()
    }

    /// In how many ms a task that comes now would begin, as it was last made out. Asks nobody.
    pub(crate) fn expected_wait_ms(&self) -> Option<f64> {
        self.last()?.expected_wait_ms[0]
    }

    fn now_ms(&self) -> u64 {
        self.0.ports.environment.clock.now_ms()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Observatory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Observatory").field("pool", &self.0.pool).finish_non_exhaustive()
    }
}

impl fmt::Debug for ObservedPorts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ObservedPorts")
    }
}
