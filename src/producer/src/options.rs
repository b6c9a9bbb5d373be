//! What a producer may be told.

use std::time::Duration;

use protocol::{IntakeLimits, PoolName};

/// How a [`crate::Producer`] behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerOptions {
    /// The pool whose queue takes the tasks. Default: `default`.
    pub pool: PoolName,
    /// Largest body of a task, in bytes. Default: 8 MiB, that of the workers.
    pub body_bytes_max: usize,
    /// Most tasks that may be waited for at once; above it a submit-and-wait is refused as full. Default: 65,536.
    pub waiting_max: usize,
    /// After this long without a reply the store is asked whether the task ended: a reply can be lost with a reply queue. Default: 15 s.
    pub look_after: Duration,
    /// How often the store is asked about a task whose reply may have been lost, once the reply queue was. Default: 1 s.
    pub look_every: Duration,
    /// Most tasks that the store is asked about in one `look_every`, those that waited longest for it first. Default: 64.
    pub looks_max: usize,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            pool: PoolName::default(),
            body_bytes_max: IntakeLimits::default().body_bytes_max,
            waiting_max: 65_536,
            look_after: Duration::from_secs(15),
            look_every: Duration::from_secs(1),
            looks_max: 64,
        }
    }
}
