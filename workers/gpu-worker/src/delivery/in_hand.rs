//! A delivery in a worker's hand, and the credit that it takes up.
//!
//! The broker holds back deliveries while a consumer has as many of them unacked as it has slots; each takes up one *credit*. A task that is fetched shortly before a run
//! ends follows in the same slot, and must not be joined there by another one: so the credit stays taken up, by the finished delivery, which is kept unacked until no
//! fetched task follows any more ([`Credit`]).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use protocol::{BodyHash, DeliveryId, Envelope, GroupName, TaskId, trace_id_of};
use task_queue::{Death, Delivery, Queue, QueueError, Receipt};
use tokio::time::Instant;

use super::{
    credits::{Credits, Settled, Waits},
    share::Share,
    traced::BegunSpan,
};

/// A delivery in a worker's hand.
pub(crate) struct InHand {
    pub(crate) id: DeliveryId,
    pub(crate) queue: Queue,
    /// The routing key that it was published under.
    pub(crate) routing_key: String,
    pub(crate) envelope: Envelope,
    pub(crate) body: Bytes,
    pub(crate) redelivered: bool,
    /// Why the broker took it out of another queue, if it did.
    pub(crate) death: Option<Death>,
    pub(crate) received: Instant,
    pub(crate) waits: Waits,
    /// Until when its task must have started and ended, in Unix ms: known once it was read.
    pub(crate) deadlines: Deadlines,
    /// Whether it was fetched to follow another task, and goes on using that one's credit.
    fetched: bool,
    /// `None` once it was settled.
    settle: Mutex<Option<Settle>>,
    /// The credit that fetched tasks may use after this one; `None` while nobody has asked for it, or if it has none to share.
    credit: Mutex<Option<Arc<Credit>>>,
    /// Of the attempt that began last, where it is recorded.
    begun: Mutex<Option<BegunSpan>>,
    /// What its body has of the memory for bodies.
    _share: Share,
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
    /// Where its ack opens a credit; `None` for what was fetched without a consumer.
    credits: Option<(Arc<Mutex<Credits>>, Duration)>,
}

impl Settle {
    async fn ack(self, how: Settled) {
        if let Some((credits, within)) = self.credits {
            lock(&credits).settled(Instant::now(), how, within);
        }
        note(self.receipt.ack().await);
    }
}

/// A credit that fetched tasks use one after the other. The last one to let go of it acks the delivery that took it up, once that one is done with itself.
pub(crate) struct Credit {
    since: Instant,
    finished: Mutex<Option<Settle>>,
}

impl Credit {
    /// Since when the credit is taken up by the same delivery.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Ends one use of it.
    pub(crate) async fn let_go(self: Arc<Self>) {
        let finished = Arc::into_inner(self).and_then(|credit| credit.finished.into_inner().unwrap_or_else(PoisonError::into_inner));
        if let Some(finished) = finished {
            finished.ack(Settled::AfterRun).await;
        }
    }
}

impl InHand {
    /// A delivery that a consumer has brought. `within`: how soon after an ack it means that tasks wait.
    pub(crate) fn delivered(id: DeliveryId, delivery: Delivery, credits: Arc<Mutex<Credits>>, within: Duration) -> Self {
        let received = Instant::now();
        let waits = lock(&credits).delivered(received, within);
        Self::new(id, delivery, (received, waits), Some((credits, within)))
    }

    /// A task that was fetched to follow another one, whose `credit` it goes on using.
    pub(crate) fn fetched(id: DeliveryId, delivery: Delivery, credit: Arc<Credit>) -> Self {
        let in_hand = Self::new(id, delivery, (Instant::now(), Waits::Tasks), None);
        *in_hand.credit() = Some(credit);
        in_hand
    }

    fn new(
        id: DeliveryId,
        delivery: Delivery,
        (received, waits): (Instant, Waits),
        credits: Option<(Arc<Mutex<Credits>>, Duration)>,
    ) -> Self {
        Self {
            id,
            fetched: credits.is_none(),
            queue: delivery.queue,
            routing_key: delivery.routing_key,
            envelope: delivery.envelope,
            body: delivery.body,
            redelivered: delivery.redelivered,
            death: delivery.death,
            received,
            waits,
            deadlines: Deadlines::default(),
            settle: Mutex::new(Some(Settle { receipt: delivery.receipt, credits })),
            credit: Mutex::default(),
            begun: Mutex::default(),
            _share: Share::default(),
        }
    }

