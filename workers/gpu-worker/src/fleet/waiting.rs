//! The waiting queues: what lies there is held until it is due, unacked, and then goes on: tasks to their pools, replies to their queues.
//!
//! ```text
//!  waiting queue ──► held, unacked ──► due ──► published, confirmed ──► acked
//!        ▲                 │ the holder stops, dies, or has no room
//!        └─────────────────┘ it is back at its place
//! ```
//!
//! A broker that lets messages expire into another queue confirms that to nobody: it loses them if it dies at that moment, and drops them where it has no way to the target. So
//! nothing expires here. All messages of a queue wait for the same time, so the first one is due first, and a worker need hold only a few: when one is acked the next one comes,
//! which is due no earlier. Every worker holds; the broker shares the messages out.
//!
//! Large bodies are held only as long as others have half of the process's memory for bodies. Where there is no room the rest stays with the broker until what is held has gone
//! on; but one message of each queue is held in any case.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use bytes::Bytes;
use prometheus::Gauge;
use protocol::Envelope;
use task_queue::{BodyBudget, Consumer, Delivery, Queue, QueueError, Receipt};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{delayed::DelayedTasks, mover::Mover};
use crate::{
    context::Context,
    delivery::{Share, due},
    me::Me,
    metrics::GpuMetrics,
    ports::{Abandoned, Ports},
    replies::Replies,
};

/// How many messages of one waiting queue a worker holds at a time.
const AT_ONCE: u16 = 16;
/// The same of the last queue of delayed tasks, in which the first message need not be due first. They are there for a second at most.
const AT_ONCE_IN_ANY_ORDER: u16 = 1_024;

/// How many messages of this queue a worker holds at a time.
pub(crate) fn at_once(queue: &Queue) -> NonZeroU16 {
    let is_last = *queue == Queue::Delayed(Duration::from_millis(Queue::DELAYS_HELD_MS[0]));
    NonZeroU16::new(if is_last { AT_ONCE_IN_ANY_ORDER } else { AT_ONCE }).unwrap_or(NonZeroU16::MIN)
}

/// Every waiting queue that is consumed.
pub(crate) fn queues() -> Vec<Queue> {
    let mut queues = Queue::where_tasks_wait();
    queues.extend(Queue::where_delayed_tasks_are_held());
    queues.extend(Queue::where_replies_wait());
    queues
}

/// What holds the messages of waiting queues.
#[derive(Clone)]
pub(crate) struct Waiting {
    ports: Ports,
    me: Arc<Me>,
    bodies: BodyBudget,
    metrics: Arc<GpuMetrics>,
    mover: Mover,
    delayed: DelayedTasks,
    replies: Arc<Replies>,
}

/// Why no more is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The worker stops, or the queue was closed.
    Stopped,
    /// There is no memory for more bodies.
    NoRoom,
}

/// A message in hand.
struct Held {
    queue: Queue,
    envelope: Envelope,
    body: Bytes,
    receipt: Receipt,
    /// Whether another worker held it before.
    redelivered: bool,
    /// Tells whether the broker has given it back since.
    live: watch::Receiver<bool>,
    _share: Share,
    _counted: Counted,
}

/// Counts in a gauge until it is dropped.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Held {
    /// Whether another worker may let it go, or may have done so.
    fn may_be_a_copy(&self) -> bool {
        self.redelivered || self.live.has_changed().unwrap_or(true)
    }
}

impl Waiting {
    pub(crate) fn of(context: &Context) -> Self {
        Self {
            ports: context.ports.clone(),
            me: Arc::clone(&context.me),
            bodies: context.bodies.clone(),
            metrics: Arc::clone(&context.metrics),
            mover: Mover::of(context),
            delayed: DelayedTasks::of(context),
            replies: Arc::clone(&context.replies),
        }
    }

    /// Holds what lies in `queue`, until the worker stops. `jobs` counts what is under way.
    pub(crate) async fn run(self, queue: Queue, first: Consumer, jobs: TaskTracker) {
        let mut consumer = first;
        while self.hold_from(consumer, &jobs).await == Ended::NoRoom {
            let Some(again) = self.consume_again(&queue).await else { return };
            consumer = again;
        }
    }

