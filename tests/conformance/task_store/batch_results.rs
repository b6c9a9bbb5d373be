//! The results of slices: how they are read, what they take, and when they and their batch are forgotten.

use protocol::{ItemCounts, Reply, Segments};
use task_store::{ProgressAnswer, ProgressRequest, SliceRecord, SliceRecordRequest};
use tests::until::until;

use super::{slices::*, *};

/// Pairs of a slice and its results, as text.
fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(slice, results)| ((*slice).to_owned(), (*results).to_owned())).collect()
}

/// A batch both of whose slices have ended, with ten bytes of results.
async fn complete(subject: &Subject) {
    split(subject, &[4, 4]).await;
    for (text, token) in [("4..8", 8), ("0..4", 7)] {
        begun(subject, text, token).await;
        ended(subject, &slice_end(text, 1, Some(token), "12345")).await;
    }
}

pub async fn results_are_read_in_order_and_in_pieces(back_end: BackEnd) {
    let subject = back_end.start().await;
    assert!(results(&subject, 0, 100).await.is_empty(), "of an unknown batch");
    split(&subject, &[2, 8, 2]).await;
    assert!(results(&subject, 0, 100).await.is_empty());
    for (text, token, of) in [("10..12", 9, "third"), ("0..2", 7, "first")] {
        begun(&subject, text, token).await;
        ended(&subject, &slice_end(text, 1, Some(token), of)).await;
    }
    assert_eq!(results(&subject, 0, 100).await, pairs(&[("0..2", "first"), ("10..12", "third")]));
    begun(&subject, "2..10", 8).await;
    ended(&subject, &slice_end("2..10", 1, Some(8), "second")).await;
    let all = pairs(&[("0..2", "first"), ("2..10", "second"), ("10..12", "third")]);
    assert_eq!(results(&subject, 0, 16).await, all);
    assert_eq!(results(&subject, 0, 15).await, all[..2]);
    assert_eq!(results(&subject, 0, 0).await, all[..1], "one at least");
    assert_eq!(results(&subject, 1, 100).await, all, "a slice that has the item");
    assert_eq!(results(&subject, 2, 100).await, all[1..]);
    assert_eq!(results(&subject, 9, 1).await, all[1..2]);
    assert!(results(&subject, 12, 100).await.is_empty());
    subject.store.record(&merged()).await.unwrap();
    assert_eq!(results(&subject, 0, 100).await, all, "until they are forgotten");
}

pub async fn the_status_of_a_task_has_the_raw_bytes_of_its_reply(back_end: BackEnd) {
    let subject = back_end.start().await;
    let segments = Segments::of(vec![Bytes::from((0..=255).collect::<Vec<u8>>()), Bytes::new()]);
    let framed = Reply { segments, ..reply(Outcome::Succeeded, "framed") };
    let request = RecordRequest { reply: framed.clone().into_bytes(), ..success(1, 7) };
    subject.store.begin(&attempt(1, 7)).await.expect("an answer");
    assert_eq!(subject.store.record(&request).await.expect("an answer"), Record::Recorded);
    let status = subject.store.status(&task()).await.expect("an answer").expect("known");
    assert_eq!(status.reply, Some(framed));
    assert_eq!(subject.store.look(&looking(1)).await.expect("an answer"), Look::Ended(stored(&request)));
}

pub async fn large_results_survive_to_the_last_byte(back_end: BackEnd) {
    let subject = back_end.start().await;
    split(&subject, &[1, 1]).await;
    let bytes = Bytes::from((0..=255).cycle().take(200_000).collect::<Vec<u8>>());
    let request = SliceRecordRequest { results: bytes.clone(), ..slice_end("0..1", 1, None, "") };
    assert_eq!(ended(&subject, &request).await.result_bytes, 200_000);
    ended(&subject, &slice_end("1..2", 1, None, "")).await;
    let read = subject.store.slice_results(&task(), 0, 1_000_000).await.unwrap();
    assert_eq!(read, [(slice("0..1"), bytes), (slice("1..2"), Bytes::new())]);
}

pub async fn results_without_room_change_nothing(back_end: BackEnd) {
    let subject = back_end.start_with(StoreOptions { reply_bytes_max: 1_000, ..OPTIONS }).await;
    let store = &subject.store;
    split(&subject, &[4, 4]).await;
    begun(&subject, "0..4", 7).await;
    ended(&subject, &slice_end("0..4", 1, Some(7), &letters(700))).await;
    begun(&subject, "4..8", 8).await;
    let (large, small) = (slice_end("4..8", 1, Some(8), &letters(301)), slice_end("4..8", 1, Some(8), &letters(300)));
    for _ in 0..2 {
        assert_eq!(store.record_slice(&large).await.unwrap(), SliceRecord::NoRoom);
        assert_eq!(now(&subject).await, "0..4 ended, 4..8 running");
    }
    assert_eq!(store.record_slice(&slice_end("4..8", 1, None, &letters(301))).await.unwrap(), SliceRecord::Superseded, "room or not");
    assert_eq!(subject.totals().await, Totals { reply_bytes: 700, replies_not_kept: 0 });
    assert!(ended(&subject, &small).await.is_complete());
    assert!(ended(&subject, &large).await.is_complete(), "it has ended: there is nothing to keep");
    assert_eq!(subject.totals().await.reply_bytes, 1_000);
    // Replies share the bound.
    assert_eq!(store.record(&merged()).await.unwrap(), Record::Recorded);
    assert_eq!(subject.totals().await, Totals { reply_bytes: 1_000, replies_not_kept: 1 });
}

