//! Tensors: what tasks leave on a GPU for other tasks, and how it gets from one GPU to another.
//!
//! [`TensorStore`] has the tensors of one GPU: names, versions, quotas, eviction. [`DataPlane`] is one GPU's part of the fleet's data: its store, its ways to other GPUs, its data port. [`Directory`] is what
//! it asks where tensors are: the table, as a worker gives it.
//!
//! A tensor is written once. It is never changed; its name may be written again, which makes a newer version. Whoever has an `Arc` of a [`Tensor`] uses it, and nothing that is in use is evicted or freed.

mod broadcast;
mod directory;
#[cfg(test)]
mod doubles;
mod error;
mod metrics;
mod plane;
mod served;
mod socket;
mod store;
mod tensor;
mod transfer;

pub use directory::{Destination, Directory, DirectoryError, Draw};
pub use error::DataError;
pub use metrics::DataMetrics;
pub use plane::{Content, Copied, CopiedTo, DataOptions, DataParts, DataPlane, Keep, TransferLimits};
pub use store::{Arriving, KeepError, StoreCounts, Stored, TensorBounds, TensorStore};
pub use tensor::{Tensor, TensorAbout};
pub use transfer::{Moving, TellMoving};
