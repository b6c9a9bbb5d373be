//! What is sent and what arrives.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::Envelope;

use crate::{Death, Queue, QueueError};

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// One of the fleet's queues.
    Queue(Queue),
    /// Whatever a producer named in `reply_to`.
    ReplyTo(String),
}

/// The target as people call it, for the log.
impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(queue) => write!(formatter, "{queue}"),
            Self::ReplyTo(name) => write!(formatter, "reply queue {name}"),
        }
    }
}

/// A message to publish. Always confirmed and under a deadline; mandatory, and persistent unless it says otherwise. A reply to a direct reply-to is neither: it
/// is at most once on the wire and says nothing of a requester that is gone.
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
    /// Whether the broker's restart may lose it: then no disk is waited for.
    pub transient: bool,
}

impl Outgoing {
    /// A persistent message with the configured deadline.
    #[must_use]
    pub fn new(target: Target, envelope: Envelope, body: Bytes) -> Self {
        Self { target, envelope, body, timeout: None, transient: false }
    }

    /// The same message, worth no disk and no long wait.
    #[must_use]
    pub fn transient(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), transient: true, ..self }
    }

    /// The longest text that AMQP can carry in a property, in bytes.
    pub const SHORT_TEXT_MAX: usize = 255;
    /// The longest time to live that RabbitMQ takes, in milliseconds.
    const EXPIRATION_MS_MAX: u64 = 4_294_967_295;

    /// Whether the message can be sent at all; the reason if not. The broker would close the channel, and with it the publishes of others.
    pub(crate) fn check(&self, name: &str) -> Result<(), String> {
        let Envelope { message_id, kind, reply_to, correlation_id, expiration, content_type, content_encoding, .. } = &self.envelope;
        if message_id.as_deref().is_none_or(str::is_empty) {
            return Err("message_id is missing".to_owned());
        }
        let texts = [
            ("message_id", message_id),
            ("type", kind),
            ("reply_to", reply_to),
            ("correlation_id", correlation_id),
            ("expiration", expiration),
            ("content_type", content_type),
            ("content_encoding", content_encoding),
        ];
        let texts = texts.into_iter().filter_map(|(property, text)| Some((property, text.as_deref()?)));
        for (property, text) in texts.chain([("routing key", name)]) {
            if text.len() > Self::SHORT_TEXT_MAX {
                return Err(format!("{property} has {} bytes, at most {} fit", text.len(), Self::SHORT_TEXT_MAX));
            }
        }
        if expiration.as_deref().is_some_and(|text| expiration_ms(text).is_none()) {
            return Err("expiration is not a number of milliseconds".to_owned());
        }
        Ok(())
    }
}

/// Whether a routing key names one of RabbitMQ's pseudo-queues for direct replies. They store nothing and every message there is at most once:
/// it needs no persistence, and it must not be mandatory, because the broker returns it as unroutable even while it delivers it (3.10.8).
pub(crate) fn is_direct_reply(routing_key: &str) -> bool {
    routing_key.starts_with("amq.rabbitmq.reply-to")
}

/// The time to live that an `expiration` says, in milliseconds.
pub(crate) fn expiration_ms(text: &str) -> Option<u64> {
    text.parse().ok().filter(|ms| *ms <= Outgoing::EXPIRATION_MS_MAX)
}

/// A message in hand. It stays unacked, and so the broker's, until its receipt is settled.
#[derive(Debug)]
pub struct Delivery {
    /// The queue it came from.
    pub queue: Queue,
    /// The routing key that it was published under: the queue's name, unless it came through an exchange. Whatever text a producer wrote there.
    pub routing_key: String,
    /// Its properties.
    pub envelope: Envelope,
    /// Its body.
    pub body: Bytes,
    /// Whether the broker says it was delivered before.
    pub redelivered: bool,
    /// Why the broker took it out of another queue and put it into this one, if it did.
    pub death: Option<Death>,
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
