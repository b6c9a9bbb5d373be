//! Splitting a batch: its slices run in its place, and a copy of its message waits for their end.
//!
//! ```text
//!  batch in hand ──► split (recorded; the first cut stays) ──► every open slice published, confirmed ──► a copy waits in a waiting queue ──► ack
//!                                                                                                            │ 5 s, 15 s, every 60 s, after 15 min every 300 s
//!       all slices have ended: merge                                                                         ▼
//!       the total deadline has passed, or it was cancelled: it ends so       ◄───────────────────────── some worker has it in hand
//!       the store knows nothing of it: it is split anew
//!       else: it waits again
//! ```
//!
//! Nobody holds the batch while its slices run, and nothing rests on the copy but the unlikely: whoever ends the last slice merges. The copy is there for what that one cannot do: it
//! crashed after the record and before the publish, the store was emptied, the slices were given up.
//!
//! *Which slices were published?* Each of them, before the copy is made. The copy names the split that it is of (its token, in the header of that name), so that whoever has it next
//! publishes none again. Where the pool had no room for all of them, it also says how far they were published, so that the next round begins there. Only that proves it: the header for
//! copies does not, since any delivery that waited may be a copy, and neither does the broker's mark for redeliveries, which a broker may forget. A batch that the store has lost and that
//! was split anew has another token, so that a copy of the first split publishes the second one's slices. A delivery without the token publishes every open slice (again): its identity
//! makes a copy of a slice harmless.
//!
//! *Are they still there?* That the token does not prove. A queue may have been purged, or a broker have died while it took an expired slice out; and the store may have lost that a slice
//! ended, whose message is gone. So the token is left out now and then: what is open after 4, 8, 16 … minutes is published anew.

use std::time::Duration;

use futures::{StreamExt, stream};
use protocol::{ErrorCode, Outcome, Slice, Task, TaskError, envelope::Headers};
use task_queue::PublishError;
use task_store::{Split, SplitAnswer, SplitRequest};

use super::{
    carry_out::{Ack, Settling},
    merging, slices,
};
use crate::{
    delivery::onward::{self, Publish, WaitsFor},
    disposition::{Disposition, End},
    ports::{Abandoned, Sent},
    steps,
};

/// How many slices of a batch are on their way to the broker at once. It bounds the memory that their bodies take beside the batch's own.
const AT_ONCE: usize = 32;
/// How long a batch rests, and until how long after its split. Each rest is the delay of a waiting queue. The batch travels whole each time, so that one that takes long rests long.
const RESTS: [(Duration, Duration); 3] = [
    (Duration::from_secs(5), Duration::from_secs(5)),
    (Duration::from_secs(15), Duration::from_secs(15)),
    (Duration::from_secs(60), Duration::from_secs(15 * 60)),
];
/// How long one rests after that.
const LONGEST_REST: Duration = Duration::from_secs(5 * 60);
/// After so many minutes it is doubted for the first time that what was published is still there; then each time after twice as many.
const FIRST_DOUBT_MINUTES: u64 = 4;

/// What became of a batch that was to be split.
#[derive(Debug)]
pub(super) enum Became<'t> {
    /// It is dealt with, and its delivery acked.
    Settled,
    /// It runs whole: an attempt of it began once.
    Whole,
    /// The store knows better.
    Otherwise(Box<Disposition<'t>>),
}

/// What was published of a split batch.
#[derive(Debug)]
enum Published {
    /// Every slice that is open.
    All,
    /// Those whose items lie before this one: the pool takes no more for now.
    Before(u32, PublishError),
    /// One never will be.
    Never,
}

/// Splits a batch that nobody has split before, as far as is known.
pub(super) async fn split<'t>(settling: &Settling<'_>, task: &'t Task, slices: Vec<Slice>) -> Result<Became<'t>, Abandoned> {
    let context = settling.context;
    let request = SplitRequest {
        task_id: task.id.clone(),
        body_hash: task.body_hash.clone(),
        kind: task.kind.clone(),
        attempt: task.attempt,
        published_s: settling.identity.published_s,
        slices,
    };
    match context.ports.split(&request).await? {
        SplitAnswer::Split(split) => {
            tracing::debug!(task_id = %task.id, slices = split.slices.len(), "batch split");
            steps::split(settling, task, split.slices.len());
            // The slices carry this delivery's address: what waits for their end is a copy, which needs no reply of its own.
            go_on_with(settling, task, &split, (Publish::First, true)).await?;
            Ok(Became::Settled)
        }
        SplitAnswer::Whole => Ok(Became::Whole),
        SplitAnswer::Not(look) => Ok(Became::Otherwise(Box::new(Disposition::not_run(task, look, context.me.options.lease)))),
    }
}

