//! What a worker may not reach for by itself: wall clock, randomness, the spawning of tasks.
//!
//! They are injected, so that a whole fleet can be run deterministically on a paused clock. Timers are tokio's (which can be paused); nothing in
//! the worker or the memory back ends calls `std::time`, a global random source or a thread.

use std::{future::Future, pin::Pin, sync::Arc};

use crate::{Incarnation, TaskId, TraceSink};

/// The time of day.
pub trait Clock: Send + Sync {
    /// Unix time in microseconds.
    fn now_us(&self) -> u64;

    /// Unix time in milliseconds.
    fn now_ms(&self) -> u64 {
        self.now_us() / 1_000
    }
}

/// A source of random numbers.
pub trait Random: Send + Sync {
    /// 64 random bits.
    fn next_u64(&self) -> u64;

    /// A number in `0.0..1.0`.
    fn unit(&self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// 128 random bits as 32 hexadecimal digits.
    fn hexadecimal(&self) -> String {
        format!("{:016x}{:016x}", self.next_u64(), self.next_u64())
    }
}

/// A future that can be spawned.
pub type Job = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// Starts background jobs.
pub trait Spawn: Send + Sync {
    /// Runs `job` in the background. `name` says what it is, for logs.
    fn spawn(&self, name: &'static str, job: Job);
}

/// Clock, randomness and spawning together, and where spans go.
#[derive(Clone)]
pub struct Environment {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Background jobs.
    pub spawner: Arc<dyn Spawn>,
    /// Where the spans of tasks go. `None`: nobody traces, and none is made.
    pub traces: Option<Arc<dyn TraceSink>>,
}

impl Environment {
    /// Starts a background job.
    pub fn spawn(&self, name: &'static str, job: impl Future<Output = ()> + Send + 'static) {
        self.spawner.spawn(name, Box::pin(job));
    }

    /// A fresh task id.
    #[must_use]
    pub fn fresh_task_id(&self) -> TaskId {
        TaskId::new(self.random.hexadecimal()).expect("hexadecimal digits keep the rule")
    }

    /// A fresh incarnation.
    #[must_use]
    pub fn fresh_incarnation(&self) -> Incarnation {
        Incarnation::new(self.random.hexadecimal()).expect("hexadecimal digits keep the rule")
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Environment")
    }
}