fn letters(bytes: usize) -> String {
    "x".repeat(bytes)
}

pub async fn results_have_room_that_replies_cannot_take(back_end: BackEnd) {
    let subject = back_end.start_with(StoreOptions { reply_bytes_max: 4_000, ..OPTIONS }).await;
    for (id, bytes) in [("a", 3_000), ("b", 1)] {
        assert_eq!(subject.store.record(&large(id, bytes)).await.unwrap(), Record::Recorded);
    }
    assert_eq!(subject.totals().await, Totals { reply_bytes: 3_000, replies_not_kept: 1 });
    split(&subject, &[4, 4]).await;
    for (text, token, bytes) in [("0..4", 7, 600), ("4..8", 8, 400)] {
        begun(&subject, text, token).await;
        ended(&subject, &slice_end(text, 1, Some(token), &letters(bytes))).await;
    }
    assert_eq!(subject.totals().await.reply_bytes, 4_000);
}

pub async fn a_word_that_there_was_no_room_has_room_always(back_end: BackEnd) {
    let subject = back_end.start_with(StoreOptions { reply_bytes_max: 0, ..OPTIONS }).await;
    split(&subject, &[4, 4]).await;
    for (text, token) in [("0..4", 7), ("4..8", 8)] {
        begun(&subject, text, token).await;
        let too_large = slice_end(text, 1, Some(token), &letters(257));
        assert_eq!(subject.store.record_slice(&too_large).await.unwrap(), SliceRecord::NoRoom);
        ended(&subject, &slice_end(text, 1, Some(token), &letters(256))).await;
    }
    assert_eq!(now(&subject).await, "0..4 ended, 4..8 ended");
    let word = letters(256);
    assert_eq!(results(&subject, 0, 1_000).await, pairs(&[("0..4", word.as_str()), ("4..8", word.as_str())]));
}

pub async fn forgotten_results_give_their_room_back(back_end: BackEnd) {
    let subject = back_end.start().await;
    complete(&subject).await;
    assert_eq!(subject.totals().await.reply_bytes, 10);
    subject.store.record(&merged()).await.unwrap();
    let reply = merged().reply.len() as u64;
    assert_eq!(subject.totals().await.reply_bytes, 10 + reply);
    subject.store.forget_slices(&task(), false);
    until("the results are forgotten", async || subject.totals().await.reply_bytes == reply).await;
    assert!(results(&subject, 0, 100).await.is_empty());
    assert_eq!(subject.store.status(&slice_id("0..4")).await.unwrap(), None);
    let status = subject.store.status(&task()).await.unwrap().expect("it is known");
    assert_eq!((status.state, status.attempt, status.gpu_id), (TaskState::Succeeded, 1, GpuId::new("GPU-7").ok()));
    assert_eq!(subject.store.look(&looking(1)).await.unwrap(), Look::Ended(stored(&merged())));
    subject.store.forget_slices(&task(), true);
    assert_eq!(subject.totals().await.reply_bytes, reply);
}

pub async fn results_of_a_merged_batch_are_readable_as_long_as_a_reply(back_end: BackEnd) {
    let subject = back_end.start().await;
    complete(&subject).await;
    subject.store.record(&merged()).await.unwrap();
    subject.store.forget_slices(&task(), true);
    until("the slices are forgotten", async || subject.store.status(&slice_id("0..4")).await.unwrap().is_none()).await;
    subject.pass(REPLY_RETENTION - Duration::from_secs(60));
    // Once more changes nothing of their time.
    subject.store.forget_slices(&task(), true);
    assert_eq!(results(&subject, 4, 100).await, pairs(&[("4..8", "12345")]));
    subject.pass(Duration::from_secs(61));
    assert!(results(&subject, 0, 100).await.is_empty());
    // What was kept since the counts were last exchanged is counted from now on.
    subject.totals().await;
    subject.pass(REPLY_RETENTION + Duration::from_secs(60));
    assert_eq!(subject.totals().await.reply_bytes, 0);
}

pub async fn what_has_not_ended_is_not_forgotten(back_end: BackEnd) {
    let subject = back_end.start().await;
    complete(&subject).await;
    let before = now(&subject).await;
    for keep_results in [false, true] {
        subject.store.forget_slices(&task(), keep_results);
        // What nobody waits for travels with this, or goes before it.
        for _ in 0..3 {
            assert_eq!(now(&subject).await, before);
        }
    }
    assert_eq!(results(&subject, 0, 100).await.len(), 2);
    assert_eq!(subject.totals().await.reply_bytes, 10);
}

