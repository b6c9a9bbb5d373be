//! What is sent and what arrives.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::Envelope;

use crate::{Queue, QueueError};

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// One of the fleet's queues.
    Queue(Queue),
    /// Whatever a producer named in `reply_to`.
    ReplyTo(String),
}

/// A message to publish. Always mandatory, confirmed and under a deadline; persistent unless it is a reply to a direct reply-to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub target: Target,
    /// Its properties. `message_id` must be set: a batch of publishes is settled by it.
    pub envelope: Envelope,
    /// Its body.
    pub body: Bytes,
    /// Longest wait for the broker's confirm; `None` takes the configured one.
    pub timeout: Option<Duration>,
}

impl Outgoing {
    /// A message with the configured deadline.
    #[must_use]
    pub fn new(target: Target, envelope: Envelope, body: Bytes) -> Self {
        Self { target, envelope, body, timeout: None }
    }
}

/// A message in hand. It stays unacked, and so the broker's, until its receipt is settled.
#[derive(Debug)]
pub struct Delivery {
    /// The queue it came from.
    pub queue: Queue,
    /// Its properties.
    pub envelope: Envelope,
    /// Its body.
    pub body: Bytes,
    /// Whether the broker says it was delivered before.
    pub redelivered: bool,
    /// What settles it.
    pub receipt: Receipt,
}

/// Settles one delivery. Dropped unsettled, the message stays unacked until its consumer or connection ends, then is delivered again.
pub struct Receipt(Box<dyn Settle>);

/// What a back end does to settle a delivery.
#[async_trait]
pub trait Settle: Send + Sync {
    /// See [`Receipt::ack`].
    async fn ack(self: Box<Self>) -> Result<(), QueueError>;
    /// See [`Receipt::give_back`].
    async fn give_back(self: Box<Self>) -> Result<(), QueueError>;
}

impl Receipt {
    /// For back ends.
    #[must_use]
    pub fn new(settle: Box<dyn Settle>) -> Self {
        Self(settle)
    }

    /// The message is dealt with: the broker forgets it.
    ///
    /// # Errors
    /// [`QueueError::Stale`] if the channel is gone: the message will be delivered again, which every caller must be ready for anyway.
    pub async fn ack(self) -> Result<(), QueueError> {
        self.0.ack().await
    }

    /// Puts the message back at its place in the queue, for another consumer (drain). No attempt is charged.
    ///
    /// # Errors
    /// [`QueueError::Stale`] if the channel is gone: the message is back already.
    pub async fn give_back(self) -> Result<(), QueueError> {
        self.0.give_back().await
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Receipt")
    }
}
