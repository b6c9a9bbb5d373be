//! How slices end. A slice has no reply: the store keeps its items' results, and whoever ends the last slice merges them into the reply of the batch.
//!
//! ```text
//!  ended ──► record_slice ─┬─ others are open ──► ack
//!                          ├─ it was the last ──► merge: record, publish the batch's reply, ack
//!                          └─ the batch ends at once (cancelled, expired, an item failed and must not) ──► record, publish that, ack
//! ```
//!
//! The slice's delivery is acked last, so that a crash anywhere brings it back: then it is found ended, and the same follows once more.

use bytes::Bytes;
use protocol::{ErrorCode, ItemResult, Json, OnError, Outcome, Slice, SliceResults, TaskError, batch, reply::Timings};
use task_store::{Fence, Look, SliceRecord, SliceRecordRequest, Split, Stored};

use super::{
    carry_out::{Ack, Settling},
    ending, history, merging,
};
use crate::{
    disposition::{End, Ran},
    ports::Abandoned,
    steps,
};

/// Records how a slice ended, and sees to its batch.
pub(super) async fn end(settling: &Settling<'_>, slice: Slice, end: End, ran: Option<Ran>) -> Result<(), Abandoned> {
    let (context, ack) = (settling.context, Ack::of(ran.as_ref()));
    let Some(mut request) = request(settling, slice, &end, ran.as_ref()) else {
        // What has no kind is no slice of ours.
        settling.unwanted(ack).await;
        return Ok(());
    };
    let mut refused = 0;
    let split = loop {
        match context.ports.record_slice(&request).await? {
            SliceRecord::Recorded(split) => break split,
            SliceRecord::Unwanted => {
                settling.unwanted(ack).await;
                return Ok(());
            }
            SliceRecord::NoRoom => {
                let (task_id, bytes) = (settling.identity.task_id.as_str(), request.results.len());
                tracing::warn!(task_id, bytes, "the store has no room for the results of a slice (store.reply_bytes_max)");
                refused += 1;
                // For the smallest there is always room.
                let Some(results) = in_less_room(slice, refused) else { return settling.park(settling.lease()).await };
                request.items_failed = slice.items();
                request.results = kept(settling, &end, ran.as_ref(), results);
            }
            SliceRecord::Superseded if request.token.is_some() => return settling.is_late().await,
            SliceRecord::Superseded => match settling.fence().await? {
                Fence::Fenced(token) => request.token = Some(token),
                Fence::Not(Look::Ended(stored)) => return ended(settling, slice, stored).await,
                Fence::Not(Look::Unwanted | Look::ReusedId) => {
                    settling.unwanted(ack).await;
                    return Ok(());
                }
                Fence::Not(_) | Fence::Unfinished(_) => return settling.park(settling.lease()).await,
            },
        }
    };
    context.metrics.slice_ended(end.outcome.name());
    ending::tell_slice(settling, end.outcome, request.items_failed);
    steps::ended(settling, &end, ran.as_ref());
    follow(settling, &split, end.outcome, ack).await
}

/// What follows where a slice had ended before: whoever ended it may have died before the batch's end. What was recorded is recorded once more, which changes nothing, and says what the
/// batch is at. Where it is no longer kept, the copy of the batch that goes round finds that as well.
pub(super) async fn ended(settling: &Settling<'_>, slice: Slice, stored: Stored) -> Result<(), Abandoned> {
    let (ports, identity) = (&settling.context.ports, &settling.identity);
    let read = ports.slice_results(&identity.task_id.batch(), slice.from, 1).await?;
    let kept = read.into_iter().find(|(of, _)| *of == slice).and_then(|(_, results)| Some((items_failed(slice, &results)?, results)));
    let Some(((items_failed, results), kind)) = kept.zip(identity.kind.clone()) else {
        settling.ack(Ack::Elsewhere).await;
        return Ok(());
    };
    let (task_id, body_hash) = (identity.task_id.clone(), identity.body_hash.clone());
    let Stored { outcome, attempt, token, .. } = stored;
    let request = SliceRecordRequest { task_id, body_hash, kind, outcome, attempt, token, items_failed, results };
    match ports.record_slice(&request).await? {
        SliceRecord::Recorded(split) => follow(settling, &split, outcome, Ack::Elsewhere).await,
        SliceRecord::Superseded | SliceRecord::Unwanted | SliceRecord::NoRoom => {
            settling.unwanted(Ack::Elsewhere).await;
            Ok(())
        }
    }
}

/// What follows for the batch of a slice that has ended and is recorded.
async fn follow(settling: &Settling<'_>, split: &Split, outcome: Outcome, ack: Ack) -> Result<(), Abandoned> {
    let batch = settling.of_batch(split);
    // If this was the last slice, nobody asks again: an answer is insisted on.
    let is_cancelled = outcome == Outcome::Cancelled && settling.context.ports.look(&batch.identity).await? == Look::Cancelled;
    let ends_as_a_whole = match outcome {
        Outcome::Cancelled if is_cancelled => {
            Some(End::without_run(Outcome::Cancelled, TaskError::new(ErrorCode::Cancelled, "the batch was cancelled")))
        }
        Outcome::Expired if settling.total_deadline_passed() => Some(End::batch_expired()),
        _ => None,
    };
    if let Some(end) = ends_as_a_whole {
        return batch.end_task(end, None, ack).await;
    }
    if split.is_complete() || fails_at_once(&batch, split) {
        return merging::merge(&batch, split, ack).await;
    }
    settling.ack(ack).await;
    Ok(())
}

