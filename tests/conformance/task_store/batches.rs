//! Batches: how they are split, and how their slices live and end.

use protocol::{ItemCounts, Progress};
use task_store::{Crash, Fence, Holder, ProgressAnswer, ProgressRequest, SliceRecord, SliceRecordRequest, SplitAnswer, SplitRequest};

use super::{named::FENCE, slices::*, *};

pub async fn a_batch_is_split_once_and_its_cut_stays(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    let first = split(&subject, &[4, 3]).await;
    assert_eq!(states(&first), "0..4 waiting, 4..7 waiting");
    assert_eq!((first.result_bytes, first.items_failed, first.is_complete()), (0, 0, false));
    for lengths in [&[4, 3][..], &[7], &[]] {
        assert_eq!(split(&subject, lengths).await, first, "{lengths:?}");
    }
    let instead = || Look::Split(first.clone());
    assert_eq!(store.look(&looking(1)).await.unwrap(), instead());
    assert_eq!(store.begin(&attempt(1, 7)).await.unwrap(), Begin::Not(instead()));
    assert_eq!(store.fence(&fence(1)).await.unwrap(), Fence::Not(instead()));
    assert_eq!(store.retry(&failed(1, 7)).await.unwrap(), RetryAnswer::Not(instead()));
    assert_eq!(store.submitted(&task(), &kind(), &body_hash()).await.unwrap(), Submission::Known);
}

pub async fn what_stands_against_running_a_batch_stands_against_splitting_it(back_end: BackEnd) {
    let asked = splitting(&[4, 4]);
    let not = SplitAnswer::Not;
    let subject = back_end.start().await;
    subject.store.submitted(&task(), &kind(), &BodyHash::of(b"another body")).await.unwrap();
    assert_eq!(subject.store.split(&asked).await.unwrap(), not(Look::ReusedId));

    let subject = back_end.start().await;
    subject.store.record(&merged()).await.unwrap();
    assert_eq!(subject.store.split(&asked).await.unwrap(), not(Look::Ended(stored(&merged()))));

    let subject = back_end.start().await;
    subject.store.begin(&attempt(1, 7)).await.unwrap();
    subject.store.retry(&failed(1, 7)).await.unwrap();
    assert!(matches!(subject.store.split(&asked).await.unwrap(), SplitAnswer::Not(Look::Retried(_))));

    let subject = back_end.start().await;
    subject.store.cancel(&task(), Reach::Published).await.unwrap();
    assert_eq!(subject.store.split(&asked).await.unwrap(), not(Look::Cancelled));
    // One that did not reach it is gone.
    let later = SplitRequest { published_s: Some(subject.now_s().await + 60), ..asked };
    assert!(matches!(subject.store.split(&later).await.unwrap(), SplitAnswer::Split(_)));
    assert_eq!(now(&subject).await, "0..4 waiting, 4..8 waiting");
    assert!(!subject.store.cancel_asked(&slice_id("0..4")).await.unwrap());
}

pub async fn a_batch_of_which_an_attempt_began_stays_whole(back_end: BackEnd) {
    let subject = back_end.start().await;
    for no_cut in [&[][..], &[1; 257]] {
        assert_eq!(subject.store.split(&splitting(no_cut)).await.unwrap(), SplitAnswer::Whole);
    }
    let a_gap = SplitRequest { slices: vec![slice("0..4"), slice("5..8")], ..splitting(&[]) };
    assert_eq!(subject.store.split(&a_gap).await.unwrap(), SplitAnswer::Whole);
    let a_slice = SplitRequest { task_id: slice_id("0..4"), ..splitting(&[2, 2]) };
    assert_eq!(subject.store.split(&a_slice).await.unwrap(), SplitAnswer::Whole);
    assert_eq!(subject.store.status(&task()).await.unwrap(), None, "nothing is written");
    assert_eq!(subject.store.begin(&attempt(1, 7)).await.unwrap(), Begin::Begun(Token(7)));
    assert_eq!(subject.store.split(&splitting(&[4, 4])).await.unwrap(), SplitAnswer::Whole);
    subject.store.hand_back(&task(), Token(7)).await.unwrap();
    assert_eq!(subject.store.split(&splitting(&[4, 4])).await.unwrap(), SplitAnswer::Whole);
    assert_eq!(subject.store.record(&success(1, 7)).await.unwrap(), Record::Recorded);
}