pub async fn a_batch_and_its_results_live_as_long_as_its_slices_change(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    split(&subject, &[4, 4]).await;
    begun(&subject, "0..4", 7).await;
    ended(&subject, &slice_end("0..4", 1, Some(7), "first")).await;
    begun(&subject, "4..8", 8).await;
    for done in 0..4 {
        subject.pass(OUTCOME_RETENTION * 3 / 4);
        let noted = store.progress(&slice_progress("4..8", 8, done)).await.unwrap();
        assert!(matches!(noted, ProgressAnswer::Noted(Some(ItemCounts { of: 8, .. }))), "{noted:?}");
    }
    subject.pass(OUTCOME_RETENTION * 3 / 4);
    assert!(ended(&subject, &slice_end("4..8", 1, Some(8), "second")).await.is_complete());
    subject.pass(OUTCOME_RETENTION * 3 / 4);
    assert_eq!(results(&subject, 0, 100).await, pairs(&[("0..4", "first"), ("4..8", "second")]));
    assert_eq!(store.record(&merged()).await.unwrap(), Record::Recorded);
}

pub async fn a_batch_lives_while_a_slice_says_why_it_waits(back_end: BackEnd) {
    let subject = back_end.start().await;
    split(&subject, &[4, 4]).await;
    begun(&subject, "0..4", 7).await;
    subject.store.progress(&slice_progress("0..4", 7, 3)).await.unwrap();
    let before = counts(&subject).await;
    for text in ["4..8", "0..4", "4..8"] {
        subject.pass(OUTCOME_RETENTION * 3 / 4);
        subject.store.waits_for(&slice_id(text), &kind(), "a GPU").await.unwrap();
        assert_eq!((now(&subject).await.as_str(), counts(&subject).await), ("0..4 running, 4..8 waiting", before));
    }
    let status = subject.store.status(&slice_id("4..8")).await.unwrap().expect("known");
    assert_eq!((status.state, status.waiting_for.as_deref()), (TaskState::Waiting, Some("a GPU")));
}

pub async fn a_batch_whose_slices_do_nothing_is_forgotten_with_its_results(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    split(&subject, &[4, 4]).await;
    begun(&subject, "0..4", 7).await;
    ended(&subject, &slice_end("0..4", 1, Some(7), "first")).await;
    begun(&subject, "4..8", 8).await;
    subject.pass(OUTCOME_RETENTION);
    assert!(results(&subject, 0, 100).await.is_empty());
    assert_eq!(store.status(&task()).await.unwrap(), None);
    is_unwanted(&subject, "4..8", 8).await;
    assert_eq!(store.look(&looking(1)).await.unwrap(), Look::Open);
    // What is counted leaves the sum a little later.
    subject.pass(OUTCOME_RETENTION);
    assert_eq!(subject.totals().await.reply_bytes, 0);
    assert_eq!(states(&split(&subject, &[4, 4]).await), "0..4 waiting, 4..8 waiting");
    assert!(results(&subject, 0, 100).await.is_empty());
    assert_eq!(store.look(&slice_looking("0..4", 1)).await.unwrap(), Look::Open);
}

pub async fn a_slice_that_only_its_batch_remembers_is_not_run_again(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    split(&subject, &[4, 4]).await;
    begun(&subject, "0..4", 7).await;
    let first = slice_end("0..4", 1, Some(7), "first");
    ended(&subject, &first).await;
    begun(&subject, "4..8", 8).await;
    subject.pass(OUTCOME_RETENTION * 3 / 4);
    let alive = ProgressRequest { items: None, ..slice_progress("4..8", 8, 0) };
    store.progress(&alive).await.unwrap();
    subject.pass(OUTCOME_RETENTION * 3 / 4);
    assert_eq!(store.look(&slice_looking("0..4", 1)).await.unwrap(), Look::Unwanted);
    assert_eq!(store.begin(&slice_attempt("0..4", 1, 9)).await.unwrap(), Begin::Not(Look::Unwanted));
    assert_eq!(states(&ended(&subject, &slice_end("0..4", 1, None, "again")).await), "0..4 ended, 4..8 running");
    assert_eq!(results(&subject, 0, 100).await, pairs(&[("0..4", "first")]));
}

pub async fn a_batch_is_reopened_without_its_slices_and_results(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    complete(&subject).await;
    assert_eq!(store.reopen(&task(), &body_hash()).await.unwrap(), Reopen::NotEnded);
    store.record(&merged()).await.unwrap();
    assert_eq!(store.reopen(&task(), &BodyHash::of(b"another body")).await.unwrap(), Reopen::ReusedId);
    assert_eq!(store.reopen(&task(), &body_hash()).await.unwrap(), Reopen::Open);
    assert!(results(&subject, 0, 100).await.is_empty());
    assert_eq!(store.look(&looking(1)).await.unwrap(), Look::Open);
    assert_eq!(states(&split(&subject, &[4, 4]).await), "0..4 waiting, 4..8 waiting");
    assert_eq!(store.look(&slice_looking("0..4", 1)).await.unwrap(), Look::Open);
    begun(&subject, "0..4", 17).await;
    ended(&subject, &slice_end("0..4", 1, Some(17), "anew")).await;
    assert_eq!(results(&subject, 0, 100).await, pairs(&[("0..4", "anew")]));
}
