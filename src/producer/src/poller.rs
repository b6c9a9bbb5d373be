//! Asks the store about tasks whose reply may have been lost, at a bounded pace.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use task_store::{Look, LookRequest, TaskStore};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::waiters::{Doubt, Ending, Waiters};

/// Questions to the store at once.
const CONCURRENT: usize = 8;

/// The pace: at most `max` questions in each `every`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) every: Duration,
    pub(crate) max: usize,
}

/// Looks up what is due, until `stop`.
pub(crate) async fn poll(store: Arc<dyn TaskStore>, waiters: Arc<Waiters>, pace: Pace, stop: CancellationToken) {
    let mut ticks = interval(pace.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let looks = stream::iter(waiters.due(pace.max)).for_each_concurrent(CONCURRENT, |doubt| look_up(&*store, &waiters, doubt, pace));
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = looks => {}
        }
    }
}

/// Asks about one task. A store that does not answer is asked again at the wait's next turn.
async fn look_up(store: &dyn TaskStore, waiters: &Waiters, doubt: Doubt, pace: Pace) {
    // Of no attempt and no publish in particular: only the end of the task matters.
    let request = LookRequest { task_id: doubt.task_id.clone(), body_hash: doubt.body_hash.clone(), attempt: u32::MAX, published_s: None };
    match timeout(pace.every, store.look(&request)).await {
        Ok(Ok(Look::Ended(stored))) => waiters.settle(doubt.number, stored.body.map_or(Ending::Gone(stored.outcome), Ending::Reply)),
        // Of a cancelled task or a reused id a worker still makes a reply.
        Ok(Ok(
            Look::Open | Look::Unfinished(_) | Look::Split(_) | Look::Unwanted | Look::Cancelled | Look::ReusedId | Look::Retried(_),
        )) => {}
        Ok(Err(error)) => debug!(task_id = %doubt.task_id, %error, "look a task up"),
        Err(_) => debug!(task_id = %doubt.task_id, "look a task up: no answer in time"),
    }
}