/// Goes on with a batch that was split before: by another worker that had this delivery, for another publish of it, or long ago.
pub(super) async fn go_on(settling: &Settling<'_>, task: &Task, split: &Split) -> Result<(), Abandoned> {
    go_on_with(settling, task, split, (Publish::Again, settling.in_hand.is_copy())).await
}

async fn go_on_with(settling: &Settling<'_>, task: &Task, split: &Split, (publish, is_copy): (Publish, bool)) -> Result<(), Abandoned> {
    if split.is_complete() || slices::fails_at_once(settling, split) {
        return merging::merge(settling, split, Ack::Elsewhere).await;
    }
    if settling.total_deadline_passed() {
        return settling.end_task(End::batch_expired(), None, Ack::Elsewhere).await;
    }
    let published = match published_before(&settling.in_hand.envelope.headers, split) {
        Some(u32::MAX) => Published::All,
        before => publish_open(settling, task, split, (publish, before.unwrap_or(0))).await?,
    };
    match &published {
        Published::All => {}
        Published::Before(_, error) => {
            tracing::info!(task_id = %task.id, %error, "not every slice of a batch could be published; the others follow");
        }
        Published::Never => {
            let message = "the broker does not take a slice of the batch; are its properties too long?";
            let error = TaskError::new(ErrorCode::InvalidTask, message);
            return settling.end_task(End::without_run(Outcome::Failed, error), None, Ack::Elsewhere).await;
        }
    }
    wait(settling, split, (is_copy, &published)).await
}

/// Before which item the slices of this split were published, as the message in hand says it; the highest number if all were, and `None` if it says nothing of this split.
fn published_before(headers: &Headers, split: &Split) -> Option<u32> {
    (headers.token == Some(split.token.0)).then(|| headers.published_before.unwrap_or(u32::MAX))
}

/// Publishes every slice that has not ended and has its items from one on, in order. A pool that is full is not waited for: with all its workers waiting nobody would make room.
async fn publish_open(
    settling: &Settling<'_>,
    task: &Task,
    split: &Split,
    (publish, from): (Publish, u32),
) -> Result<Published, Abandoned> {
    let (context, in_hand, now_ms) = (settling.context, settling.in_hand, settling.context.ports.now_ms());
    let open: Vec<Slice> = split.open().filter(|slice| slice.from >= from).collect();
    let mut publishing = stream::iter(open)
        .map(move |slice| async move {
            let sent = match onward::slice(in_hand, task, (slice, publish), (&context.me.options.pool, now_ms)) {
                Some(outgoing) => context.ports.publish_unless_full(&outgoing).await.map(Some),
                None => Ok(None),
            };
            (slice, sent)
        })
        // In order, so that it is known how far they are confirmed.
        .buffered(AT_ONCE);
    while let Some((slice, sent)) = publishing.next().await {
        match sent? {
            Some(Sent::There) => {}
            Some(Sent::NoQueue(error)) => return Ok(Published::Before(slice.from, error)),
            Some(Sent::Unsendable(_)) | None => return Ok(Published::Never),
        }
    }
    Ok(Published::All)
}

