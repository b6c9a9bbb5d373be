//! What kinds took of this GPU's memory so far, so that the next task of a kind is claimed where it fits.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use protocol::{Kind, Needs, Task};

use crate::context::Context;

/// How far what was learnt of a kind comes down to what its last attempt took, if that was less.
const FORGETS: f64 = 0.05;

/// The memory that attempts of each kind took on this GPU, in MB.
#[derive(Debug, Default)]
pub(crate) struct Learnt(Mutex<BTreeMap<Kind, f64>>);

impl Learnt {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, f64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt took this much at once. A larger one counts at once, smaller ones bring it down slowly.
    pub(crate) fn took(&self, kind: &Kind, peak_mb: u64) {
        if peak_mb == 0 {
            return;
        }
        let peak = peak_mb as f64;
        let mut learnt = self.lock();
        let known = learnt.entry(kind.clone()).or_insert(peak);
        *known = if peak > *known { peak } else { *known + (peak - *known) * FORGETS };
    }

    fn of(&self, kind: &Kind) -> Option<u64> {
        self.lock().get(kind).map(|mb| mb.ceil() as u64)
    }
}

/// What a claim for the task asks for: what it states, and what an earlier attempt found; where both are silent, what its kind took here. That is a guess: it never asks
/// for more than this GPU has free right now, so that it keeps no task from running here.
pub(crate) fn needs(context: &Context, task: &Task) -> Needs {
    let mut needs = task.body.needs.clone();
    let body = &task.body;
    // What the task says itself comes first; then the model that its payload is about.
    needs.model = body.gpu_options.model.clone().or(needs.model).or_else(|| {
        let payload = body.items.as_ref().and_then(|items| items.first()).unwrap_or(&body.payload);
        context.gpu.executors.get(&task.kind)?.model_of(payload)
    });
    let known = needs.memory_mb.max(task.memory_mb);
    needs.memory_mb = known.or_else(|| Some(context.gpu.learnt.of(&task.kind)?.min(free_here_mb(context))));
    needs
}

fn free_here_mb(context: &Context) -> u64 {
    let kept_for_later_mb = context.gpu.evictable_mb();
    usable_here_mb(context).saturating_sub(context.gpu.device.sample().memory_used_mb.saturating_sub(kept_for_later_mb))
}

/// The memory of this GPU that tasks may use, in MB.
pub(crate) fn usable_here_mb(context: &Context) -> u64 {
    let threshold = context.signals.settings.borrow().memory_threshold;
    usable_mb(context.gpu.device.description().memory_total_mb, threshold)
}

/// The memory that tasks may use of a GPU that has `total_mb`.
pub(crate) fn usable_mb(total_mb: u64, threshold: f64) -> u64 {
    (total_mb as f64 * threshold) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_known_by_its_largest_attempt_and_slowly_forgets_it() {
        let (learnt, kind) = (Learnt::default(), Kind::new("matmul").unwrap());
        assert_eq!(learnt.of(&kind), None);
        learnt.took(&kind, 0);
        assert_eq!(learnt.of(&kind), None, "not measured is not small");
        learnt.took(&kind, 100);
        learnt.took(&kind, 1_000);
        assert_eq!(learnt.of(&kind), Some(1_000));
        learnt.took(&kind, 100);
        assert_eq!(learnt.of(&kind), Some(955));
        (0..200).for_each(|_| learnt.took(&kind, 100));
        assert_eq!(learnt.of(&kind), Some(101));
    }
}
