//! Requests for batches and their slices. The batch is [`task`].

use protocol::{ItemCounts, Slice};
use task_store::{
    Fence, FenceRequest, ProgressAnswer, ProgressRequest, SliceRecord, SliceRecordRequest, SliceState, Split, SplitAnswer, SplitRequest,
};

use super::*;

pub fn slice(text: &str) -> Slice {
    text.parse().expect("a slice")
}

pub fn slice_id(text: &str) -> TaskId {
    task().of_slice(slice(text))
}

pub fn slice_hash() -> BodyHash {
    BodyHash::of_slice(&body_hash(), b"some of the items")
}

/// A batch that is to be cut into runs of these lengths.
pub fn splitting(lengths: &[u32]) -> SplitRequest {
    SplitRequest {
        task_id: task(),
        body_hash: body_hash(),
        kind: kind(),
        attempt: 1,
        published_s: None,
        slices: Slice::of_lengths(lengths),
    }
}

pub fn slice_looking(text: &str, attempt: u32) -> LookRequest {
    LookRequest { task_id: slice_id(text), body_hash: slice_hash(), ..looking(attempt) }
}

/// An attempt of a slice, for a delivery that names its token: another number for every slice.
pub fn slice_attempt(text: &str, number: u32, token: u64) -> BeginRequest {
    BeginRequest { task_id: slice_id(text), body_hash: slice_hash(), ..attempt_by_another(number, token) }
}

pub fn slice_failed(text: &str, number: u32, token: u64) -> RetryRequest {
    RetryRequest { task_id: slice_id(text), body_hash: slice_hash(), ..failed(number, token) }
}

pub fn slice_fence(text: &str) -> FenceRequest {
    FenceRequest { task_id: slice_id(text), body_hash: slice_hash(), ..fence(1) }
}

pub fn fence(attempt: u32) -> FenceRequest {
    FenceRequest {
        task_id: task(),
        body_hash: body_hash(),
        attempt,
        gpu_id: GpuId::new("GPU-fence").expect("a valid id"),
        incarnation: "fencing".parse().expect("a valid id"),
        verdict: None,
    }
}

/// A slice's good end, with these results.
pub fn slice_end(text: &str, number: u32, token: Option<u64>, results: &str) -> SliceRecordRequest {
    SliceRecordRequest {
        task_id: slice_id(text),
        body_hash: slice_hash(),
        kind: kind(),
        outcome: Outcome::Succeeded,
        attempt: number,
        token: token.map(Token),
        items_failed: 0,
        results: Bytes::copy_from_slice(results.as_bytes()),
    }
}

/// How far an attempt of a slice is: so many of its items have ended.
pub fn slice_progress(text: &str, token: u64, done: u32) -> ProgressRequest {
    let items = Some(ItemCounts { of: slice(text).items(), done, failed: None });
    ProgressRequest { task_id: slice_id(text), items, ..progress(token, 0.5, None) }
}

/// What becomes of the batch in the end: recorded without a token.
pub fn merged() -> RecordRequest {
    outcome(Outcome::Succeeded, 1, None, "merged")
}

/// The slices and what they are at, as text.
pub fn states(split: &Split) -> String {
    let states = split.slices.iter().map(|(slice, state)| {
        let state = match state {
            SliceState::Waiting => "waiting",
            SliceState::Running => "running",
            SliceState::Ended => "ended",
        };
        format!("{slice} {state}")
    });
    states.collect::<Vec<_>>().join(", ")
}

/// Splits the batch, which nothing stands against.
pub async fn split(subject: &Subject, lengths: &[u32]) -> Split {
    match subject.store.split(&splitting(lengths)).await.expect("an answer") {
        SplitAnswer::Split(split) => split,
        other => panic!("not split: {other:?}"),
    }
}

/// What the slices are at, as the batch's record has it.
pub async fn now(subject: &Subject) -> String {
    match subject.store.look(&looking(1)).await.expect("an answer") {
        Look::Split(split) => states(&split),
        other => panic!("not split: {other:?}"),
    }
}

/// Begins an attempt of a slice, which nothing stands against. Slices that begin at one moment may get the same token: the clock moves on first.
pub async fn begun(subject: &Subject, text: &str, token: u64) {
    subject.pass(Duration::from_millis(1));
    assert_eq!(subject.store.begin(&slice_attempt(text, 1, token)).await.expect("an answer"), Begin::Begun(Token(token)));
}

/// Ends a slice, as nothing stands against.
pub async fn ended(subject: &Subject, request: &SliceRecordRequest) -> Split {
    match subject.store.record_slice(request).await.expect("an answer") {
        SliceRecord::Recorded(split) => split,
        other => panic!("not recorded: {other:?}"),
    }
}

/// Kept results of slices from an item on, as text.
pub async fn results(subject: &Subject, from: u32, bytes_max: usize) -> Vec<(String, String)> {
    let results = subject.store.slice_results(&task(), from, bytes_max).await.expect("an answer");
    results.into_iter().map(|(slice, results)| (slice.to_string(), String::from_utf8_lossy(&results).into_owned())).collect()
}

/// The batch's counts, as its status has them: items that have ended, of them failed; slices that wait, run, have ended.
pub async fn counts(subject: &Subject) -> ((u32, Option<u32>), (u32, u32, u32)) {
    let status = subject.store.status(&task()).await.expect("an answer").expect("known");
    let (items, slices) = (status.items.expect("items"), status.slices.expect("slices"));
    ((items.done, items.failed), (slices.waiting, slices.running, slices.ended))
}

/// Each operation on a slice says that nobody wants it, and nothing is written.
pub async fn is_unwanted(subject: &Subject, text: &str, token: u64) {
    let store = &subject.store;
    assert_eq!(store.look(&slice_looking(text, 1)).await.unwrap(), Look::Unwanted, "{text}");
    assert_eq!(store.begin(&slice_attempt(text, 1, token)).await.unwrap(), Begin::Not(Look::Unwanted), "{text}");
    assert_eq!(store.fence(&slice_fence(text)).await.unwrap(), Fence::Not(Look::Unwanted), "{text}");
    assert_eq!(store.retry(&slice_failed(text, 1, token)).await.unwrap(), RetryAnswer::Not(Look::Unwanted), "{text}");
    assert_eq!(store.progress(&slice_progress(text, token, 1)).await.unwrap(), ProgressAnswer::Refused, "{text}");
    let end = slice_end(text, 1, Some(token), "late");
    assert_eq!(store.record_slice(&end).await.unwrap(), SliceRecord::Unwanted, "{text}");
    assert!(store.cancel_asked(&slice_id(text)).await.unwrap(), "{text}");
}
