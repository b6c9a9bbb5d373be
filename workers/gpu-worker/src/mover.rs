//! The mover: puts what comes back from a waiting queue (retry, unplaceable) into its pool's queue, confirmed, then acks.
//!
//! The broker's own dead-lettering is unconfirmed, and drops silently where the target is full; so waiting queues lead to one unbounded queue,
//! and from there a message moves only when its pool has taken it. Every worker moves; the broker shares the messages out.

use std::{sync::Arc, time::Duration};

use task_queue::{Consumer, Delivery, Outgoing, Queue, Target};
use tokio_util::task::TaskTracker;

use crate::{
    context::Context,
    onward::{self, Sent},
    persist::{Abandoned, pause_or_abandon},
};

/// How many messages one worker moves at a time.
pub(crate) const AT_ONCE: u16 = 64;
/// How long a message waits whose pool has no queue.
const REST: Duration = Duration::from_secs(60);

/// Moves until the consumer is stopped.
pub(crate) async fn run(context: Arc<Context>, mut consumer: Consumer) {
    let moves = TaskTracker::new();
    while let Some(delivery) = consumer.next().await {
        let moving = Arc::clone(&context);
        let job = context.lives.track_future(moves.track_future(async move {
            if move_one(&moving, delivery).await == Err(Abandoned) {
                tracing::debug!("left unacked: the broker will deliver it again");
            }
        }));
        context.environment.spawn("move of a message", job);
    }
    // A consumer that is dropped gives back what is in hand.
    moves.close();
    moves.wait().await;
}

/// A pool without a queue (it is gone, or somebody made it up): the message waits for it elsewhere. In the mover's hand it would hold up all others.
async fn rest(context: &Context, mut outgoing: Outgoing) -> Result<Sent, Abandoned> {
    tracing::warn!(target = ?outgoing.target, "a message came back for a pool that has no queue; it waits");
    outgoing.target = Target::Queue(Queue::retry_after(REST));
    outgoing.envelope.expiration = None;
    onward::send(context, outgoing).await
}

/// Puts one message back into its pool's queue, then acks it.
pub(crate) async fn move_one(context: &Context, delivery: Delivery) -> Result<(), Abandoned> {
    let fresh = context.environment.fresh_task_id();
    let outgoing = onward::returned(delivery.envelope, delivery.body, &context.options.pool, fresh, context.now_ms());
    loop {
        let sent = match onward::send(context, outgoing.clone()).await? {
            Sent::NoQueue => rest(context, outgoing.clone()).await?,
            sent => sent,
        };
        if sent == Sent::There {
            break;
        }
        // Nothing is dropped: somebody must look.
        pause_or_abandon(&context.stop.now, context.options.lease).await?;
    }
    context.metrics.moved.inc();
    if let Err(error) = delivery.receipt.ack().await {
        tracing::debug!(%error, "moved, and will be delivered again; its identity makes the copy harmless");
    }
    Ok(())
}