pub async fn a_slice_lives_the_life_of_a_task(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    split(&subject, &[4, 4]).await;
    assert_eq!(store.look(&slice_looking("0..4", 1)).await.unwrap(), Look::Open);
    let fresh = store.status(&slice_id("0..4")).await.unwrap().expect("its batch knows it");
    assert_eq!((fresh.state, fresh.attempt, fresh.kind), (TaskState::Waiting, 0, Some(kind())));
    begun(&subject, "0..4", 7).await;
    assert_eq!(store.begin(&slice_attempt("0..4", 1, 7)).await.unwrap(), Begin::Begun(Token(7)), "the same delivery");
    let request = slice_attempt("0..4", 1, 7);
    let holder = Holder { token: Token(7), gpu_id: request.gpu_id, incarnation: request.incarnation, delivery: request.delivery };
    assert_eq!(store.look(&slice_looking("0..4", 1)).await.unwrap(), Look::Unfinished(holder.clone()));
    assert_eq!(store.begin(&slice_attempt("0..4", 1, 8)).await.unwrap(), Begin::Unfinished(holder));

    let RetryAnswer::Due(due) = store.retry(&slice_failed("0..4", 1, 7)).await.unwrap() else { panic!("nothing is against it") };
    assert_eq!(store.look(&slice_looking("0..4", 1)).await.unwrap(), Look::Retried(due));
    assert_eq!(store.status(&slice_id("0..4")).await.unwrap().map(|status| status.state), Some(TaskState::Retrying));
    assert_eq!(store.begin(&slice_attempt("0..4", 2, 9)).await.unwrap(), Begin::Begun(Token(9)));
    let split = ended(&subject, &slice_end("0..4", 2, Some(9), "abcd")).await;
    assert_eq!((states(&split).as_str(), split.result_bytes), ("0..4 ended, 4..8 waiting", 4));
    assert_eq!(split.open().collect::<Vec<_>>(), [slice("4..8")]);

    let stored = Stored { outcome: Outcome::Succeeded, body: None, attempt: 2, token: Some(Token(9)), published_to: None };
    assert_eq!(store.look(&slice_looking("0..4", 2)).await.unwrap(), Look::Ended(stored.clone()));
    assert_eq!(store.begin(&slice_attempt("0..4", 2, 10)).await.unwrap(), Begin::Not(Look::Ended(stored)));
    let status = store.status(&slice_id("0..4")).await.unwrap().expect("known");
    assert_eq!((status.state, status.attempt, status.reply), (TaskState::Succeeded, 2, None));
    assert!(!store.cancel_asked(&slice_id("0..4")).await.unwrap());
}

/// The store was emptied, its id was given to another batch, and a slice of the first one is still on its way.
pub async fn nobody_wants_a_slice_of_another_batch_that_had_the_id_before(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    split(&subject, &[4, 4]).await;
    let old = BodyHash::of_slice(&BodyHash::of(b"another body"), b"some of the items");
    let look = LookRequest { body_hash: old.clone(), ..slice_looking("0..4", 1) };
    let begin = BeginRequest { body_hash: old.clone(), ..slice_attempt("0..4", 1, 7) };
    let fence = task_store::FenceRequest { body_hash: old.clone(), ..slice_fence("0..4") };
    let retry = RetryRequest { body_hash: old.clone(), ..slice_failed("0..4", 1, 7) };
    let end = SliceRecordRequest { body_hash: old, ..slice_end("0..4", 1, Some(7), "old") };
    assert_eq!(store.look(&look).await.unwrap(), Look::Unwanted);
    assert_eq!(store.begin(&begin).await.unwrap(), Begin::Not(Look::Unwanted));
    assert_eq!(store.fence(&fence).await.unwrap(), Fence::Not(Look::Unwanted));
    assert_eq!(store.retry(&retry).await.unwrap(), RetryAnswer::Not(Look::Unwanted));
    assert_eq!(store.record_slice(&end).await.unwrap(), SliceRecord::Unwanted);
    assert_eq!(now(&subject).await, "0..4 waiting, 4..8 waiting");
    // That of the batch is, and nothing of the old one stands in its way.
    begun(&subject, "0..4", 8).await;
    assert_eq!(store.record_slice(&end).await.unwrap(), SliceRecord::Unwanted);
    ended(&subject, &slice_end("0..4", 1, Some(8), "new")).await;
    assert_eq!(results(&subject, 0, 100).await, [("0..4".to_owned(), "new".to_owned())]);
}

