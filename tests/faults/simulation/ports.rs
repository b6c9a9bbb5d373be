//! The ports as one worker of a simulated fleet has them: every call, and every settling of a delivery, passes through [`Chaos`].

use std::{
    collections::BTreeMap,
    num::NonZeroU16,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use task_queue::{
    Consumer, Delivery, Depth, Feed, Inbox, Link, Names, Outgoing, PublishError, Queue, QueueError, Receipt, Settle, Stopper, Target,
    TaskQueue,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    bugs::Bug,
    chaos::Chaos,
    world::{InHand, World},
};

/// A worker's connection to the simulated broker.
pub struct ChaosQueue {
    inner: Arc<dyn TaskQueue>,
    chaos: Arc<Chaos>,
    bug: Option<Bug>,
    world: Arc<World>,
    outstanding: Arc<Outstanding>,
}

/// The deliveries in a worker's hand.
#[derive(Default)]
struct Outstanding {
    state: Mutex<(u64, BTreeMap<u64, Receipt>)>,
}

impl Outstanding {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Receipt>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, receipt: Receipt) -> u64 {
        let mut state = self.lock();
        state.0 += 1;
        let tag = state.0;
        state.1.insert(tag, receipt);
        tag
    }

    fn take(&self, tag: u64) -> Option<Receipt> {
        self.lock().1.remove(&tag)
    }

    fn take_all(&self) -> Vec<Receipt> {
        std::mem::take(&mut self.lock().1).into_values().collect()
    }
}

impl ChaosQueue {
    pub fn new(inner: Arc<dyn TaskQueue>, chaos: Arc<Chaos>, bug: Option<Bug>, world: Arc<World>) -> Self {
        Self { inner, chaos, bug, world, outstanding: Arc::default() }
    }

    /// The broker closes the worker's channels: everything in its hand is delivered again, and the worker goes on with it.
    pub async fn lose_channels(&self) {
        for receipt in self.outstanding.take_all() {
            let _ = receipt.give_back().await;
        }
    }

    fn wrap(&self, delivery: Delivery) -> (u64, Delivery) {
        let tag = self.outstanding.add(delivery.receipt);
        if self.bug == Some(Bug::AckBeforeRecord)
            && let Some(receipt) = self.outstanding.take(tag)
        {
            tokio::spawn(receipt.ack());
        }
        let settle = ChaosReceipt {
            tag,
            site: if matches!(delivery.queue, Queue::Undelivered(_)) { "ack a redelivery" } else { "ack" },
            outstanding: Arc::clone(&self.outstanding),
            chaos: Arc::clone(&self.chaos),
            _in_hand: self.world.takes_in_hand(delivery.envelope.message_id.clone().unwrap_or_default()),
        };
        (tag, Delivery { receipt: Receipt::new(Box::new(settle)), ..delivery })
    }
}

fn unreachable() -> QueueError {
    QueueError::Unreachable { url: "amqp://simulated".to_owned(), reason: "as the fault wants it".to_owned() }
}

/// The name of a publish, by what it is for.
fn publish_site(message: &Outgoing) -> &'static str {
    match &message.target {
        Target::Queue(Queue::Pool(_)) if message.envelope.headers.slice.is_some() => "publish a slice",
        Target::ReplyTo(_) | Target::Queue(Queue::Reply(_)) => "publish a reply",
        Target::Queue(Queue::Gpu(_)) => "publish to a GPU's queue",
        Target::Queue(Queue::Pool(_)) => "publish to the pool",
        Target::Queue(Queue::Retry(_)) => "publish to a retry queue",
        Target::Queue(Queue::Dead) => "publish a dead letter",
        Target::Queue(Queue::Undelivered(_)) => "put a reply aside",
        Target::Queue(_) => "publish elsewhere",
    }
}

#[async_trait]
impl TaskQueue for ChaosQueue {
    fn names(&self) -> &Names {
        self.inner.names()
    }

    async fn declare(&self, queue: &Queue) -> Result<(), QueueError> {
        self.chaos.around(("queue", "declare"), self.inner.declare(queue), unreachable).await
    }

    async fn publish(&self, message: Outgoing) -> Result<(), PublishError> {
        let message = match self.bug {
            Some(bug) => bug.message(message),
            None => message,
        };
        let site = publish_site(&message);
        let target = self.inner.names().target(&message.target);
        if self.bug == Some(Bug::AckBeforeConfirm) && !matches!(message.target, Target::ReplyTo(_)) {
            let inner = Arc::clone(&self.inner);
            let late = tokio::spawn(async move {
                tokio::time::sleep(Bug::LAG).await;
                inner.publish(message).await
            });
            self.chaos.lifeline().add(late.abort_handle());
            return Ok(());
        }
        self.chaos
            .around(("queue", site), self.inner.publish(message), || PublishError::Timeout { target: target.clone(), after_ms: 1 })
            .await
    }

