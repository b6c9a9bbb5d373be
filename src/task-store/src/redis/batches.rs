//! Batches on Redis: what splits them, ends their slices, and reads and forgets the results.

use std::sync::Arc;

use bytes::Bytes;
use protocol::{BodyHash, Slice, TaskId};
use redis_link::Item;

use super::{Arguments, RedisStore, answers::Answer, calls::Calls, keys::Keys, reply_bytes::ReplyBytes, split_lines};
use crate::{
    SliceRecord, SliceRecordRequest, SplitAnswer, SplitRequest, StoreError,
    slices::{fitting, is_cut},
};

const SPLIT: &str = "split a batch";
const RECORD: &str = "record a slice";
const RESULTS: &str = "read the results of slices";
const FORGET: &str = "forget the slices of a batch";

impl RedisStore {
    pub(super) async fn split_batch(&self, request: &SplitRequest) -> Result<SplitAnswer, StoreError> {
        if request.task_id.slice().is_some() {
            return Ok(SplitAnswer::Whole);
        }
        let slices = if is_cut(&request.slices) { names(&request.slices) } else { String::new() };
        let item = self.on_task("split", &request.task_id).with(request.body_hash.as_str()).with(self.options.outcome_retention_ms());
        let item = item.with(request.kind.as_str()).with(request.attempt).with_published(request.published_s);
        let item = item.with(slices).with(request.slices.last().map_or(0, |last| last.to));
        self.run(SPLIT, &request.task_id, item).await?.split()
    }

    pub(super) async fn record_slice_end(&self, request: &SliceRecordRequest) -> Result<SliceRecord, StoreError> {
        if request.task_id.slice().is_none() {
            return Ok(SliceRecord::Unwanted);
        }
        let bytes = request.results.len() as u64;
        let has_room = self.reply_bytes.admits_results(bytes);
        let token = request.token.map_or_else(String::new, |token| token.0.to_string());
        let item = self.on_any_task("record_slice", &request.task_id).with(request.body_hash.as_str());
        let item = item.with(self.options.outcome_retention_ms()).with(request.kind.as_str()).with(request.outcome.name());
        let item = item.with(request.attempt).with(token).with(BodyHash::of(&request.results).as_str()).with(request.items_failed);
        let item = if has_room { item.with(bytes).with_bytes(&request.results) } else { item.with("").with("") };
        let answer = self.calls.run(RECORD, item.0).await?;
        // Only where they were written by this call.
        if let Some(written_ms) = answer.optional::<u64>(5)? {
            self.reply_bytes.results_kept(written_ms, bytes);
        }
        let answer = answer.slice_record()?;
        if answer == SliceRecord::NoRoom {
            self.reply_bytes.results_refused();
        }
        Ok(answer)
    }

    pub(super) async fn results_from(&self, batch: &TaskId, from: u32, bytes_max: usize) -> Result<Vec<(Slice, Bytes)>, StoreError> {
        let answer = self.calls.run(RESULTS, self.on_task("slice_results", batch).with(from).0).await?;
        let sizes = answer.each(split_lines::size)?;
        let slices = fitting(sizes, bytes_max);
        if slices.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("HMGET");
        command.arg(self.keys.results(batch));
        for slice in &slices {
            command.arg(slice.to_string());
        }
        let results: Vec<Option<Vec<u8>>> = self.calls.query_large(RESULTS, &command).await?;
        // What is missing was forgotten meanwhile.
        Ok(slices.into_iter().zip(results).filter_map(|(slice, results)| Some((slice, Bytes::from(results?)))).collect())
    }

    pub(super) fn forget_later(&self, batch: &TaskId, keep_results: bool) {
        let readable_ms = if keep_results { self.options.reply_retention_ms() } else { 0 };
        let item = self.on_task("forget_slices", batch).with(readable_ms);
        let forgetting = Forgetting {
            on: OnSlices { calls: self.calls.clone(), keys: self.keys.clone(), batch: batch.clone(), operation: FORGET },
            item: item.0,
            reply_bytes: Arc::clone(&self.reply_bytes),
            keep_results,
        };
        tokio::spawn(forgetting.run());
    }

    /// Runs `reopen`, with the keys of the task's slices if it has some.
    pub(super) async fn reopen_all(&self, task_id: &TaskId, item: Arguments) -> Result<Answer, StoreError> {
        let (calls, keys) = (self.calls.clone(), self.keys.clone());
        let on = OnSlices { calls, keys, batch: task_id.clone(), operation: "reopen a task" };
        let answer = on.run(item.0).await?;
        if answer.word() == "open" {
            self.reply_bytes.results_gone(&answer.freed()?);
        }
        Ok(answer)
    }
}

/// A batch whose slices' keys are known to its record alone.
struct OnSlices {
    calls: Calls,
    keys: Keys,
    batch: TaskId,
    operation: &'static str,
}

impl OnSlices {
    /// Runs an item, and once more with the keys of the results and the slices where it was answered that there are some.
    async fn run(&self, item: Item) -> Result<Answer, StoreError> {
        let answer = self.calls.run(self.operation, item.clone()).await?;
        if answer.word() != "slices" {
            return Ok(answer);
        }
        let mut item = item;
        item.keys.push(self.keys.results(&self.batch));
        item.keys.extend(answer.slices()?.into_iter().map(|slice| self.keys.record(&self.batch.of_slice(slice))));
        self.calls.run(self.operation, item).await
    }
}

/// What goes on after [`TaskStore::forget_slices`](crate::TaskStore::forget_slices) has returned.
struct Forgetting {
    on: OnSlices,
    item: Item,
    reply_bytes: Arc<ReplyBytes>,
    keep_results: bool,
}

impl Forgetting {
    async fn run(self) {
        if let Err(error) = self.forget().await {
            tracing::debug!(%error, task_id = %self.on.batch, "the slices of a batch were not forgotten; they will expire");
        }
    }

    async fn forget(&self) -> Result<(), StoreError> {
        let answer = self.on.run(self.item.clone()).await?;
        if answer.word() == "forgotten" {
            let freed = answer.freed()?;
            self.reply_bytes.results_gone(&freed);
            if self.keep_results {
                // They are kept as long as a reply from now on.
                self.reply_bytes.kept(freed.iter().map(|(_, bytes)| *bytes).fold(0, u64::saturating_add));
            }
        }
        Ok(())
    }
}

/// The slices' names, in order, with spaces between.
fn names(slices: &[Slice]) -> String {
    let names: Vec<String> = slices.iter().map(Slice::to_string).collect();
    names.join(" ")
}
