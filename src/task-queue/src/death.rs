//! Why a broker took a message out of a queue, and put it into the one that takes that queue's dead letters.

/// The last time that the broker took a message out of a queue. It belongs to the delivery and does not travel: a message that is published again has none. Where a producer writes
/// such a header itself, it is believed until the broker writes the true one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// The name of the queue that it was taken out of.
    pub queue: String,
    /// Why.
    pub reason: DeathReason,
}

/// Why a message was taken out of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeathReason {
    /// Its time there was over: its own `expiration`, or a time to live of the queue's.
    Expired,
    /// The queue was at its maximum length or size. A queue that drops its head begins with the most urgent message.
    MaxLength,
    /// It came back from consumers more often than a quorum queue allows.
    DeliveryLimit,
    /// A consumer refused it for good, which no worker does.
    Rejected,
    /// A reason that is not known here.
    Other,
}

impl DeathReason {
    /// Takes RabbitMQ's word.
    pub(crate) fn named(word: &str) -> Self {
        match word {
            "expired" => Self::Expired,
            "maxlen" => Self::MaxLength,
            "delivery_limit" => Self::DeliveryLimit,
            "rejected" => Self::Rejected,
            _ => Self::Other,
        }
    }
}
