//! Retries and cancels: what stands between two attempts, and what keeps the next one from beginning.

use super::*;

pub fn failed(attempt: u32, token: u64) -> RetryRequest {
    RetryRequest {
        task_id: task(),
        body_hash: body_hash(),
        attempt,
        token: protocol::Token(token),
        error: "broken: as asked".to_owned(),
        after_ms: 700,
    }
}

const DUE: Retry = Retry { attempt: 2, after_ms: 700 };

pub async fn a_recorded_retry_is_the_same_retry_for_every_later_copy_of_the_attempt(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    assert_eq!(store.begin(&attempt(1, 7)).await.unwrap(), Begin::Begun(Token(7)));
    assert_eq!(store.retry(&failed(1, 7)).await.unwrap(), RetryAnswer::Due(DUE));
    let other_pause = RetryRequest { after_ms: 9, ..failed(1, 7) };
    assert_eq!(store.retry(&other_pause).await.unwrap(), RetryAnswer::Due(DUE), "what was recorded first counts");
    assert_eq!(store.look(&looking(1)).await.unwrap(), Look::Retried(DUE));
    assert_eq!(store.begin(&attempt(1, 8)).await.unwrap(), Begin::Not(Look::Retried(DUE)));
}

pub async fn a_retry_waits_then_its_attempt_begins(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    store.begin(&attempt(1, 7)).await.unwrap();
    store.retry(&failed(1, 7)).await.unwrap();
    let status = store.status(&task()).await.unwrap().unwrap();
    assert_eq!(status.state, TaskState::Retrying);
    assert!(status.waiting_for.is_some_and(|why| why.contains("broken: as asked") && why.contains("attempt 2")));
    assert_eq!(store.look(&looking(2)).await.unwrap(), Look::Open);
    assert_eq!(store.begin(&attempt(2, 9)).await.unwrap(), Begin::Begun(Token(9)));
    assert_eq!(state_of(&subject).await, Some(TaskState::Running));
    assert_eq!(store.record(&success(2, 9)).await.unwrap(), Record::Recorded);
}

pub async fn a_late_holder_records_no_retry(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    store.begin(&attempt(1, 7)).await.unwrap();
    store.begin(&finding(attempt(1, 8), 7, false)).await.unwrap();
    assert_eq!(store.retry(&failed(1, 7)).await.unwrap(), RetryAnswer::Superseded);
    assert_eq!(state_of(&subject).await, Some(TaskState::Running));
}

pub async fn a_task_that_ended_or_was_cancelled_is_not_retried(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    store.begin(&attempt(1, 7)).await.unwrap();
    store.cancel(&task(), Reach::Published).await.unwrap();
    assert_eq!(store.retry(&failed(1, 7)).await.unwrap(), RetryAnswer::Not(Look::Cancelled));
    store.record(&success(1, 7)).await.unwrap();
    assert_eq!(store.retry(&failed(1, 7)).await.unwrap(), RetryAnswer::Not(Look::Ended(stored(&success(1, 7)))));
}

pub async fn a_cancelled_task_never_begins_and_ends_as_cancelled(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    store.submitted(&task(), &kind(), &body_hash()).await.unwrap();
    assert_eq!(store.cancel(&task(), Reach::Published).await.unwrap(), Cancel::Waiting);
    assert_eq!(store.cancel(&task(), Reach::Published).await.unwrap(), Cancel::Waiting);
    assert_eq!(store.begin(&attempt(1, 7)).await.unwrap(), Begin::Not(Look::Cancelled));
    assert_eq!(state_of(&subject).await, Some(TaskState::Cancelled));
    let end = outcome(Outcome::Cancelled, 1, None, "cancelled");
    assert_eq!(store.record(&end).await.unwrap(), Record::Recorded);
    assert_eq!(store.look(&looking(1)).await.unwrap(), Look::Ended(stored(&end)));
}

pub async fn a_cancel_of_a_running_task_names_its_gpu_and_is_found(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    store.begin(&attempt(1, 7)).await.unwrap();
    assert!(!store.cancel_asked(&task()).await.unwrap());
    assert_eq!(store.cancel(&task(), Reach::Published).await.unwrap(), Cancel::Running(GpuId::new("GPU-7").unwrap()));
    assert!(store.cancel_asked(&task()).await.unwrap());
    assert_eq!(state_of(&subject).await, Some(TaskState::Running), "until its worker has ended it");
    let end = outcome(Outcome::Cancelled, 1, Some(7), "cancelled");
    assert_eq!(store.record(&end).await.unwrap(), Record::Recorded);
}

pub async fn a_cancel_of_an_ended_task_says_how_it_ended_and_changes_nothing(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.record(&success(1, 7)).await.unwrap();
    assert_eq!(subject.store.cancel(&task(), Reach::Published).await.unwrap(), Cancel::Ended(Outcome::Succeeded));
    assert!(!subject.store.cancel_asked(&task()).await.unwrap());
}

pub async fn a_cancel_of_an_unseen_task_leaves_a_tombstone(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    assert_eq!(store.cancel(&task(), Reach::Published).await.unwrap(), Cancel::Unseen);
    assert_eq!(store.look(&looking(1)).await.unwrap(), Look::Cancelled);
    subject.pass(OUTCOME_RETENTION + Duration::from_secs(60));
    assert_eq!(store.look(&looking(1)).await.unwrap(), Look::Open);
}

pub async fn a_task_cancelled_between_two_attempts_is_skipped(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    store.begin(&attempt(1, 7)).await.unwrap();
    store.retry(&failed(1, 7)).await.unwrap();
    assert_eq!(store.cancel(&task(), Reach::Published).await.unwrap(), Cancel::Waiting);
    assert_eq!(store.begin(&attempt(2, 9)).await.unwrap(), Begin::Not(Look::Cancelled));
    let end = outcome(Outcome::Cancelled, 2, None, "cancelled");
    assert_eq!(store.record(&end).await.unwrap(), Record::Recorded);
}
