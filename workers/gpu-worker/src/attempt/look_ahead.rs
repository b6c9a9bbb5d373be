//! The next task at hand when a run ends.
//!
//! Between the end of a run and the delivery that its ack asks for, a slot would stand empty. So shortly before a run of a kind that always takes about the same time ends,
//! the next task is taken from the pool's queue, and starts in the same slot as soon as the executor has ended, while the last outcome is still being recorded.
//!
//! ```text
//!  run ──────────────────────────► end
//!                     │ asks           │ the slot passes to the fetched task
//!                     └─► queue ─► task at hand; given back if the run goes on for too long
//! ```
//!
//! Priority holds: the task is taken milliseconds before it starts, and an urgent one that comes in between waits no longer than that. The broker would deliver another task
//! for every delivery that is acked, so the finished delivery whose credit the slot uses stays unacked until nothing follows any more
//! ([`Credit`]). Kinds that are not known yet or vary have no look-ahead, nor have batches, payloads that run together with others, and tasks that wait for tensors.

use std::{pin::pin, sync::Arc, time::Duration};

use protocol::Task;
use task_queue::{Delivery, Queue};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use super::memory::Gathering;
use crate::{
    claim::slots::Slot,
    context::Context,
    delivery::{InHand, Share, in_hand::Credit},
};

/// Shorter runs are not worth the question: their deliveries come in bunches.
const SHORTEST_RUN: Duration = Duration::from_millis(5);
/// How much earlier than the broker's answer takes the next task is asked for.
const MARGIN: Duration = Duration::from_millis(2);
/// The earliest that the next task is asked for before the forecast end of a run.
const EARLIEST: Duration = Duration::from_millis(8);
/// How long after the forecast end of a run a fetched task waits for it, before it goes back.
const PATIENCE: Duration = Duration::from_millis(8);

/// What is to run in the slot of a run that ends.
pub(crate) struct LookAhead {
    /// `None`: nothing is asked for.
    slot: Option<oneshot::Sender<Slot>>,
}

/// A task that follows another one in its slot.
pub(crate) struct Following {
    pub(crate) in_hand: InHand,
    /// `None`: others stood in line for it.
    pub(crate) slot: Option<Slot>,
    /// Bounds how many fetched tasks a worker has in hand, until it is dropped.
    pub(crate) one_of_few: OwnedSemaphorePermit,
}

/// One question for the next task.
struct Question {
    context: Arc<Context>,
    forecast_end: Instant,
    /// The size of the body of the task that runs: the next one's is likely to be like it.
    body_bytes: usize,
    credit: Arc<Credit>,
    run_ended: oneshot::Receiver<Slot>,
    one_of_few: OwnedSemaphorePermit,
}

/// A task that was fetched, and the share of its body.
struct Fetched {
    delivery: Delivery,
    share: Share,
}

