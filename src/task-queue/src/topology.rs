//! The contract of each queue: its arguments, and where its dead letters go. Both back ends declare what stands here and nothing else.

use std::time::Duration;

use protocol::config::QueueType;

use crate::{Outgoing, Queue, QueueOptions, Target};

/// `x-max-priority` of a classic queue: tasks use 0 to 9, anything higher counts as 10.
pub(crate) const PRIORITY_LEVELS_MAX: u8 = 10;

/// A queue as the topology wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Its name.
    pub name: String,
    /// Exclusive to one connection, deleted with its last consumer; otherwise durable.
    pub exclusive: bool,
    /// Whether higher priorities are delivered first.
    pub by_priority: bool,
    /// Where what expires goes; `None`: nowhere.
    pub dead_letters_to: Option<String>,
    /// How long a message stays, whatever its own `expiration`.
    pub ttl: Option<Duration>,
    /// Most ready messages; above it publishes are refused.
    pub length_max: Option<u32>,
    /// Most bytes of the bodies of ready messages; above it publishes are refused.
    pub bytes_max: Option<u64>,
    /// Classic or quorum. Exclusive queues are always classic: a quorum queue cannot be exclusive.
    pub queue_type: QueueType,
    /// The routing key under which the task exchange leads here.
    pub routing_key: Option<String>,
}

impl Queue {
    /// Where what expires in it goes; `None`: nowhere. Whoever declares a queue declares this one before it: a broker drops what it should dead-letter to a
    /// queue that is not there.
    pub(crate) const fn dead_letters_to(&self) -> Option<Self> {
        match self {
            Self::Pool(_) | Self::Gpu(_) => Some(Self::Expired),
            Self::Unplaceable | Self::Retry(_) => Some(Self::Returned),
            Self::Undelivered(_) => Some(Self::Redelivery),
            Self::Expired | Self::Returned | Self::Redelivery | Self::Dead | Self::Parked | Self::Reply(_) => None,
        }
    }
}

impl QueueOptions {
    /// Bounds the life of a message where its queue may be consumed by nobody for good: then it comes back by the broker's own means, and rests on nobody's memory. A
    /// property of the message and not of the queue, whose arguments nobody can change.
    pub(crate) fn bound_life(&self, message: &mut Outgoing) {
        if let Target::Queue(Queue::Gpu(_)) = message.target {
            message.envelope.lives_at_most(self.gpu_queue_ttl);
        }
    }

    /// The contract of `queue`.
    pub(crate) fn plan(&self, queue: &Queue) -> Plan {
        let plain = Plan {
            name: self.names.queue(queue),
            exclusive: false,
            by_priority: false,
            dead_letters_to: None,
            ttl: None,
            length_max: None,
            bytes_max: None,
            queue_type: self.queue_type,
            routing_key: None,
        };
        let plain = Plan { dead_letters_to: queue.dead_letters_to().map(|target| self.names.queue(&target)), ..plain };
        match queue {
            Queue::Pool(pool) => Plan { by_priority: true, length_max: self.length_max, routing_key: Some(pool.to_string()), ..plain },
            Queue::Gpu(_) => Plan { by_priority: true, ..plain },
            Queue::Unplaceable => Plan { ttl: Some(self.unplaceable_ttl), ..plain },
            Queue::Retry(delay) => Plan { ttl: Some(*delay), ..plain },
            Queue::Parked => Plan { ttl: Some(self.parked_ttl), ..plain },
            Queue::Undelivered(delay) => {
                Plan { ttl: Some(*delay), length_max: Some(self.undelivered_max), bytes_max: Some(self.undelivered_bytes_max), ..plain }
            }
            Queue::Expired | Queue::Returned | Queue::Redelivery | Queue::Dead => plain,
            Queue::Reply(_) => Plan { exclusive: true, queue_type: QueueType::Classic, ..plain },
        }
    }
}