/// Lets the batch wait for the end of its slices, and acks.
async fn wait(settling: &Settling<'_>, split: &Split, (is_copy, published): (bool, &Published)) -> Result<(), Abandoned> {
    let (context, in_hand) = (settling.context, settling.in_hand);
    let (now_ms, end_before_ms) = (context.ports.now_ms(), in_hand.deadlines.end_before_ms);
    let waited = Duration::from_millis(now_ms.saturating_sub(split.token.0 / 1_000));
    let left = end_before_ms.map(|deadline_ms| Duration::from_millis(deadline_ms.saturating_sub(now_ms)));
    let rest = rest(waited, left);
    let at = (&context.me.options.pool, rest);
    let mut waiting = onward::waiting(in_hand, &settling.identity.task_id, (is_copy, WaitsFor::ItsEnd), at, now_ms);
    let headers = &mut waiting.envelope.headers;
    // Without the token all that is open is published anew at the next visit.
    headers.token = (!doubts(waited, rest)).then_some(split.token.0);
    headers.published_before = match published {
        Published::Before(item, _) => Some(*item),
        Published::All | Published::Never => None,
    };
    // It was split in time. What is over is over where it waits, too: the broker takes it out at its total deadline.
    headers.start_before_ms = Some(onward::began_in_time(now_ms).min(end_before_ms.unwrap_or(u64::MAX)));
    context.ports.publish_surely(&waiting, settling.lease()).await?;
    in_hand.ack_elsewhere().await;
    Ok(())
}

/// How long a batch rests that was split so long ago, and has so much time left.
fn rest(waited: Duration, left: Option<Duration>) -> Duration {
    let rest = RESTS.into_iter().find(|(_, until)| waited < *until).map_or(LONGEST_REST, |(rest, _)| rest);
    left.map_or(rest, |left| left.min(rest)).max(Duration::from_millis(1))
}

/// Whether it is time to doubt that what was published is still there, for a batch that was split so long ago and rests for so long now.
fn doubts(waited: Duration, rest: Duration) -> bool {
    let minutes = |time: Duration| time.as_secs() / 60;
    (minutes(waited) + 1..=minutes(waited + rest)).any(|minute| minute >= FIRST_DOUBT_MINUTES && minute.is_power_of_two())
}

#[cfg(test)]
mod tests {
    use task_queue::Queue;

    use super::*;

    #[test]
    fn rests_grow_with_the_wait_and_end_at_the_total_deadline() {
        let rested = |waited_s, left_s: Option<u64>| rest(Duration::from_secs(waited_s), left_s.map(Duration::from_secs)).as_secs_f64();
        assert_eq!([0, 4, 5, 14, 15, 60, 899].map(|waited_s| rested(waited_s, None)), [5.0, 5.0, 15.0, 15.0, 60.0, 60.0, 60.0]);
        assert_eq!([900, 1_000_000].map(|waited_s| rested(waited_s, None)), [300.0, 300.0], "what takes long travels seldom");
        assert_eq!([(0, 9), (9, 9), (99, 0)].map(|(waited_s, left_s)| rested(waited_s, Some(left_s))), [5.0, 9.0, 0.001]);
    }

    #[test]
    fn every_rest_is_the_delay_of_a_waiting_queue() {
        for rest in RESTS.into_iter().map(|(rest, _)| rest).chain([LONGEST_REST]) {
            assert_eq!(Queue::retry_after(rest), Queue::Retry(rest));
        }
    }

    #[test]
    fn what_was_published_is_doubted_after_four_minutes_and_then_after_twice_as_long_each_time() {
        let (mut waited, mut doubted) = (Duration::ZERO, Vec::new());
        while waited < Duration::from_secs(10 * 3_600) {
            let rest = rest(waited, None);
            if doubts(waited, rest) {
                doubted.push((waited + rest).as_secs() / 60);
            }
            waited += rest;
        }
        assert_eq!(doubted.len(), 8, "at 4, 8, 16 … 512 minutes, each at the first visit from then on: {doubted:?}");
        let in_time = [4, 8, 16, 32, 64, 128, 256, 512].into_iter().zip(&doubted).all(|(due, visit)| (due..due + 5).contains(visit));
        assert!(in_time, "{doubted:?}");
    }

    #[test]
    fn only_the_token_of_this_split_says_how_far_its_slices_were_published() {
        let split = Split {
            slices: Vec::new(),
            result_bytes: 0,
            items_failed: 0,
            body_hash: protocol::BodyHash::of(b"{}"),
            attempt: 1,
            token: protocol::Token(7),
        };
        let before = |token, item| published_before(&Headers { token, published_before: item, ..Headers::default() }, &split);
        assert_eq!([before(None, None), before(None, Some(3)), before(Some(6), Some(3))], [None; 3]);
        assert_eq!([before(Some(7), Some(3)), before(Some(7), None)], [Some(3), Some(u32::MAX)]);
    }
}
