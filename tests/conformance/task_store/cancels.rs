//! Cancels of ids that no task has yet, and when they were asked for.

use super::*;

/// A look at a task whose message was published then.
fn published(published_s: u64) -> LookRequest {
    LookRequest { published_s: Some(published_s), ..looking(1) }
}

/// An attempt at a task whose message was published then.
fn published_attempt(published_s: u64, token: u64) -> BeginRequest {
    BeginRequest { published_s: Some(published_s), ..attempt(1, token) }
}

pub async fn a_cancel_of_an_unseen_id_counts_for_what_was_published_before_it_alone(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    let now_s = subject.now_s().await;
    assert_eq!(store.cancel(&task(), Reach::Published).await.expect("an answer"), Cancel::Unseen);
    for before in [0, now_s - 5, now_s] {
        assert_eq!(store.look(&published(before)).await.expect("an answer"), Look::Cancelled, "{before}, at {now_s}");
        assert_eq!(store.begin(&published_attempt(before, 7)).await.expect("an answer"), Begin::Not(Look::Cancelled), "{before}");
    }
    for after in [now_s + 60, now_s + 80_000] {
        assert_eq!(store.look(&published(after)).await.expect("an answer"), Look::Open, "{after}, at {now_s}");
    }
    // Milliseconds where AMQP has seconds.
    for nonsense in [now_s * 1_000, u64::MAX] {
        assert_eq!(store.look(&published(nonsense)).await.expect("an answer"), Look::Cancelled, "{nonsense}");
    }
    assert_eq!(store.look(&looking(1)).await.expect("an answer"), Look::Cancelled, "nobody knows when it was published");
}

pub async fn a_cancel_that_did_not_reach_a_task_is_gone_when_that_begins(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    store.cancel(&task(), Reach::Published).await.expect("an answer");
    let later = subject.now_s().await + 60;
    assert_eq!(store.begin(&published_attempt(later, 7)).await.expect("an answer"), Begin::Begun(Token(7)));
    assert!(!store.cancel_asked(&task()).await.expect("an answer"), "it would end a task that it was not meant for");
    assert_eq!(state_of(&subject).await, Some(TaskState::Running));
    assert!(matches!(store.retry(&failed(1, 7)).await.expect("an answer"), RetryAnswer::Due(_)));
    assert_eq!(store.begin(&attempt(2, 9)).await.expect("an answer"), Begin::Begun(Token(9)));
    // One that is asked for now is meant for it.
    assert!(matches!(store.cancel(&task(), Reach::Published).await.expect("an answer"), Cancel::Running(_)));
    assert!(store.cancel_asked(&task()).await.expect("an answer"));
}

pub async fn a_cancel_of_an_unseen_id_asked_for_again_counts_from_then_and_shows_nowhere(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    store.cancel(&task(), Reach::Published).await.expect("an answer");
    let between = subject.now_s().await + 50;
    assert_eq!(store.look(&published(between)).await.expect("an answer"), Look::Open);
    subject.pass(Duration::from_secs(100));
    assert_eq!(store.cancel(&task(), Reach::Published).await.expect("an answer"), Cancel::Unseen, "still no task has the id");
    assert_eq!(store.look(&published(between)).await.expect("an answer"), Look::Cancelled);
    assert_eq!(state_of(&subject).await, None);
    // A worker has it in hand, and has not asked yet whether it is cancelled.
    store.waits_for(&task(), &kind(), "a GPU").await.expect("an answer");
    assert_eq!(state_of(&subject).await, Some(TaskState::Waiting));
}

pub async fn a_cancel_that_reaches_ahead_counts_for_every_later_task(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    let later = subject.now_s().await + 60;
    store.cancel(&task(), Reach::Published).await.expect("an answer");
    assert_eq!(store.cancel(&task(), Reach::Ahead).await.expect("an answer"), Cancel::Unseen);
    assert_eq!(store.cancel(&task(), Reach::Published).await.expect("an answer"), Cancel::Unseen, "it takes nothing back");
    assert_eq!(store.look(&published(later)).await.expect("an answer"), Look::Cancelled);
    assert_eq!(state_of(&subject).await, Some(TaskState::Cancelled));

    // A submit whose publish is refused leaves the cancel where it was, and the id free.
    assert_eq!(store.submitted(&task(), &kind(), &BodyHash::of(b"refused")).await.expect("an answer"), Submission::Noted);
    store.forget(&task()).await.expect("an answer");
    assert_eq!(store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer"), Submission::Noted);
    assert_eq!(store.begin(&published_attempt(later, 7)).await.expect("an answer"), Begin::Not(Look::Cancelled));
    assert_eq!(store.cancel(&task(), Reach::Published).await.expect("an answer"), Cancel::Waiting);

    subject.pass(OUTCOME_RETENTION + Duration::from_secs(60));
    assert_eq!(store.look(&looking(1)).await.expect("an answer"), Look::Open, "it is not kept for ever");
}

pub async fn what_is_submitted_after_a_cancel_is_not_cancelled(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    let now_s = subject.now_s().await;
    assert_eq!(store.cancel(&task(), Reach::Published).await.expect("an answer"), Cancel::Unseen);
    assert_eq!(store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer"), Submission::Noted);
    assert_eq!(state_of(&subject).await, Some(TaskState::Waiting));
    // In the same second, and by a clock that is late.
    for published_s in [now_s, now_s - 60] {
        assert_eq!(store.look(&published(published_s)).await.expect("an answer"), Look::Open);
    }
    assert_eq!(store.begin(&published_attempt(now_s, 7)).await.expect("an answer"), Begin::Begun(Token(7)));
}

pub async fn a_known_task_is_cancelled_whenever_it_was_published(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    let later = subject.now_s().await + 60;
    store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer");
    assert_eq!(store.cancel(&task(), Reach::Published).await.expect("an answer"), Cancel::Waiting);
    assert_eq!(store.look(&published(later)).await.expect("an answer"), Look::Cancelled);
    assert_eq!(store.begin(&published_attempt(later, 7)).await.expect("an answer"), Begin::Not(Look::Cancelled));
    assert_eq!(store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer"), Submission::Known);
    assert_eq!(state_of(&subject).await, Some(TaskState::Cancelled), "the same task, submitted once more, stays cancelled");

    // First without a task, then of the task that a worker has in hand.
    let subject = back_end.start().await;
    let store = &subject.store;
    assert_eq!(store.cancel(&task(), Reach::Published).await.expect("an answer"), Cancel::Unseen);
    store.waits_for(&task(), &kind(), "a GPU").await.expect("an answer");
    assert_eq!(store.look(&published(later)).await.expect("an answer"), Look::Open);
    assert_eq!(store.cancel(&task(), Reach::Published).await.expect("an answer"), Cancel::Waiting);
    assert_eq!(store.look(&published(later)).await.expect("an answer"), Look::Cancelled);
}