    /// The same delivery with the share of its body, which it gives back when it is dropped.
    pub(crate) fn with_share(self, share: Share) -> Self {
        Self { _share: share, ..self }
    }

    fn settle(&self) -> MutexGuard<'_, Option<Settle>> {
        self.settle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn credit(&self) -> MutexGuard<'_, Option<Arc<Credit>>> {
        self.credit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acks a delivery whose task ran here and ended. Everything that must follow it is safe by now.
    pub(crate) async fn ack_after_run(&self) {
        self.ack(Settled::AfterRun).await;
    }

    /// Acks a delivery whose task went elsewhere or needed no run, or of which a copy waits in a retry queue.
    pub(crate) async fn ack_elsewhere(&self) {
        self.ack(Settled::Elsewhere(self.waits)).await;
    }

    async fn ack(&self, how: Settled) {
        let Some(settle) = self.settle().take() else { return };
        let shared = if self.fetched { None } else { self.credit().take() };
        match shared {
            Some(credit) => {
                *credit.finished.lock().unwrap_or_else(PoisonError::into_inner) = Some(settle);
                credit.let_go().await;
            }
            None => settle.ack(how).await,
        }
    }

    /// Whether it was acked before its end.
    pub(crate) fn is_settled(&self) -> bool {
        self.settle().is_none()
    }

    /// Puts it back into its queue, for another worker.
    pub(crate) async fn give_back(&self) {
        let settle = self.settle().take();
        if let Some(Settle { receipt, .. }) = settle {
            note(receipt.give_back().await);
        }
    }

    /// The credit for a task that is to follow in this one's slot; `None` if this one has none to share.
    pub(crate) fn share_credit(&self) -> Option<Arc<Credit>> {
        let mut credit = self.credit();
        if credit.is_none() && !self.fetched && !self.is_settled() {
            *credit = Some(Arc::new(Credit { since: self.received, finished: Mutex::default() }));
        }
        credit.clone()
    }

    /// A fetched task has run, or will not: the credit is of use to nobody but who follows it.
    pub(crate) async fn let_credit_go(&self) {
        let credit = if self.fetched { self.credit().take() } else { None };
        if let Some(credit) = credit {
            credit.let_go().await;
        }
    }

    /// Takes note that an attempt began that is recorded.
    pub(crate) fn begun(&self, span: BegunSpan) {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(span);
    }

    /// The attempt that began last, where it is recorded and its span was not made yet. From now on it was.
    pub(crate) fn tell_begun(&self) -> Option<BegunSpan> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let untold = begun.filter(|span| !span.is_told)?;
        *begun = Some(BegunSpan { is_told: true, ..untold });
        Some(untold)
    }

    /// The attempt that began last, where it is recorded.
    pub(crate) fn begun_span(&self) -> Option<BegunSpan> {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trace that its task belongs to, for the log.
    pub(crate) fn trace_id(&self) -> Option<&str> {
        trace_id_of(self.envelope.headers.traceparent.as_deref()?)
    }

    /// Where its reply goes, short enough to be kept; empty if it wants none.
    pub(crate) fn address(&self) -> String {
        let Envelope { reply_to, correlation_id, .. } = &self.envelope;
        let Some(reply_to) = reply_to.as_deref().filter(|name| !name.is_empty()) else { return String::new() };
        let address = format!("{reply_to}\n{}", correlation_id.as_deref().unwrap_or_default());
        BodyHash::of(address.as_bytes()).as_str().to_owned()
    }

    /// The group in which a task of this delivery is counted: its own, or, where it is a slice, its batch. A slice is counted in none.
    pub(crate) fn group_of(&self, task_id: &TaskId) -> Option<&GroupName> {
        self.envelope.headers.group.as_ref().filter(|_| task_id.slice().is_none())
    }

    /// Whether it may be a copy of what a worker had before, and not a publish of a producer's own.
    pub(crate) fn is_copy(&self) -> bool {
        self.redelivered || self.envelope.headers.copy
    }

    /// Whether it is a copy of a delivery whose reply has gone out, to whom the store says: it needs none of its own.
    pub(crate) fn was_answered(&self, published_to: Option<&str>) -> bool {
        self.is_copy() && published_to == Some(self.address().as_str())
    }

    /// Whether another delivery of the same task may come after this one was answered: a copy goes round, or this one stays unacked for a while.
    pub(crate) fn may_come_again(&self) -> bool {
        self.is_copy() || self.is_settled() || self.credit().is_some()
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
