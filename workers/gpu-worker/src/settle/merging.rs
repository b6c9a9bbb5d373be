//! The end of a batch that was split: its slices' results become one reply.
//!
//! Whoever finds that all slices have ended merges. Two may find it (the one that ended the last slice, and the copy of the batch that goes round; or somebody after a crash): the first record is
//! final, and the other one publishes what that one recorded.

use std::collections::BTreeSet;

use bytes::Bytes;
use protocol::{ErrorCode, GpuId, ItemCounts, ItemResult, Json, Slice, SliceResults, TaskError, batch, reply::Timings};
use task_store::{Look, Split};

use super::{
    carry_out::{Ack, Settling},
    reply::{self, Kept},
    slices,
};
use crate::{disposition::End, ports::Abandoned};

/// How much of the results is asked of the store at a time, in bytes.
const STEP_BYTES: usize = 1024 * 1024;

/// Records the batch's outcome, publishes its reply and acks the delivery in hand, the batch's own or that of one of its slices.
pub(super) async fn merge(batch: &Settling<'_>, split: &Split, ack: Ack) -> Result<(), Abandoned> {
    let end = if slices::fails_at_once(batch, split) { failed(batch, split).await? } else { merged(batch, split).await? };
    match end {
        Some(end) => batch.end_task(end, None, ack).await,
        None => without_all(batch, split, ack).await,
    }
}

/// The results were not all there: somebody else has merged by now, or nobody can any more.
async fn without_all(batch: &Settling<'_>, split: &Split, ack: Ack) -> Result<(), Abandoned> {
    match batch.context.ports.look(&batch.identity).await? {
        Look::Ended(stored) => batch.ended_before(stored, ack).await,
        Look::Split(again) if again.token == split.token && again.is_complete() => {
            let message = "the results of its slices are no longer kept, so that they cannot be put together";
            batch.end_task(End::by(TaskError::new(ErrorCode::ReplyNotKept, message)), None, ack).await
        }
        // A slice is of no use to a batch that begins anew or is cancelled.
        _ if batch.in_hand.envelope.headers.slice.is_some() => {
            batch.ack(ack).await;
            Ok(())
        }
        _ => batch.park(batch.lease()).await,
    }
}

/// All results in order. `None`: some are missing.
async fn merged(batch: &Settling<'_>, split: &Split) -> Result<Option<End>, Abandoned> {
    let of = batch.items.map_or(0, |items| items.count);
    let mut sum = Sum::new(batch.context.me.options.intake.body_bytes_max, split.items_failed >= of);
    while sum.next < of {
        let read = batch.context.ports.slice_results(&batch.identity.task_id, sum.next, STEP_BYTES).await?;
        if read.is_empty() {
            return Ok(None);
        }
        for (slice, kept) in read {
            if slice.from != sum.next {
                return Ok(None);
            }
            sum.add(slice, &kept);
        }
    }
    Ok(Some(sum.into_end(ItemCounts { of, done: of, failed: Some(split.items_failed) }, batch.identity.task_id.as_str())))
}

/// The error of the first item that failed, as far as slices have ended. `None`: none is kept.
async fn failed(batch: &Settling<'_>, split: &Split) -> Result<Option<End>, Abandoned> {
    let mut next = 0;
    loop {
        let read = batch.context.ports.slice_results(&batch.identity.task_id, next, STEP_BYTES).await?;
        let Some((last, _)) = read.last().filter(|(last, _)| last.to > next) else { return Ok(None) };
        next = last.to;
        if let Some(error) = read.iter().find_map(|(slice, kept)| first_error(&results(*slice, kept).results)) {
            let ended = split.slices.iter().filter(|(_, state)| *state == task_store::SliceState::Ended);
            let done = ended.map(|(slice, _)| slice.items()).sum();
            let of = batch.items.map_or(0, |items| items.count);
            return Ok(Some(End { items: Some(ItemCounts { of, done, failed: Some(split.items_failed) }), ..End::by(error) }));
        }
    }
}

