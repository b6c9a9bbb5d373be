//! The table inside one process: the whole specification in plain Rust.
//!
//! Every worker of the process shares one [`MemoryTable`]. It is deterministic: time comes from the injected clock, order from sorted maps. It scans;
//! what must not scan is the Redis back end, and a property test holds the two to the same answers.

mod choosing;
mod claiming;
mod drawing;
mod kinds;
mod nearer;
mod pool;
mod tensors;
mod unserved;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use protocol::{
    ClaimAnswer, ClaimRequest, DescribedKind, GpuId, Incarnation, KindDescription, Offer, PoolName, TensorName, TensorRecord, Unserved,
    claim::Settings, environment::Clock, gpu::GpuView,
};

use self::pool::Pool;
use crate::{Beat, GpuTable, Heartbeat, Leases, Seen, Sighting, TENSOR_NAMES_MAX, TableError, Telling, VersionDraw};

/// A table in memory, for one process: no server, no I/O, never fails.
pub struct MemoryTable {
    clock: Arc<dyn Clock>,
    leases: Leases,
    pools: Mutex<BTreeMap<PoolName, Pool>>,
    /// [`TENSOR_NAMES_MAX`] except in tests.
    tensor_names_max: AtomicUsize,
}

/// What a [`MemoryTable`] held at a moment.
pub struct TableCopy(BTreeMap<PoolName, Pool>);

impl std::fmt::Debug for TableCopy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("TableCopy").field(&self.0.keys()).finish()
    }
}

impl MemoryTable {
    /// An empty table whose time is `clock`'s.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, leases: Leases) -> Self {
        Self { clock, leases, pools: Mutex::default(), tensor_names_max: AtomicUsize::new(TENSOR_NAMES_MAX) }
    }

    /// For tests: how many names of tensors a pool has at most, from now on.
    #[doc(hidden)]
    pub fn bound_tensor_names(&self, names_max: usize) {
        self.tensor_names_max.store(names_max, Ordering::Relaxed);
    }

    /// Forgets everything, as a Redis that restarts without its data does. For tests and simulations of that loss.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// What it holds now, for [`MemoryTable::fall_back_to`].
    #[must_use]
    pub fn copy(&self) -> TableCopy {
        TableCopy(self.lock().clone())
    }

    /// Holds what it held when the copy was made, as after a failover that loses the last writes. For tests and simulations of that loss.
    pub fn fall_back_to(&self, copy: &TableCopy) {
        self.lock().clone_from(&copy.0);
    }

    /// Runs one operation on one pool, after sweeping what is dead by now: so that nothing dead can influence an answer.
    fn on<T>(&self, name: &PoolName, operation: impl FnOnce(&mut Pool) -> T) -> T {
        let mut pools = self.lock();
        let pool = pools.entry(name.clone()).or_insert_with(|| Pool::new(self.leases));
        pool.advance(self.clock.now_us());
        operation(pool)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PoolName, Pool>> {
        // A panic inside an operation is a bug that its own thread reports; the others go on with what is there.
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for MemoryTable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("MemoryTable").field("leases", &self.leases).finish_non_exhaustive()
    }
}

