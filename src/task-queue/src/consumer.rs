//! The receiving end of a queue, and the inbox through which a back end feeds it.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};

use crate::Delivery;

/// Deliveries of one queue, across reconnections. Dropped, its unacked deliveries go back to the queue.
pub struct Consumer {
    inbox: Arc<Inbox>,
    live: watch::Receiver<bool>,
    feed: Arc<dyn Feed>,
}

impl Consumer {
    /// For back ends: `inbox` is closed when no more will come; `live` is whether the broker would deliver right now; `feed` is told when the
    /// consumer is stopped or dropped.
    #[must_use]
    pub fn new(inbox: Arc<Inbox>, live: watch::Receiver<bool>, feed: Arc<dyn Feed>) -> Self {
        Self { inbox, live, feed }
    }

    /// The next delivery; `None` once stopped, or once the queue is closed. Cancel safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.inbox.next().await
    }

    /// Whether the broker would deliver right now.
    #[must_use]
    pub fn live(&self) -> watch::Receiver<bool> {
        self.live.clone()
    }

    /// What [`Consumer::stop`] does, for another task to do.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(self.feed.clone())
    }

    /// No more deliveries; those in hand can still be settled. Deliveries that had arrived and were not taken are given back.
    pub fn stop(&self) {
        self.feed.stop();
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.feed.end();
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Consumer").field("live", &*self.live.borrow()).finish_non_exhaustive()
    }
}

/// Stops a [`Consumer`] from elsewhere.
#[derive(Clone)]
pub struct Stopper(Arc<dyn Feed>);

impl Stopper {
    /// See [`Consumer::stop`].
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl fmt::Debug for Stopper {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Stopper")
    }
}

/// What a back end does when its consumer is not wanted any more. Both may be called more than once and must not block.
pub trait Feed: Send + Sync {
    /// Delivers no more, gives back what was not taken, closes the inbox; deliveries in hand stay settleable.
    fn stop(&self);
    /// As [`Feed::stop`], and everything unacked goes back.
    fn end(&self);
}

/// What has arrived and was not taken. Bounded by the consumer's prefetch, which the broker keeps.
#[derive(Debug, Default)]
pub struct Inbox {
    state: Mutex<InboxState>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct InboxState {
    waiting: VecDeque<(u64, Delivery)>,
    closed: bool,
}

impl Inbox {
    /// Adds a delivery under the back end's tag for it; false if the inbox is closed.
    pub fn push(&self, tag: u64, delivery: Delivery) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.waiting.push_back((tag, delivery));
        drop(state);
        self.arrived.notify_one();
        true
    }

    /// Removes what was not taken; its tags.
    pub fn clear(&self) -> Vec<u64> {
        self.lock().waiting.drain(..).map(|(tag, _)| tag).collect()
    }

    /// Closes the inbox and removes what was not taken; its tags.
    pub fn close(&self) -> Vec<u64> {
        self.lock().closed = true;
        self.arrived.notify_one();
        self.clear()
    }

    async fn next(&self) -> Option<Delivery> {
        // Without this a loop over a full inbox would never let the other tasks of its thread run.
        tokio::task::coop::consume_budget().await;
        loop {
            let arrived = self.arrived.notified();
            {
                let mut state = self.lock();
                if let Some((_, delivery)) = state.waiting.pop_front() {
                    return Some(delivery);
                }
                if state.closed {
                    return None;
                }
            }
            arrived.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, InboxState> {
        // Nothing panics while it holds this lock, so a poisoned state is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