/// Whether the batch is to fail with its first item that has.
pub(super) fn fails_at_once(batch: &Settling<'_>, split: &Split) -> bool {
    split.items_failed > 0 && batch.items.is_some_and(|items| items.on_error == OnError::Fail)
}

/// `None`: it has no valid kind.
fn request(settling: &Settling<'_>, slice: Slice, end: &End, ran: Option<&Ran>) -> Option<SliceRecordRequest> {
    let identity = &settling.identity;
    let (results, items_failed) = match end.items.and_then(|items| items.failed) {
        Some(failed) if !end.results.is_null() => (end.results.clone(), failed),
        _ => {
            let no_result = || TaskError::new(ErrorCode::ExecutorFailed, "the executor gave no results of items");
            (failed_together(slice, &end.error.clone().unwrap_or_else(no_result)), slice.items())
        }
    };
    Some(SliceRecordRequest {
        task_id: identity.task_id.clone(),
        body_hash: identity.body_hash.clone(),
        kind: identity.kind.clone()?,
        outcome: end.outcome,
        attempt: identity.attempt,
        token: ran.map(|ran| ran.token),
        items_failed,
        results: kept(settling, end, ran, results),
    })
}

/// What says that there was no room for the results, and takes less than what was refused so often: of each item, then of all of them at once.
fn in_less_room(slice: Slice, refused: u32) -> Option<Json> {
    match refused {
        1 => Some(batch::no_room(slice)),
        2 => Some(Json::null()),
        _ => None,
    }
}

/// What the store keeps of a slice.
fn kept(settling: &Settling<'_>, end: &End, ran: Option<&Ran>, results: Json) -> Bytes {
    let gpu_id = ran.map(|_| settling.context.me.gpu_id.clone());
    let Timings { run_ms, device_ms, batch_size, .. } = end.timings;
    SliceResults { gpu_id, run_ms, device_ms, batch_size, results }.into_bytes()
}

/// The results of items that all ended with their slice: each has its error, in short. One that names an item already is that item's, for which all of them ended.
pub(super) fn failed_together(slice: Slice, error: &TaskError) -> Json {
    let named = error.field.as_deref().filter(|field| field.starts_with("items["));
    let message = history::message(&error.message);
    let of_item = |index| TaskError {
        code: error.code.clone(),
        message: message.clone(),
        field: Some(named.map_or_else(|| batch::item_field(index, None), ToOwned::to_owned)),
    };
    let results: Vec<Json> = (slice.from..slice.to).map(|index| ItemResult::failed(of_item(index)).to_json()).collect();
    batch::list(&results)
}

/// How many items failed by what the store kept of a slice; `None`: that is no such thing.
fn items_failed(slice: Slice, kept: &Bytes) -> Option<u32> {
    let results: Vec<ItemResult> = SliceResults::read(kept).ok()?.listed(slice).results.to().ok()?;
    u32::try_from(results.iter().filter(|item| item.error.is_some()).count()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(text: &str) -> Slice {
        text.parse().expect("a slice")
    }

    #[test]
    fn items_that_ended_with_their_slice_have_its_error_under_their_own_names() {
        let error = TaskError::new(ErrorCode::Deadline, "too\nlate").at("needs");
        let results: Vec<ItemResult> = failed_together(slice("4..6"), &error).to().expect("results");
        let fields: Vec<_> = results.iter().map(|item| item.error.as_ref().expect("failed")).collect();
        assert_eq!(fields.iter().map(|error| error.field.as_deref()).collect::<Vec<_>>(), [Some("items[4]"), Some("items[5]")]);
        assert!(fields.iter().all(|error| error.code == "deadline" && error.message == "too late"));
    }

    #[test]
    fn items_that_ended_for_another_one_say_which() {
        let error = TaskError::new("bad", "as asked").at("items[5].text");
        let results: Vec<ItemResult> = failed_together(slice("4..6"), &error).to().expect("results");
        assert!(results.iter().all(|item| item.error.as_ref() == Some(&error)));
    }

    #[test]
    fn what_says_that_there_was_no_room_takes_less_each_time_and_ends() {
        let said = |refused| in_less_room(slice("0..1000"), refused).map(|results| results.as_bytes().len());
        assert!(said(1) > said(2) && said(2).is_some_and(|bytes| bytes < 10) && said(3).is_none());
    }

    #[test]
    fn what_is_kept_of_a_slice_says_how_many_items_failed() {
        let error = TaskError::new("bad", "as asked");
        let results = [ItemResult::succeeded(Json::null()), ItemResult::failed(error)].map(|item| item.to_json());
        let kept =
            SliceResults { gpu_id: None, run_ms: 1.0, device_ms: None, batch_size: None, results: batch::list(&results) }.into_bytes();
        let failed = |kept: &Bytes| items_failed(slice("4..6"), kept);
        assert_eq!((failed(&kept), failed(&Bytes::from_static(b"oops"))), (Some(1), None));
        let nothing = SliceResults { gpu_id: None, run_ms: 1.0, device_ms: None, batch_size: None, results: Json::null() }.into_bytes();
        assert_eq!(failed(&nothing), Some(2), "the store had no room for more");
    }
}
