//! Settles a delivery of the memory broker, and ends its consumers.

use std::sync::Weak;

use async_trait::async_trait;

use super::{Shared, state::State};
use crate::{Feed, QueueError, Settle};

/// One unacked delivery.
pub(super) struct MemoryReceipt {
    shared: Weak<Shared>,
    tag: u64,
}

impl MemoryReceipt {
    pub(super) fn new(shared: Weak<Shared>, tag: u64) -> Self {
        Self { shared, tag }
    }

    fn settle(&self, how: fn(&mut State, u64) -> bool) -> Result<(), QueueError> {
        let shared = self.shared.upgrade().ok_or(QueueError::Stale)?;
        let settled = how(&mut shared.lock(), self.tag);
        if settled { Ok(()) } else { Err(QueueError::Stale) }
    }
}

#[async_trait]
impl Settle for MemoryReceipt {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        self.settle(State::ack)
    }

    async fn give_back(self: Box<Self>) -> Result<(), QueueError> {
        self.settle(State::give_back)
    }
}

/// One consumer.
pub(super) struct MemoryFeed {
    pub(super) shared: Weak<Shared>,
    pub(super) consumer: u64,
}

impl Feed for MemoryFeed {
    fn stop(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.lock().stop_consumer(self.consumer);
        }
    }

    fn end(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.lock().end_consumer(self.consumer);
        }
    }
}
