//! The worker's own count of its slots, and the deliveries that wait in hand for one.
//!
//! The table's count may be wrong (lost, restored, late); this one never is: no more than `total` attempts run, whatever the table says.
//! Waiting is by priority, then by arrival.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use protocol::{ClaimAnswer, ClaimRequest};
use tokio::sync::{Notify, oneshot};

/// One local slot, or all of them, until dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    slots: Arc<Slots>,
    count: u32,
}

impl Permit {
    /// Of all slots, keeps one.
    pub(crate) fn keep_one(&mut self) {
        let others = std::mem::replace(&mut self.count, 1) - 1;
        self.slots.free(others);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.slots.free(self.count);
    }
}

/// What a delivery that waits in hand is given.
#[derive(Debug)]
pub(crate) enum Handed {
    /// A local slot. Its claim is the answer, if the slot came with one.
    Slot(Permit, Option<ClaimAnswer>),
    /// The table's answer to the claim that was made on its behalf, which was not "yours".
    Answer(ClaimAnswer),
}

/// What waits in hand, and for what.
#[derive(Debug)]
enum Waiter {
    /// Has a claim already and must run alone: needs all slots. First in line, and nobody else gets a slot meanwhile.
    All(oneshot::Sender<Handed>),
    /// Has a claim already (the table ran ahead of the local count): needs a local slot alone. Next in line.
    Slot(oneshot::Sender<Handed>),
    /// Needs a claim and a slot: is handed both by the attempt that ends.
    Claim(Box<ClaimRequest>, oneshot::Sender<Handed>),
}

/// A delivery that is next in line for a slot that has just become free.
pub(crate) struct NextInLine {
    /// The claim to make for it.
    pub(crate) request: Box<ClaimRequest>,
    /// Where it waits.
    pub(crate) handed: oneshot::Sender<Handed>,
}

/// What is waited for; earlier comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    All,
    Slot,
    Claim,
}

/// Lower comes first: by what is waited for, then higher priority, then earlier arrival.
type Place = (Class, Reverse<u8>, u64);

#[derive(Debug, Default)]
struct State {
    busy: u32,
    /// Somebody holds all slots.
    alone: bool,
    arrivals: u64,
    line: BTreeMap<Place, Waiter>,
}

impl State {
    fn all_wanted(&self) -> bool {
        self.line.first_key_value().is_some_and(|((class, ..), _)| *class == Class::All)
    }
}

/// The slots of one GPU.
#[derive(Debug)]
pub(crate) struct Slots {
    total: u32,
    state: Mutex<State>,
    /// Told when a task is to run alone, and when it has.
    alone_changed: Arc<Notify>,
}

/// A place in the line; leaving it (dropping) takes the waiter out.
#[derive(Debug)]
pub(crate) struct InLine {
    slots: Arc<Slots>,
    place: Place,
    /// `None` once it has told what there was to tell.
    receiver: Option<oneshot::Receiver<Handed>>,
}

impl InLine {
    /// Waits until handed something; `None` if whoever was to hand it over gave up. Cancel safe: what arrives later is still received by the next call.
    pub(crate) async fn handed(&mut self) -> Option<Handed> {
        let handed = self.receiver.as_mut()?.await.ok();
        self.receiver = None;
        handed
    }

    /// Leaves the line. If somebody is handing something over at that moment, it is waited for and must be used: the claim was made in this delivery's name, and asking for
    /// another would be answered with the same one, which the other is about to release.
    pub(crate) async fn leave(mut self) -> Option<Handed> {
        if self.slots.leave(self.place) { None } else { self.handed().await }
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.slots.leave(self.place);
    }
}

impl Slots {
    pub(crate) fn new(total: u32, alone_changed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { total, state: Mutex::default(), alone_changed })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many attempts run (or are about to).
    pub(crate) fn busy(&self) -> u32 {
        self.lock().busy
    }

    /// How many slots others may be given claims for: one, held already, while a task runs alone or waits to.
    pub(crate) fn on_offer(&self) -> u32 {
        let state = self.lock();
        if state.alone || state.all_wanted() { 1 } else { self.total }
    }

    /// How many deliveries wait in hand.
    pub(crate) fn waiting(&self) -> u32 {
        u32::try_from(self.lock().line.len()).unwrap_or(u32::MAX)
    }