pub async fn nobody_wants_a_slice_whose_batch_is_unknown_cut_otherwise_or_ended(back_end: BackEnd) {
    let subject = back_end.start().await;
    is_unwanted(&subject, "0..4", 7).await;
    assert_eq!(subject.store.status(&task()).await.unwrap(), None, "nothing is written");
    split(&subject, &[4, 4]).await;
    is_unwanted(&subject, "0..5", 7).await;
    begun(&subject, "0..4", 8).await;
    subject.store.record(&merged()).await.unwrap();
    is_unwanted(&subject, "0..4", 8).await;
    is_unwanted(&subject, "4..8", 9).await;
    // A batch that is no slice's, and what is no slice.
    let whole = SliceRecordRequest { task_id: task(), ..slice_end("0..4", 1, None, "x") };
    assert_eq!(subject.store.record_slice(&whole).await.unwrap(), SliceRecord::Unwanted);
    assert_eq!(subject.store.look(&looking(1)).await.unwrap(), Look::Ended(stored(&merged())));
}

pub async fn the_status_of_a_batch_counts_its_slices(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    split(&subject, &[4, 4, 2]).await;
    let status = async || store.status(&task()).await.unwrap().expect("known");
    assert_eq!((status().await.state, status().await.progress, status().await.attempt), (TaskState::Waiting, None, 1));
    assert_eq!(counts(&subject).await, ((0, Some(0)), (3, 0, 0)));
    begun(&subject, "0..4", 7).await;
    begun(&subject, "4..8", 8).await;
    assert_eq!((status().await.state, status().await.gpu_id), (TaskState::Running, GpuId::new("GPU-8").ok()));
    let counted = |done, failed| ProgressAnswer::Noted(Some(ItemCounts { of: 10, done, failed: Some(failed) }));
    assert_eq!(store.progress(&slice_progress("0..4", 7, 2)).await.unwrap(), counted(2, 0));
    let with_failures = ItemCounts { of: 4, done: 99, failed: Some(1) };
    let request = ProgressRequest { items: Some(with_failures), ..slice_progress("4..8", 8, 1) };
    assert_eq!(store.progress(&request).await.unwrap(), counted(6, 1), "no slice counts more than its own items");
    assert_eq!(store.progress(&slice_progress("0..4", 7, 3)).await.unwrap(), counted(7, 1));
    let silent = ProgressRequest { items: None, ..slice_progress("0..4", 7, 3) };
    assert_eq!(store.progress(&silent).await.unwrap(), counted(7, 1), "what was noted stays");
    assert_eq!(counts(&subject).await, ((7, Some(1)), (1, 2, 0)));
    let Progress { fraction, message, .. } = status().await.progress.expect("it runs");
    assert_eq!((fraction.get(), message), (0.7, None));

    let one_failed = SliceRecordRequest { items_failed: 1, ..slice_end("0..4", 1, Some(7), "one") };
    assert_eq!(ended(&subject, &one_failed).await.items_failed, 1);
    let all_failed = SliceRecordRequest { items_failed: 9, outcome: Outcome::Failed, ..slice_end("4..8", 1, Some(8), "two") };
    assert_eq!(ended(&subject, &all_failed).await.items_failed, 5);
    assert_eq!(counts(&subject).await, ((8, Some(5)), (1, 0, 2)));
    assert_eq!(status().await.state, TaskState::Running, "it is under way");
    begun(&subject, "8..10", 9).await;
    assert!(ended(&subject, &slice_end("8..10", 1, Some(9), "three")).await.is_complete());
    store.record(&merged()).await.unwrap();
    let ended = status().await;
    assert_eq!((ended.state, ended.items, ended.slices, ended.progress), (TaskState::Succeeded, None, None, None));
    assert_eq!((ended.attempt, ended.gpu_id, ended.reply.is_some()), (1, GpuId::new("GPU-9").ok(), true));
}

