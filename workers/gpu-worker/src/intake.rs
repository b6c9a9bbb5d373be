//! Receiving: from a consumer's deliveries to lives, with the credits that tell whether tasks or slots wait.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use protocol::{BodyHash, DeliveryId, Envelope};
use task_queue::{Consumer, Delivery, Queue, QueueError, Receipt};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::{
    context::Context,
    credits::{Credits, Settled, Waits},
    life,
};

/// A delivery in a worker's hand.
pub(crate) struct InHand {
    pub(crate) id: DeliveryId,
    pub(crate) queue: Queue,
    pub(crate) envelope: Envelope,
    pub(crate) body: Bytes,
    pub(crate) redelivered: bool,
    pub(crate) received: Instant,
    pub(crate) waits: Waits,
    /// Until when its task must have started and ended, in Unix ms: known once it was read.
    pub(crate) deadlines: Deadlines,
    /// `None` once it was settled before its end.
    settle: Mutex<Option<Settle>>,
}

/// Until when a task must have started and ended, in Unix ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Deadlines {
    pub(crate) start_before_ms: Option<u64>,
    pub(crate) end_before_ms: Option<u64>,
}

/// What is needed to settle a delivery once.
struct Settle {
    receipt: Receipt,
    credits: Arc<Mutex<Credits>>,
    within: Duration,
}

impl InHand {
    fn new(id: DeliveryId, delivery: Delivery, credits: Arc<Mutex<Credits>>, within: Duration) -> Self {
        let received = Instant::now();
        let waits = lock(&credits).delivered(received, within);
        Self {
            id,
            queue: delivery.queue,
            envelope: delivery.envelope,
            body: delivery.body,
            redelivered: delivery.redelivered,
            received,
            waits,
            deadlines: Deadlines::default(),
            settle: Mutex::new(Some(Settle { receipt: delivery.receipt, credits, within })),
        }
    }

    /// Acks a delivery whose task ran here and ended. Everything that must follow it is safe by now.
    pub(crate) async fn ack_after_run(self) {
        self.settle(Settled::AfterRun).await;
    }

    /// Acks a delivery whose task went elsewhere or needed no run.
    pub(crate) async fn ack_elsewhere(self) {
        let waits = self.waits;
        self.settle(Settled::Elsewhere(waits)).await;
    }

    /// Acks it before its end: a copy of it waits in a retry queue.
    pub(crate) async fn ack_early(&self) {
        let waits = self.waits;
        self.settle_once(Settled::Elsewhere(waits)).await;
    }

    async fn settle(self, how: Settled) {
        self.settle_once(how).await;
    }

    async fn settle_once(&self, how: Settled) {
        if let Some(Settle { receipt, credits, within }) = self.take_settle() {
            lock(&credits).settled(Instant::now(), how, within);
            note(receipt.ack().await);
        }
    }

    /// Whether it was acked before its end.
    pub(crate) fn is_settled(&self) -> bool {
        self.settle.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn take_settle(&self) -> Option<Settle> {
        self.settle.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Puts it back into its queue, for another worker.
    pub(crate) async fn give_back(self) {
        if let Some(Settle { receipt, .. }) = self.take_settle() {
            note(receipt.give_back().await);
        }
    }

    /// Where its reply goes, short enough to be kept; empty if it wants none.
    pub(crate) fn address(&self) -> String {
        let Envelope { reply_to, correlation_id, .. } = &self.envelope;
        let Some(reply_to) = reply_to.as_deref().filter(|name| !name.is_empty()) else { return String::new() };
        let address = format!("{reply_to}\n{}", correlation_id.as_deref().unwrap_or_default());
        BodyHash::of(address.as_bytes()).as_str().to_owned()
    }

    /// Whether it may be a copy of what a worker had before, and not a publish of a producer's own.
    pub(crate) fn is_copy(&self) -> bool {
        self.redelivered || self.envelope.headers.copy
    }
}

fn lock(credits: &Mutex<Credits>) -> MutexGuard<'_, Credits> {
    credits.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(settled: Result<(), QueueError>) {
    match settled {
        Ok(()) | Err(QueueError::Stale) => {}
        Err(error) => tracing::warn!(%error, "not settled: the broker will deliver the message again"),
    }
}

/// Starts a life for every delivery of `consumer`, until it is stopped and the last of them has ended: a consumer that is dropped gives back what is in hand.
pub(crate) async fn receive(context: Arc<Context>, mut consumer: Consumer, prefetch: u16) {
    let fresh = || Arc::new(Mutex::new(Credits::new(prefetch)));
    let mut credits = fresh();
    let (mut live, lives) = (consumer.live(), TaskTracker::new());
    while let Some(delivery) = consumer.next().await {
        if live.has_changed().unwrap_or(false) && *live.borrow_and_update() {
            // After a reconnection all credits are new; those that the old channel's deliveries open count for nothing.
            credits = fresh();
        }
        if delivery.redelivered {
            context.metrics.redelivered.inc();
        }
        let in_hand = InHand::new(context.next_delivery(), delivery, Arc::clone(&credits), context.tasks_waiting_within());
        let alive = life::live(Arc::clone(&context), in_hand);
        context.environment.spawn("life of a task", context.lives.track_future(lives.track_future(alive)));
    }
    lives.close();
    lives.wait().await;
}
