//! The worker's own count of its slots, the deliveries that wait in hand for one, and what the table has been told.
//!
//! The table's count may be wrong (lost, restored, late); this one never is: no more than `total` attempts run, whatever the table says. Waiting is by priority, then by
//! arrival, and a slot that becomes free passes straight to whoever is first in line.
//!
//! ```text
//!             told = held: all is said
//!   a run ends, nobody in line:  held < told   the slot is kept for a few milliseconds: the next task takes it without a word
//!                                              to the table; if none comes, the table is told
//!   a forwarded task arrives:    held > told   its slot was offered; the table is told at once that the offer is taken
//!   the table is asked:          its slot counts as held once the table has given it
//! ```

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::{Holding, TaskId};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

/// One slot, or all of them, until dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    count: u32,
    /// The table is being asked for it, and has not given it yet.
    asked_for: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.free(self.count, self.asked_for);
    }
}

/// What is waited for; earlier comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// All slots, to run alone. Nobody else gets one meanwhile.
    All,
    /// A slot that was offered for it: any free one will do.
    Offered,
    /// A slot that becomes free: one that is free already is promised to a task on its way here.
    Freed,
}

/// Lower comes first: by what is waited for, then higher priority, then earlier arrival.
type Place = (Class, Reverse<u8>, u64);

#[derive(Debug, Default)]
struct State {
    held: u32,
    /// How many of these the table is being asked for: at most one.
    asked_for: u32,
    /// Somebody holds all slots.
    alone: bool,
    arrivals: u64,
    line: BTreeMap<Place, oneshot::Sender<Slot>>,
    table: Told,
}

/// What the table has been told, or will be.
#[derive(Debug, Default)]
struct Told {
    /// The slots that the table counts as held here, as far as is known.
    slots: u32,
    /// The number of the last telling.
    number: u64,
    /// Whether the last telling may have got lost.
    unsure: bool,
    /// Since when the table counts more than are held.
    kept_since: Option<Instant>,
    /// Tasks whose offers were taken, and the table does not know yet.
    taken: Vec<TaskId>,
}

impl Told {
    fn next(&mut self, slots: u32) -> Holding {
        self.number += 1;
        self.slots = slots;
        self.unsure = false;
        Holding { slots, number: self.number }
    }
}

impl State {
    fn all_wanted(&self) -> bool {
        self.line.first_key_value().is_some_and(|((class, ..), _)| *class == Class::All)
    }

    fn has_free(&self, total: u32) -> bool {
        self.held < total && !self.all_wanted()
    }

    /// The slots that are held for good, which the table counts or should count.
    fn given(&self) -> u32 {
        self.held - self.asked_for
    }

    /// Whether the table counts a slot as held here that is free.
    fn has_kept(&self) -> bool {
        self.given() < self.table.slots
    }

    fn hold(&mut self, count: u32) {
        self.held += count;
        if !self.has_kept() {
            self.table.kept_since = None;
        }
    }
}

/// What the table should hear now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// This.
    Now(Holding, Vec<TaskId>),
    /// Something, unless the next task comes before this time.
    At(Instant),
    /// Nothing.
    Never,
}

/// The slots of one GPU.
#[derive(Debug)]
pub(crate) struct Slots {
    total: u32,
    state: Mutex<State>,
    /// Held by whoever asks the table for a slot: one at a time, so that each tells the exact number of the others.
    asking: tokio::sync::Mutex<()>,
    /// Told when the table may have to hear something.
    changed: Notify,
    /// Told when a task is to run alone, and when it has.
    alone_changed: Arc<Notify>,
}

