//! The port: what can be asked of and written to a task's record.

use async_trait::async_trait;
use bytes::Bytes;
use protocol::{BodyHash, DeliveryId, Fraction, GpuId, Incarnation, ItemCounts, Kind, Outcome, PoolName, Slice, TaskId, TaskStatus, Token};

use redis_link::{Ridden, Rider};

use crate::{Crash, GroupStore, Holder, Journal, SliceRecord, SliceRecordRequest, Split, SplitAnswer, SplitRequest, StoreError, Verdict};

/// The store's answer to [`TaskStore::submitted`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submission {
    /// No task of this id was known: the id is this one's from now on, and it waits. [`TaskStore::forget`] takes that back.
    Noted,
    /// This very task is known already: nothing changed. Publishing it once more is harmless. [`TaskStore::forget`] takes back that this one was noted too.
    Known,
    /// The id belongs to a task with another body or of another kind: nothing changed. This one must not be published.
    Other,
}

/// A task that must not begin before a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelayRequest {
    /// The task.
    pub task_id: TaskId,
    /// Its kind.
    pub kind: Kind,
    /// Its body's hash.
    pub body_hash: BodyHash,
    /// That time in Unix ms, as its producer said it: only shown.
    pub not_before_ms: u64,
    /// How long it is from now, in ms, by the clock of who asks: the store's own may differ.
    pub left_ms: u64,
}

/// What is asked before anything is done with a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookRequest {
    /// The task.
    pub task_id: TaskId,
    /// Its body's hash.
    pub body_hash: BodyHash,
    /// The attempt.
    pub attempt: u32,
    /// When its message was published; see [`BeginRequest::published_s`].
    pub published_s: Option<u64>,
}

/// A task's record before anything is done with a delivery of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing stands against running it.
    Open,
    /// An attempt of it began, and no end of it is known. Only [`TaskStore::look`] says so; [`TaskStore::begin`] answers [`Begin::Unfinished`].
    Unfinished(Holder),
    /// It ended; here is its reply's body, if still kept. Of a slice without one: its results are its batch's.
    Ended(Stored),
    /// A cancel was asked for that reaches this task (perhaps before the task was ever seen): record `cancelled`, run nothing.
    Cancelled,
    /// This attempt ended, and the next one was recorded as due: publish that retry (again), run nothing.
    Retried(Retry),
    /// The id is in use for a body with another hash.
    ReusedId,
    /// It is a batch that was split and has not ended: its slices run in its place, and nobody begins or fences it. (One that was cancelled since answers [`Look::Cancelled`] to
    /// all but a fence.)
    Split(Split),
    /// It is a slice, and its batch wants nothing of it: that one ended, was cut otherwise, has another body than its hash says ([`BodyHash::of_slice`]), or is not known; or the slice ended so long ago that only its batch remembers. Run
    /// nothing, record nothing. (A batch that was cancelled and has not ended answers [`Look::Cancelled`] for each of its slices, those that ended included: whoever finds that
    /// first ends the batch.)
    Unwanted,
}

/// An attempt that is due after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Which attempt.
    pub attempt: u32,
    /// The pause, in ms.
    pub after_ms: u64,
}

/// An attempt that failed and is to be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryRequest {
    /// The task.
    pub task_id: TaskId,
    /// Its body's hash.
    pub body_hash: BodyHash,
    /// The attempt that failed.
    pub attempt: u32,
    /// The token of the claim it ran under.
    pub token: Token,
    /// Its error, for people.
    pub error: String,
    /// The pause before the next attempt, in ms.
    pub after_ms: u64,
}

/// The store's answer to [`TaskStore::retry`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryAnswer {
    /// The next attempt is due: publish it. Also the answer if this attempt's retry had been recorded, with what was recorded then.
    Due(Retry),
    /// No next attempt: the task ended, was cancelled, or the id is another's. See [`Look`].
    Not(Look),
    /// Refused: an attempt with a higher token began. Publish nothing; its holder will.
    Superseded,
}

/// The store's answer to [`TaskStore::reopen`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reopen {
    /// Nothing stands against running it again.
    Open,
    /// It has not ended yet; nothing changed.
    NotEnded,
    /// The id belongs to a task with another body; nothing changed.
    ReusedId,
}

/// How far a cancel reaches whose id no task had until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// To what was published before it, or in the same second: a task of the id that waits in a queue. The store knows of such a task once a worker has looked at
    /// it.
    Published,
    /// Also to what is published later, for as long as the record is kept.
    Ahead,
}

