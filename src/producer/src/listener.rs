//! The producer's own reply queue: what arrives is handed to whoever waits for it.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use protocol::progress::PROGRESS_TYPE;
use task_queue::{Consumer, Queue, QueueError, TaskQueue};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::waiters::Waiters;

/// Replies that may be unacked at once. They are acked as soon as they are handed over, so this only covers a round trip.
const PREFETCH: NonZeroU16 = NonZeroU16::new(512).expect("not zero");

/// Declares the reply queue and consumes it.
pub(crate) async fn open(queue: &dyn TaskQueue, reply_queue: &Queue) -> Result<Consumer, QueueError> {
    queue.declare(reply_queue).await?;
    queue.consume(reply_queue, PREFETCH).await
}

/// Hands replies over until `stop`, or until the queue is closed: then every wait ends.
///
/// A reply is acked after it was handed over. A crash between the two loses nothing: the waiter is gone with the process.
pub(crate) async fn dispatch(mut consumer: Consumer, waiters: Arc<Waiters>, stop: CancellationToken) {
    loop {
        let delivery = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            delivery = consumer.next() => delivery,
        };
        let Some(delivery) = delivery else {
            warn!("the reply queue is closed");
            break;
        };
        let envelope = &delivery.envelope;
        let correlation_id = envelope.correlation_id.as_deref();
        match &envelope.headers.unreadable {
            None if envelope.kind.as_deref() == Some(PROGRESS_TYPE) => waiters.progress(correlation_id, delivery.body),
            None => waiters.deliver(correlation_id, delivery.body),
            // No worker sends such a reply: whoever waits goes on waiting for the real one.
            Some(problem) => {
                warn!(problem, "a reply whose properties cannot be read is ignored");
                waiters.deliver(None, delivery.body);
            }
        }
        if let Err(error) = delivery.receipt.ack().await {
            // Stale: the broker sends a copy, which nobody waits for any more.
            debug!(%error, "ack a reply");
        }
    }
    consumer.stop();
    waiters.close();
}

/// Puts every wait in doubt whenever the consumer was lost or came back: an exclusive queue dies with its connection, and with it what was in it
/// and what was sent to it until it was declared again. Until `stop`.
pub(crate) async fn watch_link(mut live: watch::Receiver<bool>, waiters: Arc<Waiters>, every: Duration, stop: CancellationToken) {
    loop {
        let changed = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            changed = live.changed() => changed,
        };
        if changed.is_err() {
            break;
        }
        waiters.doubt_all(every);
    }
}