#[async_trait]
impl GpuTable for MemoryTable {
    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<Beat, TableError> {
        Ok(self.on(&heartbeat.row.pool, |pool| pool.heartbeat(heartbeat)))
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimAnswer, TableError> {
        Ok(self.on(&request.pool, |pool| pool.claim(request)))
    }

    async fn tell(&self, telling: &Telling) -> Result<(), TableError> {
        self.on(&telling.pool, |pool| pool.tell(telling));
        Ok(())
    }

    async fn withdraw(&self, offer: &Offer) -> Result<(), TableError> {
        self.on(&offer.pool, |pool| pool.end_offer(&offer.task_id, &offer.gpu_id));
        Ok(())
    }

    async fn seen(&self, pool: &PoolName, gpu_id: &GpuId) -> Result<Seen, TableError> {
        Ok(self.on(pool, |pool| Seen { row: pool.rows.get(gpu_id).map(|entry| entry.row.clone()), steady: pool.steady() }))
    }

    async fn rows(&self, pool: &PoolName) -> Result<Vec<GpuView>, TableError> {
        Ok(self.on(pool, |pool| pool.views()))
    }

    async fn known(&self, pool: &PoolName) -> Result<Vec<GpuId>, TableError> {
        Ok(self.on(pool, |pool| pool.known()))
    }

    async fn steady(&self, pool: &PoolName) -> Result<Duration, TableError> {
        Ok(self.on(pool, |pool| pool.steady()))
    }

    async fn leave(&self, pool: &PoolName, gpu_id: &GpuId, incarnation: &Incarnation) -> Result<(), TableError> {
        self.on(pool, |pool| pool.leave(gpu_id, incarnation));
        Ok(())
    }

    async fn settings(&self, pool: &PoolName, initial: &Settings) -> Result<Settings, TableError> {
        Ok(self.on(pool, |pool| pool.settings_or(initial)))
    }

    async fn current_settings(&self, pool: &PoolName) -> Result<Option<Settings>, TableError> {
        Ok(self.on(pool, |pool| pool.settings.clone()))
    }

    async fn change_settings(&self, pool: &PoolName, settings: &Settings) -> Result<Settings, TableError> {
        Ok(self.on(pool, |pool| pool.change_settings(settings)))
    }

    async fn note_unserved(&self, pool: &PoolName, sighting: &Sighting) -> Result<(), TableError> {
        self.on(pool, |pool| pool.note_unserved(sighting));
        Ok(())
    }

    async fn forget_unserved(&self, pool: &PoolName, wanted: &str) -> Result<(), TableError> {
        self.on(pool, |pool| pool.unserved.remove(wanted));
        Ok(())
    }

    async fn unserved(&self, pool: &PoolName) -> Result<Vec<Unserved>, TableError> {
        Ok(self.on(pool, |pool| pool.unserved()))
    }

    async fn describe_kinds(&self, pool: &PoolName, kinds: &[KindDescription]) -> Result<(), TableError> {
        self.on(pool, |pool| pool.describe_kinds(kinds));
        Ok(())
    }

    async fn kinds(&self, pool: &PoolName) -> Result<Vec<DescribedKind>, TableError> {
        Ok(self.on(pool, |pool| pool.described_kinds()))
    }

    async fn announce_tensors(&self, pool: &PoolName, records: &[TensorRecord]) -> Result<(), TableError> {
        let names_max = self.tensor_names_max.load(Ordering::Relaxed);
        TableError::if_refused(self.on(pool, |pool| pool.announce_tensors(records, names_max)), names_max)
    }

    async fn draw_tensor_version(&self, pool: &PoolName, draw: &VersionDraw) -> Result<u64, TableError> {
        Ok(self.on(pool, |pool| pool.draw_tensor_version(draw)))
    }

    async fn withdraw_tensors(
        &self,
        pool: &PoolName,
        gpu_id: &GpuId,
        incarnation: &Incarnation,
        copies: &[(TensorName, u64)],
    ) -> Result<(), TableError> {
        self.on(pool, |pool| pool.withdraw_tensors(gpu_id, incarnation, copies));
        Ok(())
    }

    async fn find_tensors(&self, pool: &PoolName, names: &[TensorName]) -> Result<Vec<TensorRecord>, TableError> {
        Ok(self.on(pool, |pool| pool.find_tensors(names)))
    }

    async fn tensors(&self, pool: &PoolName, after: Option<&TensorName>, names_max: usize) -> Result<Vec<TensorRecord>, TableError> {
        Ok(self.on(pool, |pool| pool.list_tensors(after, names_max)))
    }

    async fn ping(&self) -> Result<(), TableError> {
        Ok(())
    }

    async fn probe(&self, _pool: &PoolName) -> Result<(), TableError> {
        Ok(())
    }
}