    async fn consume(&self, queue: &Queue, prefetch: NonZeroU16) -> Result<Consumer, QueueError> {
        let consumer = self.chaos.around(("queue", "consume"), self.inner.consume(queue, prefetch), unreachable).await?;
        let (inbox, live, ended) = (Arc::new(Inbox::default()), consumer.live(), CancellationToken::new());
        let feed = PumpFeed {
            stopper: consumer.stopper(),
            inbox: Arc::clone(&inbox),
            outstanding: Arc::clone(&self.outstanding),
            ended: ended.clone(),
        };
        let this = Self {
            inner: Arc::clone(&self.inner),
            chaos: Arc::clone(&self.chaos),
            bug: self.bug,
            world: Arc::clone(&self.world),
            outstanding: Arc::clone(&self.outstanding),
        };
        self.chaos.lifeline().add(tokio::spawn(pump(this, consumer, Arc::clone(&inbox), ended)).abort_handle());
        Ok(Consumer::new(inbox, live, Arc::new(feed)))
    }

    async fn take(&self, queue: &Queue) -> Result<Option<Delivery>, QueueError> {
        let taken: Mutex<Option<Delivery>> = Mutex::default();
        let taking = async {
            let delivery = self.inner.take(queue).await?;
            *taken.lock().unwrap_or_else(PoisonError::into_inner) = delivery;
            Ok(())
        };
        let answered = self.chaos.around(("queue", "take"), taking, unreachable).await;
        let taken = taken.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (answered, taken) {
            (Ok(()), taken) => Ok(taken.map(|delivery| self.wrap(delivery).1)),
            // Its channel is given up, and then the broker has the message back.
            (Err(error), Some(lost)) => {
                let _ = lost.receipt.give_back().await;
                Err(error)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn depth(&self, queue: &Queue) -> Result<Option<Depth>, QueueError> {
        self.chaos.around(("queue", "depth"), self.inner.depth(queue), unreachable).await
    }

    async fn delete_if_unused(&self, queue: &Queue) -> Result<bool, QueueError> {
        self.chaos.around(("queue", "delete"), self.inner.delete_if_unused(queue), unreachable).await
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.inner.link()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// Hands a consumer's deliveries on, until either end wants no more.
async fn pump(queue: ChaosQueue, mut consumer: Consumer, inbox: Arc<Inbox>, ended: CancellationToken) {
    loop {
        let delivery = tokio::select! {
            biased;
            () = ended.cancelled() => None,
            delivery = consumer.next() => delivery,
        };
        let Some(delivery) = delivery else { break };
        let (tag, delivery) = queue.wrap(delivery);
        inbox.push(tag, delivery);
    }
    inbox.close();
    if !ended.is_cancelled() {
        // Stopped, not dropped: what is in hand can still be settled.
        ended.cancelled().await;
    }
}

struct PumpFeed {
    stopper: Stopper,
    inbox: Arc<Inbox>,
    outstanding: Arc<Outstanding>,
    ended: CancellationToken,
}

impl Feed for PumpFeed {
    fn stop(&self) {
        self.stopper.stop();
        for receipt in self.inbox.close().into_iter().filter_map(|tag| self.outstanding.take(tag)) {
            tokio::spawn(receipt.give_back());
        }
    }

    fn end(&self) {
        self.inbox.close();
        self.ended.cancel();
    }
}

struct ChaosReceipt {
    tag: u64,
    /// The name of its ack.
    site: &'static str,
    outstanding: Arc<Outstanding>,
    chaos: Arc<Chaos>,
    _in_hand: InHand,
}

impl ChaosReceipt {
    async fn settle<F>(&self, site: &'static str, how: impl FnOnce(Receipt) -> F) -> Result<(), QueueError>
    where
        F: Future<Output = Result<(), QueueError>>,
    {
        let settling = async {
            match self.outstanding.take(self.tag) {
                Some(receipt) => how(receipt).await,
                None => Err(QueueError::Stale),
            }
        };
        let settled = self.chaos.around(("queue", site), settling, || QueueError::Stale).await;
        // An ack fails only where its channel is gone, and then the broker delivers again.
        if let (Err(_), Some(receipt)) = (&settled, self.outstanding.take(self.tag)) {
            let _ = receipt.give_back().await;
        }
        settled
    }
}

#[async_trait]
impl Settle for ChaosReceipt {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        self.settle(self.site, Receipt::ack).await
    }

    async fn give_back(self: Box<Self>) -> Result<(), QueueError> {
        self.settle("give back", Receipt::give_back).await
    }
}