/// A question to the table that is under way. Dropped without an answer, what it told may not have been heard.
pub(crate) struct Question<'a> {
    slots: &'a Arc<Slots>,
    slot: Option<Slot>,
    holding: Holding,
    heard: bool,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl Question<'_> {
    /// What the claim tells.
    pub(crate) fn holding(&self) -> Holding {
        self.holding
    }

    /// Whether there is a slot for the task.
    pub(crate) fn has_slot(&self) -> bool {
        self.slot.is_some()
    }

    /// The table gave the slot.
    pub(crate) fn given(mut self) -> Option<Slot> {
        self.heard = true;
        let mut slot = self.slot.take()?;
        slot.asked_for = false;
        self.slots.was_given(self.holding);
        Some(slot)
    }

    /// The table answered something else: the slot, if there was one, is free.
    pub(crate) fn not_given(mut self) {
        self.heard = true;
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        if !self.heard {
            self.slots.unheard(self.holding);
        }
    }
}

/// A place in the line; leaving it (dropping) takes the waiter out.
#[derive(Debug)]
pub(crate) struct InLine {
    slots: Arc<Slots>,
    place: Place,
    receiver: oneshot::Receiver<Slot>,
}

impl InLine {
    /// Waits for the slot. Cancel safe.
    pub(crate) async fn slot(&mut self) -> Slot {
        // The sender goes only with its place, which goes with `self`.
        match (&mut self.receiver).await {
            Ok(slot) => slot,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.slots.leave(self.place);
    }
}

impl Slots {
    pub(crate) fn new(total: u32, alone_changed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { total, state: Mutex::default(), asking: tokio::sync::Mutex::default(), changed: Notify::new(), alone_changed })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many attempts run (or are about to).
    pub(crate) fn held(&self) -> u32 {
        self.lock().held
    }

    /// How many slots others may be given: one, held already, while a task runs alone or waits to.
    pub(crate) fn on_offer(&self) -> u32 {
        let state = self.lock();
        if state.alone || state.all_wanted() { 1 } else { self.total }
    }

    /// How many deliveries wait in hand.
    pub(crate) fn waiting(&self) -> u32 {
        u32::try_from(self.lock().line.len()).unwrap_or(u32::MAX)
    }

    fn slot(self: &Arc<Self>, count: u32) -> Slot {
        Slot { slots: Arc::clone(self), count, asked_for: false }
    }

    /// Whether a slot is free now.
    pub(crate) fn has_free(&self) -> bool {
        self.lock().has_free(self.total)
    }

    /// A free slot that the table still counts as held here.
    pub(crate) fn take_kept(self: &Arc<Self>) -> Option<Slot> {
        let mut state = self.lock();
        (state.has_free(self.total) && state.has_kept()).then(|| {
            state.hold(1);
            self.slot(1)
        })
    }

    /// Stands in line for the next slot that becomes free, or one that is kept.
    pub(crate) fn wait_for_freed(self: &Arc<Self>, priority: u8) -> InLine {
        self.stand(Class::Freed, priority)
    }

    /// Stands in line for any slot: one was offered for the task.
    pub(crate) fn wait_for_offered(self: &Arc<Self>, priority: u8) -> InLine {
        self.stand(Class::Offered, priority)
    }

    /// Stands in line for all slots. Who holds one must give it up first.
    pub(crate) fn wait_for_all(self: &Arc<Self>, priority: u8) -> InLine {
        let line = self.stand(Class::All, priority);
        self.alone_changed.notify_one();
        line
    }

    fn stand(self: &Arc<Self>, class: Class, priority: u8) -> InLine {
        let (sender, receiver) = oneshot::channel();
        let place = {
            let mut state = self.lock();
            state.arrivals += 1;
            let place = (class, Reverse(priority), state.arrivals);
            state.line.insert(place, sender);
            place
        };
        self.serve(0);
        InLine { slots: Arc::clone(self), place, receiver }
    }

    /// Takes a waiter out. Those behind it may have waited for nothing else.
    fn leave(self: &Arc<Self>, place: Place) {
        let left = self.lock().line.remove(&place).is_some();
        if left {
            if place.0 == Class::All {
                self.alone_changed.notify_one();
            }
            self.serve(0);
        }
    }

