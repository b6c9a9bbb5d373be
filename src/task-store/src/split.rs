//! Words of the port for batches that are split: see [`TaskStore::split`](crate::TaskStore::split).

use bytes::Bytes;
use protocol::{BodyHash, Kind, Outcome, Slice, TaskId, Token};

use crate::Look;

/// What the slices of a batch are at, in the order of their items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Each slice and its state. Never empty.
    pub slices: Vec<(Slice, SliceState)>,
    /// What the results that are kept take together, in bytes.
    pub result_bytes: u64,
    /// How many items of ended slices failed.
    pub items_failed: u32,
    /// The hash of the batch's body: whoever merges knows only a slice's, and records the batch's outcome under this one.
    pub body_hash: BodyHash,
    /// The batch's attempt that was split.
    pub attempt: u32,
    /// Which split of the batch it is, given out as the token of an attempt is: above that of every earlier one, also across a loss of the store, and not below the store's clock in
    /// microseconds. A copy of the batch's message that names it says how far the slices of this split were published.
    pub token: Token,
}

impl Split {
    /// Whether every slice has ended: the batch is to be merged.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.slices.iter().all(|(_, state)| *state == SliceState::Ended)
    }

    /// Its slices that have not ended.
    pub fn open(&self) -> impl Iterator<Item = Slice> {
        self.slices.iter().filter(|(_, state)| *state != SliceState::Ended).map(|(slice, _)| *slice)
    }
}

/// What a slice is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SliceState {
    /// It waits for a slot, or for another try.
    Waiting,
    /// An attempt of it runs.
    Running,
    /// It has ended, and its results are kept.
    Ended,
}

/// A batch that is to be split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitRequest {
    /// The batch.
    pub task_id: TaskId,
    /// Its body's hash.
    pub body_hash: BodyHash,
    /// Its kind.
    pub kind: Kind,
    /// The attempt.
    pub attempt: u32,
    /// When its message was published; see [`BeginRequest::published_s`](crate::BeginRequest::published_s).
    pub published_s: Option<u64>,
    /// The slices that it is to be cut into: neighbours, in order, from item 0 on.
    pub slices: Vec<Slice>,
}

/// The store's answer to [`TaskStore::split`](crate::TaskStore::split).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SplitAnswer {
    /// It is split: into the given slices, or into those that were recorded before.
    Split(Split),
    /// An attempt of it began once, or the slices asked for are no cut of a batch (none, more than [`SLICES_MAX`](protocol::batch::SLICES_MAX), or not neighbours from item 0 on), or
    /// it is a slice itself: it runs whole.
    Whole,
    /// It is not to be split: see [`Look`].
    Not(Look),
}

/// How a slice ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceRecordRequest {
    /// The slice.
    pub task_id: TaskId,
    /// Its body's hash ([`BodyHash::of_slice`]).
    pub body_hash: BodyHash,
    /// Its kind.
    pub kind: Kind,
    /// How it ended.
    pub outcome: Outcome,
    /// The attempt that ended it.
    pub attempt: u32,
    /// The token of the claim it ran under; `None` where it never ran.
    pub token: Option<Token>,
    /// How many of its items failed; all of them at most.
    pub items_failed: u32,
    /// The results of its items: [`SliceResults`](protocol::SliceResults) as bytes.
    pub results: Bytes,
}

/// The store's answer to [`TaskStore::record_slice`](crate::TaskStore::record_slice).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SliceRecord {
    /// It has ended: so, or as was recorded before. What the batch's slices are at now: if all have ended, merge. Also where the batch was cancelled meanwhile.
    Recorded(Split),
    /// Refused: an attempt with a higher token began, and its holder records; or the id belongs to a body with another hash.
    Superseded,
    /// Its batch wants nothing of it any more; see [`Look::Unwanted`]. Also the answer for what is no slice, or one of another batch.
    Unwanted,
    /// The results have no room within the store's bound on bytes; nothing changed. Record results that say so in their place: 256 bytes always have room.
    NoRoom,
}
