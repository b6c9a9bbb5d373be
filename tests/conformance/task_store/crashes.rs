//! Crashes: an attempt that began and never ended, because its worker is gone.

use protocol::{TaskState, Token};
use task_store::{Crash, Fence, FenceRequest, Holder};

use super::*;

async fn begin(subject: &Subject, request: BeginRequest) -> Begin {
    subject.store.begin(&request).await.expect("an answer")
}

fn unfinished(token: u64) -> Begin {
    let request = attempt_by_another(1, token);
    Begin::Unfinished(Holder { token: Token(token), gpu_id: request.gpu_id, incarnation: request.incarnation, delivery: request.delivery })
}

/// An attempt that finds the holder of `token` gone, or living.
pub fn finding(attempt: BeginRequest, token: u64, gone: bool) -> BeginRequest {
    BeginRequest { verdict: Some(Verdict { token: Token(token), gone }), ..attempt }
}

fn alone(attempt: BeginRequest) -> BeginRequest {
    BeginRequest { alone: true, ..attempt }
}

async fn crashes(subject: &Subject) -> u32 {
    subject.store.status(&task()).await.expect("an answer").expect("known").crashes
}

pub async fn a_crash_is_counted_once_and_makes_the_task_a_suspect(back_end: BackEnd) {
    let subject = back_end.start().await;
    assert_eq!(begin(&subject, attempt_by_another(1, 7)).await, Begin::Begun(Token(7)));
    assert_eq!(begin(&subject, attempt_by_another(1, 8)).await, unfinished(7));
    assert_eq!(crashes(&subject).await, 0, "asking is not judging");
    for _ in 0..2 {
        assert_eq!(begin(&subject, finding(attempt_by_another(1, 8), 7, true)).await, Begin::Suspect);
        assert_eq!(crashes(&subject).await, 1);
    }
    assert_eq!(begin(&subject, attempt_by_another(1, 9)).await, Begin::Suspect, "whoever comes next");
    assert_eq!(begin(&subject, alone(attempt_by_another(1, 9))).await, Begin::Begun(Token(9)));
    assert_eq!(crashes(&subject).await, 1);
}

pub async fn a_holder_that_says_itself_that_its_attempt_crashed_is_believed(back_end: BackEnd) {
    let subject = back_end.start().await;
    let state = async || subject.store.status(&task()).await.expect("an answer").expect("a status").state;
    assert_eq!(begin(&subject, attempt(1, 7)).await, Begin::Begun(Token(7)));
    assert_eq!(begin(&subject, attempt(1, 7)).await, Begin::Begun(Token(7)), "asked once more it has begun");
    for _ in 0..2 {
        assert_eq!(
            begin(&subject, finding(attempt(1, 7), 7, true)).await,
            Begin::Suspect,
            "for the same delivery, in the same incarnation"
        );
        assert_eq!((crashes(&subject).await, state().await), (1, TaskState::Waiting));
    }
    // An answer that got lost: the beginning that followed the crash is the same when it is asked for again.
    for _ in 0..2 {
        assert_eq!(begin(&subject, alone(finding(attempt(1, 8), 7, true))).await, Begin::Begun(Token(8)));
        assert_eq!((crashes(&subject).await, state().await), (1, TaskState::Running));
    }
    assert_eq!(subject.store.record(&success(1, 7)).await.expect("an answer"), Record::Superseded, "what crashed is over");
}

