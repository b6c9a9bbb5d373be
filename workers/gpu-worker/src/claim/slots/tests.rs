use futures::FutureExt;

use super::*;

const KEEP: Duration = Duration::from_millis(5);

fn slots(total: u32) -> Arc<Slots> {
    Slots::new(total, Arc::default())
}

/// Takes a slot as a task does that asked the table for it.
fn claimed(slots: &Arc<Slots>) -> Slot {
    slots.ask().now_or_never().expect("nobody asks").given().expect("one is free")
}

fn ready(line: &mut InLine) -> Option<Slot> {
    Box::pin(line.slot()).now_or_never()
}

#[test]
fn no_more_slots_are_given_than_there_are() {
    let slots = slots(2);
    let first = claimed(&slots);
    let _second = claimed(&slots);
    assert!(!slots.has_free() && !slots.ask().now_or_never().expect("nobody asks").has_slot());
    drop(first);
    assert!(slots.has_free());
}

#[test]
fn no_other_task_can_come_once_all_slots_stay_held_or_one_task_is_to_run_alone() {
    let slots = slots(2);
    let held = claimed(&slots);
    assert!(slots.may_give_beyond(1) && !slots.may_give_beyond(2));
    let mut line = slots.wait_for_all(0);
    assert!(!slots.may_give_beyond(1), "it waits to run alone");
    drop(held);
    let all = ready(&mut line).expect("nobody else has one");
    assert!(!slots.may_give_beyond(0));
    drop(all);
    assert!(slots.may_give_beyond(0));
}

#[tokio::test]
async fn a_slot_that_becomes_free_passes_on_by_priority_then_by_arrival() {
    let slots = slots(1);
    let mut running = claimed(&slots);
    let mut line: Vec<InLine> = [1, 9, 9].into_iter().map(|priority| slots.wait_for_freed(priority)).collect();
    assert_eq!(slots.waiting(), 3);
    for next in [1, 2, 0] {
        drop(running);
        running = ready(&mut line[next]).expect("it is its turn");
        assert_eq!(slots.due(KEEP), Due::Never, "the table hears nothing of it");
    }
    assert_eq!(slots.held(), 1);
}