    /// Holds what `consumer` brings, until all of it has gone on or back.
    async fn hold_from(&self, mut consumer: Consumer, jobs: &TaskTracker) -> Ended {
        let (mut live, holding) = (consumer.live(), TaskTracker::new());
        let ended = loop {
            let next = tokio::select! {
                biased;
                () = self.ports.stop.now.cancelled() => break Ended::Stopped,
                () = self.ports.stop.gently.cancelled() => break Ended::Stopped,
                next = consumer.next() => next,
            };
            let Some(delivery) = next else { break Ended::Stopped };
            live.mark_unchanged();
            let share = match Share::beside_others(&self.bodies, &delivery.body) {
                Some(share) => share,
                None if holding.is_empty() => Share::default(),
                None => {
                    give_back(delivery.receipt).await;
                    break Ended::NoRoom;
                }
            };
            let job = self.clone().hold(self.held(delivery, share, live.clone()));
            self.ports.environment.spawn("wait of a message", jobs.track_future(holding.track_future(job)));
        };
        consumer.stop();
        // A consumer that is dropped gives back what is in hand.
        holding.close();
        holding.wait().await;
        ended
    }

    fn held(&self, delivery: Delivery, share: Share, live: watch::Receiver<bool>) -> Held {
        let Delivery { queue, envelope, body, redelivered, receipt, .. } = delivery;
        let counted = Counted::new(self.metrics.held(&queue));
        Held { queue, envelope, body, receipt, redelivered, live, _share: share, _counted: counted }
    }

    /// Holds one message until it is due, and lets it go. When the worker stops gently, what is not due goes back at once.
    async fn hold(self, held: Held) {
        let delay = self.me.options.delay_of(&held.queue).unwrap_or_default();
        let is_due = tokio::select! {
            biased;
            () = self.ports.stop.now.cancelled() => return,
            () = self.ports.stop.gently.cancelled() => false,
            () = tokio::time::sleep(due::left(&held.envelope.headers, delay, self.ports.now_ms())) => true,
        };
        if !is_due {
            return give_back(held.receipt).await;
        }
        let is_copy = held.may_be_a_copy();
        let Held { queue, envelope, body, receipt, _share, _counted, .. } = held;
        // What its target does not take for long must not stay unacked for so long that the broker loses patience.
        let gone = tokio::select! {
            biased;
            gone = self.let_go(&queue, envelope, body, is_copy) => gone,
            () = tokio::time::sleep(self.me.options.unacked) => return give_back(receipt).await,
        };
        if gone == Err(Abandoned) {
            tracing::debug!("left unacked: the broker will deliver it again");
        } else if let Err(error) = receipt.ack().await {
            tracing::debug!(%error, "went on, and may come again; its identity makes the copy harmless");
        }
    }

    /// Sends a message on that is due. When this returns, it is safe somewhere else.
    async fn let_go(&self, queue: &Queue, mut envelope: Envelope, body: Bytes, is_copy: bool) -> Result<(), Abandoned> {
        if matches!(queue, Queue::Undelivered(_)) {
            return self.replies.send_again(envelope, body).await;
        }
        envelope.headers.copy |= is_copy;
        if matches!(queue, Queue::Delayed(_)) {
            return self.delayed.go_on(envelope, body).await;
        }
        self.mover.put_back(envelope, body).await
    }

    /// Consumes the queue again, which may have been deleted meanwhile. `None`: the worker stops, or the queue was closed.
    async fn consume_again(&self, queue: &Queue) -> Option<Consumer> {
        while !self.ports.stop.gently.is_cancelled() {
            let again = async {
                self.ports.queue.declare(queue).await?;
                self.ports.queue.consume(queue, at_once(queue)).await
            };
            match again.await {
                Ok(consumer) => return Some(consumer),
                Err(QueueError::Closed) => return None,
                Err(error) => tracing::warn!(%queue, %error, "cannot consume a waiting queue again; tried again after a lease"),
            }
            self.pause(self.me.options.lease).await;
        }
        None
    }

    /// Sleeps, unless the worker stops.
    async fn pause(&self, pause: Duration) {
        tokio::select! {
            biased;
            () = self.ports.stop.now.cancelled() => {}
            () = self.ports.stop.gently.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn give_back(receipt: Receipt) {
    if let Err(error) = receipt.give_back().await {
        tracing::debug!(%error, "not given back: the broker has it already");
    }
}
