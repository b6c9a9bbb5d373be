//! The attempts that have begun here and are not settled yet: what the row names as running, and what tells a copy of a delivery from a task that nobody runs any more.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use protocol::{DeliveryId, GpuRow, Task, TaskId};
use task_store::{BeginRequest, Verdict};

use crate::{context::Context, delivery::InHand};

/// What the store is asked when the attempt of a task begins beside others. `verdict`: what became of its former holder, if that is known already.
pub(crate) fn request(context: &Context, (task, in_hand): (&Task, &InHand), verdict: Option<Verdict>) -> BeginRequest {
    BeginRequest {
        task_id: task.id.clone(),
        body_hash: task.body_hash.clone(),
        kind: task.kind.clone(),
        attempt: task.attempt,
        gpu_id: context.me.gpu_id.clone(),
        incarnation: context.me.incarnation.clone(),
        delivery: in_hand.id,
        alone: false,
        verdict,
        crashes_max: context.me.options.crashes_max,
        published_s: in_hand.envelope.timestamp,
    }
}

/// The unsettled attempts, by task.
#[derive(Debug, Default)]
pub(crate) struct Begun(Mutex<BTreeMap<TaskId, DeliveryId>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Unsettled {
    begun: Arc<Begun>,
    task_id: TaskId,
    delivery: DeliveryId,
}

impl Begun {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, DeliveryId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt of the task is about to begin for this delivery. `None`: another delivery of it has begun here and is not settled.
    pub(crate) fn add(self: &Arc<Self>, task_id: &TaskId, delivery: DeliveryId) -> Option<Unsettled> {
        let mut begun = self.lock();
        if begun.get(task_id).is_some_and(|other| *other != delivery) {
            return None;
        }
        begun.insert(task_id.clone(), delivery);
        Some(Unsettled { begun: Arc::clone(self), task_id: task_id.clone(), delivery })
    }

    /// Whether an attempt for another delivery of the task is unsettled here.
    pub(crate) fn has_another(&self, task_id: &TaskId, delivery: DeliveryId) -> bool {
        self.lock().get(task_id).is_some_and(|begun| *begun != delivery)
    }

    /// Whether this delivery's attempt is unsettled.
    pub(crate) fn has(&self, task_id: &TaskId, delivery: DeliveryId) -> bool {
        self.lock().get(task_id) == Some(&delivery)
    }

    /// The tasks, sorted, as many as a row may name.
    pub(crate) fn tasks(&self) -> Vec<TaskId> {
        self.lock().keys().take(GpuRow::RUNNING_MAX).cloned().collect()
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        let mut begun = self.begun.lock();
        if begun.get(&self.task_id) == Some(&self.delivery) {
            begun.remove(&self.task_id);
        }
    }
}