impl Reach {
    /// What a cancel of this reach that was answered [`Cancel::Unseen`] means, for people.
    #[must_use]
    pub const fn note(self) -> &'static str {
        match self {
            Self::Published => {
                "no task of this id has been seen; one that waits in a queue is cancelled when its turn comes; one that is submitted from now on is not"
            }
            Self::Ahead => {
                "no task of this id has been seen; one that waits in a queue, or is submitted later, is cancelled when its turn comes"
            }
        }
    }
}

/// The store's answer to [`TaskStore::cancel`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancel {
    /// It had not begun, or waits for its next attempt: it will be skipped.
    Waiting,
    /// It runs on this GPU, whose worker will be told. Of a batch that was split: some slice runs, and the one that began last did on this GPU.
    Running(GpuId),
    /// It had ended already; nothing changed.
    Ended(Outcome),
    /// The store never heard of a task of this id. One that comes within the cancel's [`Reach`] will be skipped.
    Unseen,
}

/// A recorded outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// How it ended.
    pub outcome: Outcome,
    /// The reply's body; `None` once its retention or the bound on bytes has taken it.
    pub body: Option<Bytes>,
    /// The attempt that ended it.
    pub attempt: u32,
    /// The token under which it was recorded.
    pub token: Option<Token>,
    /// To whom the reply was first published, as [`TaskStore::note_published`] was told; `None` if that is not known to have happened.
    pub published_to: Option<String>,
}

/// An attempt that is about to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeginRequest {
    /// The task.
    pub task_id: TaskId,
    /// Its body's hash.
    pub body_hash: BodyHash,
    /// Its kind.
    pub kind: Kind,
    /// The attempt.
    pub attempt: u32,
    /// The GPU that runs it.
    pub gpu_id: GpuId,
    /// Its worker's incarnation.
    pub incarnation: Incarnation,
    /// The delivery in that worker's hand.
    pub delivery: DeliveryId,
    /// Nothing else runs on the GPU.
    pub alone: bool,
    /// What became of the holder that [`Begin::Unfinished`] named, if it did.
    pub verdict: Option<Verdict>,
    /// After so many crashes, the last of them alone on a GPU, the task does not begin again.
    pub crashes_max: u32,
    /// When its message was published, in Unix seconds, rounded down, as AMQP's `timestamp` has it: a cancel that came before, while no task had the id, is not meant
    /// for it. `None`, and a time more than a day ahead of the store's clock: that is not known, and every cancel counts.
    pub published_s: Option<u64>,
}

/// The store's answer to [`TaskStore::begin`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// Run it, under this token: above every earlier one of the task. Also the answer, with the same token, if this delivery's attempt had begun.
    Begun(Token),
    /// Do not run it: see [`Look`].
    Not(Look),
    /// Not yet: another delivery began this attempt, and no end of it is known. Ask again with a [`Verdict`].
    Unfinished(Holder),
    /// Not yet: a worker crashed while it ran this task. Ask again once the GPU is free of other tasks.
    Suspect,
    /// Never: its crashes are used up; all of them, oldest first. The answer of every later begin too.
    Condemned(Vec<Crash>),
}

/// A task that is to end without a run, although an attempt of it once began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceRequest {
    /// The task.
    pub task_id: TaskId,
    /// Its body's hash.
    pub body_hash: BodyHash,
    /// The attempt that ends it.
    pub attempt: u32,
    /// The GPU whose worker asks.
    pub gpu_id: GpuId,
    /// That worker's incarnation.
    pub incarnation: Incarnation,
    /// What became of the holder that [`Fence::Unfinished`] named, if it did.
    pub verdict: Option<Verdict>,
}

/// The store's answer to [`TaskStore::fence`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fence {
    /// From now on the outcome of every attempt that began is refused; one with this token is taken.
    Fenced(Token),
    /// Not yet: an attempt began, and no end of it is known. Ask again with a [`Verdict`].
    Unfinished(Holder),
    /// It ended before, or the id is another's. See [`Look`].
    Not(Look),
}

/// How far a running attempt is.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgressRequest {
    /// The task.
    pub task_id: TaskId,
    /// The token of the claim it runs under.
    pub token: Token,
    /// The share of the work that is done.
    pub fraction: Fraction,
    /// What it does now, for people.
    pub message: Option<String>,
    /// Of a batch or a slice: how many of its own items have ended in this attempt. Without it, the batch of a slice goes by what was noted before.
    pub items: Option<ItemCounts>,
}

