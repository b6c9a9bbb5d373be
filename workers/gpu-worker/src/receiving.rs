//! Receiving: from a consumer's deliveries to lives; and from the pool only while the GPU takes tasks.

use std::{
    num::NonZeroU16,
    sync::{Arc, Mutex},
};

use task_queue::{Consumer, Delivery, Queue, QueueError};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{
    context::Context,
    delivery::{
        InHand, Share,
        credits::{Credits, Waits},
        why_it_came::{WhyItCame, why_it_came},
    },
    fleet::mover::Mover,
    life,
    ports::Abandoned,
};

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

/// Starts a life for every delivery of `consumer`, until it is stopped and the last of them has ended: a consumer that is dropped gives back what is in hand.
pub(crate) async fn receive(context: Arc<Context>, mut consumer: Consumer, prefetch: u16) {
    let fresh = || Arc::new(Mutex::new(Credits::new(prefetch)));
    let mut credits = fresh();
    let (mut live, lives, mover) = (consumer.live(), TaskTracker::new(), Mover::of(&context));
    while let Some(delivery) = consumer.next().await {
        if live.has_changed().unwrap_or(false) && *live.borrow_and_update() {
            // After a reconnection all credits are new; those that the old channel's deliveries open count for nothing.
            credits = fresh();
        }
        if delivery.redelivered {
            context.metrics.redelivered.inc();
        }
        if is_stranded(&context, &delivery) {
            tracing::debug!(task_id = delivery.envelope.message_id, "waited in vain in the queue of a GPU; it goes back to its pool");
            let moving = mover.clone().move_or_leave(delivery);
            context.ports.environment.spawn("move of a message", context.lives.track_future(lives.track_future(moving)));
            continue;
        }
        let within = context.pace.tasks_waiting_within();
        let in_hand = InHand::delivered(context.next_delivery(), delivery, Arc::clone(&credits), within);
        if in_hand.waits == Waits::Tasks {
            context.pace.tasks_waited();
        }
        let alive = admit(Arc::clone(&context), in_hand);
        context.ports.environment.spawn("life of a task", context.lives.track_future(lives.track_future(alive)));
    }
    lives.close();
    lives.wait().await;
}

fn is_stranded(context: &Context, delivery: &Delivery) -> bool {
    let Delivery { queue, envelope, death, .. } = delivery;
    *queue == Queue::Expired
        && why_it_came(death.as_ref(), &envelope.headers, (context.ports.queue.names(), context.ports.now_ms())) == WhyItCame::Stranded
}

/// Lives the life of one delivery, once there is memory for its body. Until then it waits, and the broker holds back the next ones.
async fn admit(context: Arc<Context>, in_hand: InHand) {
    match share_of(&context, &in_hand).await {
        Ok(Some(share)) => life::live(context, in_hand.with_share(share), None).await,
        Ok(None) => in_hand.give_back().await,
        Err(Abandoned) => tracing::debug!("left unacked: the broker will deliver it again"),
    }
}

/// The body's share of the memory for bodies. `None`: the worker stops, or the broker would lose patience; it is to go back to its place.
async fn share_of(context: &Context, in_hand: &InHand) -> Result<Option<Share>, Abandoned> {
    if let Some(share) = Share::at_once(&context.bodies, &in_hand.body) {
        return Ok(Some(share));
    }
    let patience = context.me.options.unacked.saturating_sub(in_hand.received.elapsed());
    tokio::select! {
        biased;
        () = context.ports.stop.now.cancelled() => Err(Abandoned),
        () = context.ports.stop.gently.cancelled() => Ok(None),
        share = Share::wait(&context.bodies, &in_hand.body) => Ok(Some(share)),
        () = tokio::time::sleep(patience) => Ok(None),
    }
}

/// Receives from the pool while the GPU takes tasks: one that drains or is quarantined leaves them to the others. Ends when the worker stops gently.
pub(crate) async fn receive_from_pool(context: Arc<Context>, first: Consumer, shown: watch::Sender<PoolConsumer>) {
    let mut consumer = first;
    loop {
        receive_while_taking(&context, consumer, &shown).await;
        if context.stops() {
            return;
        }
        shown.send_replace(PoolConsumer::Paused);
        tracing::info!(gpu_id = %context.me.gpu_id, "takes nothing from the pool for now");
        tokio::select! {
            biased;
            () = context.ports.stop.gently.cancelled() => return,
            () = until_taking(&context, true) => {}
        }
        let Some(again) = consume_again(&context, &shown).await else { return };
        consumer = again;
        tracing::info!(gpu_id = %context.me.gpu_id, "takes tasks from the pool again");
    }
}

/// Consumes the pool's queue again, which may have been deleted meanwhile. `None`: the worker stops, or the queue was closed.
async fn consume_again(context: &Context, shown: &watch::Sender<PoolConsumer>) -> Option<Consumer> {
    let queue = Queue::Pool(context.me.options.pool.clone());
    let prefetch = NonZeroU16::new(context.me.options.slots).unwrap_or(NonZeroU16::MIN);
    let mut told = false;
    loop {
        let again = async {
            context.ports.queue.declare(&queue).await?;
            context.ports.queue.consume(&queue, prefetch).await
        };
        match again.await {
            Ok(again) => return Some(again),
            Err(QueueError::Closed) => return None,
            Err(error) => {
                if std::mem::replace(&mut told, true) {
                    tracing::debug!(gpu_id = %context.me.gpu_id, %error, "still cannot consume the pool's queue");
                } else {
                    tracing::error!(gpu_id = %context.me.gpu_id, %error, "cannot consume the pool's queue again; tried again after each lease");
                }
                shown.send_replace(PoolConsumer::Lost);
            }
        }
        if context.stops() || context.ports.pause(context.me.options.lease).await.is_err() {
            return None;
        }
    }
}

/// Receives until the GPU takes no tasks, or the worker stops.
async fn receive_while_taking(context: &Arc<Context>, consumer: Consumer, shown: &watch::Sender<PoolConsumer>) {
    let (stopper, mut live) = (consumer.stopper(), consumer.live());
    let receiving = receive(Arc::clone(context), consumer, context.me.options.slots);
    context.ports.environment.spawn("receiver", context.lives.track_future(receiving));
    loop {
        shown.send_replace(if *live.borrow_and_update() { PoolConsumer::Live } else { PoolConsumer::Lost });
        tokio::select! {
            biased;
            () = context.ports.stop.gently.cancelled() => break,
            () = until_taking(context, false) => break,
            changed = live.changed() => if changed.is_err() { return },
        }
    }
    stopper.stop();
}

/// Ends once the GPU takes tasks (`wanted`), or once it does not.
async fn until_taking(context: &Context, wanted: bool) {
    let mut taking = context.signals.taking.subscribe();
    // The sender lives in the context.
    let _ = taking.wait_for(|taking| *taking == wanted).await;
}
