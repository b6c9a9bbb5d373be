//! Tasks that must not begin before a time.

use super::*;

/// What the producer said; of the store's clock it knows nothing.
const NOT_BEFORE_MS: u64 = 1_234_567;
const DELAY: Duration = Duration::from_secs(30 * 86_400);

async fn delay(subject: &Subject, left: Duration) {
    let left_ms = left.as_millis() as u64;
    let request = DelayRequest { task_id: task(), kind: kind(), body_hash: body_hash(), not_before_ms: NOT_BEFORE_MS, left_ms };
    subject.store.delayed(&request).await.expect("an answer");
}

async fn shown(subject: &Subject) -> Option<(TaskState, Option<u64>)> {
    subject.store.status(&task()).await.expect("an answer").map(|status| (status.state, status.not_before_ms))
}

pub async fn a_delayed_task_shows_so_until_it_is_due_and_nothing_is_written_then(back_end: BackEnd) {
    let subject = back_end.start().await;
    assert_eq!(subject.store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer"), Submission::Noted);
    assert_eq!(shown(&subject).await, Some((TaskState::Waiting, None)));
    delay(&subject, DELAY).await;
    assert_eq!(shown(&subject).await, Some((TaskState::Delayed, Some(NOT_BEFORE_MS))));
    let noted = subject.store.status(&task()).await.expect("an answer").expect("known").changed_ms;
    subject.pass(DELAY);
    assert_eq!(shown(&subject).await, Some((TaskState::Waiting, Some(NOT_BEFORE_MS))));
    assert_eq!(subject.store.status(&task()).await.expect("an answer").expect("known").changed_ms, noted);
    assert_eq!(subject.store.begin(&attempt(1, 7)).await.expect("an answer"), Begin::Begun(Token(7)));
    assert_eq!(shown(&subject).await, Some((TaskState::Running, Some(NOT_BEFORE_MS))));
}

pub async fn a_delayed_task_is_remembered_until_it_is_due_and_for_its_retention_after(back_end: BackEnd) {
    let subject = back_end.start().await;
    delay(&subject, DELAY).await;
    subject.pass(DELAY - OUTCOME_RETENTION);
    // Whatever is written meanwhile takes nothing from that.
    subject.store.waits_for(&task(), &kind(), "something").await.expect("an answer");
    subject.pass(OUTCOME_RETENTION * 2 - Duration::from_secs(60));
    assert!(shown(&subject).await.is_some());
    subject.pass(Duration::from_secs(61));
    assert_eq!(shown(&subject).await, None);
}

pub async fn a_delay_of_what_began_ended_or_is_another_task_is_not_noted(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.begin(&attempt(1, 7)).await.expect("an answer");
    delay(&subject, DELAY).await;
    assert_eq!(shown(&subject).await, Some((TaskState::Running, None)));
    subject.store.record(&success(1, 7)).await.expect("an answer");
    delay(&subject, DELAY).await;
    assert_eq!(shown(&subject).await, Some((TaskState::Succeeded, None)));

    let subject = back_end.start().await;
    subject.store.submitted(&task(), &kind(), &BodyHash::of(b"another body")).await.expect("an answer");
    delay(&subject, DELAY).await;
    assert_eq!(shown(&subject).await, Some((TaskState::Waiting, None)));
}

pub async fn a_delayed_task_whose_publish_was_refused_is_forgotten(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer");
    delay(&subject, DELAY).await;
    subject.store.forget(&task()).await.expect("an answer");
    assert_eq!(shown(&subject).await, None);
    // A cancel that reached ahead stays, and the delay does not.
    subject.store.cancel(&task(), Reach::Ahead).await.expect("an answer");
    subject.store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer");
    delay(&subject, DELAY).await;
    subject.store.forget(&task()).await.expect("an answer");
    assert_eq!(shown(&subject).await, Some((TaskState::Cancelled, None)));
}

pub async fn a_delayed_task_is_cancelled_at_once_and_never_begins(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer");
    delay(&subject, DELAY).await;
    assert_eq!(subject.store.cancel(&task(), Reach::Published).await.expect("an answer"), Cancel::Waiting);
    assert_eq!(shown(&subject).await, Some((TaskState::Cancelled, Some(NOT_BEFORE_MS))));
    // The mark lives as long as the task waits.
    subject.pass(DELAY);
    assert_eq!(subject.store.begin(&attempt(1, 7)).await.expect("an answer"), Begin::Not(Look::Cancelled));
}

pub async fn the_latest_delay_counts(back_end: BackEnd) {
    let subject = back_end.start().await;
    delay(&subject, DELAY).await;
    delay(&subject, Duration::from_secs(60)).await;
    assert_eq!(shown(&subject).await, Some((TaskState::Delayed, Some(NOT_BEFORE_MS))));
    subject.pass(Duration::from_secs(60));
    assert_eq!(shown(&subject).await, Some((TaskState::Waiting, Some(NOT_BEFORE_MS))));
}