/// The store's answer to [`TaskStore::progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressAnswer {
    /// It shows from now on; what was noted before is overwritten. Of a slice: how far its whole batch is.
    Noted(Option<ItemCounts>),
    /// Nothing was written: no attempt runs under this token. The task ended, waits for its next attempt, or an attempt with a higher token began; or a slice's batch wants nothing
    /// of it ([`Look::Unwanted`]).
    Refused,
}

/// An outcome to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRequest {
    /// The task.
    pub task_id: TaskId,
    /// Its body's hash.
    pub body_hash: BodyHash,
    /// Its kind, where it had a valid one.
    pub kind: Option<Kind>,
    /// How it ended.
    pub outcome: Outcome,
    /// The attempt that ended it.
    pub attempt: u32,
    /// The token of the claim it ran under; `None` where it never ran (refused, expired, cancelled).
    pub token: Option<Token>,
    /// The reply's body, kept for re-sending.
    pub reply: Bytes,
}

/// The store's answer to [`TaskStore::record`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// This outcome is the task's; publish the given reply. Also the answer if this very outcome (same attempt, token, bytes) had been recorded.
    Recorded,
    /// Another outcome had been recorded: publish that one's body instead.
    EndedBefore(Stored),
    /// Refused: an attempt with a higher token began. Publish nothing; its holder will.
    Superseded,
}

/// A GPU's queue, announced durably so that it can be emptied when its GPU is gone for good and the table with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KnownGpu {
    /// The GPU.
    pub gpu_id: GpuId,
    /// Its pool.
    pub pool: PoolName,
    /// When it was last announced, in Unix milliseconds of the store's clock.
    pub announced_ms: u64,
}

/// What the store has counted and holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of reply bodies and results of slices kept now (an estimate that lags by seconds).
    pub reply_bytes: u64,
    /// Replies whose body was not kept because of the bound.
    pub replies_not_kept: u64,
}