    /// A slot, if one is free now.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.lock();
        (state.busy < self.total && !state.all_wanted()).then(|| {
            state.busy += 1;
            Permit { slots: Arc::clone(self), count: 1 }
        })
    }

    /// Stands in line for a slot and the claim to go with it.
    pub(crate) fn wait_for_claim(self: &Arc<Self>, priority: u8, request: ClaimRequest) -> InLine {
        self.stand(Class::Claim, priority, |sender| Waiter::Claim(Box::new(request), sender))
    }

    /// Stands in line for a slot alone.
    pub(crate) fn wait_for_slot(self: &Arc<Self>, priority: u8) -> InLine {
        self.stand(Class::Slot, priority, Waiter::Slot)
    }

    /// Stands in line for all slots. Who holds one must give it up first.
    pub(crate) fn wait_for_all(self: &Arc<Self>, priority: u8) -> InLine {
        let line = self.stand(Class::All, priority, Waiter::All);
        self.alone_changed.notify_one();
        line
    }

    fn stand(self: &Arc<Self>, class: Class, priority: u8, waiter: impl FnOnce(oneshot::Sender<Handed>) -> Waiter) -> InLine {
        let (sender, receiver) = oneshot::channel();
        let place = {
            let mut state = self.lock();
            state.arrivals += 1;
            let place = (class, Reverse(priority), state.arrivals);
            state.line.insert(place, waiter(sender));
            place
        };
        if class != Class::Claim {
            self.serve_claim_holders();
        }
        InLine { slots: Arc::clone(self), place, receiver: Some(receiver) }
    }

    /// Takes a waiter out, and says whether it was there. Those behind it may have waited for nothing else.
    fn leave(self: &Arc<Self>, place: Place) -> bool {
        let left = self.lock().line.remove(&place).is_some();
        if left && place.0 == Class::All {
            self.alone_changed.notify_one();
        }
        if left {
            self.serve_claim_holders();
        }
        left
    }

    /// The delivery that the slot of an ending attempt should go to: the first in line that needs a claim, unless somebody who has one
    /// already is to get the local slot. Takes it out of the line.
    pub(crate) fn next_in_line(&self) -> Option<NextInLine> {
        let mut state = self.lock();
        let first = state.line.first_entry()?;
        if !matches!(first.get(), Waiter::Claim(..)) {
            return None;
        }
        match first.remove() {
            Waiter::Claim(request, handed) => Some(NextInLine { request, handed }),
            Waiter::All(_) | Waiter::Slot(_) => None,
        }
    }

    fn free(self: &Arc<Self>, count: u32) {
        let was_alone = {
            let mut state = self.lock();
            state.busy -= count;
            std::mem::take(&mut state.alone)
        };
        if was_alone {
            self.alone_changed.notify_one();
        }
        self.serve_claim_holders();
    }

    /// Gives free slots to those in line who have a claim already.
    fn serve_claim_holders(self: &Arc<Self>) {
        loop {
            let mut state = self.lock();
            let free = self.total - state.busy.min(self.total);
            let Some(first) = state.line.first_entry() else { return };
            let count = match first.get() {
                Waiter::All(_) if free == self.total => self.total,
                Waiter::Slot(_) if free > 0 => 1,
                _ => return,
            };
            let sender = match first.remove() {
                Waiter::All(sender) => {
                    state.alone = true;
                    sender
                }
                Waiter::Slot(sender) => sender,
                Waiter::Claim(..) => return,
            };
            state.busy += count;
            drop(state);
            // A refused slot comes back as a dropped permit, which frees it and looks again.
            let _ = sender.send(Handed::Slot(Permit { slots: Arc::clone(self), count }, None));
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::{ClaimMode, DeliveryId, GpuId, Incarnation, Kind, Needs, PoolName, TaskId};

    use futures::FutureExt;

    use super::*;

    fn slots(total: u32) -> Arc<Slots> {
        Slots::new(total, Arc::default())
    }

    fn request(task: &str) -> ClaimRequest {
        ClaimRequest {
            pool: PoolName::default(),
            task_id: TaskId::new(task).unwrap(),
            kind: Kind::new("echo").unwrap(),
            attempt: 1,
            needs: Needs::default(),
            specific_gpu_id: None,
            strategy: None,
            offered_by: GpuId::new("g").unwrap(),
            incarnation: Incarnation::new("i").unwrap(),
            delivery: DeliveryId(1),
            mode: ClaimMode::Here,
        }
    }

    fn next(slots: &Slots) -> Option<String> {
        slots.next_in_line().map(|next| next.request.task_id.to_string())
    }

    #[test]
    fn no_more_slots_are_given_than_there_are() {
        let slots = slots(2);
        let first = slots.take();
        let second = slots.take();
        assert!(first.is_some() && second.is_some() && slots.take().is_none());
        drop(first);
        assert!(slots.take().is_some());
    }

    #[test]
    fn the_line_goes_by_priority_then_by_arrival() {
        let slots = slots(1);
        let places: Vec<InLine> =
            [("low", 1), ("high", 9), ("high-later", 9)].into_iter().map(|(task, p)| slots.wait_for_claim(p, request(task))).collect();
        assert_eq!(slots.waiting(), 3);
        assert_eq!(next(&slots).as_deref(), Some("high"));
        assert_eq!(next(&slots).as_deref(), Some("high-later"));
        assert_eq!(next(&slots).as_deref(), Some("low"));
        assert_eq!(next(&slots), None);
        drop(places);
    }

    #[tokio::test]
    async fn whoever_leaves_the_line_is_not_served() {
        let slots = slots(1);
        drop(slots.wait_for_claim(9, request("gone")));
        assert!(slots.wait_for_claim(9, request("left")).leave().await.is_none());
        assert_eq!((next(&slots), slots.waiting()), (None, 0));
    }

    #[tokio::test]
    async fn whoever_leaves_the_line_while_a_slot_is_handed_over_takes_it() {
        let slots = slots(1);
        let line = slots.wait_for_claim(9, request("served"));
        let served = slots.next_in_line().unwrap();
        let mut leaving = Box::pin(line.leave());
        assert!((&mut leaving).now_or_never().is_none(), "the answer is on its way");
        let permit = slots.take().unwrap();
        served.handed.send(Handed::Slot(permit, None)).unwrap();
        assert!(matches!(leaving.await, Some(Handed::Slot(..))));
        let line = slots.wait_for_claim(9, request("unserved"));
        drop(slots.next_in_line());
        assert!(line.leave().await.is_none(), "whoever was to hand it over gave up");
        let mut line = slots.wait_for_claim(9, request("unserved"));
        drop(slots.next_in_line());
        assert!(line.handed().await.is_none() && line.leave().await.is_none(), "and that is told once");
    }

    #[tokio::test]
    async fn a_holder_of_a_claim_gets_the_next_local_slot_before_all_others() {
        let slots = slots(1);
        let running = slots.take();
        let _low = slots.wait_for_claim(9, request("waits"));
        let mut holder = slots.wait_for_slot(0);
        assert_eq!(next(&slots), None, "the local slot is promised to the holder of a claim");
        drop(running);
        assert!(matches!(holder.handed().await, Some(Handed::Slot(_, None))));
        assert_eq!(slots.busy(), 0, "and it comes back when it is dropped");
    }

    #[tokio::test]
    async fn a_holder_of_a_claim_that_finds_a_free_slot_gets_it_at_once() {
        let slots = slots(1);
        let mut holder = slots.wait_for_slot(0);
        let handed = holder.handed().await;
        assert!(matches!(handed, Some(Handed::Slot(_, None))));
        assert_eq!(slots.busy(), 1);
    }

    #[tokio::test]
    async fn who_must_run_alone_waits_for_all_slots_and_nobody_starts_meanwhile() {
        let slots = slots(3);
        let running = [slots.take(), slots.take()];
        let _waits = slots.wait_for_claim(9, request("waits"));
        let _holds = slots.wait_for_slot(9);
        assert_eq!((slots.busy(), slots.on_offer()), (3, 3), "a holder of a claim takes the free slot");
        let mut suspect = slots.wait_for_all(0);
        assert_eq!(slots.on_offer(), 1);
        drop(running);
        assert!(slots.take().is_none() && next(&slots).is_none(), "a slot is free, but not for others");
        drop(_holds);
        let Some(Handed::Slot(mut permit, None)) = suspect.handed().await else { panic!("all slots are free") };
        assert_eq!((slots.busy(), slots.on_offer()), (3, 1));
        permit.keep_one();
        assert_eq!((slots.busy(), slots.on_offer()), (1, 3));
        assert_eq!(next(&slots).as_deref(), Some("waits"));
    }

    #[tokio::test]
    async fn two_that_must_run_alone_run_one_after_the_other() {
        let slots = slots(2);
        let (mut first, mut second) = (slots.wait_for_all(0), slots.wait_for_all(9));
        let alone = first.handed().await;
        assert!(second.handed().now_or_never().is_none());
        drop(alone);
        assert!(second.handed().await.is_some());
    }
}
