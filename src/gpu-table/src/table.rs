//! The port: what a shared GPU-state table can do.
//!
//! The worker owns its slots, and the table counts them. A worker tells how many it holds (an absolute number, so that telling it again changes nothing), with whatever
//! it asks and with every heartbeat. A slot of another GPU is offered: kept free for one task until that GPU's worker says that the delivery has arrived, or until
//! the offer lapses.

use std::time::Duration;

use async_trait::async_trait;
use protocol::{
    ClaimAnswer, ClaimRequest, DescribedKind, GpuId, GpuRow, Holding, Incarnation, Kind, KindDescription, Offer, PoolName, TaskId,
    TensorName, TensorRecord, Unserved, claim::Settings, gpu::GpuView,
};

use redis_link::{Ridden, Rider};

use crate::TableError;

/// How long things live in the table unless renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leases {
    /// A row, and with it the slots that its worker holds.
    pub held: Duration,
    /// An offer to another GPU.
    pub offered: Duration,
}

/// How long the table knows a GPU after its last heartbeat.
pub(crate) const KNOWN_FOR: Duration = Duration::from_secs(7 * 24 * 3_600);

/// How long the table remembers tasks that nobody serves after a worker last told of one.
pub(crate) const UNSERVED_FOR: Duration = Duration::from_secs(180);

/// How many entries of [`GpuTable::unserved`] a pool has at most. For a new one beyond them the one goes that was told of longest ago.
pub const UNSERVED_MAX: usize = 100;

/// How many leases of a row a description of a kind lives after a worker last told it.
pub(crate) const DESCRIBED_FOR_LEASES: u32 = 10;

/// How many descriptions of kinds a pool has at most, those of several versions of one kind counted each. For a new one beyond them the one goes that was told longest ago.
pub const DESCRIPTIONS_MAX: usize = 256;

/// How many tensors a worker tells of at once, at most.
pub const TENSORS_TOLD_MAX: usize = 100;

/// How many names of tensors a pool has at most. One more is refused, unless the copies of one that was told of longest ago are gone.
pub const TENSOR_NAMES_MAX: usize = 100_000;

/// How many of the names that were told of longest ago are looked at for one that is gone.
pub(crate) const TENSOR_LOOKS: usize = 16;

/// How long the table remembers a copy of a tensor after a worker last told of it.
pub(crate) const TENSORS_FOR: Duration = Duration::from_secs(24 * 3_600);

/// How many leases of a row the table remembers a copy after a worker last told of it, where its GPU has no row: that one may come back under the same incarnation.
pub(crate) const TENSORS_FOR_LEASES: u32 = 10;

/// What a version of a tensor is drawn for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionDraw {
    /// The name of the tensor.
    pub name: TensorName,
    /// Who makes it: the id of a task.
    pub owner: String,
    /// What it would like to have: the token of the attempt that makes it, or the time in microseconds.
    pub wanted: VersionWanted,
}

/// What a maker of a tensor would like to have as its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionWanted {
    /// The fencing token of an attempt. An attempt with an older one than a version was drawn for before is late: it has its token, which is older than what counts.
    Token(u64),
    /// The time of somebody's clock, in microseconds.
    Time(u64),
}

impl VersionWanted {
    /// As a number, whatever it is.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::Token(number) | Self::Time(number) => number,
        }
    }
}

/// What a worker tells the table, three times a lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Heartbeat {
    /// The GPU's row. A row of the same GPU under another incarnation is replaced, and offers made to that one end.
    pub row: GpuRow,
    /// The slots that the worker holds.
    pub holding: Holding,
    /// The tasks offered to this GPU whose deliveries have arrived: their offers end.
    pub taken: Vec<TaskId>,
    /// The settings this worker last saw: restored where the table has none, or older ones.
    pub settings: Settings,
}

/// What the table answers to a heartbeat.
#[derive(Debug, Clone, PartialEq)]
pub struct Beat {
    /// The fleet's settings now.
    pub settings: Settings,
    /// Whether this GPU drains (an operator's flag).
    pub draining: bool,
}

