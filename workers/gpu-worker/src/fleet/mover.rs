//! The mover: puts what comes back into its pool's queue, confirmed, then acks. A message moves only when its pool has taken it.
//!
//! It is given what has waited (see `waiting.rs`), what lay in the queue of a GPU that is gone, and what comes out of the waiting queues of earlier versions, which lead to one
//! unbounded queue. A message whose pool takes none waits again, since it would hold up those of the other pools. Every worker moves; the broker shares the messages out.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use protocol::Envelope;
use task_queue::{Consumer, Delivery, Outgoing, PublishError, Queue};
use tokio_util::task::TaskTracker;

use crate::{
    context::Context,
    delivery::{due, onward},
    me::Me,
    metrics::GpuMetrics,
    outage::Outage,
    ports::{Abandoned, Ports, Sent},
};

/// How many messages one worker moves at a time.
pub(crate) const AT_ONCE: u16 = 64;
/// How long a message waits whose pool has no queue.
const REST: Duration = Duration::from_secs(60);
/// How long one waits whose pool is full.
const REST_WHILE_FULL: Duration = Duration::from_secs(5);

/// What moves messages.
#[derive(Clone)]
pub(crate) struct Mover {
    ports: Ports,
    me: Arc<Me>,
    metrics: Arc<GpuMetrics>,
    /// Of pools whose queue is missing or full.
    missing: Arc<Outage>,
}

impl Mover {
    pub(crate) fn of(context: &Context) -> Self {
        Self { ports: context.ports.clone(), me: Arc::clone(&context.me), metrics: Arc::clone(&context.metrics), missing: Arc::default() }
    }

    /// Moves until the consumer is stopped. `jobs` counts what is under way.
    pub(crate) async fn run(self, mut consumer: Consumer, jobs: TaskTracker) {
        let moves = TaskTracker::new();
        while let Some(delivery) = consumer.next().await {
            let mover = self.clone();
            let job = jobs.track_future(moves.track_future(mover.move_or_leave(delivery)));
            self.ports.environment.spawn("move of a message", job);
        }
        // A consumer that is dropped gives back what is in hand.
        moves.close();
        moves.wait().await;
    }

    /// Moves one message, or leaves it unacked where the worker stops at once.
    pub(crate) async fn move_or_leave(self, delivery: Delivery) {
        if self.move_one(delivery).await == Err(Abandoned) {
            tracing::debug!("left unacked: the broker will deliver it again");
        }
    }

    /// Puts one message back into its pool's queue, then acks it.
    pub(crate) async fn move_one(&self, delivery: Delivery) -> Result<(), Abandoned> {
        let Delivery { envelope, body, receipt, .. } = delivery;
        self.put_back(envelope, body).await?;
        if let Err(error) = receipt.ack().await {
            tracing::debug!(%error, "moved, and will be delivered again; its identity makes the copy harmless");
        }
        Ok(())
    }

    /// Publishes one message to its pool's queue. When this returns, it is there, or waits for its pool elsewhere.
    pub(crate) async fn put_back(&self, envelope: Envelope, body: Bytes) -> Result<(), Abandoned> {
        let fresh = self.ports.environment.fresh_task_id();
        let outgoing = onward::returned(envelope, body, &self.me.options.pool, fresh, self.ports.now_ms());
        loop {
            let sent = match self.ports.publish_unless_full(&outgoing).await? {
                Sent::NoQueue(error) => self.keep_waiting(outgoing.clone(), &error).await?,
                sent => {
                    self.found();
                    sent
                }
            };
            if sent == Sent::There {
                break;
            }
            // Nothing is dropped: somebody must look.
            self.ports.pause(self.me.options.lease).await?;
        }
        self.metrics.moved();
        Ok(())
    }

    /// Takes note that a pool takes a message. The log does not say that there was one that did not: which it was is not known here.
    fn found(&self) {
        if self.missing.is_on() {
            self.missing.ended(self.ports.now_ms());
        }
    }

    /// A pool without a queue (it is gone, or somebody made it up), or one that is full: the message waits for it elsewhere. In the mover's hand it would hold up all others.
    async fn keep_waiting(&self, mut outgoing: Outgoing, why: &PublishError) -> Result<Sent, Abandoned> {
        let (queue, task_id) = (&outgoing.target, outgoing.envelope.message_id.as_deref());
        if self.missing.failed(self.ports.now_ms()) {
            tracing::warn!(%queue, task_id, %why, "a message came back for a pool that does not take it; it waits, and so do all others of such pools");
        } else {
            tracing::debug!(%queue, task_id, %why, "a message came back for a pool that does not take it; it waits");
        }
        let rest = if matches!(why, PublishError::Full { .. }) { REST_WHILE_FULL } else { REST };
        due::waits(&mut outgoing, Queue::retry_after(rest), rest, self.ports.now_ms());
        self.ports.publish(&outgoing).await
    }
}