    fn free(self: &Arc<Self>, count: u32, asked_for: bool) {
        let was_alone = {
            let mut state = self.lock();
            state.held -= count;
            state.asked_for -= u32::from(asked_for);
            std::mem::take(&mut state.alone)
        };
        if was_alone {
            self.alone_changed.notify_one();
        }
        self.serve(if asked_for { 0 } else { count });
        let mut state = self.lock();
        if state.has_kept() && state.table.kept_since.is_none() {
            state.table.kept_since = Some(Instant::now());
            self.changed.notify_one();
        }
    }

    /// Gives free slots to those in line, `freed` of them even to those who wait for one that becomes free.
    fn serve(self: &Arc<Self>, freed: u32) {
        let mut freed = freed;
        loop {
            let mut state = self.lock();
            let free = self.total - state.held.min(self.total);
            let kept = state.has_kept();
            let Some(first) = state.line.first_entry() else { return };
            let (count, alone) = match first.key().0 {
                Class::All if free == self.total => (self.total, true),
                Class::Offered if free > 0 => (1, false),
                Class::Freed if free > 0 && (freed > 0 || kept) => (1, false),
                _ => return,
            };
            let sender = first.remove();
            freed = freed.saturating_sub(count);
            state.alone |= alone;
            state.hold(count);
            drop(state);
            // A slot that nobody takes comes back as a dropped one, which frees it and looks again.
            let _ = sender.send(self.slot(count));
        }
    }

    /// The delivery of a task that was offered a slot here has arrived.
    pub(crate) fn offer_taken(&self, task_id: &TaskId) {
        self.lock().table.taken.push(task_id.clone());
        self.changed.notify_one();
    }

    /// Begins a question to the table, once nobody else asks: with a slot for the task, if one is free.
    pub(crate) async fn ask(self: &Arc<Self>) -> Question<'_> {
        let turn = self.asking.lock().await;
        let mut state = self.lock();
        let slot = state.has_free(self.total).then(|| {
            state.held += 1;
            state.asked_for += 1;
            Slot { slots: Arc::clone(self), count: 1, asked_for: true }
        });
        let given = state.given();
        let holding = state.table.next(given + u32::from(slot.is_some()));
        // Until the answer, the slot counts as not given.
        state.table.slots = given;
        state.table.kept_since = None;
        drop(state);
        Question { slots: self, slot, holding, heard: false, _turn: turn }
    }

    /// The claim with this number was given the slot.
    fn was_given(&self, holding: Holding) {
        let mut state = self.lock();
        state.asked_for -= 1;
        if state.table.number == holding.number {
            state.table.slots = holding.slots;
        } else {
            // A heartbeat that left later may have been heard before, or after: it did not count this slot.
            state.table.unsure = true;
        }
        if state.has_kept() {
            state.table.kept_since.get_or_insert_with(Instant::now);
        }
        self.changed.notify_one();
    }

    /// What was told with this number may not have been heard.
    pub(crate) fn unheard(&self, holding: Holding) {
        let mut state = self.lock();
        state.table.unsure |= state.table.number == holding.number;
        self.changed.notify_one();
    }

    /// What a heartbeat tells: slots that are kept count as held.
    pub(crate) fn beat(&self) -> (Holding, Vec<TaskId>) {
        let mut state = self.lock();
        let given = state.given();
        let slots = if state.table.kept_since.is_some() { given.max(state.table.slots) } else { given };
        let taken = std::mem::take(&mut state.table.taken);
        (state.table.next(slots), taken)
    }

    /// What the table should hear now, if slots are kept for `keep`.
    pub(crate) fn due(&self, keep: Duration) -> Due {
        let mut state = self.lock();
        let given = state.given();
        if state.table.taken.is_empty() && !state.table.unsure {
            if !state.has_kept() {
                return Due::Never;
            }
            if let Some(until) = state.table.kept_since.map(|since| since + keep).filter(|until| *until > Instant::now()) {
                return Due::At(until);
            }
        }
        state.table.kept_since = None;
        let taken = std::mem::take(&mut state.table.taken);
        Due::Now(state.table.next(given), taken)
    }

    /// Until the table may have to hear something.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
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
}
