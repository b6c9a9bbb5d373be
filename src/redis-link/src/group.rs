//! The group commit: while a call is under way, further operations gather, and go together as the next one.
//!
//! There is no timer, and an operation that finds the line idle goes at once. Nothing bounds the line but its callers, each of whom waits for the answer to one operation, and
//! no longer than the group's time limit.
//!
//! A Redis Cluster refuses a call whose keys lie in several hash slots, without running any of it. The first such refusal tells the group that its server is a cluster: from then
//! on a call keeps to one hash slot, and what was refused goes again.

mod driver;
mod queue;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use redis::Value;
use tokio::sync::oneshot;

use self::{driver::Driver, queue::Queue};
use crate::LinkError;

/// One operation: a function of a script library, its keys and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The function's name.
    pub function: &'static str,
    /// Its keys. On a Redis Cluster they must share one hash slot.
    pub keys: Vec<String>,
    /// Its arguments.
    pub arguments: Vec<Vec<u8>>,
}

impl Item {
    fn bytes(&self) -> usize {
        let keys: usize = self.keys.iter().map(String::len).sum();
        keys + self.arguments.iter().map(Vec::len).sum::<usize>()
    }
}

/// Carries operations to their server.
#[async_trait]
pub trait Call: Send + Sync + 'static {
    /// One call with all of `items`; the answer to each, in their order. An error of one item is its own; an error of the call is everybody's.
    ///
    /// # Errors
    /// See [`LinkError`]. After [`LinkError::Scattered`] the group may run the same items again, in several calls.
    async fn call(&self, items: &[Item]) -> Result<Vec<Result<Value, LinkError>>, LinkError>;
}

type Answer = Result<Value, LinkError>;

/// See the module's text. Cheap to clone; clones share the line.
pub struct Group<C> {
    shared: Arc<Shared<C>>,
}

struct Shared<C> {
    call: C,
    limit: Duration,
    queue: Mutex<Queue>,
}

impl<C> Shared<C> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Clone for Group<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<C> fmt::Debug for Group<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Group").field("limit", &self.shared.limit).finish_non_exhaustive()
    }
}

impl<C: Call> Group<C> {
    /// A group whose calls go by `call`. An operation takes at most `limit`, its time in line included.
    pub fn new(call: C, limit: Duration) -> Self {
        Self { shared: Arc::new(Shared { call, limit, queue: Mutex::default() }) }
    }

    /// Runs one operation, together with what else goes at this moment. Needs a tokio runtime. An operation that its caller gives up (by dropping this, or at the time limit) is
    /// not sent if it still stands in line; it happens all the same if it is under way.
    ///
    /// # Errors
    /// The operation's own, or that of the whole call; [`LinkError::Away`] also after the group's time limit, or where what makes the calls ended before its time.
    pub async fn run(&self, item: Item) -> Answer {
        let (caller, answer) = oneshot::channel();
        let idle = self.shared.lock().push(item, caller);
        if idle {
            self.start();
        }
        match tokio::time::timeout(self.shared.limit, answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(LinkError::broken_off())),
            Err(_) => Err(LinkError::late(self.shared.limit)),
        }
    }

    /// Puts an operation aside whose answer nobody waits for: it travels with the next call that goes anyway. It may get lost; where more than 1,024 are put aside, the oldest are.
    /// Needs a tokio runtime.
    pub fn run_quietly(&self, item: Item) {
        let idle = self.shared.lock().push_quietly(item);
        if idle {
            self.start();
        }
    }

    /// Starts the driver: a job of its own, so that a caller that is dropped strands nobody. The line must not be locked: a runtime that is shutting down drops the driver here.
    fn start(&self) {
        tokio::spawn(Driver::new(Arc::clone(&self.shared)).drive());
    }
}
