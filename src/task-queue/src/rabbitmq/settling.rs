//! Settling a consumer's deliveries. Acks are written and not answered, so they cost no round trip; what is settled at one moment is written together, and deliveries that
//! follow one another are acked by one frame: the broker then fetches as many new ones at once.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::future::join_all;
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicNackOptions},
};
use tokio::sync::Notify;

use crate::{QueueError, Settle};

/// Longest wait until acks are written. It bounds a hang of the client library.
pub(super) const WRITE_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct State {
    /// Delivered, and not settled on the wire.
    unsettled: BTreeSet<u64>,
    acked: BTreeSet<u64>,
    given_back: Vec<u64>,
    closed: bool,
}

/// What is to be written now.
#[derive(Debug, Default, PartialEq, Eq)]
struct Due {
    /// Everything up to here is acked.
    up_to: Option<u64>,
    acks: Vec<u64>,
    given_back: Vec<u64>,
}

impl State {
    fn due(&mut self) -> Due {
        let acked = std::mem::take(&mut self.acked);
        let given_back = std::mem::take(&mut self.given_back);
        for tag in &acked {
            self.unsettled.remove(tag);
        }
        let first_left = self.unsettled.first().copied().unwrap_or(u64::MAX);
        for tag in &given_back {
            self.unsettled.remove(tag);
        }
        let up_to = acked.range(..first_left).next_back().copied();
        let acks = acked.range(first_left..).copied().collect();
        Due { up_to, acks, given_back }
    }
}

/// The deliveries of one consumer's channel.
#[derive(Debug)]
pub(super) struct Settling {
    channel: Channel,
    state: Mutex<State>,
    told: Notify,
}

impl Settling {
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel, state: Mutex::default(), told: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A delivery has come. Tags come in their order.
    pub(super) fn delivered(&self, tag: u64) {
        self.lock().unsettled.insert(tag);
    }

    fn settle(&self, how: impl FnOnce(&mut State)) -> Result<(), QueueError> {
        let mut state = self.lock();
        if state.closed || !self.channel.status().connected() {
            return Err(QueueError::Stale);
        }
        how(&mut state);
        drop(state);
        self.told.notify_one();
        Ok(())
    }

    /// Puts a delivery back that nobody took.
    pub(super) fn give_back(&self, tag: u64) {
        // On a channel that has ended it is back already.
        let _stale = self.settle(|state| state.given_back.push(tag));
    }

    /// Writes what is settled, as long as the channel is in use. Never returns.
    pub(super) async fn write(&self) -> Infallible {
        loop {
            let due = self.lock().due();
            self.write_due(due).await;
            self.told.notified().await;
            // Those that settle at this moment travel with it.
            tokio::task::yield_now().await;
        }
    }

    /// Writes what is left to be written. From now on nothing can be settled.
    pub(super) async fn close(&self) {
        let due = {
            let mut state = self.lock();
            state.closed = true;
            state.due()
        };
        self.write_due(due).await;
    }

    async fn write_due(&self, due: Due) {
        let ack = |tag, multiple| self.channel.basic_ack(tag, BasicAckOptions { multiple });
        let together = due.up_to.into_iter().map(|tag| ack(tag, true));
        let alone = due.acks.into_iter().map(|tag| ack(tag, false));
        let requeue = BasicNackOptions { requeue: true, multiple: false };
        let given_back = due.given_back.into_iter().map(|tag| self.channel.basic_nack(tag, requeue));
        let (acking, giving_back) = (join_all(together.chain(alone)), join_all(given_back));
        let writing = async { tokio::join!(acking, giving_back) };
        // What could not be written was delivered on a channel that has ended: the broker delivers it again.
        let _ignored = tokio::time::timeout(WRITE_LIMIT, writing).await;
    }
}

/// Settles one delivery of a consumer.
pub(super) struct ConsumerReceipt {
    pub(super) settling: Arc<Settling>,
    pub(super) tag: u64,
}

#[async_trait]
impl Settle for ConsumerReceipt {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        self.settling.settle(|state| {
            state.acked.insert(self.tag);
        })
    }

    async fn give_back(self: Box<Self>) -> Result<(), QueueError> {
        self.settling.settle(|state| state.given_back.push(self.tag))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(unsettled: &[u64], acked: &[u64], given_back: &[u64]) -> State {
        State {
            unsettled: unsettled.iter().copied().collect(),
            acked: acked.iter().copied().collect(),
            given_back: given_back.to_vec(),
            closed: false,
        }
    }

    #[test]
    fn deliveries_that_follow_one_another_are_acked_together_and_nothing_beyond_them() {
        let due = |unsettled: &[u64], acked: &[u64], given_back: &[u64]| state(unsettled, acked, given_back).due();
        assert_eq!(due(&[4, 5, 6, 7], &[4, 5], &[]), Due { up_to: Some(5), ..Due::default() });
        assert_eq!(due(&[4, 5, 6, 7], &[4, 6, 7], &[]), Due { up_to: Some(4), acks: vec![6, 7], ..Due::default() });
        assert_eq!(due(&[4, 5, 6], &[5, 6], &[]), Due { acks: vec![5, 6], ..Due::default() });
        assert_eq!(due(&[4, 5, 6], &[4, 6], &[5]), Due { up_to: Some(4), acks: vec![6], given_back: vec![5] });
        assert_eq!(due(&[4], &[], &[]), Due::default());
    }

    proptest! {
        #[test]
        fn every_delivery_is_settled_once_and_as_it_was_said(says in prop::collection::vec((0_u8..4, any::<bool>()), 1..60)) {
            let mut state = state(&(0..says.len() as u64).collect::<Vec<_>>(), &[], &[]);
            let (mut acked, mut given_back) = (BTreeSet::new(), BTreeSet::new());
            let mut wire_left: BTreeSet<u64> = state.unsettled.clone();
            for (tag, (how, write)) in says.iter().enumerate() {
                let tag = tag as u64;
                match how {
                    0 | 1 => { state.acked.insert(tag); acked.insert(tag); }
                    2 => { state.given_back.push(tag); given_back.insert(tag); }
                    _ => {}
                }
                if *write {
                    let due = state.due();
                    let together: Vec<u64> = due.up_to.map(|up_to| wire_left.range(..=up_to).copied().collect()).unwrap_or_default();
                    for tag in together.iter().chain(&due.acks) {
                        prop_assert!(acked.contains(tag), "{tag} was not acked");
                        prop_assert!(wire_left.remove(tag), "{tag} twice");
                    }
                    for tag in &due.given_back {
                        prop_assert!(given_back.contains(tag) && wire_left.remove(tag), "{tag}");
                    }
                }
            }
            let due = state.due();
            let together: Vec<u64> = due.up_to.map(|up_to| wire_left.range(..=up_to).copied().collect()).unwrap_or_default();
            for tag in together.iter().chain(&due.acks).chain(&due.given_back) {
                prop_assert!(wire_left.remove(tag), "{tag} twice");
            }
            let open = says.iter().filter(|(how, _)| *how == 3).count();
            prop_assert_eq!(wire_left.len(), open);
        }
    }
}