/// What a worker tells between two heartbeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telling {
    /// Its pool.
    pub pool: PoolName,
    /// Its GPU.
    pub gpu_id: GpuId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// The slots that it holds.
    pub holding: Holding,
    /// As [`Heartbeat::taken`].
    pub taken: Vec<TaskId>,
}

/// What the table knows of the worker of one GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The living row; `None` if there is none.
    pub row: Option<GpuRow>,
    /// As [`GpuTable::steady`].
    pub steady: Duration,
}

/// What a worker has found of tasks that no living GPU of its pool can run, since it told last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// What they ask for, as [`Wanted`](crate::Wanted) writes it: one entry of the table.
    pub wanted: String,
    /// Their kind.
    pub kind: Kind,
    /// Why no GPU fits, for people.
    pub reason: String,
    /// The kinds that are served, sorted, at most [`Unserved::SERVED_MAX`].
    pub served: Vec<Kind>,
    /// How often it has found such a task.
    pub times: u64,
}

/// The shared GPU-state table.
///
/// Every operation is one round trip, atomic, idempotent, and takes time from the table's own clock. Rows whose lease has passed, and offers whose
/// lease has passed, are dead from that moment for every answer, whether or not anything has swept them yet. What a worker tells counts only for the row
/// of its own incarnation, and only if it has told nothing newer.
///
/// # Errors
/// All operations fail alike: transiently while the table cannot be reached (it may have happened), for good where it refuses the login or an answer is not
/// understood. See [`TableError`].
#[async_trait]
pub trait GpuTable: Send + Sync + 'static {
    /// Writes the row and the number of slots held, ends the offers that were taken.
    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<Beat, TableError>;

    /// Claims a slot for a task; see [`ClaimAnswer`] for every answer. A task that an offer stands for gets the same offer again; the GPU that it is made to takes it
    /// by asking.
    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimAnswer, TableError>;

    /// As [`GpuTable::claim`]; where the asking GPU gets the slot and `rider` is of the same server, that one runs in the same trip. `None`: it did not run.
    async fn claim_with(&self, request: &ClaimRequest, _rider: Option<&Rider>) -> Result<(ClaimAnswer, Option<Ridden>), TableError> {
        Ok((self.claim(request).await?, None))
    }

    /// Hears how many slots a worker holds now, and which offers it has taken. Does nothing if the table has no row of it: its next heartbeat says the same.
    async fn tell(&self, telling: &Telling) -> Result<(), TableError>;

    /// Takes an offer back whose task could not be forwarded. Does nothing once it lapsed or was taken.
    async fn withdraw(&self, offer: &Offer) -> Result<(), TableError>;

    /// What is known of the worker of one GPU.
    async fn seen(&self, pool: &PoolName, gpu_id: &GpuId) -> Result<Seen, TableError>;

    /// Every living row, by GPU id.
    async fn rows(&self, pool: &PoolName) -> Result<Vec<GpuView>, TableError>;

    /// Every GPU id that the table knows in this pool, living or gone (kept a week after its last heartbeat), sorted.
    async fn known(&self, pool: &PoolName) -> Result<Vec<GpuId>, TableError>;

    /// For how long workers have been heard of without a gap of a lease. While this is less than a lease, a row that is missing may be of a worker that lives: the table was
    /// emptied, or nobody could reach it. Zero: nobody was heard of lately.
    async fn steady(&self, pool: &PoolName) -> Result<Duration, TableError>;

    /// Removes the row at a clean stop; offers to it end. Does nothing if another incarnation has the GPU.
    async fn leave(&self, pool: &PoolName, gpu_id: &GpuId, incarnation: &Incarnation) -> Result<(), TableError>;

    /// The fleet's settings; the given initial ones are written if the table has none.
    async fn settings(&self, pool: &PoolName, initial: &Settings) -> Result<Settings, TableError>;

    /// The fleet's settings; `None` if the table has none. Writes nothing.
    async fn current_settings(&self, pool: &PoolName) -> Result<Option<Settings>, TableError>;

    /// Replaces the settings, if `settings.version` is still the table's; the version grows by one. The settings that are now in force: not the
    /// given ones if somebody else was faster (compare, and try again).
    async fn change_settings(&self, pool: &PoolName, settings: &Settings) -> Result<Settings, TableError>;

    /// Notes that a worker has found tasks that no living GPU of the pool can run. For people: nothing is decided by it. It is the one operation that counts, so that one which
    /// is sent twice counts its sightings twice.
    async fn note_unserved(&self, pool: &PoolName, sighting: &Sighting) -> Result<(), TableError>;

    /// Forgets what was noted of tasks that ask for this ([`Sighting::wanted`]): a GPU serves them now. Does nothing where nothing was noted.
    async fn forget_unserved(&self, pool: &PoolName, wanted: &str) -> Result<(), TableError>;

    /// What was noted by [`GpuTable::note_unserved`] in the last three minutes and not forgotten, sorted by what the tasks ask for; at most [`UNSERVED_MAX`].
    async fn unserved(&self, pool: &PoolName) -> Result<Vec<Unserved>, TableError>;

    /// Says what kinds do that a worker has. A description lives for ten leases after it was last told, whoever told it; at most [`DESCRIPTIONS_MAX`] do. For people, and for those who check
    /// payloads early: no claim looks at it. On a server it takes a second round trip where the table did not have one of them, which may have happened or not if that one fails: tell again.
    async fn describe_kinds(&self, pool: &PoolName, kinds: &[KindDescription]) -> Result<(), TableError>;

    /// The kinds that were described lately, by name: of several descriptions the one that came up last.
    async fn kinds(&self, pool: &PoolName) -> Result<Vec<DescribedKind>, TableError>;

    /// Says that GPUs of the pool have copies of tensors; a record of the same name, GPU and incarnation is replaced if it is of the same or an older version. A copy is found as long as its GPU's row lives under the
    /// same incarnation, and until it is withdrawn; workers tell all of theirs again now and then, so that they outlive the table's loss, and each at least once a day. What is told before the first heartbeat counts
    /// from that one on. For at most [`TENSORS_TOLD_MAX`] records at once.
    ///
    /// # Errors
    /// Also [`TableError::TooManyTensors`], beyond [`TENSOR_NAMES_MAX`] names: those of the records whose names the pool has are kept all the same.
    async fn announce_tensors(&self, pool: &PoolName, records: &[TensorRecord]) -> Result<(), TableError>;

    /// The version of a tensor that is made: what is wanted, or, where the name has had that or a newer one, one above the latest. So of two that are made one after the other the second is the latest, whatever
    /// the clocks of their workers say, and no two have the same. Late attempts are passed over ([`VersionWanted::Token`]), and one that asks again has the same. A draw is remembered for ten leases; after that, and where
    /// the table was emptied, the copies that living GPUs have stand for it.
    async fn draw_tensor_version(&self, pool: &PoolName, draw: &VersionDraw) -> Result<u64, TableError>;

    /// Says that a GPU has these versions of tensors no more. Does nothing where another incarnation has the GPU, or where it has announced a newer version since.
    async fn withdraw_tensors(
        &self,
        pool: &PoolName,
        gpu_id: &GpuId,
        incarnation: &Incarnation,
        copies: &[(TensorName, u64)],
    ) -> Result<(), TableError>;

    /// The copies of these names that living GPUs have, of every version, by name, version and GPU.
    async fn find_tensors(&self, pool: &PoolName, names: &[TensorName]) -> Result<Vec<TensorRecord>, TableError>;

    /// The copies of tensors that living GPUs have, by name, version and GPU: those of at most `names_max` names that come after `after`. It costs as much as it
    /// gives, and one look at each row; on a server it takes more round trips where many names are those of GPUs that are gone.
    async fn tensors(&self, pool: &PoolName, after: Option<&TensorName>, names_max: usize) -> Result<Vec<TensorRecord>, TableError>;

    /// Whether the table answers.
    async fn ping(&self) -> Result<(), TableError>;

    /// Whether the table takes writes, asked the way that every claim goes: writes a mark of its own into this pool, which is gone after a few seconds. A server may
    /// answer and still refuse this (its memory is full, it is a replica, its disk fails).
    async fn probe(&self, pool: &PoolName) -> Result<(), TableError>;
}
