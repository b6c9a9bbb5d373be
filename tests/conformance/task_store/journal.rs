//! The fleet's course: steps of tasks in their order, page by page and within their bounds; points of histories; what operators did.

use std::sync::Arc;

use protocol::{HistoryPoint, HistorySpan, KindPoint, OperatorAction, StepName, TaskError, TaskStep};
use task_store::{JournalBounds, StepCursor, StepPage, TaskStore};
use tests::until::until;

use super::*;

macro_rules! cases {
    ($($case:ident,)*) => {
        mod on_memory { $(#[tokio::test] async fn $case() { super::$case(super::BackEnd::Memory).await })* }
        mod on_redis { $(#[tokio::test] async fn $case() { super::$case(super::BackEnd::Redis).await })* }
    };
}

cases! {
    steps_come_back_whole_and_in_their_order,
    steps_are_read_page_by_page_by_a_cursor_that_grows,
    a_cursor_whose_steps_are_forgotten_goes_on_with_the_oldest,
    no_more_steps_are_kept_than_their_bound,
    steps_are_forgotten_after_their_age,
    each_of_many_tellers_keeps_its_order,
    the_texts_of_a_step_are_cut,
    where_no_steps_are_kept_none_are_told,
    a_store_that_lost_its_steps_goes_on_with_new_ones,
    the_first_point_of_a_time_counts,
    a_history_keeps_as_many_points_as_it_has,
    a_point_of_another_time_is_not_noted,
    actions_are_listed_the_latest_first_and_no_more_than_their_bound,
    the_same_action_twice_in_a_row_is_one_and_its_texts_are_cut,
}

/// A step that is told apart by its number.
pub fn step(number: u64) -> TaskStep {
    TaskStep::new(StepName::Began, TaskId::new(format!("task-{number}")).expect("a valid id"), PoolName::default(), number)
}

pub fn steps(numbers: std::ops::Range<u64>) -> Vec<TaskStep> {
    numbers.map(step).collect()
}

pub async fn page(store: &dyn TaskStore, cursor: &StepCursor, max: usize) -> StepPage {
    store.journal().steps_after(cursor, max).await.expect("an answer")
}

/// All steps from the beginning on.
pub async fn all(store: &dyn TaskStore) -> Vec<TaskStep> {
    let (mut found, mut cursor) = (Vec::new(), StepCursor::default());
    loop {
        let page = page(store, &cursor, 300).await;
        found.extend(page.steps);
        cursor = page.cursor;
        if !page.has_more {
            return found;
        }
    }
}

/// Tells steps, and waits until the last one of them is there.
pub async fn tell(store: &dyn TaskStore, told: &[TaskStep]) {
    told.iter().for_each(|step| store.journal().tell(step.clone()));
    store.journal().flush().await;
    until("the last step is there", async || all(store).await.last() == told.last()).await;
}

async fn steps_come_back_whole_and_in_their_order(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &*subject.store;
    assert!(store.journal().keeps_steps());
    assert_eq!(page(store, &StepCursor::default(), 10).await, StepPage::default(), "nothing was told");
    let told = [
        TaskStep { priority: Some(9), published_ms: Some(1_700_000_000_000), ..TaskStep { step: StepName::Submitted, ..step(1) } },
        TaskStep { waited_ms: Some(0.25), gpu_id: Some(GpuId::new("GPU-1").expect("a valid id")), attempt: Some(1), ..step(2) },
        TaskStep { outcome: Some(Outcome::Succeeded), run_ms: Some(1e-3), ..TaskStep { step: StepName::Ended, ..step(1) } },
        TaskStep { reason: Some("\"two\nlines\" \u{0} ü".to_owned()), ..TaskStep { step: StepName::Waits, ..step(3) } },
    ];
    tell(store, &told).await;
    assert_eq!(all(store).await, told);
    assert_eq!(store.journal().steps_lost(), 0);
}

async fn steps_are_read_page_by_page_by_a_cursor_that_grows(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &*subject.store;
    let told = steps(0..650);
    // In three packets at least.
    for some in told.chunks(250) {
        tell(store, some).await;
    }
    let (mut found, mut cursor, mut pages) = (Vec::new(), StepCursor::default(), 0);
    loop {
        let page = page(store, &cursor, 50).await;
        assert!(page.cursor.0 > cursor.0, "{:?} comes after {cursor:?}", page.cursor);
        assert!(page.steps.len() >= 50 || !page.has_more, "a page of {}", page.steps.len());
        (found, cursor, pages) = ([found, page.steps].concat(), page.cursor, pages + 1);
        if !page.has_more {
            break;
        }
    }
    assert_eq!(found, told);
    assert!(pages >= 3, "{pages} pages");
    assert_eq!(page(store, &cursor, 50).await, StepPage { cursor: cursor.clone(), ..StepPage::default() }, "nothing more was told");
    tell(store, &[step(700)]).await;
    assert_eq!(page(store, &cursor, 50).await.steps, [step(700)]);
}

async fn a_cursor_whose_steps_are_forgotten_goes_on_with_the_oldest(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &*subject.store;
    tell(store, &steps(0..10)).await;
    let cursor = page(store, &StepCursor::default(), 10).await.cursor;
    for first in (10..2_510).step_by(250) {
        tell(store, &steps(first..first + 250)).await;
    }
    let (on, whole) = (page(store, &cursor, 10_000).await.steps, all(store).await);
    assert_eq!(on, whole);
    assert!(whole[0].at_ms > 1_000, "the oldest are forgotten: {}", whole[0].at_ms);
}

async fn no_more_steps_are_kept_than_their_bound(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &*subject.store;
    for (told, first) in (0..2_500).step_by(125).enumerate() {
        tell(store, &steps(first..first + 125)).await;
        let kept = all(store).await;
        assert_eq!(kept, steps(first + 125 - kept.len() as u64..first + 125), "the latest ones, without a gap");
        let most = ((told + 1) * 125).min(1_000);
        assert!(kept.len() <= most && kept.len() >= most.min(900), "{} of {most}", kept.len());
    }
}

async fn steps_are_forgotten_after_their_age(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &*subject.store;
    tell(store, &[step(1)]).await;
    subject.pass(OPTIONS.journal.age_max - Duration::from_secs(600));
    tell(store, &[step(2)]).await;
    assert_eq!(all(store).await, [step(1), step(2)]);
    subject.pass(Duration::from_secs(1_200));
    assert_eq!(all(store).await, [step(2)], "also where nothing more is told");
    tell(store, &[step(3)]).await;
    assert_eq!(all(store).await, [step(2), step(3)]);
    subject.pass(OPTIONS.journal.age_max + Duration::from_secs(1));
    assert_eq!(all(store).await, []);
}

async fn each_of_many_tellers_keeps_its_order(back_end: BackEnd) {
    let subject = back_end.start().await;
    let telling = (0..8_u64).map(|teller| {
        let store = Arc::clone(&subject.store);
        tokio::spawn(async move {
            for number in 0..100 {
                store.journal().tell(TaskStep { attempt: Some(number), ..step(teller) });
                tokio::task::yield_now().await;
            }
        })
    });
    for told in telling.collect::<Vec<_>>() {
        told.await.expect("it tells");
    }
    until("all steps are there", async || all(&*subject.store).await.len() == 800).await;
    let found = all(&*subject.store).await;
    for teller in 0..8 {
        let attempts: Vec<_> = found.iter().filter(|found| found.at_ms == teller).filter_map(|found| found.attempt).collect();
        assert_eq!(attempts, (0..100).collect::<Vec<_>>(), "of teller {teller}");
    }
    assert_eq!(subject.store.journal().steps_lost(), 0);
}

async fn the_texts_of_a_step_are_cut(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &*subject.store;
    let error = TaskError::new("too_bad", "é".repeat(5_000));
    let long = TaskStep { reason: Some("x".repeat(5_000)), error: Some(error), ..step(1) };
    store.journal().tell(long.clone());
    store.journal().flush().await;
    until("the step is there", async || !all(store).await.is_empty()).await;
    assert_eq!(all(store).await, [long.bounded()]);
}

async fn where_no_steps_are_kept_none_are_told(back_end: BackEnd) {
    let journal = JournalBounds { steps_max: 0, ..OPTIONS.journal };
    let subject = back_end.start_with(StoreOptions { journal, ..OPTIONS }).await;
    let journal = subject.store.journal();
    assert!(!journal.keeps_steps());
    journal.tell(step(1));
    journal.flush().await;
    assert_eq!((all(&*subject.store).await, journal.steps_lost()), (Vec::new(), 0));
    // What is no step is kept all the same.
    let at_ms = now_ms(&subject).await;
    assert_eq!(journal.note_point(HistorySpan::Minutes15, &point(at_ms, 1)).await, Ok(true));
}

async fn a_store_that_lost_its_steps_goes_on_with_new_ones(back_end: BackEnd) {
    let subject = back_end.start().await;
    let store = &*subject.store;
    tell(store, &steps(0..10)).await;
    let cursor = page(store, &StepCursor::default(), 10).await.cursor;
    subject.empty().await;
    assert_eq!(all(store).await, []);
    assert_eq!(page(store, &cursor, 10).await, StepPage { cursor: cursor.clone(), ..StepPage::default() });
    tell(store, &[step(10)]).await;
    assert_eq!(page(store, &cursor, 10).await.steps, [step(10)]);
}

/// The store's clock, at a full second.
async fn now_ms(subject: &Subject) -> u64 {
    subject.now_s().await * 1_000
}

fn point(at_ms: u64, began: u64) -> HistoryPoint {
    let kinds = [(kind(), KindPoint { began, wait_p50_ms: 0.125, ..KindPoint::default() })];
    HistoryPoint { at_ms, began, verdict: "nothing".to_owned(), kinds: kinds.into(), ..HistoryPoint::default() }
}

async fn the_first_point_of_a_time_counts(back_end: BackEnd) {
    let subject = back_end.start().await;
    let (journal, at_ms) = (subject.store.journal(), now_ms(&subject).await);
    for span in HistorySpan::ALL {
        assert_eq!(journal.points(span, 0).await, Ok(Vec::new()), "{span:?}: spans are kept apart");
        assert_eq!(journal.note_point(span, &point(at_ms, 1)).await, Ok(true));
        assert_eq!(journal.note_point(span, &point(at_ms, 2)).await, Ok(false));
        assert_eq!(journal.points(span, 0).await, Ok(vec![point(at_ms, 1)]));
    }
}

async fn a_history_keeps_as_many_points_as_it_has(back_end: BackEnd) {
    let subject = back_end.start().await;
    let (journal, span) = (subject.store.journal(), HistorySpan::Minutes15);
    let first_ms = now_ms(&subject).await;
    // Noted one by one as time goes by, with more of them than the span has.
    let mut last_ms = first_ms;
    for _ in 0..span.points() + 20 {
        assert_eq!(journal.note_point(span, &point(last_ms, 1)).await, Ok(true));
        last_ms += span.step_ms();
        subject.pass(Duration::from_millis(span.step_ms()));
    }
    let points = journal.points(span, 0).await.expect("an answer");
    let times: Vec<u64> = points.iter().map(|point| point.at_ms).collect();
    assert!(times.is_sorted_by(|one, next| one < next), "{times:?}");
    assert_eq!(times.last(), Some(&(last_ms - span.step_ms())));
    let (least, most) = (span.points() as usize - 10, span.points() as usize);
    assert!((least..=most).contains(&times.len()), "{} points", times.len());
    let from_ms = times[times.len() - 3];
    assert_eq!(journal.points(span, from_ms).await.expect("an answer").len(), 3);
    subject.pass(Duration::from_millis(span.length_ms()));
    assert_eq!(journal.points(span, 0).await, Ok(Vec::new()), "also where nothing more is noted");
}

async fn a_point_of_another_time_is_not_noted(back_end: BackEnd) {
    let subject = back_end.start().await;
    let (journal, now_ms) = (subject.store.journal(), now_ms(&subject).await);
    let span = HistorySpan::Minutes15;
    for at_ms in [0, now_ms - span.length_ms() - 1_000, now_ms + 2 * span.length_ms()] {
        assert_eq!(journal.note_point(span, &point(at_ms, 1)).await, Ok(false), "{at_ms}");
    }
    // Of clocks that differ by minutes.
    for at_ms in [now_ms - 300_000, now_ms + 300_000] {
        assert_eq!(journal.note_point(span, &point(at_ms, 1)).await, Ok(true), "{at_ms}");
    }
    assert_eq!(journal.points(span, 0).await.expect("an answer").len(), 2);
}

fn action(number: u64) -> OperatorAction {
    OperatorAction {
        at_ms: number,
        who: "user@host".to_owned(),
        via: "cli".to_owned(),
        action: "drain".to_owned(),
        target: format!("GPU-{number}"),
        detail: String::new(),
    }
}

async fn actions_are_listed_the_latest_first_and_no_more_than_their_bound(back_end: BackEnd) {
    let subject = back_end.start().await;
    let journal = subject.store.journal();
    assert_eq!(journal.actions(10).await, Ok(Vec::new()));
    for number in 0..8 {
        journal.note_action(&action(number)).await.expect("an answer");
    }
    assert_eq!(journal.actions(10).await, Ok([7, 6, 5, 4, 3].map(action).to_vec()));
    assert_eq!(journal.actions(2).await, Ok([7, 6].map(action).to_vec()));
    assert_eq!(journal.actions(0).await, Ok(Vec::new()));
}

async fn the_same_action_twice_in_a_row_is_one_and_its_texts_are_cut(back_end: BackEnd) {
    let subject = back_end.start().await;
    let journal = subject.store.journal();
    let long = OperatorAction { target: "é".repeat(5_000), ..action(1) };
    for action in [&long, &long, &action(2), &long] {
        journal.note_action(action).await.expect("an answer");
    }
    let long = long.bounded();
    assert_eq!(journal.actions(10).await, Ok(vec![long.clone(), action(2), long]));
}