#[tokio::test]
async fn whoever_leaves_the_line_is_not_served_and_its_slot_serves_the_next() {
    let slots = slots(1);
    let running = claimed(&slots);
    let left = slots.wait_for_freed(9);
    let mut next = slots.wait_for_freed(0);
    drop(left);
    drop(running);
    assert!(ready(&mut next).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_free_slot_is_kept_for_a_moment_and_then_the_table_is_told() {
    let slots = slots(2);
    let (one, other) = (claimed(&slots), claimed(&slots));
    assert_eq!(slots.due(KEEP), Due::Never);
    drop(one);
    assert_eq!(slots.due(KEEP), Due::At(Instant::now() + KEEP));
    let kept = slots.take_kept().expect("the table counts it as held");
    assert_eq!(slots.due(KEEP), Due::Never, "the next task took it without a word");
    assert!(slots.take_kept().is_none());
    drop((kept, other));
    tokio::time::advance(KEEP).await;
    let Due::Now(holding, taken) = slots.due(KEEP) else { panic!("both are given up") };
    assert_eq!((holding.slots, taken.len()), (0, 0));
    assert!(slots.take_kept().is_none(), "who comes now asks");
    assert_eq!(slots.due(KEEP), Due::Never);
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_kept_while_its_task_is_settled_however_long_that_takes_and_for_a_moment_more() {
    let slots = slots(4);
    let (one, other) = (claimed(&slots), claimed(&slots));
    let settling = slots.settling();
    drop(one);
    tokio::time::advance(9 * KEEP).await;
    assert_eq!(slots.due(KEEP), Due::Never, "no other delivery can come before this one is acked");
    assert_eq!(slots.beat().0.slots, 2, "the heartbeat goes on counting it");
    drop(other);
    assert_eq!(slots.due(KEEP), Due::At(Instant::now() + KEEP), "nobody is being settled for whom the other one is kept");
    tokio::time::advance(KEEP).await;
    let Due::Now(holding, _) = slots.due(KEEP) else { panic!("it is given up") };
    assert_eq!(holding.slots, 1, "and the first is not");
    drop(settling);
    assert_eq!(slots.due(KEEP), Due::At(Instant::now() + KEEP));
    assert!(slots.take_kept().is_some());
}

#[tokio::test]
async fn a_slot_counts_as_given_only_once_the_table_has_given_it() {
    let slots = slots(2);
    let _running = claimed(&slots);
    let question = slots.ask().await;
    assert_eq!((question.holding().slots, question.has_slot()), (2, true));
    assert!(slots.take_kept().is_none() && slots.ask().now_or_never().is_none(), "one asks at a time");
    assert_eq!(slots.beat().0.slots, 1, "a heartbeat meanwhile does not count it");
    question.not_given();
    assert_eq!(slots.due(KEEP), Due::Never, "another GPU was chosen: the table knows that it is free");
    assert_eq!((slots.held(), slots.ask().await.holding().slots), (1, 2));
}

#[tokio::test]
async fn a_slot_that_a_heartbeat_did_not_count_is_told_once_it_is_given() {
    let slots = slots(1);
    let question = slots.ask().await;
    let beat = slots.beat().0;
    let slot = question.given();
    let Due::Now(holding, _) = slots.due(KEEP) else { panic!("the heartbeat said that none is held") };
    assert_eq!((beat.slots, holding.slots), (0, 1));
    assert_eq!(slots.due(KEEP), Due::Never);
    drop(slot);
}

#[tokio::test]
async fn what_may_not_have_been_heard_is_told_again() {
    let slots = slots(1);
    let question = slots.ask().await;
    let number = question.holding().number;
    drop(question);
    let Due::Now(again, _) = slots.due(KEEP) else { panic!("it may have got lost") };
    assert_eq!((again.slots, again.number > number), (0, true));
}

#[tokio::test]
async fn a_task_that_was_offered_a_slot_takes_any_free_one_and_the_table_hears_of_it_at_once() {
    let slots = slots(2);
    slots.offer_taken(&TaskId::new("t").unwrap());
    let mut arrived = slots.wait_for_offered(0);
    let slot = ready(&mut arrived).expect("one is free");
    let Due::Now(holding, taken) = slots.due(KEEP) else { panic!("the offer is taken") };
    assert_eq!((holding.slots, taken), (1, vec![TaskId::new("t").unwrap()]));
    drop(slot);
}

#[tokio::test]
async fn who_waits_for_a_freed_slot_leaves_free_ones_to_those_who_were_offered_them() {
    let slots = slots(2);
    let running = claimed(&slots);
    let mut waits = slots.wait_for_freed(9);
    assert!(ready(&mut waits).is_none(), "the free slot is promised to a task on its way");
    let mut offered = slots.wait_for_offered(0);
    let taken = ready(&mut offered);
    assert!(taken.is_some());
    drop(running);
    assert!(ready(&mut waits).is_some());
}

#[tokio::test]
async fn who_must_run_alone_waits_for_all_slots_and_nobody_starts_meanwhile() {
    let slots = slots(3);
    let running = [claimed(&slots), claimed(&slots)];
    let mut waits = slots.wait_for_freed(9);
    let mut suspect = slots.wait_for_all(0);
    assert_eq!(slots.on_offer(), 1);
    let [one, other] = running;
    drop(one);
    assert!(!slots.has_free() && ready(&mut waits).is_none(), "a slot is free, but not for others");
    drop(other);
    let alone = ready(&mut suspect).expect("all slots are free");
    assert_eq!((slots.held(), slots.on_offer()), (3, 1));
    drop(alone);
    assert_eq!(slots.on_offer(), 3);
    assert!(ready(&mut waits).is_some());
}

#[tokio::test]
async fn two_that_must_run_alone_run_one_after_the_other() {
    let slots = slots(2);
    let (mut first, mut second) = (slots.wait_for_all(0), slots.wait_for_all(9));
    let alone = ready(&mut first).expect("nothing runs");
    assert!(Box::pin(second.slot()).now_or_never().is_none());
    drop(alone);
    assert!(Box::pin(second.slot()).now_or_never().is_some());
}

/// Else the table would count a slot for ever that nobody holds, in a fleet that comes to rest at that moment.
#[tokio::test(start_paused = true)]
async fn a_slot_that_is_kept_in_vain_once_more_is_told_of_once_more() {
    let slots = slots(2);
    let (one, _runs_on) = (claimed(&slots), claimed(&slots));
    drop(one);
    assert!(matches!(slots.due(KEEP), Due::At(_)));
    // A task is being settled whose slot has passed on: the kept slot may be for the one that its ack brings.
    let settling = slots.settling();
    tokio::time::advance(KEEP * 2).await;
    assert_eq!(slots.due(KEEP), Due::Never);
    while Box::pin(slots.changed()).now_or_never().is_some() {}
    drop(settling);
    assert!(Box::pin(slots.changed()).now_or_never().is_some(), "whoever tells the table hears of it");
    let Due::At(until) = slots.due(KEEP) else { panic!("it is kept for a moment again") };
    tokio::time::advance(until - Instant::now()).await;
    assert!(matches!(slots.due(KEEP), Due::Now(Holding { slots: 1, .. }, _)));
}