impl LookAhead {
    /// Asks for the next task shortly before the end of a run that starts now. `then` is what is done with it.
    pub(crate) fn of<F>(
        context: &Arc<Context>,
        task: &Task,
        in_hand: &InHand,
        gathering: Option<&Gathering>,
        then: impl FnOnce(Arc<Context>, Following) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send,
    {
        let nothing = Self::none();
        let Some(shortest) = context.gpu.forecast.shortest(&task.kind).filter(|shortest| *shortest >= SHORTEST_RUN) else { return nothing };
        let Ok(one_of_few) = Arc::clone(&context.fetched).try_acquire_owned() else { return nothing };
        if !matches!(in_hand.queue, Queue::Pool(_)) || context.stops() || ends_at_another_time(task, gathering) {
            return nothing;
        }
        // The broker loses patience with what stays unacked for long.
        let Some(credit) = in_hand.share_credit().filter(|credit| credit.age() < context.me.options.unacked / 2) else { return nothing };
        let (slot, run_ended) = oneshot::channel();
        let (forecast_end, body_bytes) = (Instant::now() + shortest, in_hand.body.len());
        let question = Question { context: Arc::clone(context), forecast_end, body_bytes, credit, run_ended, one_of_few };
        context.ports.environment.spawn(
            "look-ahead",
            context.lives.track_future(async move {
                let context = Arc::clone(&question.context);
                if let Some(following) = question.ask().await {
                    then(context, following).await;
                }
            }),
        );
        Self { slot: Some(slot) }
    }

    /// Of a run of which no forecast says when it ends.
    pub(crate) const fn none() -> Self {
        Self { slot: None }
    }

    /// The run has ended: its slot passes on.
    pub(crate) fn run_ended(self, slot: Slot) {
        if let Some(next) = self.slot {
            // Where nobody follows, the slot is dropped.
            let _ = next.send(slot);
        }
    }
}

/// Whether the forecast says nothing of this task: it has items, or waits for a run together with others.
fn ends_at_another_time(task: &Task, gathering: Option<&Gathering>) -> bool {
    task.body.items.is_some() || gathering.is_some()
}

impl Question {
    async fn ask(self) -> Option<Following> {
        let Self { context, forecast_end, body_bytes, credit, mut run_ended, one_of_few } = self;
        let lead = (context.pace.fetch() + MARGIN).min(EARLIEST);
        let worth_asking = tokio::select! {
            biased;
            // It ended sooner than ever before.
            _ = &mut run_ended => false,
            () = context.ports.stop.gently.cancelled() => false,
            () = tokio::time::sleep_until(forecast_end - lead) => {
                // Who stands in line is next.
                context.slots.waiting() == 0 && *context.signals.taking.borrow() && Share::is_there_for(&context.bodies, body_bytes)
            }
        };
        let fetched = if worth_asking { fetch(&context, forecast_end, &mut run_ended).await } else { None };
        let Some((Fetched { delivery, share }, slot)) = fetched else {
            // Nothing follows: the credit is for the broker to fill.
            credit.let_go().await;
            return None;
        };
        let slot = (context.slots.waiting() == 0).then_some(slot);
        let in_hand = InHand::fetched(context.next_delivery(), delivery, credit).with_share(share);
        Some(Following { in_hand, slot, one_of_few })
    }
}

/// Takes the next task, and waits for the slot that it is to follow in. `None`: there is none, or it came too early or too late, and went back.
async fn fetch(context: &Context, forecast_end: Instant, run_ended: &mut oneshot::Receiver<Slot>) -> Option<(Fetched, Slot)> {
    // Never dropped half-way: a message that had been taken by then would be nobody's.
    let mut taking = pin!(take(context));
    let (fetched, slot) = tokio::select! {
        biased;
        fetched = &mut taking => {
            let fetched = fetched?;
            let slot = tokio::select! {
                biased;
                slot = run_ended => slot.ok(),
                () = tokio::time::sleep_until(forecast_end + PATIENCE) => None,
            };
            (Some(fetched), slot)
        }
        slot = &mut *run_ended => match tokio::time::timeout(PATIENCE, &mut taking).await {
            Ok(fetched) => (fetched, slot.ok()),
            // The slot does not wait for a broker that is away.
            Err(_) => {
                drop(slot);
                (taking.await, None)
            }
        },
    };
    match (fetched?, slot) {
        (fetched, Some(slot)) => Some((fetched, slot)),
        (fetched, None) => {
            give_back(fetched.delivery).await;
            None
        }
    }
}

async fn give_back(delivery: Delivery) {
    if let Err(error) = delivery.receipt.give_back().await {
        tracing::debug!(%error, "a task that was fetched and is not to follow is back already");
    }
}

/// Takes the next task, if there is memory for its body. It never waits for that: who has the memory may wait for the very slot that this task would keep.
async fn take(context: &Context) -> Option<Fetched> {
    let asked = Instant::now();
    let taken = context.ports.queue.take(&Queue::Pool(context.me.options.pool.clone())).await;
    context.pace.fetched_after(asked.elapsed());
    let delivery = taken.unwrap_or_else(|error| {
        tracing::debug!(%error, "the next task was not asked for");
        None
    })?;
    let Some(share) = Share::at_once(&context.bodies, &delivery.body) else {
        give_back(delivery).await;
        return None;
    };
    Some(Fetched { delivery, share })
}
