//! Consuming the pool's queue while the GPU takes tasks: one that drains or is quarantined leaves them to the others.

use std::{num::NonZeroU16, sync::Arc};

use task_queue::{Consumer, Queue, QueueError};
use tokio::sync::watch;

use crate::{context::Context, intake, persist::pause_or_abandon};

/// What the pool's consumer does right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolConsumer {
    /// The broker delivers.
    Live,
    /// It should, and does not.
    Lost,
    /// It was ended on purpose.
    Paused,
}

/// Receives from the pool, with pauses, until the worker stops gently.
pub(crate) async fn receive(context: Arc<Context>, first: Consumer, shown: watch::Sender<PoolConsumer>) {
    let queue = Queue::Pool(context.options.pool.clone());
    let prefetch = NonZeroU16::new(context.options.slots).unwrap_or(NonZeroU16::MIN);
    let mut consumer = first;
    loop {
        receive_while_taking(&context, consumer, &shown).await;
        if context.stop.gently.is_cancelled() {
            return;
        }
        shown.send_replace(PoolConsumer::Paused);
        tracing::info!(gpu_id = %context.gpu_id, "takes nothing from the pool for now");
        tokio::select! {
            biased;
            () = context.stop.gently.cancelled() => return,
            () = until_taking(&context, true) => {}
        }
        consumer = loop {
            // It may have been deleted meanwhile.
            let again = async {
                context.queue.declare(&queue).await?;
                context.queue.consume(&queue, prefetch).await
            };
            match again.await {
                Ok(again) => break again,
                Err(QueueError::Closed) => return,
                Err(error) => {
                    tracing::error!(gpu_id = %context.gpu_id, %error, "cannot consume the pool's queue again; tried again after a lease");
                    shown.send_replace(PoolConsumer::Lost);
                }
            }
            if context.stop.gently.is_cancelled() || pause_or_abandon(&context.stop.now, context.options.lease).await.is_err() {
                return;
            }
        };
        tracing::info!(gpu_id = %context.gpu_id, "takes tasks from the pool again");
    }
}

/// Receives until the GPU takes no tasks, or the worker stops.
async fn receive_while_taking(context: &Arc<Context>, consumer: Consumer, shown: &watch::Sender<PoolConsumer>) {
    let (stopper, mut live) = (consumer.stopper(), consumer.live());
    let receiving = intake::receive(Arc::clone(context), consumer, context.options.slots);
    context.environment.spawn("receiver", context.lives.track_future(receiving));
    loop {
        shown.send_replace(if *live.borrow_and_update() { PoolConsumer::Live } else { PoolConsumer::Lost });
        tokio::select! {
            biased;
            () = context.stop.gently.cancelled() => break,
            () = until_taking(context, false) => break,
            changed = live.changed() => if changed.is_err() { return },
        }
    }
    stopper.stop();
}

/// Ends once the GPU takes tasks (`wanted`), or once it does not.
async fn until_taking(context: &Context, wanted: bool) {
    let mut taking = context.taking.subscribe();
    // The sender lives in the context.
    let _ = taking.wait_for(|taking| *taking == wanted).await;
}
