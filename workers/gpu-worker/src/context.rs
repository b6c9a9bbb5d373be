//! What the life of a task needs of its worker.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use devices::Device;
use executors::{Executors, RunTensors};
use gpu_table::PoolView;
use protocol::{DataState, DeliveryId, Kind};
use task_queue::BodyBudget;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{
    attempt::{
        batching::{Gatherers, Surroundings},
        forecast::Forecast,
    },
    claim::{begun::Begun, needs::Learnt, slots::Slots, unserved::UnservedTasks},
    data::Data,
    gpu::{health::HealthWatch, item_times::ItemTimes, models::ModelsWished, trouble::Lost},
    me::{Me, Pace, Signals},
    metrics::GpuMetrics,
    options::WorkerParts,
    ports::Ports,
    replies::Replies,
    steps::{Among, WaitsTold},
    worker::Stop,
};

/// Most tasks in hand that were fetched to follow others, for each slot: one that runs, one that is being settled, one that is asked for. With fewer, only every other task
/// would be followed by one that was at hand.
const FETCHED_PER_SLOT: usize = 3;

/// The GPU and what is known of it.
pub(crate) struct Gpu {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) executors: Executors,
    /// What became of the attempts on it.
    pub(crate) health: HealthWatch,
    /// The memory that kinds took.
    pub(crate) learnt: Learnt,
    /// How long kinds ran: for the next task at hand, and for the row.
    pub(crate) forecast: Forecast,
    /// How long an item of a batch took.
    pub(crate) item_times: ItemTimes,
    /// What came of operators' wishes for its models.
    pub(crate) models_wished: ModelsWished,
    /// Its tensors, from the worker's start on. Empty: it keeps none.
    pub(crate) data: OnceLock<Data>,
    /// Why this process can use it no more.
    pub(crate) lost: OnceLock<Lost>,
}

impl Gpu {
    /// What the row says of its tensors.
    pub(crate) fn data_state(&self) -> DataState {
        self.data.get().map(Data::state).unwrap_or_default()
    }

    /// What an attempt is given that names no tensors and keeps none.
    pub(crate) fn plain_tensors(&self) -> RunTensors {
        self.data.get().map_or_else(RunTensors::none, |data| data.plain.clone())
    }

    /// The memory that is kept for later and given up as soon as a task needs it, in MB: that of idle models, and that of tensors, which go to the host's memory. Of what is in use nothing goes, but then
    /// the task that uses it runs already.
    pub(crate) fn evictable_mb(&self) -> u64 {
        let tensor_bytes = self.data.get().map_or(0, |data| data.plane.store().bytes().0);
        self.executors.evictable_mb().saturating_add(tensor_bytes.div_ceil(1_000_000))
    }
}

/// What a life needs. The worker's duties are given what they need of it, and not this.
pub(crate) struct Context {
    pub(crate) ports: Ports,
    pub(crate) me: Arc<Me>,
    pub(crate) gpu: Arc<Gpu>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) begun: Arc<Begun>,
    pub(crate) pace: Arc<Pace>,
    pub(crate) metrics: Arc<GpuMetrics>,
    pub(crate) replies: Arc<Replies>,
    /// Where payloads gather that run together.
    pub(crate) gatherers: Gatherers,
    /// What tasks ask for that nobody serves.
    pub(crate) unserved: Arc<UnservedTasks>,
    /// Among how many GPUs tasks are placed.
    pub(crate) among: Arc<Among>,
    /// Of which waits people were told.
    pub(crate) waits_told: WaitsTold,
    /// The process's memory for bodies in hand.
    pub(crate) bodies: BodyBudget,
    /// The lives of deliveries in hand.
    pub(crate) lives: TaskTracker,
    /// Bounds the tasks in hand that were fetched to follow others.
    pub(crate) fetched: Arc<Semaphore>,
    deliveries: AtomicU64,
}

