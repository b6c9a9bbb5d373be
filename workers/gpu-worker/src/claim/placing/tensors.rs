//! The tensors that a task names, before its claim: where they are weighs in where it goes, and one that is nowhere keeps it from going anywhere.

use std::{ops::ControlFlow, sync::Arc};

use protocol::{OnMissing, TaskError};
use tensors::DataError;

use super::{Placement, Placing};
use crate::{claim::unserved::Fate, data::asked::AskedTensors, disposition::Disposition, ports::Abandoned};

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
        let found = tokio::select! {
            biased;
            () = context.ports.stop.now.cancelled() => return Err(Abandoned),
            found = asked.find(&data.plane) => found,
        };
        self.request.data = None;
        match found {
            Ok(copies) => self.request.data = data.plane.costs(&copies),
            Err(missing @ DataError::Missing { .. }) => return self.tensor_is_missing(&missing).await,
            Err(error) => tracing::debug!(task_id = %self.task.id, %error, "claims without knowing where its tensors are"),
        }
        Ok(ControlFlow::Continue(()))
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
