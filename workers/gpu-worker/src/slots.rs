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
use tokio::sync::oneshot;

/// One local slot, until dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    slots: Arc<Slots>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.slots.free_one();
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
    /// Has a claim already (the table ran ahead of the local count): needs a local slot alone. First in line.
    ForSlot(oneshot::Sender<Handed>),
    /// Needs a claim and a slot: is handed both by the attempt that ends.
    ForClaim(Box<ClaimRequest>, oneshot::Sender<Handed>),
}

/// A delivery that is next in line for a slot that has just become free.
pub(crate) struct NextInLine {
    /// The claim to make for it.
    pub(crate) request: Box<ClaimRequest>,
    /// Where it waits.
    pub(crate) handed: oneshot::Sender<Handed>,
}

/// Lower comes first: those with a claim, then higher priority, then earlier arrival.
type Place = (bool, Reverse<u8>, u64);

#[derive(Debug, Default)]
struct State {
    busy: u32,
    arrivals: u64,
    line: BTreeMap<Place, Waiter>,
}

/// The slots of one GPU.
#[derive(Debug)]
pub(crate) struct Slots {
    total: u32,
    state: Mutex<State>,
}

/// A place in the line; leaving it (dropping) takes the waiter out.
#[derive(Debug)]
pub(crate) struct InLine {
    slots: Arc<Slots>,
    place: Place,
    receiver: oneshot::Receiver<Handed>,
}

impl InLine {
    /// Waits until handed something. Cancel safe: what arrives later is still received by the next call.
    pub(crate) async fn handed(&mut self) -> Option<Handed> {
        (&mut self.receiver).await.ok()
    }

    /// Leaves the line. If something was handed over at that moment, it is returned and must be used.
    pub(crate) fn leave(mut self) -> Option<Handed> {
        self.slots.lock().line.remove(&self.place);
        self.receiver.try_recv().ok()
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.slots.lock().line.remove(&self.place);
    }
}

impl Slots {
    pub(crate) fn new(total: u32) -> Arc<Self> {
        Arc::new(Self { total, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many attempts run (or are about to).
    pub(crate) fn busy(&self) -> u32 {
        self.lock().busy
    }

    /// How many deliveries wait in hand.
    pub(crate) fn waiting(&self) -> u32 {
        u32::try_from(self.lock().line.len()).unwrap_or(u32::MAX)
    }

    /// A slot, if one is free now.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.lock();
        (state.busy < self.total).then(|| {
            state.busy += 1;
            Permit { slots: Arc::clone(self) }
        })
    }

    /// Stands in line for a slot and the claim to go with it.
    pub(crate) fn wait_for_claim(self: &Arc<Self>, priority: u8, request: ClaimRequest) -> InLine {
        self.stand(true, priority, |sender| Waiter::ForClaim(Box::new(request), sender))
    }

    /// Stands in line for a slot alone.
    pub(crate) fn wait_for_slot(self: &Arc<Self>, priority: u8) -> InLine {
        self.stand(false, priority, Waiter::ForSlot)
    }

    fn stand(self: &Arc<Self>, needs_claim: bool, priority: u8, waiter: impl FnOnce(oneshot::Sender<Handed>) -> Waiter) -> InLine {
        let (sender, receiver) = oneshot::channel();
        let place = {
            let mut state = self.lock();
            state.arrivals += 1;
            let place = (needs_claim, Reverse(priority), state.arrivals);
            state.line.insert(place, waiter(sender));
            place
        };
        if !needs_claim {
            self.serve_claim_holders();
        }
        InLine { slots: Arc::clone(self), place, receiver }
    }

    /// The delivery that the slot of an ending attempt should go to: the first in line that needs a claim, unless somebody who has one
    /// already is to get the local slot. Takes it out of the line.
    pub(crate) fn next_in_line(&self) -> Option<NextInLine> {
        let mut state = self.lock();
        let first = state.line.first_entry()?;
        if matches!(first.get(), Waiter::ForSlot(_)) {
            return None;
        }
        match first.remove() {
            Waiter::ForClaim(request, handed) => Some(NextInLine { request, handed }),
            Waiter::ForSlot(_) => None,
        }
    }

    fn free_one(self: &Arc<Self>) {
        self.lock().busy -= 1;
        self.serve_claim_holders();
    }

    /// Gives free slots to those in line who have a claim already.
    fn serve_claim_holders(self: &Arc<Self>) {
        loop {
            let mut state = self.lock();
            if state.busy >= self.total {
                return;
            }
            let Some(first) = state.line.first_entry().filter(|entry| matches!(entry.get(), Waiter::ForSlot(_))) else { return };
            let Waiter::ForSlot(sender) = first.remove() else { return };
            state.busy += 1;
            drop(state);
            // A refused slot comes back as a dropped permit, which frees it and looks again.
            let _ = sender.send(Handed::Slot(Permit { slots: Arc::clone(self) }, None));
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::{ClaimMode, DeliveryId, GpuId, Incarnation, Kind, Needs, PoolName, TaskId};

    use super::*;

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
        let slots = Slots::new(2);
        let first = slots.take();
        let second = slots.take();
        assert!(first.is_some() && second.is_some() && slots.take().is_none());
        drop(first);
        assert!(slots.take().is_some());
    }

    #[test]
    fn the_line_goes_by_priority_then_by_arrival() {
        let slots = Slots::new(1);
        let places: Vec<InLine> =
            [("low", 1), ("high", 9), ("high-later", 9)].into_iter().map(|(task, p)| slots.wait_for_claim(p, request(task))).collect();
        assert_eq!(slots.waiting(), 3);
        assert_eq!(next(&slots).as_deref(), Some("high"));
        assert_eq!(next(&slots).as_deref(), Some("high-later"));
        assert_eq!(next(&slots).as_deref(), Some("low"));
        assert_eq!(next(&slots), None);
        drop(places);
    }

    #[test]
    fn whoever_leaves_the_line_is_not_served() {
        let slots = Slots::new(1);
        drop(slots.wait_for_claim(9, request("gone")));
        assert!(slots.wait_for_claim(9, request("left")).leave().is_none());
        assert_eq!((next(&slots), slots.waiting()), (None, 0));
    }

    #[tokio::test]
    async fn a_holder_of_a_claim_gets_the_next_local_slot_before_all_others() {
        let slots = Slots::new(1);
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
        let slots = Slots::new(1);
        let mut holder = slots.wait_for_slot(0);
        let handed = holder.handed().await;
        assert!(matches!(handed, Some(Handed::Slot(_, None))));
        assert_eq!(slots.busy(), 1);
    }
}
