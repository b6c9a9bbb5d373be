//! The kinds of tensors: data that stays on GPUs between tasks is put there (`tensor.put`), read (`tensor.get`), copied to other GPUs (`tensor.copy`), joined (`tensor.gather`) and freed
//! (`tensor.free`).
//!
//! Any task may name tensors and keep its outputs as some; these kinds are for what is no work of another kind. None of them takes compute of the GPU, and none speaks against the GPU when it fails.

mod copy;
mod free;
mod gather;
mod get;
mod numbers;
mod put;
mod reading;

use std::{future::Future, sync::Arc};

use tensors::DataError;
use tokio_util::sync::CancellationToken;

use crate::{Executor, Failure, failure_of};

/// The executors of the kinds of tensors. They need a worker that keeps tensors.
#[must_use]
pub fn data_kinds() -> Vec<Arc<dyn Executor>> {
    vec![Arc::new(put::Put), Arc::new(get::Get), Arc::new(copy::CopyTo), Arc::new(gather::Gather), Arc::new(free::Free)]
}

/// What the work gives, unless the attempt is cancelled first.
async fn unless_cancelled<T>(cancel: &CancellationToken, work: impl Future<Output = Result<T, DataError>>) -> Result<T, Failure> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Failure::cancelled()),
        done = work => done.map_err(|error| failure_of(&error)),
    }
}

#[cfg(test)]
mod tests;