pub async fn a_holder_that_lives_or_handed_back_is_no_crash(back_end: BackEnd) {
    let subject = back_end.start().await;
    begin(&subject, attempt_by_another(1, 7)).await;
    assert_eq!(begin(&subject, finding(attempt_by_another(1, 8), 7, false)).await, Begin::Begun(Token(8)));
    subject.store.hand_back(&task(), Token(7)).await.expect("an answer");
    assert_eq!(begin(&subject, attempt_by_another(1, 9)).await, unfinished(8), "a late holder hands nothing back");
    let state = async || subject.store.status(&task()).await.expect("an answer").expect("a status").state;
    assert_eq!(state().await, TaskState::Running);
    subject.store.hand_back(&task(), Token(8)).await.expect("an answer");
    assert_eq!(state().await, TaskState::Waiting, "nobody runs it");
    assert_eq!(begin(&subject, attempt_by_another(1, 9)).await, Begin::Begun(Token(9)));
    assert_eq!(crashes(&subject).await, 0);
}

pub async fn only_a_crash_alone_on_its_gpu_uses_up_the_crashes(back_end: BackEnd) {
    let subject = back_end.start().await;
    let two = |request| BeginRequest { crashes_max: 1, ..request };
    begin(&subject, two(attempt_by_another(1, 7))).await;
    assert_eq!(begin(&subject, two(finding(attempt_by_another(1, 8), 7, true))).await, Begin::Suspect, "its neighbours may have done it");
    assert_eq!(begin(&subject, two(alone(attempt_by_another(1, 8)))).await, Begin::Begun(Token(8)));
    let condemned = begin(&subject, two(finding(attempt_by_another(1, 9), 8, true))).await;
    let Begin::Condemned(crashes) = &condemned else { panic!("{condemned:?}") };
    let short: Vec<(u32, &str, bool)> =
        crashes.iter().map(|Crash { attempt, gpu_id, alone, .. }| (*attempt, gpu_id.as_str(), *alone)).collect();
    assert_eq!(short, [(1, "GPU-7", false), (1, "GPU-8", true)]);
    assert_eq!(begin(&subject, two(alone(attempt_by_another(1, 10)))).await, condemned, "for good");
}

pub async fn a_crash_of_an_earlier_attempt_counts_on(back_end: BackEnd) {
    let subject = back_end.start().await;
    begin(&subject, attempt_by_another(1, 7)).await;
    begin(&subject, alone(finding(attempt_by_another(1, 8), 7, true))).await;
    let failed =
        RetryRequest { task_id: task(), body_hash: body_hash(), attempt: 1, token: Token(8), error: "flaky".to_owned(), after_ms: 10 };
    subject.store.retry(&failed).await.expect("an answer");
    assert_eq!(begin(&subject, attempt_by_another(2, 9)).await, Begin::Suspect);
    assert_eq!(begin(&subject, alone(attempt_by_another(2, 9))).await, Begin::Begun(Token(9)));
    assert_eq!(crashes(&subject).await, 1);
}

pub async fn a_task_that_ends_without_a_run_fences_off_what_began(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    let fence = |verdict| FenceRequest {
        task_id: task(),
        body_hash: body_hash(),
        attempt: 1,
        gpu_id: "GPU-9".parse().unwrap(),
        incarnation: "incarnation-9".parse().unwrap(),
        verdict,
    };
    begin(&subject, attempt_by_another(1, 7)).await;
    assert!(matches!(store.fence(&fence(None)).await.unwrap(), Fence::Unfinished(holder) if holder.token == Token(7)), "it runs");
    store.cancel(&task(), Reach::Published).await.unwrap();
    let over = Some(Verdict { token: Token(7), gone: false });
    assert_eq!(store.fence(&fence(over)).await.unwrap(), Fence::Fenced(named::FENCE), "a cancel does not stand against ending it");
    assert_eq!(store.record(&success(1, 7)).await.unwrap(), Record::Superseded, "what began is late from now on");
    let cancelled = outcome(Outcome::Cancelled, 1, Some(named::FENCE.0), "cancelled");
    assert_eq!(store.record(&cancelled).await.unwrap(), Record::Recorded);
    assert_eq!(store.fence(&fence(None)).await.unwrap(), Fence::Not(Look::Ended(stored(&cancelled))));
    assert_eq!(crashes(&subject).await, 0);
}
