//! What the parts of a plane have in common.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use devices::{Device, DeviceMemory, MemoryError};
use protocol::{DataPort, DataState, Environment, GpuId, Incarnation, TensorName, TensorPlace, TensorRecord};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{DataOptions, DataParts, system, told::Told};
use crate::{
    DataMetrics, Directory, KeepError, Tensor, TensorAbout, TensorStore,
    transfer::{Flights, Ways},
};

const MB: u64 = 1_000_000;

/// One GPU's part of the fleet's data, as its parts share it.
pub(crate) struct Shared {
    pub(crate) gpu_id: GpuId,
    pub(crate) incarnation: Incarnation,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) environment: Environment,
    pub(crate) options: DataOptions,
    pub(crate) metrics: Arc<DataMetrics>,
    pub(crate) store: Arc<TensorStore>,
    pub(crate) ways: Ways,
    pub(crate) flights: Flights,
    /// `None`: it has no neighbours.
    pub(crate) system: Option<String>,
    /// Empty: other processes do not reach it.
    pub(crate) port: OnceLock<DataPort>,
    /// Fired by its end.
    pub(crate) ended: CancellationToken,
    /// Told when the duty has something to do at once.
    pub(crate) due: Notify,
    /// Copies that went away and that the table still names.
    untold: Mutex<Vec<(TensorName, u64)>>,
    pub(crate) told: Told,
    jobs: TaskTracker,
    device: Arc<dyn Device>,
}

impl Shared {
    pub(crate) fn new(parts: DataParts) -> Arc<Self> {
        let DataParts { device, directory, incarnation, environment, options, metrics } = parts;
        let clock = Arc::clone(&environment.clock);
        let store = TensorStore::new(Arc::clone(&device), options.bounds, Arc::new(move || clock.now_ms()));
        Arc::new(Self {
            gpu_id: device.description().gpu_id.clone(),
            incarnation,
            directory,
            environment,
            ways: Ways::new(options.limits.demotion),
            options,
            metrics,
            store: Arc::new(store),
            flights: Flights::default(),
            system: system::name(),
            port: OnceLock::new(),
            ended: CancellationToken::new(),
            due: Notify::new(),
            untold: Mutex::default(),
            told: Told::default(),
            jobs: TaskTracker::new(),
            device,
        })
    }

    /// The GPU's memory.
    ///
    /// # Errors
    /// [`MemoryError::Unsupported`]: it has none for data that stays.
    pub(crate) fn memory(&self) -> Result<&dyn DeviceMemory, MemoryError> {
        self.device.memory().ok_or_else(|| MemoryError::Unsupported {
            operation: "keep tensors",
            reason: format!("GPU {} has no memory for data that stays", self.gpu_id),
        })
    }

    /// A copy that is here, in the GPU's memory: one in the host's is brought back, if the GPU does it in time.
    ///
    /// # Errors
    /// [`KeepError`].
    pub(crate) async fn stored(&self, name: &TensorName, version: Option<u64>) -> Result<Option<Arc<Tensor>>, KeepError> {
        let bytes = self.store.look(name).map_or(0, |stored| stored.about.bytes());
        within(self.options.limits.for_bytes(bytes), self.store.get(name, version)).await
    }

    /// Starts a job that [`stop`](Self::stop) waits for. It must end when `ended` fires.
    pub(crate) fn spawn(&self, name: &'static str, job: impl Future<Output = ()> + Send + 'static) {
        self.environment.spawn(name, self.jobs.track_future(job));
    }

    /// Ends what goes on, and waits for its end, but not for longer than a stalled copy may take.
    pub(crate) async fn stop(&self) {
        self.ended.cancel();
        self.jobs.close();
        if tokio::time::timeout(self.options.limits.stall, self.jobs.wait()).await.is_err() {
            tracing::warn!(gpu_id = %self.gpu_id, jobs = self.jobs.len(), "jobs with tensors go on after the end of their GPU's data");
        }
    }

    /// What the table is to know of a copy that is here.
    pub(crate) fn record(&self, about: &TensorAbout, place: TensorPlace, last_used_ms: u64) -> TensorRecord {
        TensorRecord {
            name: about.name.clone(),
            version: about.version,
            shape: about.shape.clone(),
            bytes: about.bytes(),
            owner: about.owner.clone(),
            made_ms: about.made_ms,
            last_used_ms,
            ttl_ms: about.ttl_ms,
            gpu_id: self.gpu_id.clone(),
            incarnation: self.incarnation.clone(),
            place,
            port: self.port.get().cloned(),
        }
    }

    /// What the table is to know of a tensor that is in the GPU's memory and was used just now.
    pub(crate) fn record_of(&self, tensor: &Tensor) -> TensorRecord {
        self.record(tensor.about(), TensorPlace::Gpu, self.environment.clock.now_ms())
    }

    /// The table is to be told that these are gone, when that can be done.
    pub(crate) fn tell_later(&self, copies: impl IntoIterator<Item = (TensorName, u64)>) {
        self.put_back_untold(copies.into_iter().collect());
        self.due.notify_one();
    }

    /// Whether there is something of which the table is to be told.
    pub(crate) fn is_untold(&self) -> bool {
        !self.untold.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Of what the table is to be told.
    pub(crate) fn take_untold(&self) -> Vec<(TensorName, u64)> {
        std::mem::take(&mut self.untold.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The table is to be told at once of what went away to make room.
    pub(crate) fn tell_gone(&self) {
        let gone = self.store.gone();
        if !gone.is_empty() {
            self.tell_later(gone);
        }
    }

    /// As [`tell_later`](Self::tell_later), but not at once: it was just tried.
    pub(crate) fn put_back_untold(&self, copies: Vec<(TensorName, u64)>) {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner).extend(copies);
    }

    /// Whether a record is of this plane's own copy.
    pub(crate) fn is_own(&self, record: &TensorRecord) -> bool {
        record.incarnation == self.incarnation && record.gpu_id == self.gpu_id
    }

    /// Whether a port can be reached by its socket.
    pub(crate) fn is_neighbour(&self, port: &DataPort) -> bool {
        port.socket.is_some() && self.system.as_ref() == Some(&port.system)
    }

    /// See [`DataPlane::state`](super::DataPlane::state).
    pub(crate) fn state(&self) -> DataState {
        let (gpu_bytes, host_bytes) = self.store.bytes();
        DataState {
            tensors: self.store.list().len() as u64,
            tensor_mb: gpu_bytes.div_ceil(MB),
            tensor_host_mb: host_bytes.div_ceil(MB),
            data_port: self.port.get().cloned(),
            ways: self.ways.view(),
        }
    }
}

/// What the store does, if it does it in time: it waits for the GPU, and sets itself no limit.
///
/// # Errors
/// Those of the store, and [`KeepError::Memory`] where it takes longer.
pub(crate) async fn within<T>(limit: Duration, stored: impl Future<Output = Result<T, KeepError>>) -> Result<T, KeepError> {
    tokio::time::timeout(limit, stored).await.unwrap_or_else(|_| {
        let reason = format!("it did not answer within {} ms", limit.as_millis());
        Err(KeepError::Memory(MemoryError::Failed { operation: "use the GPU's memory", reason }))
    })
}
