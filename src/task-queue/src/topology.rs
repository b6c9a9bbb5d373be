//! The contract of each queue: its arguments, and where its dead letters go. Both back ends declare what stands here and nothing else.

use std::time::Duration;

use protocol::config::QueueType;

use crate::{Queue, QueueOptions};

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
    /// Classic or quorum. Exclusive queues are always classic: a quorum queue cannot be exclusive.
    pub queue_type: QueueType,
    /// The routing key under which the task exchange leads here.
    pub routing_key: Option<String>,
}

impl QueueOptions {
    /// The contract of `queue`.
    pub(crate) fn plan(&self, queue: &Queue) -> Plan {
        let plain = Plan {
            name: self.names.queue(queue),
            exclusive: false,
            by_priority: false,
            dead_letters_to: None,
            ttl: None,
            length_max: None,
            queue_type: self.queue_type,
            routing_key: None,
        };
        let expired = Some(self.names.queue(&Queue::Expired));
        let returned = Some(self.names.queue(&Queue::Returned));
        match queue {
            Queue::Pool(pool) => Plan {
                by_priority: true,
                dead_letters_to: expired,
                length_max: self.length_max,
                routing_key: Some(pool.to_string()),
                ..plain
            },
            Queue::Gpu(_) => Plan { by_priority: true, dead_letters_to: expired, ..plain },
            Queue::Unplaceable => Plan { dead_letters_to: returned, ttl: Some(self.unplaceable_ttl), ..plain },
            Queue::Retry(delay) => Plan { dead_letters_to: returned, ttl: Some(*delay), ..plain },
            Queue::Parked => Plan { ttl: Some(self.parked_ttl), ..plain },
            Queue::Expired | Queue::Returned | Queue::Dead => plain,
            Queue::Reply(_) => Plan { exclusive: true, queue_type: QueueType::Classic, ..plain },
        }
    }
}
