//! One run of a model, on a thread of its own.

use std::{collections::BTreeMap, sync::Arc};

use ort::session::{NoSelectedOutputs, RunOptions, Session};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::tensor::Tensor;
use crate::Failure;

/// Tensors by name.
pub(super) type Tensors = BTreeMap<String, Tensor>;

/// Why a run gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunError {
    pub(super) what: RunFault,
    pub(super) message: String,
}

/// What kind of fault ended a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunFault {
    Memory,
    Arguments,
    Other,
}

impl RunError {
    fn of(error: &ort::Error) -> Self {
        let message = error.message().to_owned();
        let lower = message.to_lowercase();
        let lacks_memory =
            ["out of memory", "failed to allocate memory", "bad_alloc", "available memory of"].iter().any(|words| lower.contains(words));
        let what = match error.code() {
            _ if lacks_memory => RunFault::Memory,
            ort::ErrorCode::InvalidArgument => RunFault::Arguments,
            _ => RunFault::Other,
        };
        Self { what, message }
    }

    fn other(message: impl Into<String>) -> Self {
        Self { what: RunFault::Other, message: message.into() }
    }
}

/// Ends the run that it belongs to when it is dropped, also where nobody waits for it any more.
struct Terminate(Arc<RunOptions<NoSelectedOutputs>>);

impl Drop for Terminate {
    fn drop(&mut self) {
        // It fails only without options.
        let _ = self.0.terminate();
    }
}

/// Runs it on a thread of its own; runs of one session follow each other. `keeps` lives until the thread has ended.
///
/// # Errors
/// `cancelled`; otherwise what [`failure`] makes of a fault.
pub(super) async fn run<K: Send + 'static>(
    session: &Arc<Mutex<Session>>,
    inputs: Tensors,
    cancel: &CancellationToken,
    keeps: K,
) -> Result<Result<Tensors, RunError>, Failure> {
    let mut turn = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(Failure::cancelled()),
        turn = Arc::clone(session).lock_owned() => turn,
    };
    let options = RunOptions::new().map_err(|error| Failure::transient(error.to_string()))?;
    let terminate = Terminate(Arc::new(options));
    let options = Arc::clone(&terminate.0);
    let computing = tokio::task::spawn_blocking(move || {
        let answer = compute(&mut turn, &inputs, Some(&options));
        drop(keeps);
        answer
    });
    tokio::pin!(computing);
    tokio::select! {
        biased;
        answer = &mut computing => return answer.map_err(|_| Failure::transient("the computing thread crashed")),
        () = cancel.cancelled() => drop(terminate),
    }
    // It ends after the step that it is at, and the memory is in use until then.
    let _ = computing.await;
    Err(Failure::cancelled())
}

/// Runs it on this thread.
pub(super) fn compute(
    session: &mut Session,
    inputs: &Tensors,
    options: Option<&RunOptions<NoSelectedOutputs>>,
) -> Result<Tensors, RunError> {
    let values = inputs.iter().map(|(name, tensor)| Ok((name.clone(), tensor.value()?)));
    let values = values.collect::<ort::Result<Vec<_>>>().map_err(|error| RunError::of(&error))?;
    let outputs = match options {
        Some(options) => session.run_with_options(values, options),
        None => session.run(values),
    };
    let outputs = outputs.map_err(|error| RunError::of(&error))?;
    let tensors = outputs.iter().map(|(name, value)| {
        let tensor = Tensor::of(&value).map_err(|why| RunError::other(format!("output {name:?}: {why}")))?;
        Ok((name.to_owned(), tensor))
    });
    tensors.collect()
}