pub async fn what_came_to_nothing_counts_no_items(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    split(&subject, &[4, 4]).await;
    begun(&subject, "0..4", 7).await;
    begun(&subject, "4..8", 8).await;
    for (text, token) in [("0..4", 7), ("4..8", 8)] {
        store.progress(&slice_progress(text, token, 3)).await.unwrap();
    }
    store.retry(&slice_failed("0..4", 1, 7)).await.unwrap();
    assert_eq!(counts(&subject).await, ((3, Some(0)), (1, 1, 0)));
    store.hand_back(&slice_id("4..8"), Token(8)).await.unwrap();
    assert_eq!(counts(&subject).await, ((0, Some(0)), (2, 0, 0)));
    let late = store.progress(&slice_progress("0..4", 7, 4)).await.unwrap();
    assert_eq!((late, now(&subject).await.as_str()), (ProgressAnswer::Refused, "0..4 waiting, 4..8 waiting"));
}

pub async fn a_slice_that_crashed_waits_until_it_begins_again(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    split(&subject, &[4, 4]).await;
    begun(&subject, "0..4", 7).await;
    store.progress(&slice_progress("0..4", 7, 3)).await.unwrap();
    subject.pass(Duration::from_millis(1));
    let next = finding(slice_attempt("0..4", 1, 8), 7, true);
    assert_eq!(store.begin(&next).await.unwrap(), Begin::Suspect);
    assert_eq!((now(&subject).await.as_str(), counts(&subject).await.0), ("0..4 waiting, 4..8 waiting", (0, Some(0))));
    assert_eq!(store.status(&slice_id("0..4")).await.unwrap().map(|status| status.crashes), Some(1));
    let alone = BeginRequest { alone: true, ..slice_attempt("0..4", 1, 8) };
    assert_eq!(store.begin(&alone).await.unwrap(), Begin::Begun(Token(8)));
    assert_eq!(now(&subject).await, "0..4 running, 4..8 waiting");
    let again = BeginRequest { crashes_max: 1, alone: true, ..finding(slice_attempt("0..4", 1, 9), 8, true) };
    let Begin::Condemned(crashes) = store.begin(&again).await.unwrap() else { panic!("its crashes are used up") };
    assert_eq!(crashes.iter().map(|Crash { gpu_id, .. }| gpu_id.as_str()).collect::<Vec<_>>(), ["GPU-7", "GPU-8"]);
    assert_eq!(now(&subject).await, "0..4 waiting, 4..8 waiting");
}

pub async fn a_cancelled_batch_cancels_its_slices_and_still_takes_their_ends(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    split(&subject, &[4, 4]).await;
    assert!(!store.cancel_asked(&slice_id("0..4")).await.unwrap());
    assert_eq!(store.cancel(&task(), Reach::Published).await.unwrap(), Cancel::Waiting);
    assert_eq!(state_of(&subject).await, Some(TaskState::Cancelled));

    let subject = back_end.start().await;
    let store = &subject.store;
    let before = split(&subject, &[4, 4]).await;
    begun(&subject, "0..4", 7).await;
    assert_eq!(store.cancel(&task(), Reach::Published).await.unwrap(), Cancel::Running(GpuId::new("GPU-7").unwrap()));
    assert_eq!(state_of(&subject).await, Some(TaskState::Running), "until its slice has ended");
    for text in ["0..4", "4..8"] {
        assert_eq!(store.look(&slice_looking(text, 1)).await.unwrap(), Look::Cancelled, "{text}");
        assert_eq!(store.begin(&slice_attempt(text, 1, 9)).await.unwrap(), Begin::Not(Look::Cancelled), "{text}");
        assert!(store.cancel_asked(&slice_id(text)).await.unwrap(), "{text}");
    }
    assert_eq!(store.retry(&slice_failed("0..4", 1, 7)).await.unwrap(), RetryAnswer::Not(Look::Cancelled));
    assert_eq!(store.look(&looking(1)).await.unwrap(), Look::Cancelled);
    assert_eq!(store.split(&splitting(&[4, 4])).await.unwrap(), SplitAnswer::Not(Look::Cancelled));
    let Fence::Not(Look::Split(still)) = store.fence(&fence(1)).await.unwrap() else { panic!("nobody fences a split batch") };
    assert_eq!(still.slices.len(), before.slices.len());
    let end = SliceRecordRequest { outcome: Outcome::Cancelled, ..slice_end("0..4", 1, Some(7), "cancelled") };
    assert_eq!(states(&ended(&subject, &end).await), "0..4 ended, 4..8 waiting");
    assert_eq!(state_of(&subject).await, Some(TaskState::Cancelled));
    let cancelled = outcome(Outcome::Cancelled, 1, None, "cancelled");
    assert_eq!(store.record(&cancelled).await.unwrap(), Record::Recorded);
    is_unwanted(&subject, "4..8", 9).await;
    assert_eq!(store.cancel(&task(), Reach::Published).await.unwrap(), Cancel::Ended(Outcome::Cancelled));
}

