//! The worker's own count of its slots, the deliveries that wait in hand for one, and what the table has been told.
//!
//! The table's count may be wrong (lost, restored, late); this one never is: no more than `total` attempts run, whatever the table says. Waiting is by priority, then by
//! arrival, and a slot that becomes free passes straight to whoever is first in line.
//!
//! ```text
//!             told = held: all is said
//!   a run ends, nobody in line:  held < told   the slot is kept until the task is settled, since no other can come before, and a few milliseconds
//!                                              more: the next task takes it without a word to the table; if none comes, the table is told
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

/// A task that has run, and is being settled until this is dropped.
#[derive(Debug)]
pub(crate) struct BeingSettled(Arc<Slots>);

impl Drop for BeingSettled {
    fn drop(&mut self) {
        let begins = {
            let mut state = self.0.lock();
            state.settling -= 1;
            state.keep()
        };
        if begins {
            self.0.changed.notify_one();
        }
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
    /// How many tasks have run and are being settled.
    settling: u32,
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
    /// Since when the table counts more than are held, and more than are being settled besides.
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

    /// How many slots the table counts as held here that are free.
    fn kept(&self) -> u32 {
        self.table.slots.saturating_sub(self.given())
    }

    fn has_kept(&self) -> bool {
        self.kept() > 0
    }

    /// Whether a slot is kept although no delivery is being settled for which the next one may come.
    fn keeps_in_vain(&self) -> bool {
        self.kept() > self.settling
    }

    fn hold(&mut self, count: u32) {
        self.held += count;
        self.look_at_keeping();
    }

    fn settle_one_more(&mut self) {
        self.settling += 1;
        self.look_at_keeping();
    }

    /// Ends the time that slots are kept for where none is kept in vain any more: the next time begins anew, and is told of.
    fn look_at_keeping(&mut self) {
        if !self.keeps_in_vain() {
            self.table.kept_since = None;
        }
    }

    /// Begins the time that slots are kept for, if it has not begun.
    fn keep(&mut self) -> bool {
        let begins = self.keeps_in_vain() && self.table.kept_since.is_none();
        if begins {
            self.table.kept_since = Some(Instant::now());
        }
        begins
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

    /// Whether a task could hold a slot, now or later, besides so many that hold one and stay: not while a task runs alone or waits to.
    pub(crate) fn may_give_beyond(&self, staying: usize) -> bool {
        let state = self.lock();
        !state.alone && !state.all_wanted() && staying < self.total as usize
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
        if self.lock().keep() {
            self.changed.notify_one();
        }
    }

    /// A task has run and is being settled, until what this gives is dropped.
    pub(crate) fn settling(self: &Arc<Self>) -> BeingSettled {
        self.lock().settle_one_more();
        BeingSettled(Arc::clone(self))
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
        state.keep();
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
        let slots = given.max(state.table.slots);
        let taken = std::mem::take(&mut state.table.taken);
        (state.table.next(slots), taken)
    }

    /// What the table should hear now, if slots are kept for `keep`.
    pub(crate) fn due(&self, keep: Duration) -> Due {
        let mut state = self.lock();
        let given = state.given();
        if state.table.taken.is_empty() && !state.table.unsure {
            if !state.keeps_in_vain() {
                return Due::Never;
            }
            if let Some(until) = state.table.kept_since.map(|since| since + keep).filter(|until| *until > Instant::now()) {
                return Due::At(until);
            }
        }
        state.table.kept_since = None;
        let taken = std::mem::take(&mut state.table.taken);
        let kept = state.kept().min(state.settling);
        Due::Now(state.table.next(given + kept), taken)
    }

    /// Until the table may have to hear something.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests;
