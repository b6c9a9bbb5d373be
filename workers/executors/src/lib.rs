//! What a kind of task does when it runs: one file or folder per kind.
//!
//! [`Executor`] is the trait; [`Executors`] is the set that one worker offers: [`echo`], [`simulate`], [`matmul`],
//! [`kernel`], those of tensors ([`data_kinds`]) and, with the features of these names, `predict` and `onnx` (with `embed` and `classify`).

mod batching;
mod cuda;
mod data;
mod echo;
mod executor;
#[cfg(test)]
mod fixture;
pub mod handlers;
mod kernel;
mod matmul;
mod models;
mod occupy;
#[cfg(feature = "onnx")]
pub mod onnx;
#[cfg(test)]
mod outside;
mod payload;
#[cfg(feature = "predict")]
pub mod predict;
mod report;
mod run_tensors;
mod schemas;
mod simulate;
mod tensor_inputs;
mod usage;

pub use batching::{BatchMember, Batching, RunBatch};
pub use data::data_kinds;
pub use echo::echo;
pub use executor::{Executor, Executors, Failure, Run};
pub use kernel::kernel;
pub use matmul::matmul;
pub use models::{InUse, ListedModel, Loaded, ModelBounds, ModelCache, ModelCounts, ModelSource, Shelf, ShelfOf};
#[cfg(feature = "predict")]
pub use predict::{Predict, PredictError};
pub use report::{Listening, Report, Reported, ReportedPartials, Reports};
pub use run_tensors::{Keeping, KeptSoFar, RunTensors, TakesTensors, failure_of};
pub use simulate::{simulate, simulate_keeping};
pub use usage::Usage;
