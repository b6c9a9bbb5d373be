//! What runs take.

use std::collections::HashMap;

use protocol::{Kind, gpu::GpuRow};

use crate::{Activity, index::TaskIndex};

/// What runs take, as far as any ended.
pub(super) enum Costs<'a> {
    /// By what the index learnt.
    Index(&'a TaskIndex, Option<f64>),
    /// By what an activity says of it.
    Activity(HashMap<&'a Kind, f64>, Option<f64>),
}

impl<'a> Costs<'a> {
    pub(super) fn of_index(index: &'a TaskIndex) -> Self {
        Self::Index(index, index.mean_run_ms())
    }

    pub(super) fn of_activity(activity: &'a Activity) -> Self {
        let learnt: HashMap<&Kind, f64> = activity
            .kinds
            .iter()
            .filter(|(_, numbers)| numbers.learnt_run_ms > 0.0)
            .map(|(kind, numbers)| (kind, numbers.learnt_run_ms))
            .collect();
        // Each by how often it ran; one that did not run in the window is not unheard of.
        let weight = |kind: &&Kind| activity.kinds.get(*kind).map_or(1.0, |numbers| 1.0 + numbers.run.count as f64);
        let weights: f64 = learnt.keys().map(weight).sum();
        let all_ms: f64 = learnt.iter().map(|(kind, ms)| weight(kind) * ms).sum();
        Self::Activity(learnt, (weights > 0.0).then(|| all_ms / weights))
    }

    /// What a run takes, over all kinds.
    pub(super) const fn mean_ms(&self) -> Option<f64> {
        match self {
            Self::Index(_, mean_ms) | Self::Activity(_, mean_ms) => *mean_ms,
        }
    }

    /// What a run of this kind takes on this GPU: what it took there, else what it takes anywhere, else what any run takes.
    pub(super) fn run_ms(&self, kind: Option<&Kind>, row: &GpuRow) -> Option<f64> {
        let of_kind = kind.and_then(|kind| row.run_ms.get(kind).copied().or_else(|| self.learnt_ms(kind)));
        of_kind.or(self.mean_ms())
    }

    fn learnt_ms(&self, kind: &Kind) -> Option<f64> {
        match self {
            Self::Index(index, _) => index.learnt_run_ms(kind),
            Self::Activity(learnt, _) => learnt.get(kind).copied(),
        }
    }
}
