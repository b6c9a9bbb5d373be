//! The conformance suite of the store: each case is listed once and runs on every back end. Time is moved, never slept.

mod batch_results;
mod batches;
mod batches_both;
mod batches_redis;
mod both;
mod cancels;
mod crashes;
mod delays;
mod groups;
mod journal;
mod journal_redis;
mod named;
mod progress;
mod redis_only;
mod second_tries;
mod slices;
mod subject;
mod submissions;

use std::time::Duration;

use bytes::Bytes;
use protocol::{BodyHash, GpuId, Kind, Outcome, PoolName, TaskId, TaskState, Token};
use task_store::{
    Begin, BeginRequest, Cancel, DelayRequest, KnownGpu, Look, LookRequest, Reach, Record, RecordRequest, Reopen, Retry, RetryAnswer,
    RetryRequest, StoreOptions, Stored, Submission, Totals, Verdict,
};

use self::{batch_results::*, batches::*, cancels::*, crashes::*, delays::*, progress::*, second_tries::*, subject::*, submissions::*};

macro_rules! cases {
    ($($case:ident,)*) => {
        mod on_memory { $(#[tokio::test] async fn $case() { super::$case(super::BackEnd::Memory).await })* }
        mod on_redis { $(#[tokio::test] async fn $case() { super::$case(super::BackEnd::Redis).await })* }
    };
}

cases! {
    a_task_lives_from_waiting_over_running_to_its_outcome,
    an_unseen_task_is_open_and_unknown,
    a_submitted_task_can_be_forgotten_until_something_else_is_written,
    submitting_a_known_task_changes_nothing,
    the_first_outcome_is_final,
    the_same_outcome_recorded_again_is_accepted,
    a_late_holder_neither_begins_nor_records,
    a_task_that_ended_does_not_begin_again,
    beginning_twice_for_one_delivery_is_one_begin,
    a_reused_id_is_refused_and_learns_nothing_of_the_first,
    a_crash_is_counted_once_and_makes_the_task_a_suspect,
    a_holder_that_says_itself_that_its_attempt_crashed_is_believed,
    a_holder_that_lives_or_handed_back_is_no_crash,
    a_task_that_ends_without_a_run_fences_off_what_began,
    only_a_crash_alone_on_its_gpu_uses_up_the_crashes,
    a_crash_of_an_earlier_attempt_counts_on,
    a_task_that_never_ran_ends_without_a_token,
    an_outcome_without_a_token_does_not_overrule_a_running_attempt,
    an_outcome_without_a_token_ends_a_later_attempt_that_never_began,
    a_store_that_lost_the_begin_still_records_the_outcome,
    after_its_retention_the_reply_is_gone_and_the_outcome_remains,
    after_its_retention_the_outcome_is_gone_and_the_id_is_free,
    a_task_that_never_ended_is_forgotten_after_its_last_change,
    noting_a_published_reply_does_not_prolong_its_record,
    a_reason_to_wait_shows_until_the_task_begins,
    a_reply_over_the_bound_is_not_kept_and_counted,
    expired_replies_make_room,
    a_refused_duplicate_takes_no_room,
    a_recorded_retry_is_the_same_retry_for_every_later_copy_of_the_attempt,
    a_retry_waits_then_its_attempt_begins,
    a_late_holder_records_no_retry,
    a_task_that_ended_or_was_cancelled_is_not_retried,
    a_cancelled_task_never_begins_and_ends_as_cancelled,
    a_cancel_of_a_running_task_names_its_gpu_and_is_found,
    a_cancel_of_an_ended_task_says_how_it_ended_and_changes_nothing,
    a_cancel_of_an_unseen_task_leaves_a_tombstone,
    a_cancel_of_an_unseen_id_counts_for_what_was_published_before_it_alone,
    a_cancel_that_did_not_reach_a_task_is_gone_when_that_begins,
    a_cancel_of_an_unseen_id_asked_for_again_counts_from_then_and_shows_nowhere,
    a_cancel_that_reaches_ahead_counts_for_every_later_task,
    what_is_submitted_after_a_cancel_is_not_cancelled,
    a_known_task_is_cancelled_whenever_it_was_published,
    a_submitted_id_belongs_to_one_body_and_one_kind,
    an_id_whose_task_ended_belongs_to_it_until_its_record_is_gone,
    a_task_that_came_without_being_noted_has_its_id_all_the_same,
    a_note_on_which_two_rely_is_not_taken_back,
    a_task_cancelled_between_two_attempts_is_skipped,
    a_delayed_task_shows_so_until_it_is_due_and_nothing_is_written_then,
    a_delayed_task_is_remembered_until_it_is_due_and_for_its_retention_after,
    a_delay_of_what_began_ended_or_is_another_task_is_not_noted,
    a_delayed_task_whose_publish_was_refused_is_forgotten,
    a_delayed_task_is_cancelled_at_once_and_never_begins,
    the_latest_delay_counts,
    the_last_progress_shows_while_the_task_runs,
    progress_of_a_late_holder_is_refused,
    progress_of_what_does_not_run_is_refused_and_changes_nothing,
    a_task_that_reports_is_not_forgotten_while_it_runs,
    a_task_that_ended_is_reopened_for_a_second_life_and_no_other_is,
    gpus_stay_announced_until_withdrawn,
    an_announcement_repeated_since_is_not_withdrawn,
    the_first_address_of_a_reply_is_remembered,
    a_token_of_sixteen_digits_survives,
    a_reply_of_any_bytes_survives,
    the_status_of_a_task_has_the_raw_bytes_of_its_reply,
    a_brief_look_says_the_same_but_for_the_reply,
    a_probe_leaves_nothing_that_a_task_sees,
    a_batch_is_split_once_and_its_cut_stays,
    what_stands_against_running_a_batch_stands_against_splitting_it,
    a_batch_of_which_an_attempt_began_stays_whole,
    a_slice_lives_the_life_of_a_task,
    nobody_wants_a_slice_whose_batch_is_unknown_cut_otherwise_or_ended,
    nobody_wants_a_slice_of_another_batch_that_had_the_id_before,
    the_status_of_a_batch_counts_its_slices,
    what_came_to_nothing_counts_no_items,
    a_slice_that_crashed_waits_until_it_begins_again,
    a_cancelled_batch_cancels_its_slices_and_still_takes_their_ends,
    a_slice_is_cancelled_alone,
    the_first_end_of_a_slice_is_final,
    a_late_holder_of_a_slice_ends_nothing,
    a_slice_that_ends_without_a_run_is_fenced_off_first,
    of_two_mergers_one_records,
    after_the_store_was_emptied_the_batch_is_split_anew,
    the_items_of_a_batch_that_runs_whole_show_in_its_status,
    results_are_read_in_order_and_in_pieces,
    large_results_survive_to_the_last_byte,
    results_without_room_change_nothing,
    results_have_room_that_replies_cannot_take,
    a_word_that_there_was_no_room_has_room_always,
    forgotten_results_give_their_room_back,
    results_of_a_merged_batch_are_readable_as_long_as_a_reply,
    what_has_not_ended_is_not_forgotten,
    a_batch_and_its_results_live_as_long_as_its_slices_change,
    a_batch_lives_while_a_slice_says_why_it_waits,
    a_batch_whose_slices_do_nothing_is_forgotten_with_its_results,
    a_slice_that_only_its_batch_remembers_is_not_run_again,
    a_batch_is_reopened_without_its_slices_and_results,
}

async fn a_task_lives_from_waiting_over_running_to_its_outcome(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    store.ping().await.expect("an answer");
    store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer");
    let first = store.status(&task()).await.expect("an answer").expect("known");
    assert_eq!((first.state, first.kind, first.attempt, first.gpu_id), (TaskState::Waiting, Some(kind()), 0, None));

    subject.pass(Duration::from_secs(5));
    assert_eq!(store.begin(&attempt(1, 7)).await.expect("an answer"), Begin::Begun(Token(7)));
    let running = store.status(&task()).await.expect("an answer").expect("known");
    assert_eq!((running.state, running.attempt, running.gpu_id), (TaskState::Running, 1, GpuId::new("GPU-7").ok()));
    assert!((5_000..60_000).contains(&(running.changed_ms - first.first_seen_ms)), "{} after {}", running.changed_ms, first.first_seen_ms);

    assert_eq!(store.record(&success(1, 7)).await.expect("an answer"), Record::Recorded);
    store.note_published(&task(), "here");
    let ended = store.status(&task()).await.expect("an answer").expect("known");
    assert_eq!((ended.state, ended.attempt, ended.first_seen_ms), (TaskState::Succeeded, 1, first.first_seen_ms));
    assert_eq!(ended.reply, Some(reply(Outcome::Succeeded, "done")));
}

async fn a_probe_leaves_nothing_that_a_task_sees(back_end: BackEnd) {
    let subject = back_end.start().await;
    let before = subject.store.announced().await.expect("an answer");
    for _ in 0..2 {
        subject.store.probe().await.expect("it takes writes");
    }
    assert_eq!(subject.store.announced().await.expect("an answer"), before);
    assert_eq!(state_of(&subject).await, None);
}

async fn an_unseen_task_is_open_and_unknown(back_end: BackEnd) {
    let subject = back_end.start().await;
    assert_eq!(subject.store.look(&looking(1)).await.expect("an answer"), Look::Open);
    assert_eq!(subject.store.status(&task()).await.expect("an answer"), None);
    subject.store.note_published(&task(), "here");
    subject.store.forget(&task()).await.expect("an answer");
    assert_eq!(subject.store.status(&task()).await.expect("an answer"), None, "neither look, published nor forget makes a record");
}

async fn a_submitted_task_can_be_forgotten_until_something_else_is_written(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer");
    subject.store.forget(&task()).await.expect("an answer");
    assert_eq!(state_of(&subject).await, None);

    subject.store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer");
    subject.store.begin(&attempt(1, 7)).await.expect("an answer");
    subject.store.forget(&task()).await.expect("an answer");
    assert_eq!(state_of(&subject).await, Some(TaskState::Running));
}

async fn submitting_a_known_task_changes_nothing(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.record(&success(1, 7)).await.expect("an answer");
    let before = subject.store.status(&task()).await.expect("an answer");
    subject.pass(Duration::from_secs(1));
    subject.store.submitted(&task(), &Kind::new("other").expect("a valid name"), &body_hash()).await.expect("an answer");
    subject.store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer");
    subject.store.forget(&task()).await.expect("an answer");
    assert_eq!(subject.store.status(&task()).await.expect("an answer"), before);
}

async fn the_first_outcome_is_final(back_end: BackEnd) {
    let subject = back_end.start().await;
    let first = success(1, 7);
    assert_eq!(subject.store.record(&first).await.expect("an answer"), Record::Recorded);
    let others = [
        success(2, 7),
        success(1, 8),
        outcome(Outcome::Succeeded, 1, Some(7), "another reply"),
        outcome(Outcome::Expired, 1, None, "late"),
        success(1, 6),
    ];
    for other in others {
        assert_eq!(subject.store.record(&other).await.expect("an answer"), Record::EndedBefore(stored(&first)), "{other:?}");
    }
    assert_eq!(subject.store.look(&looking(1)).await.expect("an answer"), Look::Ended(stored(&first)));
}

async fn the_same_outcome_recorded_again_is_accepted(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.begin(&attempt(1, 7)).await.expect("an answer");
    for _ in 0..3 {
        assert_eq!(subject.store.record(&success(1, 7)).await.expect("an answer"), Record::Recorded);
    }
    subject.pass(REPLY_RETENTION);
    assert_eq!(subject.store.record(&success(1, 7)).await.expect("an answer"), Record::Recorded, "the digest outlives the reply");
}

async fn a_late_holder_neither_begins_nor_records(back_end: BackEnd) {
    let subject = back_end.start().await;
    assert_eq!(subject.store.begin(&attempt(1, 7)).await.expect("an answer"), Begin::Begun(Token(7)));
    let taken_over = subject.store.begin(&finding(attempt(1, 9), 7, false)).await.expect("an answer");
    assert_eq!(taken_over, Begin::Begun(Token(9)), "a redelivery takes over what its former holder has let go of");
    assert!(matches!(subject.store.begin(&attempt(1, 7)).await.expect("an answer"), Begin::Unfinished(_)));
    assert_eq!(subject.store.record(&success(1, 7)).await.expect("an answer"), Record::Superseded);
    assert_eq!(state_of(&subject).await, Some(TaskState::Running));
    assert_eq!(subject.store.record(&success(1, 9)).await.expect("an answer"), Record::Recorded);
}

async fn a_task_that_ended_does_not_begin_again(back_end: BackEnd) {
    let subject = back_end.start().await;
    let first = success(1, 7);
    subject.store.record(&first).await.expect("an answer");
    for token in [6, 7, 8] {
        assert_eq!(subject.store.begin(&attempt(1, token)).await.expect("an answer"), Begin::Not(Look::Ended(stored(&first))));
    }
}

async fn beginning_twice_for_one_delivery_is_one_begin(back_end: BackEnd) {
    let subject = back_end.start().await;
    assert_eq!(subject.store.begin(&attempt(1, 7)).await.expect("an answer"), Begin::Begun(Token(7)));
    assert_eq!(subject.store.begin(&attempt(1, 7)).await.expect("an answer"), Begin::Begun(Token(7)));
}

async fn a_reused_id_is_refused_and_learns_nothing_of_the_first(back_end: BackEnd) {
    let subject = back_end.start().await;
    let other = BodyHash::of(b"another body");
    subject.store.begin(&attempt(1, 7)).await.expect("an answer");
    for ended in [false, true] {
        if ended {
            subject.store.record(&success(1, 7)).await.expect("an answer");
        }
        let look = LookRequest { body_hash: other.clone(), ..looking(1) };
        assert_eq!(subject.store.look(&look).await.expect("an answer"), Look::ReusedId);
        let begin = BeginRequest { body_hash: other.clone(), ..attempt(1, 9) };
        assert_eq!(subject.store.begin(&begin).await.expect("an answer"), Begin::Not(Look::ReusedId));
        let record = RecordRequest { body_hash: other.clone(), ..success(1, 9) };
        assert_eq!(subject.store.record(&record).await.expect("an answer"), Record::Superseded);
    }
}

async fn a_task_that_never_ran_ends_without_a_token(back_end: BackEnd) {
    let subject = back_end.start().await;
    let refused = RecordRequest { kind: None, ..outcome(Outcome::Failed, 1, None, "invalid") };
    assert_eq!(subject.store.record(&refused).await.expect("an answer"), Record::Recorded);
    let status = subject.store.status(&task()).await.expect("an answer").expect("known");
    assert_eq!((status.state, status.kind, status.attempt), (TaskState::Failed, None, 0));
    assert_eq!(subject.store.look(&looking(1)).await.expect("an answer"), Look::Ended(stored(&refused)));
}

async fn an_outcome_without_a_token_does_not_overrule_a_running_attempt(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.begin(&attempt(1, 7)).await.expect("an answer");
    let expired = outcome(Outcome::Expired, 1, None, "expired");
    assert_eq!(subject.store.record(&expired).await.expect("an answer"), Record::Superseded);
    assert_eq!(subject.store.record(&success(1, 7)).await.expect("an answer"), Record::Recorded);
}

async fn an_outcome_without_a_token_ends_a_later_attempt_that_never_began(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.begin(&attempt(1, 7)).await.expect("an answer");
    let expired = outcome(Outcome::Expired, 2, None, "expired");
    assert_eq!(subject.store.record(&expired).await.expect("an answer"), Record::Recorded);
    assert_eq!(subject.store.record(&success(1, 7)).await.expect("an answer"), Record::EndedBefore(stored(&expired)));
}

async fn a_store_that_lost_the_begin_still_records_the_outcome(back_end: BackEnd) {
    let subject = back_end.start().await;
    assert_eq!(subject.store.record(&success(3, 7)).await.expect("an answer"), Record::Recorded);
    assert_eq!(subject.store.status(&task()).await.expect("an answer").map(|status| status.attempt), Some(3));
}

async fn after_its_retention_the_reply_is_gone_and_the_outcome_remains(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.record(&success(1, 7)).await.expect("an answer");
    subject.pass(REPLY_RETENTION - Duration::from_secs(60));
    assert_eq!(subject.store.look(&looking(1)).await.expect("an answer"), Look::Ended(stored(&success(1, 7))));
    subject.pass(Duration::from_secs(60));
    let gone = Stored { body: None, ..stored(&success(1, 7)) };
    assert_eq!(subject.store.look(&looking(1)).await.expect("an answer"), Look::Ended(gone));
    let status = subject.store.status(&task()).await.expect("an answer").expect("known");
    assert_eq!((status.state, status.reply), (TaskState::Succeeded, None));
}

async fn after_its_retention_the_outcome_is_gone_and_the_id_is_free(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.record(&success(1, 7)).await.expect("an answer");
    subject.pass(OUTCOME_RETENTION);
    assert_eq!(subject.store.status(&task()).await.expect("an answer"), None);
    let other = BodyHash::of(b"another body");
    let look = LookRequest { body_hash: other.clone(), ..looking(1) };
    assert_eq!(subject.store.look(&look).await.expect("an answer"), Look::Open);
    let begin = BeginRequest { body_hash: other, ..attempt(1, 3) };
    assert_eq!(subject.store.begin(&begin).await.expect("an answer"), Begin::Begun(Token(3)));
    assert_eq!(state_of(&subject).await, Some(TaskState::Running), "nothing of the first is left");
}

async fn a_task_that_never_ended_is_forgotten_after_its_last_change(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer");
    subject.pass(OUTCOME_RETENTION / 2);
    subject.store.waits_for(&task(), &kind(), "a GPU").await.expect("an answer");
    subject.pass(OUTCOME_RETENTION / 2);
    assert_eq!(state_of(&subject).await, Some(TaskState::Waiting));
    subject.pass(OUTCOME_RETENTION / 2);
    assert_eq!(state_of(&subject).await, None);
}

async fn noting_a_published_reply_does_not_prolong_its_record(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.record(&success(1, 7)).await.expect("an answer");
    subject.pass(OUTCOME_RETENTION / 2);
    subject.store.note_published(&task(), "here");
    subject.store.note_published(&task(), "here");
    subject.pass(OUTCOME_RETENTION / 2);
    assert_eq!(state_of(&subject).await, None);
}

async fn a_reason_to_wait_shows_until_the_task_begins(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.waits_for(&task(), &kind(), "an 80 GB GPU").await.expect("an answer");
    let status = subject.store.status(&task()).await.expect("an answer").expect("known");
    assert_eq!((status.state, status.kind, status.waiting_for.as_deref()), (TaskState::Waiting, Some(kind()), Some("an 80 GB GPU")));
    subject.store.forget(&task()).await.expect("an answer");
    subject.store.begin(&attempt(1, 7)).await.expect("an answer");
    let status = subject.store.status(&task()).await.expect("an answer").expect("known");
    assert_eq!((status.state, status.waiting_for), (TaskState::Running, None));

    subject.store.waits_for(&task(), &kind(), "its crashed worker's lease").await.expect("an answer");
    assert_eq!(state_of(&subject).await, Some(TaskState::Waiting), "a task that crashed waits again");
    subject.store.record(&success(1, 7)).await.expect("an answer");
    let ended = subject.store.status(&task()).await.expect("an answer");
    subject.store.waits_for(&task(), &kind(), "nothing").await.expect("an answer");
    assert_eq!(subject.store.status(&task()).await.expect("an answer"), ended);
}

fn large(id: &str, bytes: usize) -> RecordRequest {
    RecordRequest { task_id: TaskId::new(id).expect("a valid name"), reply: Bytes::from(vec![b'x'; bytes]), ..success(1, 7) }
}

/// A bound of which replies may take 1,000 bytes.
const FOR_REPLIES: StoreOptions = StoreOptions { reply_bytes_max: 1_333, ..OPTIONS };

async fn a_reply_over_the_bound_is_not_kept_and_counted(back_end: BackEnd) {
    let subject = back_end.start_with(FOR_REPLIES).await;
    for (id, bytes, kept) in [("a", 600, true), ("b", 600, false), ("c", 400, true), ("d", 1, false)] {
        let request = large(id, bytes);
        assert_eq!(subject.store.record(&request).await.expect("an answer"), Record::Recorded);
        let look = LookRequest { task_id: request.task_id.clone(), ..looking(1) };
        let Look::Ended(stored) = subject.store.look(&look).await.expect("an answer") else { panic!("{id} ended") };
        assert_eq!(stored.body.is_some(), kept, "{id}");
    }
    assert_eq!(subject.totals().await, Totals { reply_bytes: 1_000, replies_not_kept: 2 });
}

async fn expired_replies_make_room(back_end: BackEnd) {
    let subject = back_end.start_with(FOR_REPLIES).await;
    subject.store.record(&large("a", 1_000)).await.expect("an answer");
    assert_eq!(subject.totals().await.reply_bytes, 1_000);
    // More than the retention, because the sum may lag by one bucket of time.
    subject.pass(REPLY_RETENTION + REPLY_RETENTION / 10);
    assert_eq!(subject.totals().await, Totals::default());
    subject.store.record(&large("b", 1_000)).await.expect("an answer");
    assert_eq!(subject.totals().await, Totals { reply_bytes: 1_000, replies_not_kept: 0 });
}

async fn a_refused_duplicate_takes_no_room(back_end: BackEnd) {
    let subject = back_end.start().await;
    for _ in 0..3 {
        subject.store.record(&large("a", 500)).await.expect("an answer");
        subject.store.record(&RecordRequest { attempt: 2, ..large("a", 500) }).await.expect("an answer");
    }
    assert_eq!(subject.totals().await.reply_bytes, 500);
}

fn known(gpus: &[KnownGpu]) -> Vec<(&str, &str)> {
    gpus.iter().map(|gpu| (gpu.gpu_id.as_str(), gpu.pool.as_str())).collect()
}

async fn the_first_address_of_a_reply_is_remembered(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.note_published(&task(), "too early");
    subject.store.record(&success(1, 7)).await.expect("an answer");
    let look = async || subject.store.look(&looking(1)).await.expect("an answer");
    assert_eq!(look().await, Look::Ended(stored(&success(1, 7))));
    for to in ["first", "second"] {
        subject.store.note_published(&task(), to);
        assert_eq!(look().await, Look::Ended(Stored { published_to: Some("first".to_owned()), ..stored(&success(1, 7)) }));
    }
}

async fn a_task_that_ended_is_reopened_for_a_second_life_and_no_other_is(back_end: BackEnd) {
    let subject = back_end.start().await;
    let reopen = async |hash: BodyHash| subject.store.reopen(&task(), &hash).await.expect("an answer");
    assert_eq!(reopen(body_hash()).await, Reopen::Open, "never seen");
    subject.store.begin(&attempt(1, 7)).await.expect("an answer");
    assert_eq!(reopen(body_hash()).await, Reopen::NotEnded);
    subject.store.record(&success(1, 7)).await.expect("an answer");
    assert_eq!(reopen(BodyHash::of(b"another body")).await, Reopen::ReusedId);
    assert!(matches!(subject.store.look(&looking(1)).await.expect("an answer"), Look::Ended(_)));
    assert_eq!(reopen(body_hash()).await, Reopen::Open);
    assert_eq!(subject.store.status(&task()).await.expect("an answer"), None);
    assert_eq!(subject.store.begin(&attempt(1, 8)).await.expect("an answer"), Begin::Begun(Token(8)));
}

async fn gpus_stay_announced_until_withdrawn(back_end: BackEnd) {
    let subject = back_end.start().await;
    let (pool, other) = (PoolName::default(), PoolName::new("other").expect("a valid name"));
    for (gpu, pool) in [("GPU-2", &pool), ("GPU-1", &pool), ("GPU-2", &other)] {
        subject.store.announce(&GpuId::new(gpu).expect("a valid name"), pool).await.expect("an answer");
    }
    subject.pass(OUTCOME_RETENTION * 3);
    let gpus = subject.store.announced().await.expect("an answer");
    assert_eq!(known(&gpus), [("GPU-1", "default"), ("GPU-2", "other")]);
    for _ in 0..2 {
        subject.store.withdraw(&gpus[0]).await.expect("an answer");
    }
    assert_eq!(known(&subject.store.announced().await.expect("an answer")), [("GPU-2", "other")]);
}

async fn an_announcement_repeated_since_is_not_withdrawn(back_end: BackEnd) {
    let subject = back_end.start().await;
    let gpu_id = GpuId::new("GPU-1").expect("a valid name");
    subject.store.announce(&gpu_id, &PoolName::default()).await.expect("an answer");
    let seen = subject.store.announced().await.expect("an answer");
    subject.pass(Duration::from_secs(1));
    subject.store.announce(&gpu_id, &PoolName::default()).await.expect("an answer");
    subject.store.withdraw(&seen[0]).await.expect("an answer");
    let now = subject.store.announced().await.expect("an answer");
    assert_eq!(known(&now), [("GPU-1", "default")]);
    assert!(now[0].announced_ms >= seen[0].announced_ms + 1_000);
}

async fn a_token_of_sixteen_digits_survives(back_end: BackEnd) {
    let subject = back_end.start().await;
    let token = 1_799_999_999_999_999;
    subject.store.record(&success(1, token)).await.expect("an answer");
    assert_eq!(subject.store.look(&looking(1)).await.expect("an answer"), Look::Ended(stored(&success(1, token))));
}

async fn a_brief_look_says_the_same_but_for_the_reply(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    assert_eq!(store.look_briefly(&looking(1)).await.expect("an answer"), Look::Open);
    assert_eq!(store.begin(&attempt(1, 7)).await.expect("an answer"), Begin::Begun(Token(7)));
    assert!(matches!(store.look_briefly(&looking(1)).await.expect("an answer"), Look::Unfinished(_)));
    store.record(&success(1, 7)).await.expect("an answer");
    let Look::Ended(brief) = store.look_briefly(&looking(1)).await.expect("an answer") else { panic!("it ended") };
    assert!(matches!(back_end, BackEnd::Memory) || brief.body.is_none(), "a large reply is not read");
    let whole = stored(&success(1, 7));
    assert_eq!(Stored { body: whole.body.clone(), ..brief }, whole);
}

async fn a_reply_of_any_bytes_survives(back_end: BackEnd) {
    let subject = back_end.start().await;
    for (id, reply) in [("empty", Bytes::new()), ("binary", Bytes::from((0..=255).collect::<Vec<u8>>()))] {
        let request = RecordRequest { task_id: TaskId::new(id).expect("a valid name"), reply, ..success(1, 7) };
        subject.store.record(&request).await.expect("an answer");
        let look = LookRequest { task_id: request.task_id.clone(), ..looking(1) };
        assert_eq!(subject.store.look(&look).await.expect("an answer"), Look::Ended(stored(&request)));
    }
}
