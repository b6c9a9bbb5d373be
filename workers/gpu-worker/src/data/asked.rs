//! What a task asks of tensors: those that its payloads name, and whether its outputs stay on the GPU.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use executors::{Executors, TakesTensors};
use protocol::{Task, TensorRecord, TensorRef};
use tensors::{DataError, DataPlane};
use tokio::time::Instant;

/// For so long what the table said of where they are is believed: from the claim to the run that follows it at once.
const BELIEVED: Duration = Duration::from_secs(1);

/// What one task asks of tensors.
pub(crate) struct AskedTensors {
    /// How its kind takes them.
    pub(crate) takes: TakesTensors,
    /// Those that its payload, or its items, name: each once.
    pub(crate) references: Vec<TensorRef>,
    /// Where they are, as the table said last.
    found: Mutex<Option<(Instant, Arc<[TensorRecord]>)>>,
}

impl AskedTensors {
    /// `None`: it names none that its kind would take, and keeps none.
    pub(crate) fn of(executors: &Executors, task: &Task) -> Option<Arc<Self>> {
        let takes = executors.get(&task.kind).map_or(TakesTensors::No, |executor| executor.takes_tensors());
        let references = if takes == TakesTensors::No { Vec::new() } else { named(task) };
        (!references.is_empty() || task.body.keep_as.is_some()).then(|| Arc::new(Self { takes, references, found: Mutex::default() }))
    }

    /// Where they are. Asks the table once, unless it was asked a moment ago.
    ///
    /// # Errors
    /// Those of [`DataPlane::find`].
    pub(crate) async fn find(&self, plane: &DataPlane) -> Result<Arc<[TensorRecord]>, DataError> {
        if let Some(found) = self.found_lately() {
            return Ok(found);
        }
        let asked = Instant::now();
        let found: Arc<[TensorRecord]> = plane.find(&self.references).await?.into();
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some((asked, Arc::clone(&found)));
        Ok(found)
    }

    /// Where they are, if that was asked for a moment ago.
    pub(crate) fn found_lately(&self) -> Option<Arc<[TensorRecord]>> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.as_ref().filter(|(at, _)| at.elapsed() < BELIEVED).map(|(_, found)| Arc::clone(found))
    }

    /// What was found is not so any more.
    pub(crate) fn forget_found(&self) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn named(task: &Task) -> Vec<TensorRef> {
    match &task.body.items {
        None => TensorRef::all_in(&task.body.payload),
        Some(items) => {
            let mut named: Vec<TensorRef> = items.iter().flat_map(TensorRef::all_in).collect();
            named.sort();
            named.dedup();
            named
        }
    }
}
