//! The port: what a shared GPU-state table can do.

use std::time::Duration;

use async_trait::async_trait;
use protocol::{
    Claim, ClaimAnswer, ClaimRequest, GpuId, GpuRow, Incarnation, PoolName, TaskId, Token,
    claim::{HeldClaim, Settings},
    gpu::GpuView,
};

use crate::TableError;

/// How long things live in the table unless renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leases {
    /// A row and its held claims.
    pub held: Duration,
    /// A claim that is offered to another GPU and not yet taken up.
    pub offered: Duration,
}

/// How long the table knows a GPU after its last heartbeat.
pub(crate) const KNOWN_FOR: Duration = Duration::from_secs(7 * 24 * 3_600);

/// What a worker tells the table, three times a lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Heartbeat {
    /// The GPU's row. A row of the same GPU under another incarnation is replaced, and its claims end.
    pub row: GpuRow,
    /// Every claim that this worker still holds: renewed; restored if the table lost it and the slot is free or the claim is this worker's own.
    pub held: Vec<HeldClaim>,
    /// The settings this worker last saw: restored where the table has none, or older ones.
    pub settings: Settings,
}

/// What the table answers to a heartbeat.
#[derive(Debug, Clone, PartialEq)]
pub struct Beat {
    /// The fleet's settings now.
    pub settings: Settings,
    /// Claims named in the heartbeat that another holder has taken over (a higher token): this worker's outcome for them will be refused.
    pub lost: Vec<TaskId>,
    /// Whether this GPU drains (an operator's flag).
    pub draining: bool,
}

/// The shared GPU-state table.
///
/// Every operation is one round trip, atomic, idempotent, and takes time from the table's own clock. Rows whose lease has passed, and claims whose
/// lease has passed, are dead from that moment for every answer, whether or not anything has swept them yet.
#[async_trait]
pub trait GpuTable: Send + Sync + 'static {
    /// Writes the row, renews the held claims, restores what was lost.
    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<Beat, TableError>;

    /// Claims a slot for a task; see [`ClaimAnswer`] for every answer.
    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimAnswer, TableError>;

    /// Releases `done` and claims for `next` in one step, so that no other claim can take the slot between. `done` may be gone already.
    async fn hand_over(&self, done: &Claim, next: &ClaimRequest) -> Result<ClaimAnswer, TableError>;

    /// Releases a claim. Whether it was still held; false (already released, lapsed, or another holder's) is no error.
    async fn release(&self, claim: &Claim) -> Result<bool, TableError>;

    /// Renews one claim between heartbeats; false if it is no longer this token's. Never resurrects a lapsed claim.
    async fn renew(&self, pool: &PoolName, task_id: &TaskId, token: Token) -> Result<bool, TableError>;

    /// Every living row, by GPU id.
    async fn rows(&self, pool: &PoolName) -> Result<Vec<GpuView>, TableError>;

    /// Every GPU id that the table knows in this pool, living or gone (kept a week after its last heartbeat), sorted.
    async fn known(&self, pool: &PoolName) -> Result<Vec<GpuId>, TableError>;

    /// For how long workers have been heard of without a gap of a lease. While this is less than a lease, a row that is missing may be of a worker that lives: the table was
    /// emptied, or nobody could reach it. Zero: nobody was heard of lately.
    async fn steady(&self, pool: &PoolName) -> Result<Duration, TableError>;

    /// Removes the row at a clean stop; its claims end. Does nothing if another incarnation has the GPU.
    async fn leave(&self, pool: &PoolName, gpu_id: &GpuId, incarnation: &Incarnation) -> Result<(), TableError>;

    /// The fleet's settings; the given initial ones are written if the table has none.
    async fn settings(&self, pool: &PoolName, initial: &Settings) -> Result<Settings, TableError>;

    /// Replaces the settings, if `settings.version` is still the table's; the version grows by one. The settings that are now in force: not the
    /// given ones if somebody else was faster (compare, and try again).
    async fn change_settings(&self, pool: &PoolName, settings: &Settings) -> Result<Settings, TableError>;

    /// Whether the table answers.
    async fn ping(&self) -> Result<(), TableError>;
}
