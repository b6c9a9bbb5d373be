//! What slices and their batch have to do with each other. A slice has a record of its own, made when it begins; what it is at stands in its batch's record too.

use bytes::Bytes;
use protocol::{BodyHash, GpuId, ItemCounts, Slice, TaskId, TaskStatus};

use super::{
    record::{Ended, TaskRecord},
    split_batch::SplitBatch,
    state::State,
};
use crate::{
    Look, SliceRecord, SliceRecordRequest, SliceState, SplitAnswer, SplitRequest, StoreError,
    slices::{RESULT_BYTES_ALWAYS_KEPT, SliceNote, fitting, is_cut, items_of, within},
};

impl State {
    pub fn split(&mut self, request: &SplitRequest, now_us: u64) -> SplitAnswer {
        let now_ms = now_us / 1_000;
        if request.task_id.slice().is_some() {
            return SplitAnswer::Whole;
        }
        if let Some(record) = self.record(&request.task_id, now_ms) {
            match record.look(&request.body_hash, (request.attempt, request.published_s), now_ms) {
                Look::Open if record.begun.is_some() => return SplitAnswer::Whole,
                Look::Open => {}
                Look::Split(split) => return SplitAnswer::Split(split),
                look => return SplitAnswer::Not(look),
            }
        }
        if !is_cut(&request.slices) {
            return SplitAnswer::Whole;
        }
        let token = self.next_token(&request.task_id, now_us);
        let record = self.change(&request.task_id, now_ms);
        record.kind = Some(request.kind.clone());
        record.body_hash = Some(request.body_hash.clone());
        record.waiting_for = None;
        // A cancel that is there did not reach this task.
        record.cancelled = None;
        record.slices = Some(SplitBatch::new((request.attempt, token), &request.slices));
        record.split().map_or(SplitAnswer::Whole, SplitAnswer::Split)
    }

    pub fn record_slice(&mut self, request: &SliceRecordRequest, now_ms: u64) -> SliceRecord {
        let (batch, Some(slice)) = (request.task_id.batch(), request.task_id.slice()) else { return SliceRecord::Unwanted };
        self.drop_stale(&request.task_id, now_ms);
        let Some(note) = self.wanted(&request.task_id, now_ms).copied() else { return SliceRecord::Unwanted };
        if self.is_of_another_batch((&request.task_id, &request.body_hash), now_ms) {
            return SliceRecord::Unwanted;
        }
        if let Some(answer) = self.record(&request.task_id, now_ms).and_then(|record| record.refuses_slice(request)) {
            return answer;
        }
        if note.state != SliceState::Ended {
            let bytes = request.results.len() as u64;
            let with_it = self.totals.reply_bytes.saturating_add(bytes);
            if bytes > RESULT_BYTES_ALWAYS_KEPT && with_it > self.options.reply_bytes_max {
                return SliceRecord::NoRoom;
            }
            self.totals.reply_bytes = with_it;
            self.end_slice(request, slice, now_ms);
        }
        let split = self.record(&batch, now_ms).and_then(TaskRecord::split);
        split.map_or(SliceRecord::Unwanted, SliceRecord::Recorded)
    }

    fn end_slice(&mut self, request: &SliceRecordRequest, slice: Slice, now_ms: u64) {
        let record = self.change(&request.task_id, now_ms);
        record.kind = Some(request.kind.clone());
        record.body_hash = Some(request.body_hash.clone());
        record.waiting_for = None;
        record.ended = Some(Ended {
            outcome: request.outcome,
            attempt: request.attempt,
            token: request.token,
            digest: BodyHash::of(&request.results),
            body: None,
            published_to: None,
        });
        let note = SliceNote {
            slice,
            state: SliceState::Ended,
            done: slice.items(),
            failed: request.items_failed.min(slice.items()),
            result_bytes: request.results.len() as u64,
        };
        if let Some(batch) = self.change_note(&request.task_id, note, now_ms) {
            batch.results.insert(slice, request.results.clone());
        }
    }