pub async fn a_slice_is_cancelled_alone(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    split(&subject, &[4, 4]).await;
    begun(&subject, "0..4", 7).await;
    let asked = store.cancel(&slice_id("0..4"), Reach::Published).await.unwrap();
    assert_eq!(asked, Cancel::Running(GpuId::new("GPU-7").unwrap()));
    assert!(store.cancel_asked(&slice_id("0..4")).await.unwrap());
    assert!(!store.cancel_asked(&slice_id("4..8")).await.unwrap());
    assert!(!store.cancel_asked(&task()).await.unwrap());
    assert_eq!(store.look(&slice_looking("0..4", 1)).await.unwrap(), Look::Cancelled);
    assert_eq!(now(&subject).await, "0..4 running, 4..8 waiting");
}

pub async fn the_first_end_of_a_slice_is_final(back_end: BackEnd) {
    let subject = back_end.start().await;
    split(&subject, &[4, 4]).await;
    begun(&subject, "0..4", 7).await;
    let first = ended(&subject, &slice_end("0..4", 1, Some(7), "first")).await;
    let others = [
        slice_end("0..4", 1, Some(7), "first"),
        slice_end("0..4", 2, Some(9), "second"),
        slice_end("0..4", 1, None, "third"),
        SliceRecordRequest { outcome: Outcome::Failed, items_failed: 4, ..slice_end("0..4", 1, Some(6), "fourth") },
    ];
    for other in others {
        assert_eq!(ended(&subject, &other).await, first, "{other:?}");
    }
    assert_eq!(results(&subject, 0, 100).await, [("0..4".to_owned(), "first".to_owned())]);
    assert_eq!(subject.totals().await.reply_bytes, 5);
    let of_another = SliceRecordRequest { body_hash: body_hash(), ..slice_end("0..4", 1, Some(7), "first") };
    assert_eq!(subject.store.record_slice(&of_another).await.unwrap(), SliceRecord::Superseded);
}

pub async fn a_late_holder_of_a_slice_ends_nothing(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    split(&subject, &[4, 4]).await;
    begun(&subject, "0..4", 7).await;
    subject.pass(Duration::from_millis(1));
    assert_eq!(store.begin(&finding(slice_attempt("0..4", 1, 8), 7, false)).await.unwrap(), Begin::Begun(Token(8)));
    store.progress(&slice_progress("0..4", 8, 1)).await.unwrap();
    for late in [slice_end("0..4", 1, Some(7), "late"), slice_end("0..4", 1, None, "expired")] {
        assert_eq!(store.record_slice(&late).await.unwrap(), SliceRecord::Superseded, "{late:?}");
    }
    assert_eq!(store.retry(&slice_failed("0..4", 1, 7)).await.unwrap(), RetryAnswer::Superseded);
    store.hand_back(&slice_id("0..4"), Token(7)).await.unwrap();
    assert_eq!(store.progress(&slice_progress("0..4", 7, 4)).await.unwrap(), ProgressAnswer::Refused);
    assert_eq!((now(&subject).await.as_str(), counts(&subject).await.0), ("0..4 running, 4..8 waiting", (1, Some(0))));
    assert!(results(&subject, 0, 100).await.is_empty());
    ended(&subject, &slice_end("0..4", 1, Some(8), "mine")).await;
}

