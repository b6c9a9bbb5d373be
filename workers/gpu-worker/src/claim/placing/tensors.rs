//! The tensors that a task names, before its claim: where they are weighs in where it goes, and one that is nowhere keeps it from going anywhere.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use protocol::{Choice, ClaimMode, DataCosts, OnMissing, Strategy, TaskError};
use tensors::DataError;

use super::{HOPS_MAX, Placement, Placing};
use crate::{claim::unserved::Fate, data::asked::AskedTensors, disposition::Disposition, ports::Abandoned};

/// For so long at least a task waits where its tensors are.
const WAITS_FOR_DATA_MIN: Duration = Duration::from_secs(1);
/// What is saved by a hop must be more than this, in ms: a hop takes one or two.
const WORTH_A_HOP_MS: f64 = 5.0;

impl<'t> Placing<'t> {
    /// What the task asks of tensors; `None`: nothing.
    pub(crate) fn tensors(&self) -> Option<Arc<AskedTensors>> {
        self.tensors.clone()
    }

    /// Whether it names some.
    pub(super) fn names_tensors(&self) -> bool {
        self.tensors.as_ref().is_some_and(|asked| !asked.references.is_empty())
    }

    /// Tells the claim what it would cost to bring the tensors to each GPU. A break: one is nowhere, and this becomes of the task, or the question is to be asked again. Where the table does not say where they are,
    /// the claim goes on without.
    pub(super) async fn find_tensors(&mut self) -> Result<ControlFlow<Option<Placement<'t>>>, Abandoned> {
        let context = self.context;
        let (Some(asked), Some(data)) = (self.tensors.clone(), context.gpu.data.get()) else { return Ok(ControlFlow::Continue(())) };
        if let Some(error) = asked.refusal() {
            return Ok(ControlFlow::Break(Some(Placement::Not(Disposition::fails(error.clone())))));
        }
        let found = tokio::select! {
            biased;
            () = context.ports.stop.now.cancelled() => return Err(Abandoned),
            found = asked.find(&data.plane) => found,
        };
        self.request.data = None;
        match found {
            Ok(copies) => {
                let costs = data.plane.costs(&copies);
                self.waits_for_data = self.may_run_elsewhere().then(|| costs.as_ref().map_or(WAITS_FOR_DATA_MIN, wait_for));
                self.request.data = costs.filter(|_| !self.has_waited_for_data());
                if self.is_worth_a_hop() {
                    self.request.mode = ClaimMode::Choose;
                }
            }
            Err(missing @ DataError::Missing { .. }) => return self.tensor_is_missing(&missing).await,
            Err(error) => tracing::debug!(task_id = %self.task.id, %error, "claims without knowing where its tensors are"),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Whether another GPU may run it: its producer has named none.
    const fn may_run_elsewhere(&self) -> bool {
        self.request.specific_gpu_id.is_none()
    }

    /// Whether it has waited for as long where its tensors are as it takes to bring them elsewhere.
    pub(super) fn has_waited_for_data(&self) -> bool {
        self.waits_for_data.is_some_and(|longest| self.since.elapsed() >= longest)
    }

    /// Whether to bring the tensors here would take so much longer than a hop that it is worth to choose among all GPUs, although tasks wait and every GPU will be busy.
    fn is_worth_a_hop(&self) -> bool {
        let Some(costs) = &self.request.data else { return false };
        let settings = self.context.signals.settings.borrow();
        let chosen_by = Choice::resolve(self.request.strategy.as_deref(), settings.default_strategy, &settings.strategies).used;
        let least_ms = costs.at_ms.values().copied().fold(costs.elsewhere_ms, f64::min);
        let saved_ms = costs.to(&self.context.me.gpu_id) - least_ms;
        chosen_by == Strategy::TaskSpecific && self.task.hops < HOPS_MAX && saved_ms > WORTH_A_HOP_MS
    }

    async fn tensor_is_missing(&mut self, missing: &DataError) -> Result<ControlFlow<Option<Placement<'t>>>, Abandoned> {
        let (context, task) = (self.context, self.task);
        // Of a batch those items fail that name it, and no others.
        if task.body.items.is_some() && task.body.on_missing == OnMissing::Fail {
            return Ok(ControlFlow::Continue(()));
        }
        let options = &context.me.options;
        if context.ports.steady(&options.pool).await? < options.lease {
            // It may have been emptied: within a lease it hears of all tensors again.
            return self.rest("the table may not know of all tensors yet").await.map(|()| ControlFlow::Break(None));
        }
        let error = TaskError::new(missing.code(), missing.to_string()).at("payload");
        let fate = match task.body.on_missing {
            OnMissing::Fail => Fate::Fails(error),
            OnMissing::Wait => context.unserved.judge_missing(task, error, self.unserved_since_ms),
        };
        let placement = match fate {
            Fate::Fails(error) => Placement::Not(Disposition::fails(error)),
            Fate::Rests(rest) => self.waits_apart(rest).await,
        };
        Ok(ControlFlow::Break(Some(placement)))
    }
}

/// For how long a task waits where its tensors are: no longer than to bring all of them to a GPU that has none takes.
fn wait_for(costs: &DataCosts) -> Duration {
    Duration::try_from_secs_f64(costs.elsewhere_ms / 1_000.0).unwrap_or(Duration::MAX).max(WAITS_FOR_DATA_MIN)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_task_waits_where_its_tensors_are_for_as_long_as_to_bring_them_takes_and_for_a_second_at_least() {
        let wait = |elsewhere_ms| wait_for(&DataCosts { elsewhere_ms, at_ms: BTreeMap::new() });
        assert_eq!(wait(20.0), Duration::from_secs(1));
        assert_eq!(wait(2_500.0), Duration::from_millis(2_500));
        assert_eq!(wait(f64::INFINITY), Duration::MAX);
    }
}