    pub fn slice_results(&self, batch: &TaskId, (from, bytes_max): (u32, usize), now_ms: u64) -> Vec<(Slice, Bytes)> {
        let Some(split) = self.record(batch, now_ms).and_then(|record| record.slices.as_ref()) else { return Vec::new() };
        if split.results_until_ms.is_some_and(|until_ms| until_ms <= now_ms) {
            return Vec::new();
        }
        let kept = || split.results.iter().filter(|(slice, _)| slice.to > from);
        let fits = fitting(kept().map(|(slice, results)| (*slice, results.len() as u64)), bytes_max);
        kept().take(fits.len()).map(|(slice, results)| (*slice, results.clone())).collect()
    }

    pub fn forget_slices(&mut self, batch: &TaskId, keep_results: bool, now_ms: u64) {
        let has_ended = self.record(batch, now_ms).is_some_and(|record| record.ended.is_some());
        if !has_ended {
            return;
        }
        self.remove_slices(batch);
        if !keep_results {
            self.drop_results(batch);
            if let Some(split) = self.split_batch_mut(batch) {
                split.notes.clear();
            }
            return;
        }
        let until_ms = now_ms.saturating_add(self.options.reply_retention_ms());
        if let Some(split) = self.split_batch_mut(batch).filter(|split| split.results_until_ms.is_none() && !split.notes.is_empty()) {
            split.results_until_ms = Some(until_ms);
            self.results_due.set(batch, None, until_ms);
        }
    }

    /// The status of any task; `None` if there is none to show.
    pub fn status(&mut self, task_id: &TaskId, now_ms: u64) -> Option<Result<TaskStatus, StoreError>> {
        self.drop_stale(task_id, now_ms);
        let known = self.record(task_id, now_ms).filter(|record| record.shows());
        known.map(|record| record.status(task_id, now_ms)).or_else(|| self.status_of_fresh_slice(task_id, now_ms))
    }

    /// The status of a slice that has not begun, as far as its batch tells.
    fn status_of_fresh_slice(&self, task_id: &TaskId, now_ms: u64) -> Option<Result<TaskStatus, StoreError>> {
        let note = self.wanted(task_id, now_ms)?;
        let batch = self.record(&task_id.batch(), now_ms).filter(|_| note.state == SliceState::Waiting)?;
        let (kind, first_seen_ms, changed_ms) = (batch.kind.clone(), batch.first_seen_ms, batch.changed_ms);
        let fresh = TaskRecord { kind, first_seen_ms, changed_ms, ..TaskRecord::default() };
        Some(fresh.status(task_id, now_ms))
    }

    /// What its batch has against running a slice with a body of this hash, as [`State::against_slice`] says it.
    pub fn against_slice_of(&mut self, (task_id, body_hash): (&TaskId, &BodyHash), now_ms: u64) -> Option<Look> {
        if self.is_of_another_batch((task_id, body_hash), now_ms) {
            return Some(Look::Unwanted);
        }
        self.against_slice(task_id, now_ms)
    }

    /// Whether it is a slice of a batch that had the id of a known one before.
    fn is_of_another_batch(&self, (task_id, body_hash): (&TaskId, &BodyHash), now_ms: u64) -> bool {
        let batch = task_id.slice().and_then(|_| self.record(&task_id.batch(), now_ms)?.body_hash.as_ref());
        batch.is_some_and(|batch| !body_hash.may_be_of(batch))
    }

    /// What its batch has against running a slice; `None` if nothing, and of any other task. Takes away what is left of it from an earlier life of its batch.
    pub fn against_slice(&mut self, task_id: &TaskId, now_ms: u64) -> Option<Look> {
        task_id.slice()?;
        self.drop_stale(task_id, now_ms);
        let Some(note) = self.wanted(task_id, now_ms) else { return Some(Look::Unwanted) };
        if self.record(&task_id.batch(), now_ms).is_some_and(|batch| batch.cancelled.is_some()) {
            return Some(Look::Cancelled);
        }
        // Its own record was forgotten sooner than its batch's, which others go on changing.
        let has_ended = self.record(task_id, now_ms).is_some_and(|record| record.ended.is_some());
        (note.state == SliceState::Ended && !has_ended).then_some(Look::Unwanted)
    }