fn first_error(results: &Json) -> Option<TaskError> {
    let results: Vec<ItemResult> = results.to().ok()?;
    results.into_iter().find_map(|item| item.error)
}

/// What the store kept of a slice.
fn results(slice: Slice, kept: &Bytes) -> SliceResults {
    match SliceResults::read(kept) {
        Ok(read) => read.listed(slice),
        Err(error) => {
            tracing::error!(%slice, %error, "what the store kept of a slice cannot be read");
            let error = TaskError::new(ErrorCode::ReplyNotKept, "what was kept of the result cannot be read");
            SliceResults { gpu_id: None, run_ms: 0.0, device_ms: None, batch_size: None, results: slices::failed_together(slice, &error) }
        }
    }
}

/// The results of slices, put together one after the other.
struct Sum {
    /// The first item that is missing.
    next: u32,
    /// Those that are there, unless they take more than the bound.
    lists: Vec<Json>,
    bytes: usize,
    bound: usize,
    gpu_ids: BTreeSet<GpuId>,
    run_ms: f64,
    device_ms: Option<f64>,
    batch_size: Option<u32>,
    /// Where every item failed: the first one's error, which is the batch's.
    all_failed: bool,
    error: Option<TaskError>,
}

impl Sum {
    fn new(bound: usize, all_failed: bool) -> Self {
        let (lists, gpu_ids) = (Vec::new(), BTreeSet::new());
        Self { next: 0, lists, bytes: 0, bound, gpu_ids, run_ms: 0.0, device_ms: None, batch_size: None, all_failed, error: None }
    }

    fn add(&mut self, slice: Slice, kept: &Bytes) {
        let SliceResults { gpu_id, run_ms, device_ms, batch_size, results } = results(slice, kept);
        self.next = slice.to;
        self.gpu_ids.extend(gpu_id);
        self.run_ms = self.run_ms.max(run_ms);
        self.device_ms = match (self.device_ms, device_ms) {
            (Some(sum), Some(more)) => Some(sum + more),
            (sum, more) => sum.or(more),
        };
        self.batch_size = self.batch_size.max(batch_size);
        if self.all_failed && self.error.is_none() {
            self.error = first_error(&results);
        }
        self.bytes = self.bytes.saturating_add(results.as_bytes().len());
        if self.bytes > self.bound {
            self.lists = Vec::new();
        } else {
            self.lists.push(results);
        }
    }

    fn into_end(self, items: ItemCounts, task_id: &str) -> End {
        let ended = self.error.map_or_else(|| End::of(protocol::Outcome::Succeeded), End::by);
        let timings = Timings { run_ms: self.run_ms, device_ms: self.device_ms, batch_size: self.batch_size, ..Timings::default() };
        let end = End { items: Some(items), gpu_ids: self.gpu_ids.into_iter().collect(), timings, ..ended };
        if self.bytes > self.bound {
            return reply::without_results(end, (self.bytes, self.bound), task_id, Kept::InTheStore);
        }
        End { results: batch::joined(&self.lists), ..end }
    }
}

#[cfg(test)]
mod tests {
    use protocol::Outcome;

    use super::*;

    fn kept(gpu: &str, run_ms: f64, results: &'static str) -> Bytes {
        let gpu_id = Some(gpu.parse().expect("a GPU"));
        SliceResults { gpu_id, run_ms, device_ms: Some(1.0), batch_size: None, results: Json::parse(results).expect("JSON") }.into_bytes()
    }

    fn slice(text: &str) -> Slice {
        text.parse().expect("a slice")
    }

    fn sum(bound: usize, all_failed: bool, slices: &[(&str, Bytes)]) -> Sum {
        let mut sum = Sum::new(bound, all_failed);
        for (text, kept) in slices {
            sum.add(slice(text), kept);
        }
        sum
    }

