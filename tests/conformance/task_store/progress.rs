//! How far a running task is: noted under its token, shown while it runs, refused from anybody late.

use protocol::{Fraction, Token};
use task_store::{ProgressAnswer, ProgressRequest};

use super::*;

pub fn progress(token: u64, fraction: f64, message: Option<&str>) -> ProgressRequest {
    let fraction = Fraction::try_from(fraction).expect("a fraction");
    ProgressRequest { task_id: task(), token: Token(token), fraction, message: message.map(str::to_owned), items: None }
}

/// Fraction and message, as the status shows them.
async fn shown(subject: &Subject) -> Option<(f64, Option<String>)> {
    let status = subject.store.status(&task()).await.expect("an answer")?;
    status.progress.map(|progress| (progress.fraction.get(), progress.message))
}

pub async fn the_last_progress_shows_while_the_task_runs(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    store.begin(&attempt(1, 7)).await.expect("an answer");
    assert_eq!(shown(&subject).await, None);
    for (fraction, message) in [(0.0, None), (1.0 / 3.0, Some("läuft 🙂")), (0.25, None)] {
        assert_eq!(store.progress(&progress(7, fraction, message)).await.expect("an answer"), ProgressAnswer::Noted(None));
        assert_eq!(shown(&subject).await, Some((fraction, message.map(str::to_owned))));
    }
    let running = store.status(&task()).await.expect("an answer").expect("known");
    assert_eq!(running.progress.map(|progress| progress.at_ms), Some(running.changed_ms), "its time is the store's");
    store.record(&success(1, 7)).await.expect("an answer");
    assert_eq!(shown(&subject).await, None);
}

pub async fn progress_of_a_late_holder_is_refused(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    store.begin(&attempt(1, 7)).await.expect("an answer");
    store.progress(&progress(7, 0.9, None)).await.expect("an answer");
    store.begin(&finding(attempt(1, 8), 7, false)).await.expect("an answer");
    assert_eq!(shown(&subject).await, None, "the later holder has said nothing yet");
    for late in [7, 9] {
        assert_eq!(store.progress(&progress(late, 0.95, None)).await.expect("an answer"), ProgressAnswer::Refused);
    }
    assert_eq!(store.progress(&progress(8, 0.1, None)).await.expect("an answer"), ProgressAnswer::Noted(None));
    assert_eq!(shown(&subject).await, Some((0.1, None)));
}

pub async fn progress_of_what_does_not_run_is_refused_and_changes_nothing(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    let refused = async |what: &str| {
        let before = store.status(&task()).await.expect("an answer");
        subject.pass(Duration::from_secs(1));
        assert_eq!(store.progress(&progress(7, 0.5, Some("late"))).await.expect("an answer"), ProgressAnswer::Refused, "{what}");
        assert_eq!(store.status(&task()).await.expect("an answer"), before, "{what}");
    };
    refused("unseen").await;
    store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer");
    refused("waiting").await;
    store.begin(&attempt(1, 7)).await.expect("an answer");
    store.retry(&failed(1, 7)).await.expect("an answer");
    refused("between two attempts").await;
    store.begin(&attempt(2, 9)).await.expect("an answer");
    store.record(&success(2, 9)).await.expect("an answer");
    assert_eq!(store.progress(&progress(9, 0.5, None)).await.expect("an answer"), ProgressAnswer::Refused);
    refused("ended").await;
}

pub async fn a_task_that_reports_is_not_forgotten_while_it_runs(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &subject.store;
    store.begin(&attempt(1, 7)).await.expect("an answer");
    for _ in 0..3 {
        subject.pass(OUTCOME_RETENTION * 3 / 4);
        assert_eq!(store.progress(&progress(7, 0.5, None)).await.expect("an answer"), ProgressAnswer::Noted(None));
    }
    subject.pass(OUTCOME_RETENTION + Duration::from_secs(60));
    assert_eq!(store.progress(&progress(7, 0.5, None)).await.expect("an answer"), ProgressAnswer::Refused);
    assert_eq!(state_of(&subject).await, None);
}
