//! What a batch's record has of its slices.

use std::collections::BTreeMap;

use bytes::Bytes;
use protocol::{GpuId, Slice, Token};

use crate::{SliceState, slices::SliceNote};

/// A batch that was split.
#[derive(Debug)]
pub struct SplitBatch {
    /// The attempt that was split.
    pub attempt: u32,
    /// Which split it is.
    pub token: Token,
    /// The GPU whose slice began last.
    pub gpu_id: Option<GpuId>,
    /// Each slice, in order; none once they are forgotten.
    pub notes: Vec<SliceNote>,
    /// The results of slices that have ended.
    pub results: BTreeMap<Slice, Bytes>,
    /// Until when the results can be read, in Unix ms, once the batch has ended and was merged.
    pub results_until_ms: Option<u64>,
}

impl SplitBatch {
    pub fn new((attempt, token): (u32, Token), slices: &[Slice]) -> Self {
        let notes = slices.iter().map(|slice| SliceNote::fresh(*slice, SliceState::Waiting)).collect();
        Self { attempt, token, gpu_id: None, notes, results: BTreeMap::new(), results_until_ms: None }
    }

    /// What is written of a slice, if it was split into that.
    pub fn note(&self, slice: Slice) -> Option<&SliceNote> {
        self.notes.iter().find(|note| note.slice == slice)
    }

    /// The same, to be changed.
    pub fn note_mut(&mut self, slice: Slice) -> Option<&mut SliceNote> {
        self.notes.iter_mut().find(|note| note.slice == slice)
    }
}