    const COUNTS: ItemCounts = ItemCounts { of: 3, done: 3, failed: Some(1) };
    const BAD: &str = r#"[{"error":{"code":"bad","message":"as asked","field":"items[2]"}}]"#;

    #[test]
    fn results_of_slices_keep_their_bytes_and_their_order() {
        let slices = [("0..2", kept("b", 2.0, r#"[{"result":1.00},{"result":{"b": 1, "a":2}}]"#)), ("2..3", kept("a", 5.0, BAD))];
        let end = sum(1_000, false, &slices).into_end(COUNTS, "order-17");
        let expected = r#"[{"result":1.00},{"result":{"b": 1, "a":2}},{"error":{"code":"bad","message":"as asked","field":"items[2]"}}]"#;
        assert_eq!((end.results.as_str(), end.outcome, end.error), (expected, Outcome::Succeeded, None));
        assert_eq!(end.gpu_ids.iter().map(GpuId::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((end.timings.run_ms, end.timings.device_ms, end.items), (5.0, Some(2.0), Some(COUNTS)));
    }

    #[test]
    fn a_batch_tells_of_the_most_payloads_that_ran_together_in_a_slice() {
        let ran =
            |batch_size| SliceResults { gpu_id: None, run_ms: 1.0, device_ms: None, batch_size, results: batch::list([]) }.into_bytes();
        let told = |sizes: [Option<u32>; 3]| {
            let slices = [("0..1", ran(sizes[0])), ("1..2", ran(sizes[1])), ("2..3", ran(sizes[2]))];
            sum(1_000, false, &slices).into_end(COUNTS, "order-17").timings.batch_size
        };
        assert_eq!([told([Some(4), Some(16), None]), told([None, Some(1), None]), told([None; 3])], [Some(16), Some(1), None]);
    }

    #[test]
    fn a_batch_all_of_whose_items_failed_has_failed_as_its_first_item_did() {
        let late = r#"[{"error":{"code":"deadline","message":"too late","field":"items[0]"}}]"#;
        let end = sum(1_000, true, &[("0..1", kept("a", 0.0, late)), ("1..2", kept("a", 0.0, BAD))]).into_end(COUNTS, "order-17");
        assert_eq!((end.outcome, end.error.expect("an error").code.as_str()), (Outcome::Expired, "deadline"));
        assert_eq!(end.results.elements().expect("a list").len(), 2);
    }

    #[test]
    fn results_that_no_reply_can_carry_are_left_out_and_told_where_they_are() {
        let end = sum(100, false, &[("0..1", kept("a", 0.0, BAD)), ("1..2", kept("b", 0.0, BAD))]).into_end(COUNTS, "order-17");
        let error = end.error.expect("an error");
        assert_eq!((end.outcome, error.code.as_str(), end.results.is_null()), (Outcome::Failed, "reply_too_large", true));
        let bytes = BAD.len() * 2;
        for part in [format!("take {bytes} bytes"), "may have 100 ".to_owned(), "GET /api/v1/tasks/order-17/results".to_owned()] {
            assert!(error.message.contains(&part), "{}", error.message);
        }
        assert_eq!((end.items, end.gpu_ids.len()), (Some(COUNTS), 2));
    }

    #[test]
    fn what_cannot_be_read_fails_its_items_and_not_the_merge() {
        for unread in [Bytes::from_static(b"oops"), kept("b", 1.0, "null")] {
            let sum = sum(1_000, false, &[("0..2", unread), ("2..3", kept("a", 1.0, BAD))]);
            let end = sum.into_end(COUNTS, "order-17");
            let items: Vec<ItemResult> = end.results.to().expect("results");
            let codes: Vec<_> = items.iter().map(|item| item.error.as_ref().expect("an error").code.as_str()).collect();
            assert_eq!(codes, ["reply_not_kept", "reply_not_kept", "bad"]);
        }
    }
}