pub async fn a_slice_that_ends_without_a_run_is_fenced_off_first(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    split(&subject, &[4, 4]).await;
    begun(&subject, "0..4", 7).await;
    assert!(matches!(store.fence(&slice_fence("0..4")).await.unwrap(), Fence::Unfinished(holder) if holder.token == Token(7)));
    subject.pass(Duration::from_millis(1));
    let fencing = task_store::FenceRequest { verdict: Some(Verdict { token: Token(7), gone: true }), ..slice_fence("0..4") };
    assert_eq!(store.fence(&fencing).await.unwrap(), Fence::Fenced(FENCE));
    assert_eq!(now(&subject).await, "0..4 waiting, 4..8 waiting");
    assert_eq!(store.record_slice(&slice_end("0..4", 1, Some(7), "late")).await.unwrap(), SliceRecord::Superseded);
    let quarantined = SliceRecordRequest { outcome: Outcome::Failed, items_failed: 4, ..slice_end("0..4", 1, Some(FENCE.0), "crashed") };
    assert_eq!(states(&ended(&subject, &quarantined).await), "0..4 ended, 4..8 waiting");
    // One that never began needs none.
    let expired = SliceRecordRequest { outcome: Outcome::Expired, items_failed: 4, ..slice_end("4..8", 1, None, "expired") };
    assert!(ended(&subject, &expired).await.is_complete());
}

pub async fn of_two_mergers_one_records(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    split(&subject, &[4, 4]).await;
    for (text, token) in [("4..8", 8), ("0..4", 7)] {
        begun(&subject, text, token).await;
        ended(&subject, &slice_end(text, 1, Some(token), text)).await;
    }
    // One ended the last slice, the other one found the batch complete.
    let Look::Split(found) = store.look(&looking(1)).await.unwrap() else { panic!("it has not ended") };
    assert!(found.is_complete() && ended(&subject, &slice_end("0..4", 1, Some(7), "0..4")).await.is_complete());
    assert_eq!(results(&subject, 0, 100).await.len(), 2);
    assert_eq!(store.record(&merged()).await.unwrap(), Record::Recorded);
    assert_eq!(store.record(&merged()).await.unwrap(), Record::Recorded, "the very same");
    let other = outcome(Outcome::Succeeded, 1, None, "merged otherwise");
    assert_eq!(store.record(&other).await.unwrap(), Record::EndedBefore(stored(&merged())));
    for _ in 0..2 {
        store.forget_slices(&task(), false);
    }
    assert_eq!(store.look(&looking(1)).await.unwrap(), Look::Ended(stored(&merged())));
    is_unwanted(&subject, "0..4", 7).await;
}

pub async fn after_the_store_was_emptied_the_batch_is_split_anew(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    split(&subject, &[4, 4]).await;
    begun(&subject, "0..4", 7).await;
    begun(&subject, "4..8", 8).await;
    ended(&subject, &slice_end("0..4", 1, Some(7), "lost")).await;
    subject.empty().await;
    is_unwanted(&subject, "4..8", 8).await;
    assert_eq!(store.look(&looking(1)).await.unwrap(), Look::Open);
    assert_eq!(states(&split(&subject, &[4, 2, 2]).await), "0..4 waiting, 4..6 waiting, 6..8 waiting");
    assert!(results(&subject, 0, 100).await.is_empty());
    is_unwanted(&subject, "4..8", 8).await;
    // A slice of the same name is wanted, whoever brings it.
    ended(&subject, &slice_end("0..4", 1, Some(7), "again")).await;
    begun(&subject, "4..6", 9).await;
    assert_eq!(now(&subject).await, "0..4 ended, 4..6 running, 6..8 waiting");
}

pub async fn the_items_of_a_batch_that_runs_whole_show_in_its_status(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    store.begin(&attempt(1, 7)).await.unwrap();
    let items = async || store.status(&task()).await.unwrap().and_then(|status| status.items);
    for counted in [ItemCounts { of: 8, done: 3, failed: Some(1) }, ItemCounts { of: 8, done: 4, failed: None }] {
        let request = ProgressRequest { items: Some(counted), ..progress(7, 0.5, None) };
        assert_eq!(store.progress(&request).await.unwrap(), ProgressAnswer::Noted(None));
        assert_eq!(items().await, Some(counted));
    }
    store.progress(&progress(7, 0.6, None)).await.unwrap();
    assert_eq!(items().await, None, "the last note counts");
    let request = ProgressRequest { items: Some(ItemCounts { of: 8, done: 8, failed: None }), ..progress(7, 0.9, None) };
    store.progress(&request).await.unwrap();
    store.record(&success(1, 7)).await.unwrap();
    assert_eq!(items().await, None, "its reply says it");
}
