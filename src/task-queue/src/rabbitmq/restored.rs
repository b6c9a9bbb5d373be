//! When queues were last declared again because a publish came back. One publish at a time declares a queue, while the others that miss it wait; those that miss another one do not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;

use crate::Queue;

/// By queue: held while it is being declared. Only queues that this process has declared are in it.
#[derive(Default)]
pub(super) struct Restored(Mutex<BTreeMap<Queue, Arc<tokio::sync::Mutex<Option<Instant>>>>>);

impl Restored {
    /// When `queue` was last declared again; `None`: never.
    pub(super) fn of(&self, queue: &Queue) -> Arc<tokio::sync::Mutex<Option<Instant>>> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(queues.entry(queue.clone()).or_default())
    }
}