    /// What the batch has written of one of its slices, if it is known, has not ended, and was split into this one.
    fn wanted(&self, task_id: &TaskId, now_ms: u64) -> Option<&SliceNote> {
        let slice = task_id.slice()?;
        let batch = self.record(&task_id.batch(), now_ms).filter(|batch| batch.ended.is_none())?;
        batch.slices.as_ref()?.note(slice)
    }

    /// Removes the record of a slice that ended in an earlier life of its batch, of which only this is left.
    pub fn drop_stale(&mut self, task_id: &TaskId, now_ms: u64) {
        let Some(note) = self.wanted(task_id, now_ms) else { return };
        let runs_again = note.state != SliceState::Ended;
        if runs_again && self.record(task_id, now_ms).is_some_and(|record| record.ended.is_some()) {
            self.remove(task_id);
        }
    }

    /// A slice began on this GPU. Nothing of any other task, as with what follows.
    pub fn slice_began(&mut self, task_id: &TaskId, gpu_id: &GpuId, now_ms: u64) {
        let Some(slice) = task_id.slice() else { return };
        if let Some(batch) = self.change_note(task_id, SliceNote::fresh(slice, SliceState::Running), now_ms) {
            batch.gpu_id = Some(gpu_id.clone());
        }
    }

    /// A slice no longer runs, and is to run again or to end without a run.
    pub fn slice_waits(&mut self, task_id: &TaskId, now_ms: u64) {
        if let Some(slice) = task_id.slice() {
            self.change_note(task_id, SliceNote::fresh(slice, SliceState::Waiting), now_ms);
        }
    }

    /// Something was written of a slice that changes nothing of what it is at: its batch lives on.
    pub fn slice_stays(&mut self, task_id: &TaskId, now_ms: u64) {
        if let Some(note) = self.wanted(task_id, now_ms).copied() {
            self.change_note(task_id, note, now_ms);
        }
    }

    /// A slice that runs said how many of its items have ended. How far its whole batch is.
    pub fn slice_progressed(&mut self, task_id: &TaskId, items: Option<ItemCounts>, now_ms: u64) -> Option<ItemCounts> {
        let slice = task_id.slice()?;
        let before = *self.wanted(task_id, now_ms)?;
        let (done, failed) = items.map_or((before.done, before.failed), |items| within(items, slice));
        let note = SliceNote { done, failed, ..SliceNote::fresh(slice, SliceState::Running) };
        self.change_note(task_id, note, now_ms).map(|batch| items_of(&batch.notes))
    }

    /// Writes what a slice is at into the record of its batch, if that wants it, and counts that one's expiry from now. Nothing else is written of a slice that has ended.
    fn change_note(&mut self, task_id: &TaskId, note: SliceNote, now_ms: u64) -> Option<&mut SplitBatch> {
        self.wanted(task_id, now_ms).filter(|before| before.state != SliceState::Ended)?;
        let batch = self.change(&task_id.batch(), now_ms).slices.as_mut()?;
        *batch.note_mut(note.slice)? = note;
        Some(batch)
    }

    fn split_batch_mut(&mut self, batch: &TaskId) -> Option<&mut SplitBatch> {
        self.records.get_mut(batch)?.slices.as_mut()
    }

    /// Removes the records of a batch's slices.
    pub fn remove_slices(&mut self, batch: &TaskId) {
        let notes = self.split_batch_mut(batch).map(|split| split.notes.clone()).unwrap_or_default();
        for note in notes {
            self.remove(&batch.of_slice(note.slice));
        }
    }

    /// Gives back what the results of a batch's slices occupy.
    pub fn drop_results(&mut self, batch: &TaskId) {
        let Some(split) = self.split_batch_mut(batch) else { return };
        let until_ms = split.results_until_ms;
        let bytes: u64 = std::mem::take(&mut split.results).values().map(|results| results.len() as u64).sum();
        self.totals.reply_bytes -= bytes;
        self.results_due.clear(batch, until_ms);
    }
}