/// What became of each task.
///
/// Every operation is atomic on one task's record, idempotent, and one round trip. Records expire: reply bodies after `reply_retention`, outcomes
/// after `outcome_retention`, records of tasks that never ended after `outcome_retention` from their last change, or from when they are due, if that is later. A change of a slice
/// is one of its batch's record too; the results of slices live as long as that.
#[async_trait]
pub trait TaskStore: Send + Sync + 'static {
    /// Notes that a producer is about to publish a task: its status is `waiting` from now on, and its id belongs to this body and kind. Does nothing if a task of the
    /// id is known. A cancel of the id that came before any task of it, without [`Reach::Ahead`], does not count for this one.
    async fn submitted(&self, task_id: &TaskId, kind: &Kind, body_hash: &BodyHash) -> Result<Submission, StoreError>;

    /// Takes one [`TaskStore::submitted`] back, that answered `Noted` or `Known`, when the publish was refused. The task is unknown again once none is left that was not
    /// taken back. Does nothing once anything else was written.
    async fn forget(&self, task_id: &TaskId) -> Result<(), StoreError>;

    /// Notes that a task must not begin before a time: its status is `delayed` until then, which is computed and not written, and its record lives until then and for its
    /// retention after that. Does nothing once an attempt of it began or it ended, and where the id belongs to another task. What [`TaskStore::submitted`] noted can still be
    /// taken back. The latest note counts.
    async fn delayed(&self, request: &DelayRequest) -> Result<(), StoreError>;

    /// Looks before anything is done with a delivery of this attempt.
    async fn look(&self, request: &LookRequest) -> Result<Look, StoreError>;

    /// [`TaskStore::look`] for a delivery whose task has probably been answered: what it says of one that ended may lack the reply, which may be large.
    async fn look_briefly(&self, request: &LookRequest) -> Result<Look, StoreError> {
        self.look(request).await
    }

    /// Splits a batch, in place of its beginning. From then on, until the batch has ended, look, begin, fence, hand_back, progress, retry, waits_for, cancel_asked and status take each of its
    /// slices ([`TaskId::of_slice`]) as a task, whose record is made when it begins. Idempotent: the cut that was recorded first stays, whatever is asked for later.
    async fn split(&self, request: &SplitRequest) -> Result<SplitAnswer, StoreError>;

    /// Records how a slice ended, and keeps its results until its batch has ended and [`TaskStore::forget_slices`] is called, or until the batch's record expires. The first record
    /// is final. The batch itself is ended by [`TaskStore::record`], without a token.
    async fn record_slice(&self, request: &SliceRecordRequest) -> Result<SliceRecord, StoreError>;

    /// The kept results of slices that have ended and have items from `from` on, in order; of many as many as fit `bytes_max`, but at least one. Empty if there are none.
    async fn slice_results(&self, batch: &TaskId, from: u32, bytes_max: usize) -> Result<Vec<(Slice, Bytes)>, StoreError>;

    /// Forgets the slices of a batch that has ended, and their results unless these are to be read in pieces: then they are kept as long as a reply from now on. Does nothing where
    /// the batch has not ended. Nobody waits for it; what it misses expires. Needs a tokio runtime.
    fn forget_slices(&self, batch: &TaskId, keep_results: bool);

    /// An attempt begins. Compare-and-set against cancellation: after `Begun` a cancel finds the task running, and one that did not reach it is gone.
    async fn begin(&self, request: &BeginRequest) -> Result<Begin, StoreError>;

    /// [`TaskStore::begin`] as an operation that another back end's call may take along; `None`: it cannot.
    fn begin_rider(&self, _request: &BeginRequest) -> Option<Rider> {
        None
    }

    /// What the taken along beginning of a task was answered.
    async fn begin_ridden(&self, _task_id: &TaskId, ridden: Ridden) -> Result<Begin, StoreError> {
        Err(StoreError::Garbled { operation: "begin an attempt", answer: format!("nothing was taken along: {ridden:?}") })
    }

    /// Gives out a token above that of every attempt that began, for a task that is to end without a run.
    async fn fence(&self, request: &FenceRequest) -> Result<Fence, StoreError>;

    /// The attempt under `token` was stopped by its own worker (drain) and is nobody's crash. Does nothing once a higher token began or the task ended.
    async fn hand_back(&self, task_id: &TaskId, token: Token) -> Result<(), StoreError>;

    /// Notes how far a running attempt is; the last note wins. It shows while that attempt runs. Takes nothing from the task's life: it may fail, be late
    /// or never come.
    async fn progress(&self, request: &ProgressRequest) -> Result<ProgressAnswer, StoreError>;

    /// Records how the task ended. The first record is final.
    async fn record(&self, request: &RecordRequest) -> Result<Record, StoreError>;

    /// Records that an attempt failed and the next one is due. Comes before that one is published, so that a crash between leads to the same publish.
    async fn retry(&self, request: &RetryRequest) -> Result<RetryAnswer, StoreError>;

    /// Forgets a task that ended, with its attempts, crashes, cancels, slices and their results, so that it can be published again: an operator's decision. The store then knows nothing of
    /// its first life; a second reply will follow.
    async fn reopen(&self, task_id: &TaskId, body_hash: &BodyHash) -> Result<Reopen, StoreError>;

    /// Asks for a task's end. Compare-and-set against `begin`. Asking again for the end of a known task changes nothing; of an id that no task has, the latest time
    /// counts, and the farthest reach. What is known of a task is cancelled whatever `reach` says.
    async fn cancel(&self, task_id: &TaskId, reach: Reach) -> Result<Cancel, StoreError>;

    /// Whether a cancel was asked for since the task began. Of a slice also whether its batch wants nothing more of it ([`Look::Unwanted`]) or was cancelled.
    async fn cancel_asked(&self, task_id: &TaskId) -> Result<bool, StoreError>;

    /// Notes that the reply was published, and to whom (the first time; later copies change nothing). Nobody waits for it: it travels with what goes anyway, and may get
    /// lost.
    fn note_published(&self, task_id: &TaskId, to: &str);

    /// Notes why a task waits, for `why`. Does nothing once it ended.
    async fn waits_for(&self, task_id: &TaskId, kind: &Kind, reason: &str) -> Result<(), StoreError>;

    /// A task's status; `None` if the store never heard of it (or has forgotten it). A cancel of an id that no task has shows only if it reaches ahead.
    async fn status(&self, task_id: &TaskId) -> Result<Option<TaskStatus>, StoreError>;

    /// What became of groups of tasks.
    fn groups(&self) -> &dyn GroupStore;

    /// What the fleet remembers of its course.
    fn journal(&self) -> &dyn Journal;

    /// Announces a GPU's queue.
    async fn announce(&self, gpu_id: &GpuId, pool: &PoolName) -> Result<(), StoreError>;

    /// Every announced GPU, sorted by id.
    async fn announced(&self) -> Result<Vec<KnownGpu>, StoreError>;

    /// Takes an announcement back, once the queue is deleted. Does nothing if it was repeated after `announced_ms`.
    async fn withdraw(&self, gpu: &KnownGpu) -> Result<(), StoreError>;

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Whether the store takes writes, asked the way that every submit goes: writes a mark of its own, which is gone after a few seconds. A server may answer and still
    /// refuse this (its memory is full, it is a replica, its disk fails).
    async fn probe(&self) -> Result<(), StoreError>;
}