impl Context {
    pub(crate) fn new(parts: WorkerParts, stop: Stop) -> Arc<Self> {
        let gpu_id = parts.device.description().gpu_id.clone();
        let metrics = Arc::new(parts.metrics.of(&gpu_id));
        let past = parts.options.after_trouble.as_ref();
        if let Some(xid) = past.and_then(|trouble| trouble.xid) {
            metrics.xid(xid);
        }
        let signals = Arc::new(Signals::new(parts.options.initial_settings.clone()));
        let gpu = Gpu {
            health: HealthWatch::after(past.map(|trouble| trouble.reason.as_str())),
            learnt: Learnt::default(),
            forecast: Forecast::default(),
            item_times: ItemTimes::default(),
            models_wished: ModelsWished::default(),
            data: OnceLock::new(),
            lost: OnceLock::new(),
            device: parts.device,
            executors: parts.executors,
        };
        // Leaving ends what is left of this worker's own jobs; the caller may share its token with other workers.
        let stop = Stop { gently: stop.gently, now: stop.now.child_token() };
        let me = Arc::new(Me { gpu_id, incarnation: parts.environment.fresh_incarnation(), options: parts.options });
        let ports = Ports {
            queue: parts.queue,
            table: parts.table,
            store: parts.store,
            environment: parts.environment,
            stop,
            outages: Arc::default(),
            times: Arc::default(),
        };
        let slots = Slots::new(u32::from(me.options.slots), Arc::clone(&signals.nudge));
        let lives = TaskTracker::new();
        let surroundings = Surroundings {
            device: Arc::clone(&gpu.device),
            environment: ports.environment.clone(),
            lives: lives.clone(),
            metrics: Arc::clone(&metrics),
            more_may_come: more_may_come(&slots, &signals, &ports.stop),
        };
        let gatherers = Gatherers::new(&gpu.executors, &me.options.batch, &surroundings);
        Arc::new(Self {
            slots,
            begun: Arc::default(),
            pace: Arc::new(Pace::new(me.options.tasks_waiting_within)),
            replies: Arc::new(Replies::new(ports.clone(), Arc::clone(&metrics), &me.options)),
            unserved: UnservedTasks::new(ports.clone(), Arc::clone(&me), Arc::clone(&signals), Arc::clone(&metrics)),
            among: Among::new(PoolView::new(Arc::clone(&ports.table), me.options.pool.clone())),
            waits_told: WaitsTold::default(),
            metrics,
            bodies: parts.bodies,
            lives,
            gatherers,
            fetched: Arc::new(Semaphore::new(FETCHED_PER_SLOT * usize::from(me.options.slots))),
            deliveries: AtomicU64::new(0),
            ports,
            me,
            gpu: Arc::new(gpu),
            signals,
        })
    }

    /// The number of the next delivery.
    pub(crate) fn next_delivery(&self) -> DeliveryId {
        DeliveryId(self.deliveries.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// So many items of a batch ran one after another, and took so long together. The first that is known of a kind goes to the table at once: the next batch of it may be near.
    pub(crate) fn items_ran(&self, kind: &Kind, items: u32, took: Duration) {
        if self.gpu.item_times.ran(kind, items, took) {
            self.signals.nudge.notify_one();
        }
    }

    /// Whether the worker stops, gently or at once.
    pub(crate) fn stops(&self) -> bool {
        self.ports.stop.gently.is_cancelled()
    }
}

/// Whether another task could begin while so many wait for a run together: a slot may still be given to one, and this worker takes tasks.
fn more_may_come(slots: &Arc<Slots>, signals: &Arc<Signals>, stop: &Stop) -> Arc<dyn Fn(usize) -> bool + Send + Sync> {
    let (slots, signals, stops) = (Arc::clone(slots), Arc::clone(signals), stop.gently.clone());
    Arc::new(move |waiting| slots.may_give_beyond(waiting) && *signals.taking.borrow() && !stops.is_cancelled())
}
