//! What both back ends are told at construction.

use std::time::Duration;

use protocol::config::{AmqpSection, QueueType};

use crate::Names;

/// How the fleet's queues are named, bounded and typed. All programs of one fleet must agree on it: queue arguments are immutable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueOptions {
    /// The names of queues and exchanges.
    pub names: Names,
    /// Most messages that may wait in a pool's queue; above it publishes are refused. `None`: no bound.
    pub length_max: Option<u32>,
    /// Most tasks that may wait in each of the queues of delayed tasks; above it publishes are refused.
    pub delayed_max: u32,
    /// Most dead letters that are kept; above it the oldest are dropped.
    pub dead_letters_max: u32,
    /// Most bytes that the bodies of the dead letters may take together; above it the oldest are dropped.
    pub dead_letters_bytes_max: u64,
    /// How long a dead letter is kept.
    pub dead_letters_ttl: Duration,
    /// Longest wait for a confirm where the message sets none, and for any other answer of the broker.
    pub publish_timeout: Duration,
    /// How long a message may wait in the own queue of a GPU before it comes back.
    pub gpu_queue_ttl: Duration,
    /// How long a reply that nobody took is kept.
    pub parked_ttl: Duration,
    /// Most replies that may wait for another try in each of their waiting queues; above it publishes are refused.
    pub undelivered_max: u32,
    /// Most bytes of their bodies in each of these queues; above it publishes are refused.
    pub undelivered_bytes_max: u64,
    /// The type of the durable queues. In memory both behave as classic queues with strict priorities.
    pub queue_type: QueueType,
}

impl Default for QueueOptions {
    /// The defaults of the configuration.
    fn default() -> Self {
        Self::from(&AmqpSection::default())
    }
}

impl From<&AmqpSection> for QueueOptions {
    fn from(section: &AmqpSection) -> Self {
        Self {
            names: Names::new(section.prefix.clone()),
            length_max: section.queue_length_max,
            delayed_max: section.delayed_max,
            dead_letters_max: section.dead_letters_max,
            dead_letters_bytes_max: u64::from(section.dead_letters_mb) * 1_000_000,
            dead_letters_ttl: Duration::from_millis(section.dead_letters_ttl_ms),
            publish_timeout: Duration::from_millis(section.publish_timeout_ms),
            parked_ttl: Duration::from_millis(section.parked_ttl_ms),
            gpu_queue_ttl: Duration::from_millis(section.gpu_queue_ttl_ms),
            undelivered_max: section.undelivered_max,
            undelivered_bytes_max: u64::from(section.undelivered_mb) * 1_000_000,
            queue_type: section.queue_type,
        }
    }
}
