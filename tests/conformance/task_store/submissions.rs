//! To which task an id belongs.

use super::*;

fn other_body() -> BodyHash {
    BodyHash::of(b"another body")
}

async fn submit(subject: &Subject, kind: &str, body_hash: &BodyHash) -> Submission {
    let kind = Kind::new(kind).expect("a valid name");
    subject.store.submitted(&task(), &kind, body_hash).await.expect("an answer")
}

/// Neither another body nor another kind gets the id; the same task may come again.
async fn belongs_to_the_first(subject: &Subject) {
    assert_eq!(submit(subject, "echo", &other_body()).await, Submission::Other);
    assert_eq!(submit(subject, "simulate", &body_hash()).await, Submission::Other);
    assert_eq!(submit(subject, "echo", &body_hash()).await, Submission::Known);
}

pub async fn a_submitted_id_belongs_to_one_body_and_one_kind(back_end: BackEnd) {
    let subject = back_end.start().await;
    assert_eq!(submit(&subject, "echo", &body_hash()).await, Submission::Noted);
    belongs_to_the_first(&subject).await;
    // A worker finds it so too.
    let look = LookRequest { body_hash: other_body(), ..looking(1) };
    assert_eq!(subject.store.look(&look).await.expect("an answer"), Look::ReusedId);
    let begin = BeginRequest { body_hash: other_body(), ..attempt(1, 7) };
    assert_eq!(subject.store.begin(&begin).await.expect("an answer"), Begin::Not(Look::ReusedId));
    assert_eq!(subject.store.begin(&attempt(1, 8)).await.expect("an answer"), Begin::Begun(Token(8)));
    belongs_to_the_first(&subject).await;
}

pub async fn an_id_whose_task_ended_belongs_to_it_until_its_record_is_gone(back_end: BackEnd) {
    let subject = back_end.start().await;
    subject.store.record(&success(1, 7)).await.expect("an answer");
    subject.pass(REPLY_RETENTION);
    belongs_to_the_first(&subject).await;
    subject.pass(OUTCOME_RETENTION);
    assert_eq!(submit(&subject, "simulate", &other_body()).await, Submission::Noted);
    assert_eq!(submit(&subject, "echo", &body_hash()).await, Submission::Other);
}

pub async fn a_task_that_came_without_being_noted_has_its_id_all_the_same(back_end: BackEnd) {
    let subject = back_end.start().await;
    // A worker has it in hand. Its body is not known to the store before it begins.
    subject.store.waits_for(&task(), &kind(), "a GPU").await.expect("an answer");
    assert_eq!(submit(&subject, "simulate", &body_hash()).await, Submission::Other);
    assert_eq!(submit(&subject, "echo", &other_body()).await, Submission::Known);
    // Nothing was written: the task that was there first begins.
    assert_eq!(subject.store.begin(&attempt(1, 7)).await.expect("an answer"), Begin::Begun(Token(7)));
    belongs_to_the_first(&subject).await;
}

pub async fn a_note_on_which_two_rely_is_not_taken_back(back_end: BackEnd) {
    let subject = back_end.start().await;
    assert_eq!(submit(&subject, "echo", &body_hash()).await, Submission::Noted);
    assert_eq!(submit(&subject, "echo", &other_body()).await, Submission::Other);
    assert_eq!(submit(&subject, "echo", &body_hash()).await, Submission::Known);
    subject.store.forget(&task()).await.expect("an answer");
    assert_eq!(state_of(&subject).await, Some(TaskState::Waiting));
    // The other one was refused too.
    subject.store.forget(&task()).await.expect("an answer");
    assert_eq!(state_of(&subject).await, None, "nobody has the task");

    // What comes after anything else was written takes nothing back.
    let subject = back_end.start().await;
    for expected in [Submission::Noted, Submission::Known] {
        assert_eq!(submit(&subject, "echo", &body_hash()).await, expected);
    }
    subject.store.waits_for(&task(), &kind(), "a GPU").await.expect("an answer");
    assert_eq!(submit(&subject, "echo", &body_hash()).await, Submission::Known);
    for _ in 0..3 {
        subject.store.forget(&task()).await.expect("an answer");
    }
    assert_eq!(state_of(&subject).await, Some(TaskState::Waiting));

    // One that was refused for another body relies on nothing.
    let subject = back_end.start().await;
    assert_eq!(submit(&subject, "echo", &body_hash()).await, Submission::Noted);
    assert_eq!(submit(&subject, "echo", &other_body()).await, Submission::Other);
    subject.store.forget(&task()).await.expect("an answer");
    assert_eq!(submit(&subject, "echo", &other_body()).await, Submission::Noted, "the id is free again");
}
