//! The claims that this worker holds: what every heartbeat names, so that the table renews or restores them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use protocol::{Claim, DeliveryId, TaskId, claim::HeldClaim};

/// The held claims, by task.
#[derive(Debug, Default)]
pub(crate) struct HeldClaims(Mutex<BTreeMap<TaskId, HeldClaim>>);

impl HeldClaims {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, HeldClaim>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on heartbeats renew this claim.
    pub(crate) fn insert(&self, claim: &Claim, delivery: DeliveryId) {
        let held = HeldClaim { task_id: claim.task_id.clone(), attempt: claim.attempt, token: claim.token, delivery };
        self.lock().insert(claim.task_id.clone(), held);
    }

    /// From now on they do not. Only the claim with this token is taken out.
    pub(crate) fn remove(&self, claim: &Claim) {
        let mut held = self.lock();
        if held.get(&claim.task_id).is_some_and(|known| known.token == claim.token) {
            held.remove(&claim.task_id);
        }
    }

    /// Whether the task is held for another delivery than this.
    pub(crate) fn by_another(&self, task_id: &TaskId, delivery: DeliveryId) -> bool {
        self.lock().get(task_id).is_some_and(|held| held.delivery != delivery)
    }

    /// All of them, by task.
    pub(crate) fn all(&self) -> Vec<HeldClaim> {
        self.lock().values().cloned().collect()
    }
}
